"""Adam for tables of which a step touches few rows: a row and its moments move in the steps that touch it.

    m = b1 m + (1 - b1) g,  v = b2 v + (1 - b2) g^2          for the rows touched at step t
    row -= rate  m / (1 - b1^t)  /  (sqrt(v / (1 - b2^t)) + eps)

On a processor a compiled loop passes once over each row, its moments and its gradient, where a dozen of
torch's operations would pass over copies of them.

Sources: Kingma and Ba, "Adam" (2015); torch.optim.SparseAdam, which does the same to sparse gradients.
"""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cfjobs.compiled import compiled
from cfjobs.training.threads import over

_B1, _B2, _EPS = 0.9, 0.999, 1e-8
Pace = tuple[np.float32, ...]


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
        for name, which in idx.items():
            row, grad = rows[name].detach(), rows[name].grad
            if grad is None:
                continue
            if row.device.type == "cpu":
                self.move(name, which, grad, rate=rate)
            else:
                tables = (self.tables[name], self.mean[name], self.square[name])
                _move_by_torch(*tables, which, row, grad, pace=self.pace(rate))

    def move(
        self, name: str, which: Tensor, grad: Tensor, *, rate: float, pool: ThreadPoolExecutor | None = None
    ) -> None:
        """Move rows of one table against their gradients, on a processor, in the step that `n_steps` counts;
        on all threads of a pool."""
        arrays, pace = (which.numpy(), _wide(grad.contiguous())), self.pace(rate)
        tables = self.arrays(name)
        if pool is None or grad.dim() == 1:
            _move_rows(*tables, *arrays, *pace, 0, len(which))
        else:
            over(pool, len(which), lambda *part: _move_rows(*tables, *arrays, *pace, *part))

    def pace(self, rate: float) -> Pace:
        """1 - b1, 1 - b2, rate / (1 - b1^t), 1 / sqrt(1 - b2^t), eps: what the loops go by in step t."""
        of_mean, of_square = 1 - _B1**self.n_steps, (1 - _B2**self.n_steps) ** 0.5
        numbers = (1 - _B1, 1 - _B2, rate / of_mean, 1 / of_square, _EPS)
        return tuple(np.float32(number) for number in numbers)

    def arrays(self, name: str) -> tuple[NDArray[np.float32], ...]:
        """A table and its two moments [N, D], in place."""
        return tuple(_wide(tables[name]) for tables in (self.tables, self.mean, self.square))

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


def _wide(table: Tensor) -> NDArray[np.float32]:
    array: NDArray[np.float32] = table.detach().numpy()
    return array if array.ndim > 1 else array[:, None]


@compiled(error_model="numpy", fastmath={"contract", "nsz"})
def _move_rows(table, mean, square, which, grad, keep_mean, keep_square, rate, scale, eps, begin, end):  # type: ignore[no-untyped-def]
    for place in range(begin, end):
        row = which[place]
        for d in range(table.shape[1]):
            g = grad[place, d]
            m = mean[row, d] + keep_mean * (g - mean[row, d])
            v = square[row, d] + keep_square * (g * g - square[row, d])
            mean[row, d] = m
            square[row, d] = v
            table[row, d] -= rate * m / (np.sqrt(v) * scale + eps)


def _move_by_torch(
    table: Tensor, means: Tensor, squares: Tensor, which: Tensor, row: Tensor, grad: Tensor, *, pace: Pace
) -> None:
    """By torch's operations, for a GPU. row, grad: the rows as they are, and their gradients."""
    keep_mean, keep_square, rate, scale, eps = (float(number) for number in pace)
    mean = means.index_select(0, which).lerp_(grad, keep_mean)
    square = squares.index_select(0, which)
    square.lerp_(grad.square(), keep_square)
    means.index_copy_(0, which, mean)
    squares.index_copy_(0, which, square)
    row.addcdiv_(mean, square.sqrt_().mul_(scale).add_(eps), value=-rate)
    table.index_copy_(0, which, row)
