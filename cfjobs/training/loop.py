"""The training loop: a training goes on from its last checkpoint, round after round, and keeps a record.

All trainings are one: the rating network's by epochs (`epochs.py`), whose steps are taken by minibatches
(`minibatch.py`) or by blocked SGD (`blocked_sgd.py`), and the ranking network's by steps (`ranker.py`).
"""

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from torch import Tensor

from cfjobs.training.checkpoint import Checkpoints, State
from cfjobs.training.distributed import Processes

log = logging.getLogger(__name__)

Line = TypeVar("Line")
"""A line of a training's record: of an epoch, or of a step."""


class TrainingLoop(ABC, Generic[Line]):
    """A training under way: what it needs, and where it stands between two steps.

    record: what it has reported so far. on_line: called with each line of the record.
    """

    def __init__(self, *, processes: Processes, on_line: Callable[[Line], None] | None) -> None:
        self.processes, self._on_line = processes, on_line
        self.record: list[Line] = []
        self.step = 0  # steps that are done, in the epoch under way where there are epochs

    def run(self, checkpoints: Checkpoints) -> None:
        """All that is left to do, from the last of the checkpoints on."""
        if (state := checkpoints.last(self.fingerprint())) is not None:
            self.restore(state)
            log.info("going on from the checkpoint %s", self.place)
        while not self.ended:
            self.run_round(checkpoints)

    def report(self, line: Line) -> None:
        """Add a line to the record."""
        self.record.append(line)
        if self._on_line:
            self._on_line(line)

    @property
    @abstractmethod
    def place(self) -> str:
        """Where it stands, in words."""

    @property
    @abstractmethod
    def ended(self) -> bool:
        """Whether nothing is left to do."""

    @abstractmethod
    def run_round(self, checkpoints: Checkpoints) -> None:
        """Train up to the next line of the record, and offer checkpoints on the way."""

    @abstractmethod
    def fingerprint(self) -> dict[str, Any]:
        """What has to be alike for a checkpoint to be of this training."""

    @abstractmethod
    def parts(self) -> dict[str, dict[str, Tensor]]:
        """What the steps to come depend on: tensors by part and name."""

    @abstractmethod
    def restore_parts(self, state: State) -> None:
        """Put back what `parts` gave."""

    @abstractmethod
    def position(self) -> dict[str, Any]:
        """What the steps to come depend on beside tensors, as JSON holds it."""

    @abstractmethod
    def restore_position(self, position: dict[str, Any]) -> None:
        """Put back what `position` gave."""

    def state(self) -> State:
        """All that the steps to come depend on."""
        tensors = {
            f"{part}/{name}": tensor for part, found in self.parts().items() for name, tensor in found.items()
        }
        return State(tensors, {"fingerprint": self.fingerprint(), "step": self.step, **self.position()})

    def restore(self, state: State) -> None:
        """Stand where the state was taken."""
        self.step = state.header["step"]
        self.restore_position(state.header)
        self.restore_parts(state)
