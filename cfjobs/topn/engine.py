"""Exact top-N: every user against every movie, at the speed of a matrix product or better.

The score of a pair is defined once, in real arithmetic a computer can keep:

    score(u, m) = float32( x[u,0]*q[m,0] + x[u,1]*q[m,1] + ... + x[u,D-1]*q[m,D-1]  + b[m] )

summed in that order in float64 (a product of two float32 numbers is exact there) and rounded once.
It depends on nothing else: not on the batch, the thread, the shard or the device. Higher scores come
first, equal scores in order of the movie's row. What this module returns is that list, always.

Ten billion scores need not be computed exactly to know the hundred best of each user. A *screen*
computes a cheap approximation v of every score together with a proven bound e, |v - score| <= e.
A pair whose v + e is below a value that N other movies of the user are known to reach cannot be
listed. The few that remain are scored exactly. Three screens share one loop:

    int8      64 products per instruction (AVX-512 VNNI); v is exact for the rounded vectors
    float32   16 products per instruction, any processor
    net       relu(a + b) . w of a one-hidden-layer network, float32

Nothing is written out but candidates: the block of scores lives in registers, is compared there with
six users' thresholds, and is forgotten. The proofs stand at `_int8_users`, `_float_users`, `_net_users`.

Words: U users, M movies, D factors, H hidden units, N list length; a *chunk* is 64 movies, a *block*
8 chunks, a *tile* 6 users. A movie's *position* is its place in the order of scanning, its *row* its
place in the caller's matrix.
"""

import importlib.util
import math
from collections.abc import Iterator
from typing import Literal

import numpy as np

from cfjobs.resources import processors
from cfjobs.topn.packing import Kept, Screen
from cfjobs.topn.problem import (
    Job,
    Lists,
    Net,
    Pairs,
    Rows,
    check_net,
    check_pairs,
    checked_candidates,
    checked_matrix,
    checked_vector,
)

Backend = Literal["numba", "torch", "triton"]


def top_n_batches(
    x: Rows,
    q: np.ndarray,
    *,
    n: int,
    movie_bias: np.ndarray | None = None,
    seen: Pairs | None = None,
    candidates: np.ndarray | None = None,
    min_score: float | None = None,
    net: Net | None = None,
    users: range | None = None,
    backend: Backend | Literal["auto"] = "auto",
    screen: Screen = "auto",
    device: str = "cpu",
    threads: int | None = None,
    memory_gb: float = 1.0,
    kept: Kept | None = None,
) -> Iterator[Lists]:
    """Yield each user's N best unseen candidate movies, in order of users, a batch at a time.

    x: [U, D] float32, read in contiguous ranges. q: [M, D] float32. movie_bias: [M] float32. seen: pairs
    never listed. candidates: [M] bool, the movies that may be listed.
    min_score: list only scores of at least this, rounded to float32 as scores are. net: score with this
    network instead of x . q. users: the contiguous range of users wanted (a shard); all if left out. device:
    of the torch and triton backends. threads: of the numba backend; all that the process may use if left out.
    memory_gb: room for what this call adds to its inputs: the movies' copies and the batches in work. kept:
    carries the movies' copies to further calls with the same movies, candidates and n.

    Raises ValueError on shapes that do not fit, on NaN or infinity, and where scores may pass the
    largest float32.
    """
    movie_rows = checked_matrix(q, "movie vectors q")
    n_users, n_movies = int(x.shape[0]), len(movie_rows)
    users = range(n_users) if users is None else users
    bias = np.zeros(n_movies, np.float32) if movie_bias is None else checked_vector(movie_bias, n_movies)
    listed = checked_candidates(candidates, n_movies)
    if n < 1:
        raise ValueError(f"n is {n}, expected at least 1")
    if users.step != 1 or not 0 <= users.start <= max(users.stop, users.start) <= n_users:
        raise ValueError(f"users is {users}, expected a contiguous range within 0..{n_users}")
    if net is None and x.shape[1] != movie_rows.shape[1]:
        raise ValueError(f"x has {x.shape[1]} factors and q {movie_rows.shape[1]}; they must agree")
    if net is not None:
        check_net(net, user_factors=x.shape[1], movie_factors=movie_rows.shape[1])
        if movie_bias is not None:
            raise ValueError("movie_bias does not go with net; append it to the movie's embedding")
    if seen is not None:
        check_pairs(seen, n_users=n_users)
    if backend == "auto":
        backend = _backend(device, net)
    if backend == "numba" and net is not None and net.middle:
        raise ValueError("the numba backend takes nets of one hidden layer; use backend='torch'")
    if backend == "triton" and net is not None:
        raise ValueError("the triton backend takes dot products; use backend='torch' for a net")
    job = Job(
        x=x, q=movie_rows, bias=bias, seen=seen, listed=listed, net=net, users=users,
        n=min(n, max(1, n_movies)), width=n, floor=-math.inf if min_score is None else float(np.float32(min_score)),
    )  # fmt: skip
    if backend == "triton":
        from cfjobs.topn.fused import fused_batches

        return fused_batches(job, device=device, memory_gb=memory_gb)
    if backend == "torch":
        from cfjobs.topn.gpu import torch_batches

        return torch_batches(job, device=device, memory_gb=memory_gb)
    from cfjobs.topn.cpu import numba_batches

    threads = threads or processors()
    return numba_batches(job, screen=screen, threads=threads, memory_gb=memory_gb, kept=kept)


def _backend(device: str, net: Net | None) -> Backend:
    """Triton comes with torch where torch is built for CUDA."""
    if net is None and device.startswith("cuda") and importlib.util.find_spec("triton"):
        from cfjobs.topn.fused import runs_on

        return "triton" if runs_on(device) else "torch"
    return "torch" if device != "cpu" or (net is not None and net.middle) else "numba"
