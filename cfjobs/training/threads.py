"""Work on ranges of rows, on all threads: the same ranges on any number of them, so the same bits."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import torch

_MOST_PARTS = 64
_LEAST_ROWS = 512  # of a part: to hand one to a thread takes as long as some rows do


def over(pool: ThreadPoolExecutor, n: int, work: Callable[[int, int], Any]) -> list[Any]:
    """Work on 0..n - 1 in ranges; the results in order."""
    parts = max(1, min(_MOST_PARTS, n // _LEAST_ROWS))
    return between(pool, [n * part // parts for part in range(parts + 1)], work)


def between(pool: ThreadPoolExecutor, edges: Sequence[int], work: Callable[[int, int], Any]) -> list[Any]:
    """Work on the ranges between these edges, ascending; the results in order."""
    if len(edges) == 2:
        return [work(edges[0], edges[1])]
    return list(pool.map(work, edges[:-1], edges[1:]))


@contextmanager
def torch_threads(n: int) -> Iterator[None]:
    """Torch's operations on n threads meanwhile."""
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)
