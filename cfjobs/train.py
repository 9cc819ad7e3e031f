"""Fitting a network to ratings: batches cut by index from tensors that stay on the device.

    loss = mean over the batch of (rating - predicted)^2 + l2 x (|p_u|^2 + |q_m|^2 + b_u^2 + b_m^2)

The penalty is added per example, so over an epoch a row is held in proportion to its ratings.
"""

import itertools
import logging
import math
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import astuple, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cfjobs import models
from cfjobs.checkpoint import (
    NO_CHECKPOINTS,
    Checkpoints,
    State,
    optimizer_tensors,
    random_tensors,
    restore_optimizer,
    restore_random,
)
from cfjobs.config import Config
from cfjobs.errors import InputError, TrainingDiverged
from cfjobs.models.network import Network, lookup
from cfjobs.processes import ALONE, Processes, local_rank

log = logging.getLogger(__name__)

_ONE_CYCLE_RISE = 0.25
_ONE_CYCLE_START = 1 / 25


@dataclass(frozen=True)
class Examples:
    """Ratings as tensors on one device. user_idx, movie_idx [R] int64; rating [R] float32."""

    user_idx: Tensor
    movie_idx: Tensor
    rating: Tensor

    def __len__(self) -> int:
        return len(self.rating)


@dataclass(frozen=True)
class Epoch:
    """One line of the training's record. Losses are mean squared errors; valid_loss is NaN without a holdout."""

    epoch: int
    train_loss: float
    valid_loss: float
    seconds: float


def resolve_device(name: str) -> torch.device:
    """The device of a configuration: `auto` takes a GPU when there is one, under torchrun its own. InputError for one that is absent."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if device.type == "cuda" and ":" not in name and (number := local_rank()) is not None:
        device = torch.device("cuda", number)
    if device.type == "cuda" and not (
        torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count()
    ):
        raise InputError(
            f"configuration key device: got {name!r}, but this machine has {torch.cuda.device_count()} CUDA devices; use auto or cpu"
        )
    return device


def fit(
    network: Network,
    train: Examples,
    *,
    config: Config,
    valid: Examples | None = None,
    stop_share: float = 1.0,
    start: Callable[[Network], None] | None = None,
    on_epoch: Callable[[Epoch], None] | None = None,
    checkpoints: Checkpoints = NO_CHECKPOINTS,
    processes: Processes = ALONE,
) -> list[Epoch]:
    """Train the network in place and return the record of its epochs.

    With `valid` the weights of the best epoch are kept, and training stops after `patience` epochs without
    a better one. Without it, training ends after `stop_share` of the same schedule's epochs: a refit on
    everything stops where the holdout said that the best epoch was. start: puts the rows of an earlier
    model into the network, of which `warm_share` of the epochs are enough. Training goes on from the last of the checkpoints.
    Raises TrainingDiverged when the loss is not finite. Keys that the configuration leaves open are the
    network's own.
    """
    torch.manual_seed(config.seed)  # dropout, and what a network draws at the beginning
    network.begin(train.user_idx, train.movie_idx)
    if start is not None:
        start(network)
    course = _Course(
        network, train, config=config, stop_share=stop_share, warm=start is not None, processes=processes
    )
    if (state := checkpoints.last(course.facts())) is not None:
        course.restore(state)
        log.info("going on from the checkpoint in epoch %d, step %d", course.epoch, course.step)
    while course.epoch <= course.stop_after and not course.stopped:
        started = time.perf_counter()
        course.run_epoch(checkpoints)
        record = course.end_epoch(valid, started)
        if on_epoch:
            on_epoch(record)
    if course.best_weights is not None:
        network.load_state_dict(course.best_weights)
    network.eval()
    network.finish()
    network.fill_unknown(
        torch.bincount(train.user_idx, minlength=network.n_users) > 0,
        torch.bincount(train.movie_idx, minlength=network.n_movies) > 0,
    )
    return course.record


class _Course:
    """A training under way: what it needs, and where it stands between two steps."""

    def __init__(
        self,
        network: Network,
        train: Examples,
        *,
        config: Config,
        stop_share: float,
        warm: bool,
        processes: Processes,
    ) -> None:
        self.network, self.train, self.config, self.processes = network, train, config, processes
        self.batch_size, self.epochs = models.plan(config, n_ratings=len(train), warm=warm)
        self.stop_after = max(1, round(stop_share * self.epochs))
        self.l2 = models.recipe(config).l2
        self.warm = warm
        self.device = train.rating.device
        self.optimizer = optimizer_of(network, config)
        self.generator = torch.Generator().manual_seed(config.seed)
        self.epoch, self.step = 1, 0  # the epoch under way, and its steps that are done
        self.shuffled = self.generator.get_state()  # as the epoch under way found it
        self.squared_error = torch.zeros((), device=self.device)
        self.record: list[Epoch] = []
        self.best_loss, self.best_epoch = math.inf, 0
        self.best_weights: dict[str, Tensor] | None = None

    @property
    def stopped(self) -> bool:
        """Whether there was no better epoch for too long."""
        done = self.record[-1].epoch if self.record else 0
        patience = self.config.patience
        return bool(patience and self.best_epoch and done - self.best_epoch >= patience)

    def run_epoch(self, checkpoints: Checkpoints) -> None:
        """The steps of the epoch under way that are not done yet."""
        self.shuffled = self.generator.get_state()
        order = torch.randperm(len(self.train), generator=self.generator).to(self.device)
        batches = order.split(self.batch_size)
        done = (self.epoch - 1) * len(batches) + self.step
        rates = learning_rates(self.config, epochs=self.epochs, steps_per_epoch=len(batches), warm=self.warm)
        rates = itertools.islice(rates, done, None)
        self.network.train()
        steps = zip(batches[self.step :], rates, strict=False)
        for number, (rows, (rate, momentum)) in enumerate(steps, start=done):
            set_rate(self.optimizer, rate, momentum)
            if (
                self.processes.size > 1
            ):  # dropout differs between the slices, and a resumed training repeats it
                torch.manual_seed(self.config.seed + (number + 1) * self.processes.size + self.processes.rank)
            own = rows[self.processes.own(len(rows))]
            self.squared_error += self._take_step(own, n_batch=len(rows))
            self.step += 1
            checkpoints.offer(self.state)

    def _take_step(self, rows: Tensor, *, n_batch: int) -> Tensor:
        """One step of the optimiser on this process's rows of a batch; returns their squared errors, summed."""
        self.optimizer.zero_grad(set_to_none=True)
        loss, squared_error = batch_loss(self.network, self.train, rows, l2=self.l2, n_batch=n_batch)
        loss.backward()
        self.processes.sum_gradients(self.network.parameters())
        self.optimizer.step()
        return squared_error

    def end_epoch(self, valid: Examples | None, started: float) -> Epoch:
        """Measure the epoch, keep the weights if they are the best, and turn to the next one."""
        train_loss = float(self.processes.sum(self.squared_error)) / len(self.train)
        valid_loss = mean_squared_error(self.network, valid) if valid is not None and len(valid) else math.nan
        found = Epoch(self.epoch, train_loss, valid_loss, time.perf_counter() - started)
        _check_finite(found, self.config)
        log.info(
            "epoch %d of %d: training loss %.4f, holdout loss %.4f, %.1f s",
            self.epoch,
            self.epochs,
            train_loss,
            valid_loss,
            found.seconds,
        )
        self.record.append(found)
        if valid_loss < self.best_loss:
            self.best_loss, self.best_epoch = valid_loss, self.epoch
            self.best_weights = deepcopy(self.network.state_dict())
        elif self.stopped:
            log.info("no better epoch since %d: stopped", self.best_epoch)
        self.epoch, self.step = self.epoch + 1, 0
        self.squared_error = torch.zeros((), device=self.device)
        return found

    def facts(self) -> dict[str, Any]:
        """What has to be alike for a checkpoint to be of this training."""
        return {
            "ratings": len(self.train),
            "rows": [self.network.n_users, self.network.n_movies],
            "batch_size": self.batch_size,
            "epochs": self.epochs,
            "stop_after": self.stop_after,
            "processes": self.processes.size,
            "warm": self.warm,
        }

    def state(self) -> State:
        """All that the steps to come depend on."""
        parts = {
            "network": self.network.state_dict(),
            "best": self.best_weights or {},
            "optimizer": optimizer_tensors(self.optimizer),
            "random": {**random_tensors(self.device), "shuffled": self.shuffled},
            "epoch": {"squared_error": self.squared_error},
        }
        tensors = {f"{part}/{name}": value for part, found in parts.items() for name, value in found.items()}
        facts = {
            "training": self.facts(),
            "epoch": self.epoch,
            "step": self.step,
            "record": [astuple(epoch) for epoch in self.record],
            "best": [self.best_loss, self.best_epoch],
        }
        return State(tensors, facts)

    def restore(self, state: State) -> None:
        """Stand where the state was taken."""
        self.network.load_state_dict(state.part("network"))
        self.best_weights = _on(self.device, state.part("best")) or None
        restore_optimizer(self.optimizer, state.part("optimizer"))
        random = state.part("random")
        self.generator.set_state(random["shuffled"])  # the epoch's order is drawn again
        restore_random(random, self.device)
        self.squared_error = state.tensors["epoch/squared_error"].to(self.device)
        self.epoch, self.step = state.facts["epoch"], state.facts["step"]
        self.record = [Epoch(*epoch) for epoch in state.facts["record"]]
        self.best_loss, self.best_epoch = state.facts["best"]


def batch_loss(
    network: Network, train: Examples, rows: Tensor, *, l2: float, n_batch: int
) -> tuple[Tensor, Tensor]:
    """(loss, squared errors summed) of these rows of a batch of n_batch ratings; the losses of its rows add up to the batch's."""
    user_idx, movie_idx, rating = train.user_idx[rows], train.movie_idx[rows], train.rating[rows]
    predicted = network(user_idx, movie_idx)
    error = predicted - rating.view(
        -1, *[1] * (predicted.dim() - 1)
    )  # one column a member, if it has members
    loss = error.square().sum() / n_batch
    if l2:
        loss = loss + l2 * _squared_norm(network, user_idx, movie_idx) / n_batch
    n_members = error[0].numel() if len(error) else 1
    return loss, error.detach().square().sum() / n_members


def best_epoch(record: list[Epoch]) -> int:
    """The epoch with the least holdout loss; the last one where there was no holdout."""
    with_holdout = [epoch for epoch in record if not math.isnan(epoch.valid_loss)]
    return min(with_holdout, key=lambda epoch: epoch.valid_loss).epoch if with_holdout else record[-1].epoch


@torch.no_grad()
def predict(network: Network, user_idx: Tensor, movie_idx: Tensor, *, batch_size: int = 1 << 18) -> Tensor:
    """Predicted ratings [R], clipped to the rating range; a row number of -1 is an unknown id."""
    network.eval()
    low, high = network.settings.y_range
    batches = zip(user_idx.split(batch_size), movie_idx.split(batch_size), strict=True)
    parts = [network(users, movies).clamp(low, high).float() for users, movies in batches]
    return torch.cat(parts) if parts else torch.empty(0, device=user_idx.device)


def mean_squared_error(network: Network, examples: Examples) -> float:
    """Mean squared error of the clipped predictions."""
    error = predict(network, examples.user_idx, examples.movie_idx) - examples.rating
    return float(error.double().square().mean())


def learning_rates(
    config: Config, *, epochs: int, steps_per_epoch: int, warm: bool = False
) -> Iterator[tuple[float, float]]:
    """(learning rate, momentum) of each step, in order, for as many steps as are asked for.

    one_cycle: cosine up to the peak over the first quarter, then cosine down to nothing, momentum mirrored
    between 0.95 and `momentum` (Smith, "Super-convergence", 2018); warm: straight down from the peak. cosine: falls from the peak to nothing over
    cycle_len epochs, then restarts, each cycle cycle_mult times as long (Loshchilov and Hutter, SGDR, 2017).
    """
    peak, momentum = models.recipe(config).learning_rate, config.momentum
    if config.schedule == "constant":
        while True:
            yield peak, momentum
    if config.schedule == "cosine":
        length = config.cycle_len * steps_per_epoch
        while True:
            for step in range(length):
                yield _cosine(peak, 0.0, step / length), momentum
            length *= config.cycle_mult
    n_steps = epochs * steps_per_epoch
    if warm:
        for step in range(n_steps):
            yield peak * (1 - step / n_steps), momentum
        return
    n_rise = max(1, round(_ONE_CYCLE_RISE * n_steps))
    high_momentum = max(0.95, momentum)
    for step in range(n_steps):
        if step < n_rise:
            share = step / n_rise
            yield _cosine(peak * _ONE_CYCLE_START, peak, share), _cosine(high_momentum, momentum, share)
        else:
            share = (step - n_rise) / max(1, n_steps - n_rise)
            yield _cosine(peak, peak * 1e-5, share), _cosine(momentum, high_momentum, share)


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2


def optimizer_of(network: Network, config: Config) -> torch.optim.Optimizer:
    parameters, rate = list(network.parameters()), models.recipe(config).learning_rate
    if config.optimizer == "sgd":
        return torch.optim.SGD(
            parameters, lr=rate, momentum=config.momentum, weight_decay=config.weight_decay
        )
    kind = torch.optim.Adam if config.optimizer == "adam" else torch.optim.AdamW
    return kind(
        parameters, lr=rate, betas=(config.momentum, 0.99), weight_decay=config.weight_decay, fused=True
    )


def set_rate(optimizer: torch.optim.Optimizer, rate: float, momentum: float) -> None:
    """Turn the knobs of the schedule."""
    for group in optimizer.param_groups:
        group["lr"] = rate
        if "betas" in group:
            group["betas"] = (momentum, group["betas"][1])
        else:
            group["momentum"] = momentum


def _squared_norm(network: Network, user_idx: Tensor, movie_idx: Tensor) -> Tensor:
    """Sum over these examples of the squared norms of the embeddings that its examples use."""
    tables = [(name, table) for name, table in network.named_modules() if isinstance(table, nn.Embedding)]
    norms = [
        lookup(table, user_idx if name.startswith("user") else movie_idx).square().sum()
        for name, table in tables
    ]
    norms += network.side_norms(user_idx, movie_idx)
    return torch.stack(norms).sum()


def _on(device: torch.device, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.to(device) for name, tensor in tensors.items()}


def _check_finite(epoch: Epoch, config: Config) -> None:
    if not math.isfinite(epoch.train_loss) or math.isinf(epoch.valid_loss):
        raise TrainingDiverged(
            f"training: the loss is {epoch.train_loss} in epoch {epoch.epoch}; "
            f"lower learning_rate (now {models.recipe(config).learning_rate}) or raise l2 (now {models.recipe(config).l2})"
        )
