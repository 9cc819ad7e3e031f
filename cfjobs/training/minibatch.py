"""Minibatch training: steps of an optimiser of torch, for any network on any device, in one process or
several.

    loss = mean over the batch of weight x (rating - predicted)^2 + l2 x (|p_u|^2 + |q_m|^2 + b_u^2 + b_m^2)

The penalty is added per example, so over an epoch a row is held in proportion to its ratings.
"""

import itertools
import math
from collections.abc import Iterator

import torch
from torch import Tensor

from cfjobs import models
from cfjobs.config import Config
from cfjobs.models.network import MovieTable, Network, UserTable, lookup
from cfjobs.training.checkpoint import (
    Checkpoints,
    State,
    optimizer_tensors,
    random_tensors,
    restore_optimizer,
    restore_random,
)
from cfjobs.training.epochs import EpochLoop, Examples, mean_squared_error

_ONE_CYCLE_RISE = 0.25
_ONE_CYCLE_START = 1 / 25


class Minibatch(EpochLoop):
    """Ratings stay on the device as tensors; batches are cut by index from a new random order each epoch."""

    training = "minibatch"

    def prepare(self) -> None:
        self.optimizer = optimizer_of(self.network, self.config)
        self.generator = torch.Generator().manual_seed(self.config.seed)
        self.shuffled = self.generator.get_state()  # as the epoch under way found it

    def run_epoch(self, checkpoints: Checkpoints) -> None:
        """The steps of the epoch under way that are not done yet."""
        self.shuffled = self.generator.get_state()
        order = torch.randperm(len(self.train), generator=self.generator).to(self.device)
        batches = order.split(self.plan.batch_size)
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
        """One step of the optimiser on this process's rows of a batch;
        returns their squared errors, summed."""
        self.optimizer.zero_grad(set_to_none=True)
        loss, squared_error = batch_loss(self.network, self.train, rows, l2=self.plan.l2, n_batch=n_batch)
        loss.backward()
        self.processes.sum_gradients(self.network.parameters())
        self.optimizer.step()
        return squared_error

    def loss(self, examples: Examples) -> float:
        return mean_squared_error(self.network, examples)

    def moments(self) -> dict[str, dict[str, Tensor]]:
        return {
            "optimizer": optimizer_tensors(self.optimizer),
            "random": {**random_tensors(self.device), "shuffled": self.shuffled},
        }

    def restore_moments(self, state: State) -> None:
        restore_optimizer(self.optimizer, state.part("optimizer"))
        random = state.part("random")
        self.generator.set_state(random["shuffled"])  # the epoch's order is drawn again
        restore_random(random, self.device)


def batch_loss(
    network: Network, train: Examples, rows: Tensor, *, l2: float, n_batch: int
) -> tuple[Tensor, Tensor]:
    """(loss, squared errors summed) of these rows of a batch of n_batch ratings;
    the losses of its rows add up to the batch's."""
    user_idx, movie_idx, rating = train.user_idx[rows], train.movie_idx[rows], train.rating[rows]
    predicted = network(user_idx, movie_idx)
    error = predicted - rating.view(
        -1, *[1] * (predicted.dim() - 1)
    )  # one column a member, if it has members
    squared = error.square()
    if train.weight is not None:
        squared = squared * train.weight[rows].view(-1, *[1] * (predicted.dim() - 1))
    loss = squared.sum() / n_batch
    if l2:
        loss = loss + l2 * _squared_norm(network, user_idx, movie_idx) / n_batch
    n_members = error[0].numel() if len(error) else 1
    return loss, error.detach().square().sum() / n_members


def learning_rates(
    config: Config, *, epochs: int, steps_per_epoch: int, warm: bool = False
) -> Iterator[tuple[float, float]]:
    """(learning rate, momentum) of each step, in order, for as many steps as are asked for.

    one_cycle: cosine up to the peak over the first quarter, then cosine down to nothing, momentum mirrored
    between 0.95 and `momentum` (Smith, "Super-convergence", 2018); warm: straight down from the peak. cosine:
    falls from the peak to nothing over cycle_len epochs, then restarts, each cycle cycle_mult times as long
    (Loshchilov and Hutter, SGDR, 2017).
    """
    peak, momentum = models.recipe_of(config).learning_rate, config.momentum
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
            fraction = step / n_rise
            yield _cosine(peak * _ONE_CYCLE_START, peak, fraction), _cosine(high_momentum, momentum, fraction)
        else:
            fraction = (step - n_rise) / max(1, n_steps - n_rise)
            yield _cosine(peak, peak * 1e-5, fraction), _cosine(momentum, high_momentum, fraction)


def _cosine(start: float, end: float, fraction: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * fraction)) / 2


def optimizer_of(network: Network, config: Config) -> torch.optim.Optimizer:
    parameters, rate = list(network.parameters()), models.recipe_of(config).learning_rate
    if config.optimizer == "sgd":
        return torch.optim.SGD(
            parameters, lr=rate, momentum=config.momentum, weight_decay=config.weight_decay
        )
    kind = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
    return kind(
        parameters, lr=rate, betas=(config.momentum, 0.99), weight_decay=config.weight_decay, fused=True
    )


def set_rate(optimizer: torch.optim.Optimizer, rate: float, momentum: float) -> None:
    """Set what the schedule gives."""
    for group in optimizer.param_groups:
        group["lr"] = rate
        if "betas" in group:
            group["betas"] = (momentum, group["betas"][1])
        else:
            group["momentum"] = momentum


def _squared_norm(network: Network, user_idx: Tensor, movie_idx: Tensor) -> Tensor:
    """Sum over these examples of the squared norms of the embeddings that its examples use."""
    norms = [
        lookup(table, user_idx if isinstance(table, UserTable) else movie_idx).square().sum()
        for table in network.modules()
        if isinstance(table, UserTable | MovieTable)
    ]
    norms += network.side_norms(user_idx, movie_idx)
    return torch.stack(norms).sum()
