"""Dot products of chosen pairs of rows, without copies of the rows:
what a published prediction is made of."""

import numpy as np
import torch
from torch import Tensor

from cfjobs.compiled import compiled

_FLAGS = {"reassoc", "contract", "nsz"}  # what lets the sum be vectorised, always in the same order


def pair_logits(
    user_NKW: Tensor, movie_MKW: Tensor, user_idx: Tensor, movie_idx: Tensor, *, n_factors: int
) -> Tensor:
    """<p, q> of the first n_factors columns, plus the columns behind them, for each pair and member [B, K].

    In float64, on a processor; user_idx, movie_idx [B]: -1 is the last row. Tables are float32.
    """
    found = np.empty((len(user_idx), user_NKW.shape[1]))
    tables = (user_NKW.detach().numpy(), movie_MKW.detach().numpy())
    _fill(found, *tables, user_idx.numpy(), movie_idx.numpy(), n_factors)
    return torch.from_numpy(found)


@compiled(fastmath=_FLAGS)
def _fill(  # type: ignore[no-untyped-def]
    out, user_NKW, movie_MKW, user_idx, movie_idx, n_factors
):
    n_members, width = user_NKW.shape[1:]
    for t in range(len(user_idx)):
        u, m = user_idx[t] % len(user_NKW), movie_idx[t] % len(movie_MKW)
        for k in range(n_members):
            p, q = user_NKW[u, k], movie_MKW[m, k]
            total = 0.0
            for d in range(n_factors):
                total += np.float64(p[d]) * np.float64(q[d])
            for d in range(n_factors, width):
                total += np.float64(p[d]) + np.float64(q[d])
            out[t, k] = total
