"""What each process of tests/night/test_torchrun.py trains: run by torchrun,
and in the test's own process."""

import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from cfjobs import models, training
from cfjobs.config import Config
from cfjobs.models.ranker import History, RankingConfig, RankingModel
from cfjobs.training.distributed import Processes, joined
from cfjobs.training.ranker import fit_ranking
from tests.training.test_ranker import ratings
from tests.training.test_rating import checkerboard, network


def trained(processes: Processes) -> dict[str, Tensor]:
    """The weights of every network after some epochs with an uneven last batch,
    and those of the ranking network."""
    found: dict[str, Tensor] = {}
    for model in models.names():
        config = Config(
            model=model,
            n_factors=8,
            epochs=3,
            batch_size=255,
            dropout=(0.0, 0.0),
            ensemble=2,
            y_padding="learned",
        )
        fitted = network(config)
        record = training.fit_rating(
            fitted, checkerboard(), config=config, valid=checkerboard(n=300, seed=1), processes=processes
        )
        found |= {f"{model}/{name}": tensor for name, tensor in fitted.state_dict().items()}
        found[f"{model}/losses"] = torch.tensor([(e.train_loss, e.valid_loss) for e in record])
    return found | {f"ranking/{name}": tensor for name, tensor in ranker(processes).tensors().items()}


def ranker(processes: Processes) -> RankingModel:
    rng = np.random.default_rng(0)
    user, movie = (torch.from_numpy(rng.integers(0, n, 2_000)) for n in (200, 60))
    rating = torch.from_numpy(rng.integers(1, 6, 2_000).astype(np.float32))
    history = History.of(ratings(user, movie, rating), n_users=200)
    config = RankingConfig(n_factors=8, n_steps=40, batch_users=33)
    return fit_ranking(history, n_movies=60, config=config, seed=5, processes=processes)


if __name__ == "__main__":
    with joined() as connected:
        save_file(trained(connected), Path(sys.argv[1]) / f"{connected.rank}.safetensors")
