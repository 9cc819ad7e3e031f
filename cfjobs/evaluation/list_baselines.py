"""What strong rules without a network would have listed, for a sample of the measured users.

    popular_7_days, popular_30_days   the movies with most ratings in the days before a user's last one
    ease                              each movie from all others of the profile, by ridge regression
    slit                              the next ratings from the latest ones, by ridge regression

The first two and the last need ratings whose times put them in order. Both regressions are closed forms
between at most MOST_MOVIES movies, fitted to at most MOST_USERS users: what they take is bounded, whatever
the size of the data.

Sources: Steck, "Embarrassingly shallow autoencoders for sparse data" (2019), EASE; Choi and others,
"Session-aware linear item-item models for session-based recommendation" (2021), SLIT, here with the weights
by recency that the ranking network has.
"""

from dataclasses import dataclass, field

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from cfjobs.topn.problem import NO_MOVIE

MEASURED_USERS = 2_000
"""Users that these lists are made for, at random, and whose nDCG is compared."""

MOST_MOVIES = 1_024
"""The most rated movies: the time of a regression goes with the cube."""

MOST_USERS = 4_096

DAYS = (7, 30)
EASE_L2 = 400.0
SLIT_L2 = 100.0

_CUTS = (0.25, 0.5, 0.75)  # of a history: what lies before, and the ratings that follow
_NEXT = 10
_RECENCY_HALF = 5.0


@dataclass(frozen=True)
class Rivals:
    """Lists of some users by name of their rule. users [S]: ascending. listed: [S, k], NO_MOVIE past an
    end."""

    users: NDArray[np.int64]
    listed: dict[str, NDArray[np.int32]] = field(default_factory=dict)


NONE = Rivals(np.zeros(0, np.int64))


def rivals(kept: pl.DataFrame, measured: NDArray[np.int64], *, ordered: bool, k: int, seed: int) -> Rivals:
    """Lists of k movies by every rule that the ratings allow.

    kept: training ratings, user_idx, movie_idx, timestamp, sorted by user and time. measured: users with
    held-out ratings. ordered: whether the times put a user's ratings in order.
    """
    random = np.random.default_rng(seed)
    users = np.sort(random.permutation(measured)[:MEASURED_USERS])
    user, movie = (kept[name].to_numpy().astype(np.int64) for name in ("user_idx", "movie_idx"))
    if not users.size or not user.size:
        return NONE
    histories = _Histories.of(user, movie)
    learnt_from = np.sort(random.permutation(np.unique(user))[:MOST_USERS])
    listed = {}
    if ordered:
        at = kept["timestamp"].to_numpy().astype("datetime64[us]")
        for days in DAYS:
            listed[f"popular_{days}_days"] = recently_popular(movie, at, histories, users, days=days, k=k)
    listed["ease"] = histories.best(users, histories.profiles(users), ease(histories, learnt_from), k=k)
    if ordered:
        weights = slit(histories, learnt_from)
        listed["slit"] = histories.best(users, histories.latest(users, histories.ends(users)), weights, k=k)
    return Rivals(users, listed)


def recently_popular(
    movie: NDArray[np.int64],
    at: NDArray[np.datetime64],
    histories: "_Histories",
    users: NDArray[np.int64],
    *,
    days: int,
    k: int,
) -> NDArray[np.int32]:
    """The unseen movies with most ratings in the days up to each user's last rating, ties by row [S, k]."""
    order = np.argsort(at, kind="stable")
    by_time, times = movie[order], at[order]
    n_movies = int(movie.max()) + 1
    found = np.full((users.size, k), NO_MOVIE, np.int32)
    for row, user in enumerate(users.tolist()):
        rated = histories.rows(user)
        if rated.start == rated.stop:
            continue
        last = at[rated.stop - 1]
        window = slice(*np.searchsorted(times, [last - np.timedelta64(days, "D"), last], side="right"))
        count = np.bincount(by_time[window], minlength=n_movies)
        count[movie[rated]] = 0
        best = np.argsort(-count, kind="stable")[:k]
        best = best[count[best] > 0]
        found[row, : best.size] = best
    return found


def ease(histories: "_Histories", users: NDArray[np.int64], *, l2: float = EASE_L2) -> Tensor:
    """B [m, m] = argmin |X - X B|^2 + l2 |B|^2 with a zero diagonal. X: 1 where a user rated a movie."""
    profiles = histories.profiles(users)
    gram, _ = _products(profiles, profiles)
    inverse = _inverse(gram, l2)
    weights = inverse / -inverse.diagonal()
    weights.fill_diagonal_(0.0)
    return weights


def slit(histories: "_Histories", users: NDArray[np.int64], *, l2: float = SLIT_L2) -> Tensor:
    """B [m, m] = argmin |T - S B|^2 + l2 |B|^2. S: what users had rated before a cut, the latest weighing
    most; T: 1 where one of the next ratings is."""
    start, stop = histories.indptr[users], histories.indptr[users + 1]
    past, following = [], []
    for share in _CUTS:
        cut = start + np.floor(share * (stop - start)).astype(np.int64)
        past.append(histories.latest(users, cut))
        following.append(histories.matrix(cut, np.minimum(cut + _NEXT, stop)))
    gram, target = _products(torch.cat(past), torch.cat(following))
    return _inverse(gram, l2) @ target


@dataclass(frozen=True)
class _Histories:
    """Ratings in compressed rows, and the m movies between which the regressions are."""

    indptr: NDArray[np.int64]  # [U + 1]
    movie: NDArray[np.int64]  # [R]
    top: NDArray[np.int64]  # [m] rows of the most rated movies, ascending
    place: NDArray[np.int64]  # [M] of a movie among them; -1 for none

    @classmethod
    def of(cls, user: NDArray[np.int64], movie: NDArray[np.int64]) -> "_Histories":
        """From ratings sorted by user and time."""
        indptr = np.concatenate([[0], np.bincount(user).cumsum()])
        top = np.sort(np.argsort(-np.bincount(movie), kind="stable")[:MOST_MOVIES])
        place = np.full(int(movie.max()) + 1, -1, np.int64)
        place[top] = np.arange(top.size)
        return cls(indptr, movie, top, place)

    def rows(self, user: int) -> slice:
        """A user's ratings; none for one beyond the last who has any."""
        begin, end = np.minimum([user, user + 1], self.indptr.size - 1)
        return slice(int(self.indptr[begin]), int(self.indptr[end]))

    def ends(self, users: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where each user's ratings end."""
        return self.indptr[np.minimum(users + 1, self.indptr.size - 1)]

    def profiles(self, users: NDArray[np.int64]) -> Tensor:
        """1 for every rated movie [B, m], sparse."""
        return self.matrix(self.indptr[np.minimum(users, self.indptr.size - 1)], self.ends(users))

    def latest(self, users: NDArray[np.int64], end: NDArray[np.int64]) -> Tensor:
        """The ratings before `end` [B, m], sparse: the latest 1, the n-th before it 1 / (1 + n / half)."""
        return self.matrix(self.indptr[np.minimum(users, self.indptr.size - 1)], end, half=_RECENCY_HALF)

    def matrix(self, start: NDArray[np.int64], stop: NDArray[np.int64], *, half: float = np.inf) -> Tensor:
        """The ratings from start to stop [B] as a sparse matrix [B, m]."""
        length = stop - start
        row = np.repeat(np.arange(length.size), length)
        rating = np.arange(row.size) - (length.cumsum() - length - start)[row]
        column, age = self.place[self.movie[rating]], stop[row] - 1 - rating
        there = column >= 0
        index = torch.from_numpy(np.stack([row[there], column[there]]))
        value = torch.from_numpy((1 / (1 + age[there] / half)).astype(np.float32))
        return torch.sparse_coo_tensor(
            index, value, (length.size, self.top.size), is_coalesced=True, check_invariants=False
        )

    def best(self, users: NDArray[np.int64], inputs: Tensor, weights: Tensor, *, k: int) -> NDArray[np.int32]:
        """The k best unseen movies [S, k] by inputs [S, m] @ weights [m, m]."""
        score = inputs.to_dense() @ weights
        seen = self.profiles(users).indices()
        score[seen[0], seen[1]] = -torch.inf
        value, column = score.topk(min(k, self.top.size), dim=1)
        found = np.full((users.size, k), NO_MOVIE, np.int32)
        found[:, : column.shape[1]] = np.where(value.isfinite(), self.top[column], NO_MOVIE)
        return found


def _products(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """X'X and X'Y [m, m] of sparse matrices of the same rows."""
    dense = x.to_dense()
    return dense.T @ dense, torch.sparse.mm(y.t(), dense).T


def _inverse(gram: Tensor, l2: float) -> Tensor:
    """(gram + l2 I)^-1."""
    regular = gram.clone()
    regular.diagonal().add_(l2)
    return torch.cholesky_inverse(torch.linalg.cholesky(regular))
