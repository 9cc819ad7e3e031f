"""Outside ids numbered as they appear, batch by batch, then turned into rows in the order of the ids."""

import numpy as np
import polars as pl
from numpy.typing import NDArray

from cfjobs.compiled import compiled

_SMALL_IDS = 1 << 24
"""Ids from 0 to here are looked up without hashing, in 64 MB at most: only the parts in use take memory."""


class IntegerIds:
    """Ids of 64 bits: small ones in an array by id, the others in a hash table with open addressing."""

    def __init__(self) -> None:
        self._small = np.zeros(_SMALL_IDS, dtype=np.int32)  # number + 1; untouched pages take no memory
        self._slots = np.zeros((1 << 16, 2), dtype=np.int64)  # id, number + 1
        self._by_number = np.empty(1 << 15, dtype=np.int64)
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
        self._small = np.zeros(_SMALL_IDS, dtype=np.int32)
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


def relabel(numbers: NDArray[np.int32], ids: pl.Series) -> pl.Series:
    """Replace, in place, each number of an id by the id's row in ascending order; returns the ids in it."""
    order = ids.arg_sort()
    row = np.empty(ids.len(), dtype=np.int32)
    row[order.to_numpy()] = np.arange(ids.len(), dtype=np.int32)
    _relabel(numbers, row)
    return ids.gather(order)


@compiled()
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


@compiled()
def _relabel(numbers, row):  # type: ignore[no-untyped-def]
    for i in range(numbers.size):
        numbers[i] = row[numbers[i]]
