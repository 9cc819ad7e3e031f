"""Which of the movies that a user liked speaks most for one of their first ten.

A score is a sum over the user's ratings (`models/ranker.py`), and the part of rating i for movie m is w_i
<e_i, q_m>, so the largest part among the liked movies needs no other score. Of a user's ratings only those
are multiplied that may still win: by Cauchy and Schwarz no part is above w_i |e_i| |q_m|, and the weights
fall with the age of a rating.

The parts are compared in float32 with a bound of its error; what lies closer is decided in float64, summed
in order, so that neither batches nor machines change a reason.
"""

from dataclasses import dataclass, field

import numpy as np
import polars as pl
from numpy.typing import NDArray

from cfjobs.compiled import compiled
from cfjobs.models.ranker import RankingConfig, RankingModel
from cfjobs.topn.problem import NO_MOVIE, Lists

FIRST = 10
"""The places that get a reason: those that people look at. All of a hundred would take as long as scoring."""

_SAME = 1e-6
"""Stars below the own mean that are still no less than it: it is rounded."""


@dataclass(frozen=True)
class Reasons:
    """What the parts of any score are made of: e, q [M, D] and their lengths [M]."""

    history: NDArray[np.float32]
    movie: NDArray[np.float32]
    config: RankingConfig
    lengths: tuple[NDArray[np.float64], NDArray[np.float64]] = field(init=False)

    def __post_init__(self) -> None:
        e, q = (np.sqrt(np.einsum("md,md->m", v, v, dtype=np.float64)) for v in (self.history, self.movie))
        object.__setattr__(self, "lengths", (e, q))

    @classmethod
    def of(cls, ranking: RankingModel) -> "Reasons":
        """From a ranking network."""
        history, movie = (
            np.ascontiguousarray(vectors.float().cpu().numpy())
            for vectors in (ranking.history_vectors, ranking.movie_vectors)
        )
        return cls(history, movie, ranking.config)

    def because(self, lists: Lists, ratings: pl.DataFrame, *, first_user: int = 0) -> NDArray[np.int32]:
        """The movie that speaks most for each of the first places [B, FIRST]; NO_MOVIE where none of the
        liked ones does.

        ratings: user_idx, movie_idx, rating of these users and perhaps of others, sorted by user and time;
        first_user: of the lists, in them.
        """
        listed = np.ascontiguousarray(lists.movie_idx[:, :FIRST])
        user = ratings["user_idx"].to_numpy()
        indptr = np.searchsorted(user, np.arange(first_user, first_user + len(listed) + 1, dtype=user.dtype))
        mine = slice(int(indptr[0]), int(indptr[-1]))
        rated = (
            indptr - indptr[0],
            ratings["movie_idx"].to_numpy()[mine].astype(np.int32, copy=False),
            ratings["rating"].to_numpy()[mine].astype(np.float32, copy=False),
        )
        weighing = (self.config.max_history, float(self.config.taste), float(self.config.recency_half))
        found = np.full(listed.shape, NO_MOVIE, np.int32)
        _speaking(listed, rated, weighing, (self.history, self.movie, *self.lengths), found)
        return found


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
def _liked(movie, rating, weighing, length, room):  # type: ignore[no-untyped-def]
    """Fill room: movie and weight, up to a factor of the user, of the liked ratings, the latest first, and
    the largest w |e| from each on; returns how many. movie, rating: all of the user's, by time."""
    liked, weight, most = room
    at_most, taste, half = weighing
    total = 0.0
    for i in range(rating.size):
        total += rating[i]
    mean, n = total / max(rating.size, 1), 0
    for back in range(min(rating.size, at_most)):
        i = rating.size - 1 - back
        if rating[i] >= mean - _SAME:
            liked[n] = movie[i]
            weight[n] = (1 + taste * (rating[i] - mean)) / (1 + back / half)
            most[n] = weight[n] * length[movie[i]]
            n += 1
    for i in range(n - 2, -1, -1):
        most[i] = max(most[i], most[i + 1])
    return n


@compiled()
def _speaking(listed, rated, weighing, vectors, found):  # type: ignore[no-untyped-def]
    """Fill found [B, N]. rated: indptr [B + 1], movie, rating of the users. vectors: e, q and their
    lengths."""
    indptr, movie, rating = rated
    e, q, length_e, length_q = vectors
    error = 2.0 * e.shape[1] * 2.0**-23
    liked = np.empty(weighing[0], np.int32)
    weight, most = np.empty(weighing[0]), np.empty(weighing[0])
    for user in range(listed.shape[0]):
        own = slice(indptr[user], indptr[user + 1])
        n = _liked(movie[own], rating[own], weighing, length_e, (liked, weight, most))
        for place in range(listed.shape[1]):
            m = listed[user, place]
            if m < 0:
                continue
            best, room, winner = 0.0, 0.0, -1
            for i in range(n):
                if most[i] * length_q[m] < best - room:
                    break
                bound = weight[i] * length_e[liked[i]] * length_q[m]
                if bound < best - room:
                    continue
                part, unsure = weight[i] * _dot(e[liked[i]], q[m]), error * bound
                if part + unsure < best - room:
                    continue
                if part - unsure <= best + room:  # too close to tell, or to zero
                    part, unsure = _exact(e[liked[i]], q[m], weight[i]), 0.0
                    if winner >= 0 and room > 0.0:
                        best, room = _exact(e[liked[winner]], q[m], weight[winner]), 0.0
                    if part < best or (part == best and (winner < 0 or liked[i] > liked[winner])):
                        continue
                best, room, winner = part, unsure, i
            if winner >= 0:
                found[user, place] = liked[winner]
