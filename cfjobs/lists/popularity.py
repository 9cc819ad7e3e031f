"""The popularity list of each user: the first movies of one order that the user has not seen,
without a loop over users; and the ratings of a window, by which the order may go."""

import numpy as np
from numpy.typing import NDArray

from cfjobs.topn.problem import NO_MOVIE, Pairs


def recent_ratings(
    movie_idx: NDArray[np.int32], timestamp: NDArray[np.int64], *, newest: int, days: int, n_movies: int
) -> NDArray[np.int64]:
    """Ratings of each movie [M] that are later than the newest of all less so many days.

    movie_idx, timestamp [R], newest: in microseconds.
    """
    recent = timestamp > newest - days * 86_400_000_000
    counted: NDArray[np.int64] = np.bincount(movie_idx[recent], minlength=n_movies)
    return counted


def popularity_order(n_ratings: NDArray[np.int64], n_recent: NDArray[np.int64]) -> NDArray[np.int64]:
    """Movies by their ratings of a window, most first, ties by row; behind them those without any by their
    ratings of all time [M]."""
    return np.lexsort((-np.where(n_recent > 0, 0, n_ratings), -n_recent))


def first_unseen(order: NDArray[np.int32], seen: Pairs, *, users: range, n: int) -> NDArray[np.int32]:
    """The first n movies of an order [K] without the seen ones, for consecutive users [U, n];
    NO_MOVIE past its end.

    A seen movie at place p, with i seen ones before it, has p - i unseen ones before it. So the unseen movie
    number j lies at place j + (how many seen ones have p - i <= j).
    """
    n_users, length = len(users), order.size
    first, last = seen.indptr[users.start], seen.indptr[users.stop]
    movies = seen.indices[first:last]
    owner = np.repeat(np.arange(n_users), np.diff(seen.indptr[users.start : users.stop + 1]))
    place = np.full(1 + max(order.max(initial=0), movies.max(initial=0)), length, dtype=np.int64)
    place[order] = np.arange(length)
    within = place[movies] < length
    key = np.sort(owner[within] * length + place[movies[within]])
    owner, at = key // max(length, 1), key % max(length, 1)
    begins = np.searchsorted(owner, np.arange(n_users))
    unseen_before = np.minimum(at - (np.arange(owner.size) - begins[owner]), n)
    counted = np.bincount(owner * (n + 1) + unseen_before, minlength=n_users * (n + 1))
    skipped = counted.reshape(n_users, n + 1)[:, :n].cumsum(axis=1)
    found = np.arange(n) + skipped
    padded = np.append(order, np.int32(NO_MOVIE))
    listed: NDArray[np.int32] = padded[np.minimum(found, length)]
    return listed
