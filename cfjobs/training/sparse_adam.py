"""Adam for tables of which a step touches few rows: a row and its moments move in the steps that touch it.

    m = b1 m + (1 - b1) g,  v = b2 v + (1 - b2) g^2          for the rows touched at step t
    row -= rate  m / (1 - b1^t)  /  (sqrt(v / (1 - b2^t)) + eps)

On a processor a compiled loop passes once over each row, its moments and its gradient, where a dozen of
torch's operations would pass over copies of them.

Sources: Kingma and Ba, "Adam" (2015); torch.optim.SparseAdam, which does the same to sparse gradients.
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from cfjobs.compiled import compiled

_B1, _B2, _EPS = 0.9, 0.999, 1e-8


class RowAdam:
    """Moments for tables by name, each [N] or [N, D], contiguous; the tables change in place."""

    def __init__(self, tables: Mapping[str, Tensor]) -> None:
        self.tables = dict(tables)
        self.mean = {name: torch.zeros_like(table) for name, table in tables.items()}
        self.square = {name: torch.zeros_like(table) for name, table in tables.items()}
        self.n_steps = 0

    def rows(self, idx: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Some rows of each table, to differentiate by. idx: each row once."""
        return {
            name: self.tables[name].index_select(0, which).requires_grad_() for name, which in idx.items()
        }

    @torch.no_grad()
    def step(self, idx: Mapping[str, Tensor], rows: Mapping[str, Tensor], *, rate: float) -> None:
        """Move these rows against their gradients. rows: what `rows(idx)` gave."""
        self.n_steps += 1
        of_mean, of_square = 1 - _B1**self.n_steps, (1 - _B2**self.n_steps) ** 0.5
        for name, which in idx.items():
            row, grad = rows[name].detach(), rows[name].grad
            if grad is None:
                continue
            tables = (self.tables[name], self.mean[name], self.square[name])
            if row.device.type == "cpu":
                _move_by_loop(*tables, which, grad, rate=rate / of_mean, of_square=of_square)
            else:
                _move_by_torch(*tables, which, row, grad, rate=rate / of_mean, of_square=of_square)

    def state(self) -> dict[str, Tensor]:
        """The moments by name."""
        moments = {"mean": self.mean, "square": self.square}
        return {f"{kind}/{name}": table for kind, tables in moments.items() for name, table in tables.items()}

    @torch.no_grad()
    def restore(self, state: Mapping[str, Tensor], *, n_steps: int) -> None:
        """Stand where the moments were taken, after so many steps."""
        for name, table in self.state().items():
            table.copy_(state[name])
        self.n_steps = n_steps


def _move_by_loop(*tensors: Tensor, rate: float, of_square: float) -> None:
    """By the compiled loop. tensors: the table, its moments, the rows that move, their gradients."""
    *tables, which, grad = (tensor.detach() for tensor in tensors)
    wide = [(t if t.dim() > 1 else t[:, None]).numpy() for t in (*tables, grad.contiguous())]
    step = (np.float32(x) for x in (1 - _B1, 1 - _B2, rate, 1 / of_square, _EPS))
    _move_rows(*wide[:3], which.numpy(), wide[3], *step)


@compiled(error_model="numpy", fastmath={"contract", "nsz"})
def _move_rows(table, mean, square, which, grad, keep_mean, keep_square, rate, scale, eps):  # type: ignore[no-untyped-def]  # noqa: PLR0917
    for place in range(len(which)):
        row = which[place]
        for d in range(table.shape[1]):
            g = grad[place, d]
            m = mean[row, d] + keep_mean * (g - mean[row, d])
            v = square[row, d] + keep_square * (g * g - square[row, d])
            mean[row, d] = m
            square[row, d] = v
            table[row, d] -= rate * m / (np.sqrt(v) * scale + eps)


def _move_by_torch(
    table: Tensor,
    means: Tensor,
    squares: Tensor,
    which: Tensor,
    *moving: Tensor,
    rate: float,
    of_square: float,
) -> None:
    """By torch's operations. moving: the rows, and their gradients."""
    row, grad = moving
    mean = means.index_select(0, which).lerp_(grad, 1 - _B1)
    square = squares.index_select(0, which).mul_(_B2).addcmul_(grad, grad, value=1 - _B2)
    means.index_copy_(0, which, mean)
    squares.index_copy_(0, which, square)
    row.addcdiv_(mean, square.sqrt_().div_(of_square).add_(_EPS), value=-rate)
    table.index_copy_(0, which, row)
