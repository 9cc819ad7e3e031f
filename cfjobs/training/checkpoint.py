"""Where a training stands, as one file: a training that was killed goes on from its last one.

The file is safetensors: tensors by name, and small values as JSON in its header, so that a checkpoint is
whole or absent and holds no code. What it has to hold for the resumed training to equal the one that was not
killed: parameters, the optimiser's moments, the states of the random generators, the place in the schedule,
the best weights so far and the record of the epochs.
"""

import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

log = logging.getLogger(__name__)

_SHARE_OF_TIME = 0.05
_HEADER = "header"


@dataclass(frozen=True)
class State:
    """Where a training stands. header: what JSON holds; NaN and infinity are allowed."""

    tensors: dict[str, Tensor]
    header: dict[str, Any]

    def part(self, prefix: str) -> dict[str, Tensor]:
        """The tensors below `prefix/`, by the rest of their names."""
        start = f"{prefix}/"
        return {k.removeprefix(start): tensor for k, tensor in self.tensors.items() if k.startswith(start)}

    def to_bytes(self) -> bytes:
        on_cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in self.tensors.items()}
        return safetensors.torch.save(on_cpu, metadata={_HEADER: json.dumps(self.header)})

    @classmethod
    def from_bytes(cls, data: bytes) -> "State":
        """Raises ValueError for a file that is damaged."""
        try:
            tensors = safetensors.torch.load(data)
            length = int.from_bytes(data[:8], "little")
            header = json.loads(json.loads(data[8 : 8 + length])["__metadata__"][_HEADER])
        except (SafetensorError, KeyError) as error:
            raise ValueError(f"checkpoint: is damaged ({error})") from error
        return cls(tensors, header)


class Checkpoints:
    """The checkpoints of one training, of which the last one counts.

    read, write: of the one file, None when it is absent. seconds: time between two checkpoints, 0 for none at
    all; more where writing takes so long that it would cost over a twentieth of the time.
    """

    def __init__(
        self,
        *,
        read: Callable[[], bytes | None],
        write: Callable[[bytes], None],
        seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._read, self._write, self._seconds, self._clock = read, write, seconds, clock
        self._due = clock() + seconds

    def last(self, fingerprint: dict[str, Any]) -> State | None:
        """The last state of this very training, None where it has to begin. fingerprint: what names it."""
        data = self._read() if self._seconds else None
        if data is None:
            return None
        try:
            state = State.from_bytes(data)
        except ValueError as error:
            log.warning("%s; training from the beginning", error)
            return None
        if state.header["fingerprint"] != fingerprint:
            log.warning(
                "checkpoint: is of %s, this is %s; training from the beginning",
                state.header["fingerprint"],
                fingerprint,
            )
            return None
        return state

    def offer(self, state: Callable[[], State]) -> None:
        """Write a checkpoint when one is due. state: called only then."""
        if not self._seconds or self._clock() < self._due:
            return
        started = self._clock()
        data = state().to_bytes()
        self._write(data)
        took = self._clock() - started
        self._due = self._clock() + max(self._seconds, took / _SHARE_OF_TIME)
        log.info("checkpoint: %d bytes in %.2f s", len(data), took)


NO_CHECKPOINTS = Checkpoints(read=lambda: None, write=lambda _data: None, seconds=0)


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's moments, by parameter number and name."""
    return {
        f"{number}/{name}": value
        for number, moments in optimizer.state_dict()["state"].items()
        for name, value in moments.items()
        if isinstance(value, Tensor)
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Put the moments back; learning rate and momentum stay as they are."""
    moments: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        number, _, key = name.partition("/")
        moments.setdefault(int(number), {})[key] = tensor
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": moments, "param_groups": groups})


def random_tensors(device: torch.device) -> dict[str, Tensor]:
    """The states of torch's global generators: of the CPU, and of the GPU that is trained on."""
    found = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        found["cuda"] = torch.cuda.get_rng_state(device)
    return found


def restore_random(tensors: dict[str, Tensor], device: torch.device) -> None:
    torch.set_rng_state(tensors["cpu"])
    if "cuda" in tensors and device.type == "cuda":
        torch.cuda.set_rng_state(tensors["cuda"], device)
