"""Fitting a network to ratings: batches cut by index from tensors that stay on the device.

    loss = mean over the batch of (rating - predicted)^2 + l2 x (|p_u|^2 + |q_m|^2 + b_u^2 + b_m^2)

The penalty is added per example, so over an epoch a row is held in proportion to its ratings.
"""

import logging
import math
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cfjobs import models
from cfjobs.config import Config
from cfjobs.errors import InputError, TrainingDiverged
from cfjobs.models.network import Network, lookup

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
    """The device of a configuration: `auto` takes a GPU when there is one. InputError for one that is absent."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
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
    on_epoch: Callable[[Epoch], None] | None = None,
) -> list[Epoch]:
    """Train the network in place and return the record of its epochs.

    With `valid` the weights of the best epoch are kept, and training stops after `patience` epochs without
    a better one. Without it, training ends after `stop_share` of the same schedule's epochs: a refit on
    everything stops where the holdout said that the best epoch was. Raises TrainingDiverged when
    the loss is not finite. Keys that the configuration leaves open are the network's own.
    """
    batch_size, epochs = models.plan(config, n_ratings=len(train))
    l2 = models.recipe(config).l2
    stop_after = max(1, round(stop_share * epochs))
    device = train.rating.device
    generator = torch.Generator().manual_seed(config.seed)
    torch.manual_seed(config.seed)  # dropout, and what a network draws at the beginning
    network.begin(train.user_idx, train.movie_idx)
    optimizer = _optimizer(network, config)
    steps_per_epoch = math.ceil(len(train) / batch_size)
    rates = learning_rates(config, epochs=epochs, steps_per_epoch=steps_per_epoch)
    record: list[Epoch] = []
    best_loss, best_weights, best_epoch = math.inf, None, 0
    for epoch in range(1, stop_after + 1):
        started = time.perf_counter()
        order = torch.randperm(len(train), generator=generator).to(device)
        network.train()
        squared_error = torch.zeros((), device=device)
        for rows in order.split(batch_size):
            rate, momentum = next(rates)
            _set_rate(optimizer, rate, momentum)
            user_idx, movie_idx, rating = train.user_idx[rows], train.movie_idx[rows], train.rating[rows]
            predicted = network(user_idx, movie_idx)
            error = predicted - rating.view(
                -1, *[1] * (predicted.dim() - 1)
            )  # one column a member, if it has members
            loss = error.square().sum() / len(rating)
            if l2:
                loss = loss + l2 * _squared_norm(network, user_idx, movie_idx)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            squared_error += error.detach().square().sum() / (error.numel() / len(rating))
        train_loss = float(squared_error) / len(train)
        valid_loss = mean_squared_error(network, valid) if valid is not None and len(valid) else math.nan
        record.append(Epoch(epoch, train_loss, valid_loss, time.perf_counter() - started))
        _check_finite(record[-1], config)
        log.info(
            "epoch %d of %d: training loss %.4f, holdout loss %.4f, %.1f s",
            epoch,
            epochs,
            train_loss,
            valid_loss,
            record[-1].seconds,
        )
        if on_epoch:
            on_epoch(record[-1])
        if valid_loss < best_loss:
            best_loss, best_epoch, best_weights = valid_loss, epoch, deepcopy(network.state_dict())
        elif config.patience and best_epoch and epoch - best_epoch >= config.patience:
            log.info("no better epoch since %d: stopped", best_epoch)
            break
    if best_weights is not None:
        network.load_state_dict(best_weights)
    network.eval()
    network.finish()
    network.fill_unknown(
        torch.bincount(train.user_idx, minlength=network.n_users) > 0,
        torch.bincount(train.movie_idx, minlength=network.n_movies) > 0,
    )
    return record


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


def learning_rates(config: Config, *, epochs: int, steps_per_epoch: int) -> Iterator[tuple[float, float]]:
    """(learning rate, momentum) of each step, in order, for as many steps as are asked for.

    one_cycle: cosine up to the peak over the first quarter, then cosine down to nothing, momentum mirrored
    between 0.95 and `momentum` (Smith, "Super-convergence", 2018). cosine: falls from the peak to nothing over
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


def _optimizer(network: Network, config: Config) -> torch.optim.Optimizer:
    parameters, rate = list(network.parameters()), models.recipe(config).learning_rate
    if config.optimizer == "sgd":
        return torch.optim.SGD(
            parameters, lr=rate, momentum=config.momentum, weight_decay=config.weight_decay
        )
    kind = torch.optim.Adam if config.optimizer == "adam" else torch.optim.AdamW
    return kind(
        parameters, lr=rate, betas=(config.momentum, 0.99), weight_decay=config.weight_decay, fused=True
    )


def _set_rate(optimizer: torch.optim.Optimizer, rate: float, momentum: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate
        if "betas" in group:
            group["betas"] = (momentum, group["betas"][1])
        else:
            group["momentum"] = momentum


def _squared_norm(network: Network, user_idx: Tensor, movie_idx: Tensor) -> Tensor:
    """Mean over the batch of the squared norms of the embeddings that its examples use."""
    tables = [(name, table) for name, table in network.named_modules() if isinstance(table, nn.Embedding)]
    norms = [
        lookup(table, user_idx if name.startswith("user") else movie_idx).square().sum()
        for name, table in tables
    ]
    norms += network.side_norms(user_idx, movie_idx)
    return torch.stack(norms).sum() / len(user_idx)


def _check_finite(epoch: Epoch, config: Config) -> None:
    if not math.isfinite(epoch.train_loss) or math.isinf(epoch.valid_loss):
        raise TrainingDiverged(
            f"training: the loss is {epoch.train_loss} in epoch {epoch.epoch}; "
            f"lower learning_rate (now {models.recipe(config).learning_rate}) or raise l2 (now {models.recipe(config).l2})"
        )
