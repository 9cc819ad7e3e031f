"""Work on ranges of rows, on all threads: the same ranges on any number of them, so the same bits."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any


def over(pool: ThreadPoolExecutor, n: int, work: Callable[[int, int], Any], *, parts: int = 64) -> list[Any]:
    """Work on 0..n - 1 in so many ranges; the results in order."""
    return between(pool, [n * part // parts for part in range(parts + 1)], work)


def between(pool: ThreadPoolExecutor, edges: Sequence[int], work: Callable[[int, int], Any]) -> list[Any]:
    """Work on the ranges between these edges, ascending; the results in order."""
    return list(pool.map(work, edges[:-1], edges[1:]))
