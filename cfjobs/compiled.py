"""How loops are compiled: once a machine, into a cache, and without the interpreter's lock."""

from collections.abc import Callable
from typing import Any

import numba


def compiled(**options: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A decorator for loops over arrays; options are those of `numba.njit`.

    `fastmath` names what a sum may be turned into so that it can be vectorised; NaN stays NaN in all of them.
    """
    decorate: Callable[[Callable[..., Any]], Callable[..., Any]] = numba.njit(
        nogil=True, cache=True, **options
    )
    return decorate
