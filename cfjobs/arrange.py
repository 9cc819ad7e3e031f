"""Ratings arranged in place: ids become row numbers, rows are sorted, the latest of each pair stays.

    ids -> numbers in the order of appearance        (`IntegerIds`, `TextIds`, as the batches arrive)
        -> rows partitioned into ranges of users      (an in-place radix pass: every row moves at most once)
        -> each range sorted by user, time, movie     (in a scratch buffer of one range, one thread a range)
        -> superseded rows dropped, gaps closed

A column is one NumPy array that is written once and never copied whole: 20 bytes a rating. Sorting all rows
at once would need them twice.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import numba
import numpy as np
import polars as pl
from numpy.typing import NDArray

_RANGE_ROWS = 1 << 17
"""Rows a range of users should hold at least: its scratch buffer, 2 MB, stays in a core's cache."""
_SMALL_IDS = 1 << 24
_MAX_RANGES = 1024
"""More write positions than this at once no longer fit the cache and the page table of a core."""


class Ids(Protocol):
    """Numbers outside ids 0, 1, ... in the order of their appearance."""

    def number(self, ids: pl.Series, out: NDArray[np.int32]) -> None:
        """Write the number of each id into `out`; new ids get the next ones."""

    def seen(self) -> pl.Series:
        """The ids by number."""


class IntegerIds:
    """Ids of 64 bits: small ones in an array by id, the others in a hash table with open addressing."""

    def __init__(self) -> None:
        self._small = np.zeros(_SMALL_IDS, dtype=np.int32)  # number + 1; untouched pages take no memory
        self._slots = np.zeros((1 << 12, 2), dtype=np.int64)  # id, number + 1
        self._by_number = np.empty(1 << 11, dtype=np.int64)
        self._n = 0

    def number(self, ids: pl.Series, out: NDArray[np.int32]) -> None:
        values = ids.to_numpy()
        assert values.size == out.size
        done = 0
        while True:
            done, self._n = _number(values, out, done, (self._small, self._slots, self._by_number), self._n)
            if done == values.size:
                return
            self._grow()

    def seen(self) -> pl.Series:
        return pl.Series(self._by_number[: self._n])

    def _grow(self) -> None:
        """Room for twice the ids: the slots stay at most half full."""
        known = self._by_number[: self._n]
        self._by_number = np.empty(self._by_number.size * 2, dtype=np.int64)
        self._slots = np.zeros((self._by_number.size * 2, 2), dtype=np.int64)
        self._small[:] = 0
        tables = (self._small, self._slots, self._by_number)
        _number(known, np.empty(known.size, dtype=np.int32), 0, tables, 0)


class TextIds:
    """Ids of text, numbered by a set of Polars categories of their own."""

    def __init__(self) -> None:
        self._type = pl.Categorical(pl.Categories.random())
        self._anchor = pl.Series([], dtype=self._type)  # Polars drops categories that no series has
        self._n = 0

    def number(self, ids: pl.Series, out: NDArray[np.int32]) -> None:
        out[:] = ids.cast(self._type).to_physical().to_numpy()
        self._n = max(self._n, int(out.max(initial=-1)) + 1)

    def seen(self) -> pl.Series:
        return pl.Series(np.arange(self._n, dtype=np.uint32)).cat.to(self._type).cast(pl.String)


@dataclass(frozen=True)
class Columns:
    """Ratings by column. user, movie [R] int32; rating [R] float32; timestamp [R] int64, microseconds."""

    user: NDArray[np.int32]
    movie: NDArray[np.int32]
    rating: NDArray[np.float32]
    timestamp: NDArray[np.int64]

    @classmethod
    def empty(cls, n_rows: int) -> "Columns":
        """Room for R rows, which takes memory only where rows are written."""
        return cls(
            np.empty(n_rows, np.int32), np.empty(n_rows, np.int32),
            np.empty(n_rows, np.float32), np.empty(n_rows, np.int64),
        )

    def head(self, n_rows: int) -> "Columns":
        return Columns(self.user[:n_rows], self.movie[:n_rows], self.rating[:n_rows], self.timestamp[:n_rows])

    def shrink(self, n_rows: int) -> None:
        """Give the memory of the rows from n_rows on back; a view taken before must not be used after."""
        for column in (self.user, self.movie, self.rating, self.timestamp):
            column.resize(n_rows, refcheck=False)


class Times:
    """Fills a timestamp column from its beginning; whole seconds take half of its memory until `widen`."""

    def __init__(self, timestamp: NDArray[np.int64]) -> None:
        self._timestamp = timestamp
        self._seconds: NDArray[np.int32] | None = timestamp.view(np.int32)
        self._n = 0

    def append(self, microseconds: NDArray[np.int64]) -> None:
        here = slice(self._n, self._n + microseconds.size)
        if self._seconds is not None:
            seconds = microseconds // 1_000_000
            fits = np.abs(seconds).max(initial=0) < 2**31
            if fits and np.array_equal(seconds * 1_000_000, microseconds):
                self._seconds[here] = seconds
                self._n = here.stop
                return
            self.widen()
        self._timestamp[here] = microseconds
        self._n = here.stop

    def widen(self) -> None:
        """Turn the seconds so far into microseconds, from the last on: no other is overwritten so."""
        if self._seconds is not None:
            for end in range(self._n, 0, -_RANGE_ROWS):
                block = slice(max(0, end - _RANGE_ROWS), end)
                self._timestamp[block] = self._seconds[block].astype(np.int64) * 1_000_000
            self._seconds = None


def relabel(numbers: NDArray[np.int32], ids: pl.Series) -> pl.Series:
    """Replace, in place, each number of an id by the id's row in ascending order; returns the ids in it."""
    order = ids.arg_sort()
    row = np.empty(ids.len(), dtype=np.int32)
    row[order.to_numpy()] = np.arange(ids.len(), dtype=np.int32)
    _relabel(numbers, row)
    return ids.gather(order)


def arrange(columns: Columns, *, n_users: int, n_movies: int) -> Columns:
    """Sort by user, timestamp, movie and keep one row of each (user, movie) pair, in place.

    The row with the latest timestamp stays; of several at the same time the highest rating, so that neither
    the order of the files nor that of their rows matters. Returns the rows kept, on the same memory.
    user: values 0..n_users - 1, movie: 0..n_movies - 1.
    """
    rows = (columns.user, columns.movie, columns.rating.view(np.uint32), columns.timestamp)
    user_start = _starts(columns.user, n_users)
    cuts = _cuts(user_start)
    range_of = np.repeat(np.arange(cuts.size - 1, dtype=np.int32), np.diff(cuts))
    _partition(rows, range_of, user_start[cuts])
    n_kept = np.zeros(cuts.size - 1, dtype=np.int64)
    n_workers = max(1, min(n_kept.size, len(os.sched_getaffinity(0))))

    def order(worker: int) -> None:
        ranges = np.arange(worker, n_kept.size, n_workers)
        n_kept[ranges] = _order_ranges(rows, user_start, cuts, ranges, np.full(n_movies, -1, np.int32))

    with ThreadPoolExecutor(n_workers) as pool:
        list(pool.map(order, range(n_workers)))
    _close_gaps(rows, user_start[cuts], n_kept)
    return columns.head(int(n_kept.sum()))


def _cuts(user_start: NDArray[np.int64]) -> NDArray[np.int64]:
    """Users at which a range begins, and the end: ranges of whole users with about equally many rows."""
    n_rows, n_users = int(user_start[-1]), user_start.size - 1
    rows = max(_RANGE_ROWS, -(-n_rows // _MAX_RANGES))
    wanted = np.searchsorted(user_start, np.arange(0, n_rows, rows), side="left")
    return np.unique(np.concatenate([[0], wanted, [n_users]])).astype(np.int64)


# Kernels --------------------------------------------------------------------------------------------
# `rows` is (user, movie, rating, timestamp); ratings travel as their 32 bits, which a sort can pack.


def _kernel(**options: Any) -> Any:
    return numba.njit(nogil=True, cache=True, **options)


@_kernel()
def _number(ids, out, done, tables, n):  # type: ignore[no-untyped-def]
    """Numbers of ids[done:] into out. Returns how many ids are done, fewer when room ends, and known."""
    small, slots, by_number = tables
    mask = np.uint64(slots.shape[0] - 1)
    for i in range(done, ids.size):
        key = ids[i]
        if 0 <= key < small.size:
            number = np.int64(small[key])
            slot = np.uint64(0)
        else:
            mixed = np.uint64(key) * np.uint64(0x9E3779B97F4A7C15)
            slot = (mixed ^ (mixed >> np.uint64(32))) & mask
            while slots[slot, 1] != 0 and slots[slot, 0] != key:
                slot = (slot + np.uint64(1)) & mask
            number = slots[slot, 1]
        if number == 0:
            if n == by_number.size:
                return i, n
            by_number[n] = key
            n += 1
            number = n
            if 0 <= key < small.size:
                small[key] = number
            else:
                slots[slot, 0], slots[slot, 1] = key, number
        out[i] = number - 1
    return ids.size, n


@_kernel()
def _relabel(numbers, row):  # type: ignore[no-untyped-def]
    for i in range(numbers.size):
        numbers[i] = row[numbers[i]]


@_kernel()
def _starts(user, n_users):  # type: ignore[no-untyped-def]
    """Where each user's rows begin once they are sorted, and the end. [n_users + 1]"""
    start = np.zeros(n_users + 1, dtype=np.int64)
    for i in range(user.size):
        start[user[i] + 1] += 1
    for u in range(n_users):
        start[u + 1] += start[u]
    return start


@_kernel()
def _partition(rows, range_of, start):  # type: ignore[no-untyped-def]
    """Move each row into its range of users by swaps (American flag sort: McIlroy and others, 1993)."""
    user, movie, rating, timestamp = rows
    head = start[:-1].copy()
    for here in range(head.size):
        end = start[here + 1]
        while head[here] < end:
            i = head[here]
            head[here] += 1
            there = range_of[user[i]]
            if there == here:
                continue
            u, m, r, t = user[i], movie[i], rating[i], timestamp[i]
            while there != here:
                j = head[there]
                head[there] += 1
                u, user[j] = user[j], u
                m, movie[j] = movie[j], m
                r, rating[j] = rating[j], r
                t, timestamp[j] = timestamp[j], t
                there = range_of[u]
            user[i], movie[i], rating[i], timestamp[i] = u, m, r, t


@_kernel()
def _order_ranges(rows, user_start, cuts, ranges, rated_by):  # type: ignore[no-untyped-def]
    """Sort and thin ranges of users; the rows kept move to the beginning of each. Returns how many."""
    user, movie, rating, timestamp = rows
    size = 0
    for k in ranges:
        size = max(size, user_start[cuts[k + 1]] - user_start[cuts[k]])
    movies, ratings = np.empty(size, np.int32), np.empty(size, np.uint32)
    times, keys = np.empty(size, np.int64), np.empty(size, np.int64)
    n_kept = np.zeros(ranges.size, np.int64)
    for place, k in enumerate(ranges):
        low, high = user_start[cuts[k]], user_start[cuts[k + 1]]
        head = user_start[cuts[k] : cuts[k + 1]] - low
        for i in range(low, high):
            u = user[i] - cuts[k]
            j = head[u]
            head[u] += 1
            movies[j], ratings[j], times[j] = movie[i], rating[i], timestamp[i]
        write = low
        for u in range(cuts[k], cuts[k + 1]):
            a, b = user_start[u] - low, user_start[u + 1] - low
            end = write + b - a
            n = _order_user(
                (movies[a:b], ratings[a:b], times[a:b]), keys[: b - a],
                (movie[write:end], rating[write:end], timestamp[write:end]), rated_by, u,
            )
            user[write : write + n] = u
            write += n
        n_kept[place] = write - low
    return n_kept


@_kernel()
def _order_user(rows, keys, to, rated_by, u):  # type: ignore[no-untyped-def]
    """One user's rows by time, movie, rating to the first places of `to`, the last of a movie; how many."""
    movies, ratings, times = rows
    to_movies, to_ratings, to_times = to
    n = movies.size
    _order_by_time(times, keys)
    for i in range(n):
        place = keys[i]
        to_movies[i], to_ratings[i], to_times[i] = movies[place], ratings[place], times[place]
    _order_ties(to_movies, to_ratings, to_times, keys)
    for i in range(n - 1, -1, -1):
        keys[i] = rated_by[to_movies[i]] != u
        rated_by[to_movies[i]] = u
    n_kept = 0
    for i in range(n):
        if keys[i]:
            to_movies[n_kept] = to_movies[i]
            to_ratings[n_kept] = to_ratings[i]
            to_times[n_kept] = to_times[i]
            n_kept += 1
    return n_kept


@_kernel()
def _order_by_time(times, places):  # type: ignore[no-untyped-def]
    """Places in the order of time, ties in any order.

    Time and place in one number sort fastest, where they fit: with 20 years, 4,096 ratings of a user do.
    """
    n = times.size
    if n == 0:
        return
    earliest = times.min()
    span = times.max() - earliest
    bits = 0
    while (1 << bits) < n:
        bits += 1
    if 0 <= span < (1 << (62 - bits)):
        for i in range(n):
            places[i] = ((times[i] - earliest) << bits) | i
        places.sort()
        for i in range(n):
            places[i] &= (1 << bits) - 1
    else:
        places[:] = np.argsort(times)


@_kernel()
def _order_ties(movies, ratings, times, keys):  # type: ignore[no-untyped-def]
    """Sort each run of equal times by movie, then rating: one number holds all such rows differ in."""
    n = movies.size
    first = 0
    while first < n:
        last = first + 1
        while last < n and times[last] == times[first]:
            last += 1
        if last - first > 1:
            for i in range(first, last):
                keys[i] = (np.int64(movies[i]) << 32) | np.int64(_ordered(ratings[i]))
            keys[first:last].sort()
            for i in range(first, last):
                movies[i] = keys[i] >> 32
                ratings[i] = _bits(np.uint32(keys[i] & 0xFFFFFFFF))
        first = last


@_kernel(inline="always")
def _ordered(bits):  # type: ignore[no-untyped-def]
    """Bits of a float32 as an unsigned number of the same order."""
    return bits ^ (np.uint32(0xFFFFFFFF) if bits >> np.uint32(31) else np.uint32(0x80000000))


@_kernel(inline="always")
def _bits(ordered):  # type: ignore[no-untyped-def]
    return ordered ^ (np.uint32(0x80000000) if ordered >> np.uint32(31) else np.uint32(0xFFFFFFFF))


@_kernel()
def _close_gaps(rows, start, n_kept):  # type: ignore[no-untyped-def]
    user, movie, rating, timestamp = rows
    write = 0
    for k in range(n_kept.size):
        if write == start[k]:
            write += n_kept[k]
            continue
        for i in range(start[k], start[k] + n_kept[k]):
            user[write], movie[write] = user[i], movie[i]
            rating[write], timestamp[write] = rating[i], timestamp[i]
            write += 1
