"""The users who rated a movie, and the movies that a user rated, as SVD++'s implicit set: which pairs are in
the sums, and the sums."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cfjobs.compiled import compiled, counted, summed
from cfjobs.models.prefetch import fetch

Floats = NDArray[np.float32]
Ints = NDArray[np.int32]

_AHEAD = 8  # raters: whose rows are brought near
_DAMPING, _ROUNDS = 5.0, 2  # of the means of users and movies

_fast = compiled(fastmath={"reassoc", "contract", "arcp", "nsz"}, error_model="numpy")


@dataclass(frozen=True)
class Raters:
    """The pairs in the sums. A pair is one when lot [U] of its user <= last [M] of its movie;
    weight [M], rsqrt of their number.

    users [P] of movie m are users[first_user[m]:first_user[m + 1]]; movies [P] of a user likewise.
    user_value, movie_value [P]: how the rating of a pair differs from what is usual. With the columns
    exchanged it holds the movies that a user rated, called users here.
    """

    lot: Ints
    last: Ints
    weight: Floats
    users: Ints
    user_value: Floats
    first_user: NDArray[np.int64]
    movies: Ints
    movie_value: Floats
    first_movie: NDArray[np.int64]

    @classmethod
    def of(
        cls,
        user: NDArray[np.integer],
        movie: NDArray[np.integer],
        value: Floats,
        *,
        n_movies: int,
        at_most: int,
        order: NDArray[np.int64],
    ) -> "Raters":
        """The raters of each movie, those with the lowest lots where there are more than at_most.
        order [U]: the lots."""
        lot: Ints = order.astype(np.int32)
        count = counted(movie, n_movies)
        last, users, user_value, first_user, movies, movie_value, first_movie = _choose(
            user, movie, value, count, lot, len(order), np.int64(at_most)
        )
        weight = np.float32(1) / np.sqrt(np.clip(count, 1, max(at_most, 1))).astype(np.float32)
        return cls(lot, last, weight, users, user_value, first_user, movies, movie_value, first_movie)

    def add_up(self, x_UKW: Floats, *, into: Floats) -> None:
        """The raters' sums of all movies [M, K, W]; x_UKW as for `sum_raters`."""
        arrays = (self.users, self.user_value, self.first_user, self.weight)
        sum_raters(into, x_UKW, *arrays, True, 0, len(self.last))


def unusual(
    user: NDArray[np.integer], movie: NDArray[np.integer], rating: Floats, *, n_users: int, n_movies: int
) -> Floats:
    """How each rating differs from its user's and its movie's damped mean [R], at a mean square of 1/4."""
    rest = rating - np.float32(rating.mean(dtype=np.float64))
    for _ in range(_ROUNDS):
        for idx, n in ((movie, n_movies), (user, n_users)):
            mean = summed(idx, rest, n) / (counted(idx, n) + _DAMPING)
            rest -= mean.astype(np.float32)[idx]
    spread = float(np.sqrt(np.einsum("r,r", rest, rest, dtype=np.float64) / max(len(rest), 1)))
    rest *= np.float32(0.5 / spread if spread > 1e-6 else 0.0)
    found: Floats = rest
    return found


@_fast
def _choose(user, movie, value, count, lot, n_users, at_most):  # type: ignore[no-untyped-def]
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
    user_value, movie_value = np.empty(len(users), np.float32), np.empty(len(users), np.float32)
    at_user, at_movie = first_user[:-1].copy(), first_movie[:-1].copy()
    for t in range(len(user)):
        if lot[user[t]] <= last[movie[t]]:
            users[at_user[movie[t]]], user_value[at_user[movie[t]]] = user[t], value[t]
            at_user[movie[t]] += 1
            movies[at_movie[user[t]]], movie_value[at_movie[user[t]]] = movie[t], value[t]
            at_movie[user[t]] += 1
    return last, users, user_value, first_user, movies, movie_value, first_movie


@_fast
def sum_raters(sum_MKW, x_UKW, users, value, first_user, weight, both, begin, end):  # type: ignore[no-untyped-def]
    """The raters' sums of movies begin..end - 1. x_UKW: of each user the rows of the K members for having
    rated, then those that the rating's value multiplies, if both are asked for."""
    n_members, n_row = sum_MKW.shape[1], np.int64(x_UKW.shape[1] * x_UKW.shape[2])
    for m in range(begin, end):
        sum_MKW[m] = 0
        for t in range(first_user[m], first_user[m + 1]):
            soon = users[min(t + _AHEAD, len(users) - 1)] * n_row
            fetch(x_UKW, soon, soon + n_row)
            u, r = users[t], value[t]
            for k in range(n_members):
                add_to, x, z = sum_MKW[m, k], x_UKW[u, k], x_UKW[u, n_members + k]
                for d in range(len(add_to)):
                    add_to[d] += x[d]
                if both:
                    for d in range(len(add_to)):
                        add_to[d] += r * z[d]
        for k in range(sum_MKW.shape[1]):
            for d in range(sum_MKW.shape[2]):
                sum_MKW[m, k, d] *= weight[m]
