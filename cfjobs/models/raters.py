"""The users who rated a movie, and the movies that a user rated, as SVD++'s implicit set: which pairs are in
the sums, and the sums."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cfjobs.compiled import compiled

Floats = NDArray[np.float32]
Ints = NDArray[np.int32]

_fast = compiled(fastmath={"reassoc", "contract", "arcp", "nsz"}, error_model="numpy")


@dataclass(frozen=True)
class Raters:
    """The pairs in the sums. A pair is one when lot [U] of its user <= last [M] of its movie;
    weight [M], rsqrt of their number.

    users [P] of movie m are users[first_user[m]:first_user[m + 1]]; movies [P] of a user likewise. With the
    columns exchanged it holds the movies that a user rated, called users here.
    """

    lot: Ints
    last: Ints
    weight: Floats
    users: Ints
    first_user: NDArray[np.int64]
    movies: Ints
    first_movie: NDArray[np.int64]

    @classmethod
    def of(
        cls,
        user: NDArray[np.int64],
        movie: NDArray[np.int64],
        *,
        n_movies: int,
        at_most: int,
        order: NDArray[np.int64],
    ) -> "Raters":
        """The raters of each movie, those with the lowest lots where there are more than at_most.
        order [U]: the lots."""
        lot: Ints = order.astype(np.int32)
        count = np.bincount(movie, minlength=n_movies)
        last, users, first_user, movies, first_movie = _choose(
            user, movie, count, lot, len(order), np.int64(at_most)
        )
        weight = np.float32(1) / np.sqrt(np.clip(count, 1, max(at_most, 1))).astype(np.float32)
        return cls(lot, last, weight, users, first_user, movies, first_movie)

    def add_up(self, x_UKW: Floats, *, into: Floats) -> None:
        """The raters' sums of all movies [M, K, W]."""
        sum_raters(into, x_UKW, self.users, self.first_user, self.weight, 0, len(self.last))


@_fast
def _choose(user, movie, count, lot, n_users, at_most):  # type: ignore[no-untyped-def]
    n_movies = len(count)
    first = np.zeros(n_movies + 1, np.int64)
    first[1:] = np.cumsum(count)
    lots, place = np.empty(len(user), np.int32), first[:-1].copy()
    for t in range(len(user)):
        lots[place[movie[t]]] = lot[user[t]]
        place[movie[t]] += 1
    last = np.full(n_movies, -1, np.int32)
    kept = np.minimum(count, at_most)
    for m in range(n_movies):
        if kept[m]:
            last[m] = np.partition(lots[first[m] : first[m + 1]], kept[m] - 1)[kept[m] - 1]
    first_user, first_movie = np.zeros(n_movies + 1, np.int64), np.zeros(n_users + 1, np.int64)
    for t in range(len(user)):
        if lot[user[t]] <= last[movie[t]]:
            first_user[movie[t] + 1] += 1
            first_movie[user[t] + 1] += 1
    first_user, first_movie = np.cumsum(first_user), np.cumsum(first_movie)
    users, movies = np.empty(first_user[-1], np.int32), np.empty(first_user[-1], np.int32)
    at_user, at_movie = first_user[:-1].copy(), first_movie[:-1].copy()
    for t in range(len(user)):
        if lot[user[t]] <= last[movie[t]]:
            users[at_user[movie[t]]] = user[t]
            at_user[movie[t]] += 1
            movies[at_movie[user[t]]] = movie[t]
            at_movie[user[t]] += 1
    return last, users, first_user, movies, first_movie


@_fast
def sum_raters(sum_MKW, x_UKW, users, first_user, weight, begin, end):  # type: ignore[no-untyped-def]
    """The raters' sums of movies begin..end - 1."""
    for m in range(begin, end):
        sum_MKW[m] = 0
        for t in range(first_user[m], first_user[m + 1]):
            u = users[t]
            for k in range(sum_MKW.shape[1]):
                for d in range(sum_MKW.shape[2]):
                    sum_MKW[m, k, d] += x_UKW[u, k, d]
        for k in range(sum_MKW.shape[1]):
            for d in range(sum_MKW.shape[2]):
                sum_MKW[m, k, d] *= weight[m]
