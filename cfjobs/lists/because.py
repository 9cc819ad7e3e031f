"""Which of the movies that a user liked speaks most for a listed one.

A score is a sum over the user's ratings (`models/ranker.py`), and the part of rating i for movie m is w_i
<e_i, q_m>, so the largest part among the liked movies needs no other score. Only listed places are looked
at, and of a user's ratings only those that may still win: by Cauchy and Schwarz no part is above w_i |e_i|
|q_m|, and the weights fall with the age of a rating.

The parts are compared in float32 with a bound of its error; what lies closer is decided in float64, summed
in order, so that neither batches nor machines change a reason.
"""

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from cfjobs.compiled import compiled
from cfjobs.models.ranker import RankingConfig, RankingModel
from cfjobs.topn.problem import NO_MOVIE, Lists

_SAME = 1e-6
"""Stars below the own mean that are still no less than it: it is rounded."""


@dataclass(frozen=True)
class Reasons:
    """What the parts of any score are made of: e, q [M, D] and their lengths [M]."""

    history: NDArray[np.float32]
    movie: NDArray[np.float32]
    config: RankingConfig

    def __post_init__(self) -> None:
        lengths = [np.sqrt(np.einsum("md,md->m", v, v, dtype=np.float64)) for v in (self.history, self.movie)]
        object.__setattr__(self, "_lengths", lengths)

    @classmethod
    def of(cls, ranking: RankingModel) -> "Reasons":
        """From a ranking network."""
        history, movie = (
            np.ascontiguousarray(v.float().cpu().numpy())
            for v in (ranking.history_vectors, ranking.movie_vectors)
        )
        return cls(history, movie, ranking.config)

    def because(self, lists: Lists, ratings: pl.DataFrame, *, first_user: int = 0) -> NDArray[np.int32]:
        """The movie that speaks most for each place [B, N]; NO_MOVIE where none of the liked ones does.

        ratings: user_idx, movie_idx, rating of these users and perhaps of others, sorted by user and time;
        first_user: of the lists, in them.
        """
        user, movie, weight = self._weighed(
            ratings, users=range(first_user, first_user + len(lists.movie_idx))
        )
        of_history, of_movie = self._lengths  # type: ignore[attr-defined]
        bound = weight * of_history[movie]
        order = np.lexsort((-bound, user))
        indptr = np.searchsorted(user[order], np.arange(len(lists.movie_idx) + 1))
        found = np.full(lists.movie_idx.shape, NO_MOVIE, np.int32)
        rated = (indptr, movie[order], weight[order], bound[order])
        _speaking(lists.movie_idx, rated, of_movie, (self.history, self.movie), found)
        return found

    def _weighed(
        self, ratings: pl.DataFrame, *, users: range
    ) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.float64]]:
        """User from the first on, movie and weight of the liked ratings that a user's vector is made of, up
        to a factor of the user."""
        start, stop = (int(ratings["user_idx"].search_sorted(user)) for user in (users.start, users.stop))
        mine = ratings.slice(start, stop - start)
        user = mine["user_idx"].to_numpy().astype(np.int64) - users.start
        rating = mine["rating"].cast(pl.Float64).to_numpy()
        n = np.bincount(user, minlength=len(users))
        mean = (np.bincount(user, weights=rating, minlength=len(users)) / np.maximum(n, 1))[user]
        back = n.cumsum()[user] - 1 - np.arange(user.size)
        liked = (rating >= mean - _SAME) & (back < self.config.max_history)
        weight = (1 + self.config.taste * (rating - mean)) / (1 + back / self.config.recency_half)
        return user[liked], mine["movie_idx"].to_numpy().astype(np.int32)[liked], weight[liked]


@compiled(fastmath={"reassoc", "contract", "nsz"})
def _dot(a, b):  # type: ignore[no-untyped-def]
    total = np.float32(0.0)
    for d in range(a.size):
        total += a[d] * b[d]
    return total


@compiled()
def _exact(a, b, weight):  # type: ignore[no-untyped-def]
    """weight x <a, b>, summed in order in float64: products of two float32 are exact there."""
    total = 0.0
    for d in range(a.size):
        total += np.float64(a[d]) * np.float64(b[d])
    return weight * total


@compiled()
def _speaking(listed, rated, length, both, found):  # type: ignore[no-untyped-def]
    """Fill found [B, N]. rated: indptr [B + 1], movie, weight, bound of the users' ratings, the largest bound
    first. both: e, q."""
    indptr, movie, weight, bound = rated
    history, vectors = both
    error = 2.0 * history.shape[1] * 2.0**-23
    for user in range(listed.shape[0]):
        for place in range(listed.shape[1]):
            m = listed[user, place]
            if m < 0:
                continue
            best, room, winner = 0.0, 0.0, -1
            for i in range(indptr[user], indptr[user + 1]):
                most = bound[i] * length[m]
                if most < best - room:
                    break
                part = weight[i] * _dot(history[movie[i]], vectors[m])
                unsure = error * most
                if part + unsure < best - room:
                    continue
                if part - unsure <= best + room:  # too close to tell, or to zero
                    part, unsure = _exact(history[movie[i]], vectors[m], weight[i]), 0.0
                    if winner >= 0 and room > 0.0:
                        best, room = _exact(history[movie[winner]], vectors[m], weight[winner]), 0.0
                    if part < best or (part == best and (winner < 0 or movie[i] > movie[winner])):
                        continue
                best, room, winner = part, unsure, i
            if winner >= 0:
                found[user, place] = movie[winner]
