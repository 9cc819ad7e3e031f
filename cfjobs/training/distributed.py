"""Several processes that train one model: each takes its slice of every batch, and the gradients are summed.

torchrun starts them and sets RANK, WORLD_SIZE and LOCAL_RANK; they talk over NCCL on GPUs and gloo on CPUs.
All hold the whole model and draw the same random numbers, so after every step they hold the same weights, and
those of a single process at the same total batch but for the order of the sums.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import Tensor, distributed

from cfjobs.device import under_torchrun


@dataclass(frozen=True)
class Processes:
    """This process among those that train together. rank: 0..size - 1; rank 0 alone writes and prints."""

    rank: int = 0
    size: int = 1

    def own(self, n: int) -> slice:
        """This process's share of n rows, in order and as even as can be."""
        return slice(self.rank * n // self.size, (self.rank + 1) * n // self.size)

    def sum_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Make every parameter's gradient the sum over the processes."""
        if self.size == 1:
            return
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            distributed.all_reduce(parameter.grad)

    def sum(self, value: Tensor) -> Tensor:
        """The sum of a tensor over the processes."""
        if self.size > 1:
            distributed.all_reduce(value)
        return value

    def spread(self, text: str) -> str:
        """Rank 0's text, on every rank."""
        if self.size == 1:
            return text
        box = [text]
        distributed.broadcast_object_list(box, device=torch.device("cpu"))
        return box[0]


ALONE = Processes()


def current() -> Processes:
    """The processes that this one is connected with."""
    if not distributed.is_initialized():
        return ALONE
    return Processes(distributed.get_rank(), distributed.get_world_size())


@contextmanager
def joined() -> Iterator[Processes]:
    """Connect with the processes that torchrun started beside this one; alone where it started none."""
    if not under_torchrun():
        yield ALONE
        return
    # Others wait for rank 0 while it reads the ratings; one that dies is noticed by torchrun,
    # not by a timeout.
    distributed.init_process_group(
        "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=timedelta(days=1)
    )
    try:
        yield current()
    finally:
        distributed.destroy_process_group()
