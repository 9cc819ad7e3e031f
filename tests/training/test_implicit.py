"""Fitting to implicit feedback: no rating network, and weights without a unit."""

import numpy as np
import polars as pl
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from cfjobs.config import Config
from cfjobs.ratings.question import Question
from cfjobs.training.fit import Kit, Task, fit_networks


@pytest.mark.parametrize("question", ["next", "any"])
def test_weights_of_implicit_feedback_count_but_their_unit_does_not(question: Question) -> None:
    rng = np.random.default_rng(0)
    user = np.repeat(np.arange(60, dtype=np.int32), 8)
    movie = np.concatenate([rng.permutation(20)[:8] for _ in range(60)]).astype(np.int32)
    weight = rng.integers(1, 9, user.size).astype(np.float32)
    config = Config(feedback="implicit", ranking_factors=4, ranking_steps=5)

    def fitted(weights: NDArray[np.float32]) -> list[Tensor]:
        frame = pl.DataFrame({"user_idx": user, "movie_idx": movie, "rating": weights})
        task = Task(config, 60, 20, (1.0, 9.0), frame, frame.clear(), question=question)
        found = fit_networks(task, Kit(torch.device("cpu")))
        assert found.network is None
        assert found.ranking is not None
        return list(found.ranking.tensors().values())

    of_weights, of_others, alike = fitted(weight), fitted(4 * weight), fitted(np.ones_like(weight))
    assert all(map(torch.equal, of_weights, of_others))
    assert not all(map(torch.equal, of_weights, alike))
