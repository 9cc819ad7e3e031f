"""Side features inside a network: an embedding for each value, summed over the values of a row.

    added_n = sum over the values v of row n of  weight_nv x E_v

While a network is trained the sums are added to its rows (or put beside them); afterwards they are folded in,
so that scoring never hears of features. In training a movie's own row is hidden now and then, so that its
features learn to do without it; a movie without ratings is then what its features say.

Source of the hiding: Volkovs, Yu and Poutanen, "DropoutNet" (2017).
"""

import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cfjobs.features import Features

HIDDEN_MOVIES = 0.1
"""Share of the examples in which a described movie does without its own row; more predicts movies without
ratings better and the others worse (`bench/features.py`)."""


class ValueEmbedding(nn.Module):
    """E [V, width], which begins at zero, for the features of N rows.

    hidden: share of the examples whose described row is hidden in training.
    """

    def __init__(
        self,
        features: Features,
        width: int,
        *,
        hidden: float = 0.0,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__()
        self.hidden = hidden
        self.weight = nn.Parameter(torch.zeros(features.n_values, width, device=device))
        n_rows = len(features.indptr) - 1
        row = torch.from_numpy(np.repeat(np.arange(n_rows), np.diff(features.indptr)))
        value, weight = torch.from_numpy(features.values), torch.from_numpy(features.weights)
        size = (n_rows, features.n_values)
        self._of_row = sparse(row, value, weight, size=size).to(device)
        self._of_value = sparse(value, row, weight, size=size[::-1]).to(device)
        self._squared = sparse(row, value, weight.square(), size=size).to(device)
        self._squared_of_value = sparse(value, row, weight.square(), size=size[::-1]).to(device)
        self.described = torch.from_numpy(features.described).to(device)

    def forward(self) -> Tensor:
        """The sums [N, width]."""
        return sparse_product(self.weight, self._of_row, self._of_value)

    def rows(self, idx: Tensor) -> Tensor:
        """The sums of some rows [B, width]; zero for an unknown id, -1."""
        return nn.functional.embedding(idx.clamp_min(0), self()) * (idx >= 0)[:, None]

    def shown(self, idx: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """True, or at random False for a described row that is to do without what is its own [B, 1]."""
        drawn = torch.rand(len(idx), generator=generator, device=idx.device) >= self.hidden
        return (drawn | ~self.described[idx])[:, None]

    def squared_norms(self) -> Tensor:
        """For each row the sum over its values of (weight x |E_v|)^2 [N]: what it pays in L2."""
        of_values = self.weight.square().sum(dim=1, keepdim=True)
        return sparse_product(of_values, self._squared, self._squared_of_value)[:, 0]

    @torch.no_grad()
    def filled(self, trained: Tensor) -> Tensor:
        """The sums [N + 1, width] for good: a row that is neither described nor trained, and the last one,
        for an unknown id, have the mean of the trained rows' sums. trained [N]: True for a row with training
        ratings."""
        sums = self()
        typical = sums[trained].mean(dim=0) if trained.any() else sums.new_zeros(sums.shape[1])
        sums[~trained & ~self.described] = typical
        return torch.cat([sums, typical[None]])


class UserValues(ValueEmbedding):
    """Of the users' side features."""


class MovieValues(ValueEmbedding):
    """Of the movies' side features."""


def sparse(row: Tensor, column: Tensor, value: Tensor, *, size: tuple[int, int]) -> Tensor:
    """A sparse matrix in CSR form; repeated pairs are summed."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse")  # torch calls its CSR tensors beta
        return (
            torch.sparse_coo_tensor(torch.stack([row, column]), value, size, check_invariants=False)
            .coalesce()
            .to_sparse_csr()
        )


def sparse_product(x: Tensor, a: Tensor, a_transposed: Tensor) -> Tensor:
    """a @ x, differentiable in x, with the transpose of a made once;
    autograd would make it anew at every step."""
    product: Tensor = _SparseProduct.apply(x, a, a_transposed)  # type: ignore[no-untyped-call]  # torch's own
    return product


class _SparseProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, a: Tensor, a_transposed: Tensor) -> Tensor:
        ctx.a_transposed = a_transposed
        return a @ x

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return ctx.a_transposed @ grads[0], None, None
