"""Scoring: every user against every movie, exact top-N lists. `engine` has the interface and how it is done.

engine.py      top_n_batches: the interface
problem.py     what a call is given, checked
packing.py     movies and users as the approximate pass wants them; the proofs of its bounds
kernel.py      the approximate pass in registers
scan.py        candidates kept, narrowed, scored exactly
cpu.py         the backend for CPUs
fused.py       the backend for GPUs: product and selection in one Triton kernel, those of fused_kernels.py
gpu.py         the backend for any device, by torch's operations; for nets with more than one hidden layer
turned.py      the best users of each movie: the same scores with roles swapped
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cfjobs.models.network import DotScores, MlpScores
from cfjobs.topn.engine import top_n_batches
from cfjobs.topn.nets import net_of
from cfjobs.topn.packing import Kept
from cfjobs.topn.problem import NO_MOVIE, Lists, Pairs

__all__ = ["NO_MOVIE", "Kept", "Lists", "Pairs", "top_n"]


def top_n(
    scores: DotScores | MlpScores,
    *,
    n: int,
    seen: Pairs,
    candidates: NDArray[np.bool_] | None = None,
    users: range | None = None,
    min_score: float | None = None,
    threads: int | None = None,
    memory_gb: float = 1.0,
    kept: Kept | None = None,
) -> Iterator[Lists]:
    """The n best unseen candidates of each user, batch after batch of consecutive users, exactly.

    candidates [M]: False for a movie that must not be listed. users: the rows to score, all by default.
    min_score: only scores of at least this are listed. threads: of the processor; every core by default.
    kept: see `top_n_batches`. memory_gb: room for what scoring adds to its inputs. A user with fewer
    candidates than n gets a shorter list. Raises ValueError for vectors that are not finite.
    """
    device = scores.user.device
    options: dict[str, Any] = {"net": net_of(scores)} if isinstance(scores, MlpScores) else {}
    if isinstance(scores, DotScores):
        options["movie_bias"] = scores.bias.cpu().numpy()
    return top_n_batches(
        scores.user.cpu().numpy(),
        scores.movie.cpu().numpy(),
        n=n,
        seen=seen,
        candidates=candidates,
        users=users,
        min_score=min_score,
        threads=threads,
        kept=kept,
        device=str(device),
        memory_gb=memory_gb,
        **options,
    )
