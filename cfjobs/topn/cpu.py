"""The numba backend: batches of users on Python threads, each in one call of the compiled scan."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from cfjobs.topn.kernel import BATCH, CHUNK, GROUP, TILE
from cfjobs.topn.packing import Kept, Screen, pack_movies, pack_users, padded
from cfjobs.topn.problem import Job, Lists, Slice, empty_lists, pairs_among, pairs_of, user_rows
from cfjobs.topn.scan import scan_users


def numba_batches(
    job: Job, *, screen: Screen, threads: int, memory_gb: float, kept: Kept | None = None
) -> Iterator[Lists]:
    movies = kept.of(job, screen=screen) if kept else pack_movies(job, screen=screen)
    room = max(512, 4 * job.n + CHUNK)
    per_member = room * 12 + movies.panels.shape[0] * 8
    per_user = 8 * job.width + 48 * job.q.shape[1]
    share = max(0.0, memory_gb * 2**30 - 4 * job.q.nbytes) / (2 * threads + 1)
    group = int(min(GROUP, max(TILE, share / 2 / per_member))) // TILE * TILE
    batch = int(min(BATCH, max(group, share / 2 / per_user))) // group * group

    def scan(rows: np.ndarray, seen: Slice, out: Slice, sample: int) -> np.ndarray:
        """Fill out. Returns the users whose sampled threshold was too high, whose lists may be wrong."""
        users = pack_users(rows, movies)
        short = np.zeros(len(rows), bool)
        scan_users(
            padded(rows), users.packed, users.start, users.unit, users.factor, users.shift, users.error, users.cap,
            movies.rows, movies.bias, movies.row_of, movies.position_of, movies.panels, movies.init, movies.scale,
            movies.block_error, movies.movie_error, movies.block_cap,
            movies.weight, movies.output_bias, *seen,
            group, room, job.n, job.floor, sample, movies.sample_n, *out, short,
        )  # fmt: skip
        return np.flatnonzero(short)

    def lists(first: int) -> Lists:
        last = min(first + batch, job.users.stop)
        rows = user_rows(job, first, last)
        seen = pairs_of(job.seen, first, last, len(job.q))
        out = empty_lists(last - first, job.width)
        again = scan(rows, seen, out, movies.sample_blocks)
        if len(again):
            part = empty_lists(len(again), job.width)
            scan(rows[again], pairs_among(seen, again), part, 0)
            out[0][again], out[1][again] = part
        return Lists(first, *out)

    firsts = range(job.users.start, job.users.stop, batch)
    with ThreadPoolExecutor(threads, thread_name_prefix="top-n") as pool:
        waiting: deque[Any] = deque()
        try:
            for first in firsts:
                waiting.append(pool.submit(lists, first))
                if len(waiting) > threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
