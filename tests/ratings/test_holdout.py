"""Holdouts: each user's latest, or random ones, never all."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from cfjobs.ratings.holdout import random_holdout, temporal_holdout


@given(st.lists(st.integers(1, 40), min_size=1, max_size=20), st.floats(0.05, 0.95))
def test_the_temporal_holdout_is_each_users_last_share_but_never_all(
    counts: list[int], fraction: float
) -> None:
    user_idx = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    held_out = temporal_holdout(user_idx, fraction=fraction)
    for user, count in enumerate(counts):
        mine = held_out[user_idx == user]
        n = min(int(np.ceil(count * fraction - 1e-9)), count - 1)
        assert mine.tolist() == [False] * (count - n) + [True] * n


@given(st.integers(1, 500), st.floats(0.05, 0.95), st.integers(0, 10))
def test_the_random_holdout_has_its_size_and_follows_the_seed(n: int, fraction: float, seed: int) -> None:
    held_out = random_holdout(n, fraction=fraction, seed=seed)
    assert held_out.sum() == int(n * fraction)
    assert (held_out == random_holdout(n, fraction=fraction, seed=seed)).all()
