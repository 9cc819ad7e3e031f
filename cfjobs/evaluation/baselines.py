"""What a simple rule would have predicted: the bias-only baseline of the stars."""

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from cfjobs.compiled import compiled

DAMPING = 5.0
"""Ratings at the global mean that the bias-only baseline adds to every user and movie."""


@dataclass(frozen=True)
class Holdout:
    """Ratings by row, held out or not. user_idx, movie_idx [R] int32; rating [R] float32."""

    user_idx: NDArray[np.int32]
    movie_idx: NDArray[np.int32]
    rating: NDArray[np.float32]

    @classmethod
    def of(cls, frame: pl.DataFrame) -> "Holdout":
        """From columns of these names."""
        return cls(*(frame[name].to_numpy() for name in ("user_idx", "movie_idx", "rating")))


def bias_only(training: Holdout, asked: Holdout, *, n_users: int, n_movies: int) -> NDArray[np.float64]:
    """Ratings [R] as global mean + movie's deviation + user's deviation from both, each damped.

    deviation = sum of residuals / (number + DAMPING), as the bias model of LensKit: unknown ones are 0.
    """
    user, movie = training.user_idx, training.movie_idx
    mean = float(training.rating.mean(dtype=np.float64))
    of_movie, of_user = _damped_deviations(user, movie, training.rating, mean, n_users, n_movies, DAMPING)
    found: NDArray[np.float64] = mean + of_movie[asked.movie_idx] + of_user[asked.user_idx]
    return found


@compiled()
def _damped_deviations(user, movie, rating, mean, n_users, n_movies, damping):  # type: ignore[no-untyped-def]
    """Compiled: as array operations it would take several copies of the ratings."""
    of_movie, movie_n = np.zeros(n_movies), np.full(n_movies, damping)
    of_user, user_n = np.zeros(n_users), np.full(n_users, damping)
    for t in range(len(rating)):
        of_movie[movie[t]] += rating[t] - mean
        movie_n[movie[t]] += 1
    of_movie /= movie_n
    for t in range(len(rating)):
        of_user[user[t]] += rating[t] - mean - of_movie[movie[t]]
        user_n[user[t]] += 1
    of_user /= user_n
    return of_movie, of_user
