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

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from cfjobs.compiled import compiled, counted
from cfjobs.topn.problem import NO_MOVIE

MEASURED_USERS = 2_000
"""Users that these lists are made for, at random, and whose nDCG is compared."""

MOST_MOVIES = 1_024
"""The most rated movies: the time of a regression goes with the cube."""

MOST_USERS = 4_096

DAYS = (7, 30)
_DAY = 86_400_000_000  # microseconds
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
    user, movie = (kept[name].to_numpy() for name in ("user_idx", "movie_idx"))
    if not users.size or not user.size:
        return NONE
    histories = _Histories.of(user, movie)
    learnt_from = np.sort(random.permutation(np.flatnonzero(np.diff(histories.indptr)))[:MOST_USERS])
    listed: dict[str, NDArray[np.int32]] = {}
    if ordered:
        at = kept["timestamp"].to_numpy().astype("datetime64[us]", copy=False)
        found = recently_popular(histories, at, users, days=DAYS, k=k)
        listed |= {f"popular_{days}_days": lists for days, lists in zip(DAYS, found, strict=True)}
    listed["ease"] = histories.best(users, histories.profiles(users), ease(histories, learnt_from), k=k)
    if ordered:
        weights = slit(histories, learnt_from)
        listed["slit"] = histories.best(users, histories.latest(users, histories.ends(users)), weights, k=k)
    return Rivals(users, listed)


def recently_popular(
    histories: "_Histories",
    at: NDArray[np.datetime64],
    users: NDArray[np.int64],
    *,
    days: Sequence[int],
    k: int,
) -> list[NDArray[np.int32]]:
    """For each number of days, the unseen movies with most ratings in so many days up to each user's last
    rating, ties by row [S, k]. at [R]: when, in microseconds."""
    ends = histories.ends(users)
    starts = histories.indptr[np.minimum(users, histories.indptr.size - 1)]
    last = np.where(ends > starts, at[np.maximum(ends, 1) - 1], at[0]).astype(np.int64)
    order = np.argsort(last, kind="stable")
    by_day, first = _by_day(at.view(np.int64))
    found = []
    for n in days:
        listed = np.full((users.size, k), NO_MOVIE, np.int32)
        _most_rated_lately(
            by_day, first, at.view(np.int64), histories.movie, starts, ends, last, order, n * _DAY, listed
        )
        found.append(listed)
    return found


@compiled()
def _by_day(at):  # type: ignore[no-untyped-def]
    """Ratings [R] by the day of their time, and where each day begins, from the first one on."""
    begin = at.min() // _DAY
    first = np.zeros(at.max() // _DAY - begin + 2, np.int64)
    for r in range(len(at)):
        first[at[r] // _DAY - begin + 1] += 1
    first = np.cumsum(first)
    place, by_day = first[:-1].copy(), np.empty(len(at), np.uint32)
    for r in range(len(at)):
        day = at[r] // _DAY - begin
        by_day[place[day]] = r
        place[day] += 1
    return by_day, first


@compiled()
def _most_rated_lately(by_day, first, at, movie, starts, ends, last, order, span, listed):  # type: ignore[no-untyped-def]
    """Fill lists [S, k] of users from starts to ends [S] with the unseen movies most rated in `span` before
    `last` [S]. order: users by last. Whole days are counted on from user to user, those at the ends apart."""
    begin = at.min() // _DAY
    count = np.zeros(movie.max() + 1, np.int64)
    low = high = 0  # the whole days that are counted
    for s in order:
        if starts[s] == ends[s]:
            continue
        after = last[s] - span  # a rating counts when it is later, and no later than last
        from_day = max(0, after // _DAY - begin + 1)
        to_day = max(from_day, last[s] // _DAY - begin)
        while high < to_day:
            for r in by_day[first[high] : first[high + 1]]:
                count[movie[r]] += 1
            high += 1
        while low < from_day:
            for r in by_day[first[low] : first[low + 1]]:
                count[movie[r]] -= 1
            low += 1
        for sign in (1, -1):
            for day in (after // _DAY - begin, last[s] // _DAY - begin):
                if day >= 0 and not low <= day < high:
                    for r in by_day[first[day] : first[day + 1]]:
                        if after < at[r] <= last[s]:
                            count[movie[r]] += sign
            if sign == 1:
                _fill_best(count, movie[starts[s] : ends[s]], listed[s])


@compiled()
def _fill_best(count, seen, best):  # type: ignore[no-untyped-def]
    """Fill best [k] with the movies of highest count, above 0, that are not seen; ties by row."""
    aside, k, n = count[seen], len(best), 0
    for m in seen:
        count[m] = 0
    for m in range(len(count)):
        if count[m] == 0 or (n == k and count[m] <= count[best[k - 1]]):
            continue
        place = n if n < k else k - 1
        n = min(n + 1, k)
        while place and count[best[place - 1]] < count[m]:
            best[place] = best[place - 1]
            place -= 1
        best[place] = m
    for i in range(len(seen) - 1, -1, -1):
        count[seen[i]] = aside[i]


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
    movie: NDArray[np.integer]  # [R]
    top: NDArray[np.int64]  # [m] rows of the most rated movies, ascending
    place: NDArray[np.int64]  # [M] of a movie among them; -1 for none

    @classmethod
    def of(cls, user: NDArray[np.integer], movie: NDArray[np.integer]) -> "_Histories":
        """From ratings sorted by user and time."""
        indptr = np.concatenate([[0], counted(user, int(user[-1]) + 1).cumsum()])
        n_ratings = counted(movie, int(movie.max()) + 1)
        top = np.sort(np.argsort(-n_ratings, kind="stable")[:MOST_MOVIES])
        place = np.full(n_ratings.size, -1, np.int64)
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
