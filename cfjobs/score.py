"""Every user against every movie: exact top-N lists, seen movies removed.

    score(u, m) = the network's sum in float64, rounded once to float32
    order       = higher score first, then the smaller movie row

Both are fixed, so the lists do not depend on the batch, the number of shards, or the device.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cfjobs.models.network import DotScores, MlpScores

NO_MOVIE = -1


@dataclass(frozen=True)
class Csr:
    """For each of U users, ascending movie rows: movie_idx[indptr[u] : indptr[u + 1]]."""

    indptr: NDArray[np.int64]
    movie_idx: NDArray[np.int32]

    @classmethod
    def of(cls, user_idx: NDArray[np.int32], movie_idx: NDArray[np.int32], *, n_users: int) -> "Csr":
        """From pairs in any order."""
        order = np.lexsort((movie_idx, user_idx))
        indptr = np.zeros(n_users + 1, dtype=np.int64)
        np.cumsum(np.bincount(user_idx, minlength=n_users), out=indptr[1:])
        return cls(indptr, movie_idx[order].astype(np.int32))

    def __getitem__(self, user: int) -> NDArray[np.int32]:
        return self.movie_idx[self.indptr[user] : self.indptr[user + 1]]


@dataclass(frozen=True)
class Lists:
    """Lists of consecutive users: movie_idx [U, N] int32 padded with NO_MOVIE, score [U, N] float32 padded with -inf."""

    first_user: int
    movie_idx: NDArray[np.int32]
    score: NDArray[np.float32]


def top_n(
    scores: DotScores | MlpScores,
    *,
    n: int,
    seen: Csr,
    candidates: NDArray[np.bool_] | None = None,
    users: range | None = None,
    batch_users: int = 256,
) -> Iterator[Lists]:
    """The n best unseen candidates of each user, batch after batch of consecutive users.

    candidates [M]: False for a movie that must not be listed. users: the rows to score, all by default.
    A user with fewer candidates than n gets a shorter list. Raises ValueError for vectors that are not finite.
    """
    users = users if users is not None else range(scores.user.shape[0])
    n_movies = scores.movie.shape[0]
    barred = np.zeros(n_movies, dtype=bool) if candidates is None else ~candidates
    width = min(n, n_movies)
    for start in range(users.start, users.stop, batch_users):
        stop = min(start + batch_users, users.stop)
        score_BM = _all_pairs(scores, start, stop)
        score_BM[:, barred] = -np.inf
        movie_idx = np.full((stop - start, n), NO_MOVIE, dtype=np.int32)
        score = np.full((stop - start, n), -np.inf, dtype=np.float32)
        for row, user in enumerate(range(start, stop)):
            score_BM[row, seen[user]] = -np.inf
            order = np.argsort(-score_BM[row], kind="stable")[:width]
            order = order[score_BM[row, order] > -np.inf]
            movie_idx[row, : order.size] = order
            score[row, : order.size] = score_BM[row, order]
        yield Lists(start, movie_idx, score)


def _all_pairs(scores: DotScores | MlpScores, start: int, stop: int) -> NDArray[np.float32]:
    user_BD, movie_MD = scores.user[start:stop].double().cpu().numpy(), scores.movie.double().cpu().numpy()
    if not (np.isfinite(user_BD).all() and np.isfinite(movie_MD).all()):
        raise ValueError(
            "scores: the model holds NaN or infinite numbers; train it again with a lower learning_rate"
        )
    if isinstance(scores, DotScores):
        product: NDArray[np.float64] = user_BD @ movie_MD.T + scores.bias.double().cpu().numpy()
        return product.astype(np.float32)
    x = user_BD[:, None, :] + movie_MD[None, :, :]
    for weight, bias in scores.layers:
        x = np.maximum(x, 0) @ weight.double().cpu().numpy().T + bias.double().cpu().numpy()
    score: NDArray[np.float32] = x[:, :, 0].astype(np.float32)
    return score
