"""Which ratings are held out of training, so that the model is measured on what it has not seen."""

import math
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cfjobs.compiled import compiled
from cfjobs.config import Config
from cfjobs.ratings.question import Question

Kind = Literal["temporal", "random", "none"]


def kind_of(config: Config, question: Question) -> Kind:
    """The holdout that a configuration asks for, or else the one that matches the question."""
    if config.holdout == "auto":
        return "temporal" if question == "next" else "random"
    return config.holdout


def held_out(kind: Kind, user_idx: NDArray[np.int32], *, fraction: float, seed: int) -> NDArray[np.bool_]:
    """A holdout of ratings sorted by user and, within a user, by time [R]."""
    if kind == "none":
        return np.zeros(user_idx.size, dtype=np.bool_)
    if kind == "random":
        return random_holdout(user_idx.size, fraction=fraction, seed=seed)
    return temporal_holdout(user_idx, fraction=fraction)


def temporal_holdout(user_idx: NDArray[np.int32], *, fraction: float) -> NDArray[np.bool_]:
    """True for each user's latest ratings.

    user_idx: [R], sorted by user and, within a user, by time. A user with n ratings gives up
    ceil(n x fraction) of them, but never the first: at least one is left to train on. Returns [R].
    """
    held_out = np.zeros(user_idx.size, dtype=np.bool_)
    _mark_latest(user_idx, fraction, held_out)
    return held_out


def random_holdout(n_ratings: int, *, fraction: float, seed: int) -> NDArray[np.bool_]:
    """True for floor(R x fraction) ratings chosen without replacement. Returns [R]."""
    held_out = np.zeros(n_ratings, dtype=np.bool_)
    chosen = np.random.default_rng(seed).permutation(n_ratings)[: int(n_ratings * fraction)]
    held_out[chosen] = True
    return held_out


@compiled()
def _mark_latest(user_idx, fraction, held_out):  # type: ignore[no-untyped-def]
    """Compiled: as array operations it would take several copies of the ratings."""
    start = 0
    for end in range(1, user_idx.size + 1):
        if end == user_idx.size or user_idx[end] != user_idx[start]:
            count = end - start
            n_held_out = min(math.ceil(count * fraction - 1e-9), count - 1)
            held_out[end - n_held_out : end] = True
            start = end
