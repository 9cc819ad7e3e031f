"""Which ratings are held out of training, so that the model is measured on what it has not seen."""

import numpy as np
from numpy.typing import NDArray


def temporal_holdout(user_idx: NDArray[np.int32], *, fraction: float) -> NDArray[np.bool_]:
    """True for each user's latest ratings.

    user_idx: [R], sorted by user and, within a user, by time. A user with n ratings gives up
    ceil(n x fraction) of them, but never the first: at least one is left to train on. Returns [R].
    """
    _, start, count = np.unique(user_idx, return_index=True, return_counts=True)
    place = np.arange(user_idx.size) - np.repeat(start, count)
    n_held_out = np.minimum(np.ceil(count * fraction - 1e-9).astype(np.int64), count - 1)
    return place >= np.repeat(count - n_held_out, count)


def random_holdout(n_ratings: int, *, fraction: float, seed: int) -> NDArray[np.bool_]:
    """True for floor(R x fraction) ratings chosen without replacement. Returns [R]."""
    held_out = np.zeros(n_ratings, dtype=np.bool_)
    chosen = np.random.default_rng(seed).permutation(n_ratings)[: int(n_ratings * fraction)]
    held_out[chosen] = True
    return held_out
