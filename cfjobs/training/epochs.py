"""The rating network's training loop: epochs, the best of them on the holdout, and when to stop.

How an epoch is taken is that of a subclass: `minibatch.py` for any network on any device, `blocked_sgd.py` a
rating at a time on a processor.
"""

import logging
import math
import time
from abc import abstractmethod
from collections.abc import Callable
from copy import deepcopy
from dataclasses import astuple, dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from cfjobs import models
from cfjobs.config import Config
from cfjobs.errors import TrainingDiverged
from cfjobs.models.network import Network
from cfjobs.models.predict import predict
from cfjobs.training.checkpoint import Checkpoints, State
from cfjobs.training.distributed import Processes
from cfjobs.training.loop import TrainingLoop

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Examples:
    """Ratings as tensors on one device. user_idx, movie_idx [R] int64; rating [R] float32.

    weight [R] float32: how much each counts in the loss, 1 in the mean; without it all count alike.
    """

    user_idx: Tensor
    movie_idx: Tensor
    rating: Tensor
    weight: Tensor | None = None

    def __len__(self) -> int:
        return len(self.rating)


@dataclass(frozen=True)
class Epoch:
    """One line of the training's record. Losses are mean squared errors; valid_loss is NaN without a holdout.

    of: epochs that were planned.
    """

    epoch: int
    of: int
    train_loss: float
    valid_loss: float
    seconds: float

    @property
    def losses(self) -> str:
        """The losses in words; a training without a holdout has one."""
        holdout = "" if math.isnan(self.valid_loss) else f", holdout loss {self.valid_loss:.4f}"
        return f"training loss {self.train_loss:.4f}{holdout}"


class EpochLoop(TrainingLoop[Epoch]):
    """Epochs of a rating network: see the module. training: the name of the way they are taken."""

    training: ClassVar[models.Training]

    def __init__(
        self,
        network: Network,
        train: Examples,
        *,
        valid: Examples | None,
        config: Config,
        plan: models.Plan,
        stop_fraction: float,
        warm: bool,
        processes: Processes,
        on_epoch: Callable[[Epoch], None] | None,
    ) -> None:
        super().__init__(processes=processes, on_line=on_epoch)
        self.network, self.train, self.valid, self.config = network, train, valid, config
        self.plan, self.epochs, self.warm = plan, plan.epochs, warm
        self.stop_after = max(1, round(stop_fraction * self.epochs))
        self.device = train.rating.device
        self.epoch = 1  # the one under way
        self.squared_error = torch.zeros((), device=self.device)
        self.best_loss, self.best_epoch = math.inf, 0
        self.best_weights: dict[str, Tensor] | None = None
        self.prepare()

    @abstractmethod
    def prepare(self) -> None:
        """Make what the steps need."""

    @abstractmethod
    def run_epoch(self, checkpoints: Checkpoints) -> None:
        """Take the steps of the epoch under way that are not done yet."""

    @abstractmethod
    def loss(self, examples: Examples) -> float:
        """Mean squared error of the network as it is now, its predictions clipped."""

    @abstractmethod
    def moments(self) -> dict[str, dict[str, Tensor]]:
        """What the steps to come depend on beside the network: tensors by part and name."""

    @abstractmethod
    def restore_moments(self, state: State) -> None:
        """Put back what `moments` gave."""

    @property
    def place(self) -> str:
        return f"in epoch {self.epoch}, step {self.step}"

    @property
    def ended(self) -> bool:
        return self.epoch > self.stop_after or self.stopped

    @property
    def stopped(self) -> bool:
        """Whether there was no better epoch for too long."""
        done = self.record[-1].epoch if self.record else 0
        patience = self.config.patience
        return bool(patience and self.best_epoch and done - self.best_epoch >= patience)

    def run_round(self, checkpoints: Checkpoints) -> None:
        """One epoch: take its steps, measure it, keep the weights if they are the best."""
        started = time.perf_counter()
        self.run_epoch(checkpoints)
        valid = self.valid
        train_loss = float(self.processes.sum(self.squared_error)) / len(self.train)
        valid_loss = self.loss(valid) if valid is not None and len(valid) else math.nan
        found = Epoch(self.epoch, self.epochs, train_loss, valid_loss, time.perf_counter() - started)
        _check_finite(found, self.config, self.plan)
        log.info("epoch %d of %d: %s, %.1f s", self.epoch, self.epochs, found.losses, found.seconds)
        if valid_loss < self.best_loss:
            self.best_loss, self.best_epoch = valid_loss, self.epoch
            self.best_weights = deepcopy(self.network.state_dict()) if self.may_get_worse else None
        self.epoch, self.step = self.epoch + 1, 0
        self.squared_error = torch.zeros((), device=self.device)
        self.report(found)
        if self.stopped:
            log.info("no better epoch since %d: stopped", self.best_epoch)

    @property
    def may_get_worse(self) -> bool:
        """Whether there are epochs after the one that has just ended,
        so that its weights have to be kept aside."""
        return self.epoch < self.stop_after

    def fingerprint(self) -> dict[str, Any]:
        """What has to be alike for a checkpoint to be of this training."""
        return {
            "ratings": len(self.train),
            "rows": [self.network.n_users, self.network.n_movies],
            "training": self.training,
            "batch_size": self.plan.batch_size,
            "epochs": self.epochs,
            "stop_after": self.stop_after,
            "processes": self.processes.size,
            "warm": self.warm,
        }

    def parts(self) -> dict[str, dict[str, Tensor]]:
        return {
            "network": self.network.state_dict(),
            "best": self.best_weights or {},
            "epoch": {"squared_error": self.squared_error},
            **self.moments(),
        }

    def restore_parts(self, state: State) -> None:
        self.network.load_state_dict(state.part("network"))
        self.best_weights = _on(self.device, state.part("best")) or None
        self.squared_error = state.tensors["epoch/squared_error"].to(self.device)
        self.restore_moments(state)

    def position(self) -> dict[str, Any]:
        return {
            "epoch": self.epoch,
            "record": [astuple(epoch) for epoch in self.record],
            "best": [self.best_loss, self.best_epoch],
        }

    def restore_position(self, position: dict[str, Any]) -> None:
        self.epoch = position["epoch"]
        self.record = [Epoch(*epoch) for epoch in position["record"]]
        self.best_loss, self.best_epoch = position["best"]


def best_epoch(record: list[Epoch]) -> int:
    """The epoch with the least holdout loss; the last one where there was no holdout."""
    with_holdout = [epoch for epoch in record if not math.isnan(epoch.valid_loss)]
    return min(with_holdout, key=lambda epoch: epoch.valid_loss).epoch if with_holdout else record[-1].epoch


def mean_squared_error(network: Network, examples: Examples) -> float:
    """Mean squared error of the clipped predictions."""
    error = predict(network, examples.user_idx, examples.movie_idx) - examples.rating
    return float(error.double().square().mean())


def _on(device: torch.device, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.to(device) for name, tensor in tensors.items()}


def _check_finite(epoch: Epoch, config: Config, plan: models.Plan) -> None:
    if not math.isfinite(epoch.train_loss) or math.isinf(epoch.valid_loss):
        raise TrainingDiverged(
            f"training: the loss is {epoch.train_loss} in epoch {epoch.epoch}; "
            f"lower learning_rate (now {plan.learning_rate}) or raise l2 (now {plan.l2})"
        )
