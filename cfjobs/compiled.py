"""How loops are compiled: once a machine, into a cache, and without the interpreter's lock."""

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray


def compiled(**options: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A decorator for loops over arrays; options are those of `numba.njit`.

    `fastmath` names what a sum may be turned into so that it can be vectorised; NaN stays NaN in all of them.
    """
    decorate: Callable[[Callable[..., Any]], Callable[..., Any]] = numba.njit(
        nogil=True, cache=True, **options
    )
    return decorate


def counted(idx: NDArray[np.integer], size: int) -> NDArray[np.int64]:
    """How often each of 0..size - 1 is in idx [R]; as `numpy.bincount`, without its copies of 8 bytes a
    rating."""
    found = np.zeros(size, np.int64)
    _count(idx, found)
    return found


def summed(idx: NDArray[np.integer], values: NDArray[Any], size: int) -> NDArray[np.float64]:
    """The sum of the values [R] of each of 0..size - 1 in idx [R], in order; likewise."""
    found = np.zeros(size)
    _sum(idx, values, found)
    return found


@compiled()
def _count(idx, found):  # type: ignore[no-untyped-def]
    for i in idx:
        found[i] += 1


@compiled()
def _sum(idx, values, found):  # type: ignore[no-untyped-def]
    for r in range(len(idx)):
        found[idx[r]] += values[r]
