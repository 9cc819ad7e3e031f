"""The learning-rate finder: train while the rate rises from step to step,
and see where the loss falls fastest.

    rate_t     = low x (high / low)^(t / T)
    smoothed_t = a moving mean with weight 0.95, corrected for its start

It stops when the smoothed loss is four times its least. Two suggestions: `steepest`, where the smoothed loss
falls fastest with the logarithm of the rate; and `valley`, two thirds into the longest fall, the more careful
of fast.ai's. Sources: Smith, "Cyclical learning rates for training neural networks" (2015); the fast.ai
lesson; `valley` is that of fast.ai 2.
"""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from cfjobs import models
from cfjobs.config import Config
from cfjobs.errors import InputError
from cfjobs.models.network import Network
from cfjobs.report.charts import Chart
from cfjobs.training import minibatch
from cfjobs.training.epochs import Examples

_SMOOTHING = 0.95
_DIVERGED = 4.0
_LEAVE_OUT = 0.05  # fraction of the steps at the start, where the smoothed loss has seen next to nothing


@dataclass(frozen=True)
class Point:
    """One step: its learning rate, the loss of its batch, and the smoothed loss."""

    rate: float
    loss: float
    smoothed: float


@dataclass(frozen=True)
class Found:
    """The points, whether the loss went out of bounds, both suggestions,
    and the rate of the configuration."""

    points: list[Point]
    diverged: bool
    valley: float
    steepest: float
    now: float


def find(
    network: Network,
    examples: Examples,
    *,
    config: Config,
    low: float = 1e-6,
    high: float = 10.0,
    steps: int = 200,
) -> Found:
    """Train the network in place for at most so many steps at rising rates.
    Raises InputError where the loss never falls.

    The optimiser, batch size and penalty are the configuration's; its momentum stays as it is.
    """
    points: list[Point] = []
    mean, least, diverged = 0.0, math.inf, False
    for number, loss in enumerate(_losses(network, examples, config=config, low=low, high=high, steps=steps)):
        if not math.isfinite(loss):
            diverged = True
            break
        mean = _SMOOTHING * mean + (1 - _SMOOTHING) * loss
        smoothed = mean / (1 - _SMOOTHING ** (number + 1))
        points.append(Point(_rate(number, low=low, high=high, steps=steps), loss, smoothed))
        least = min(least, smoothed)
        if smoothed > _DIVERGED * least:
            diverged = True
            break
    kept = points[round(_LEAVE_OUT * steps) :]
    return Found(points, diverged, valley(kept), steepest(kept), models.recipe_of(config).learning_rate)


def _losses(
    network: Network, examples: Examples, *, config: Config, low: float, high: float, steps: int
) -> Iterator[float]:
    plan = models.plan(config, n_ratings=len(examples))
    torch.manual_seed(config.seed)
    network.setup(examples.user_idx, examples.movie_idx, examples.rating)
    optimizer = minibatch.optimizer_of(network, config)
    generator = torch.Generator().manual_seed(config.seed)
    network.train()
    for number, rows in zip(range(steps), _batches(examples, plan.batch_size, generator), strict=False):
        minibatch.set_rate(optimizer, _rate(number, low=low, high=high, steps=steps), config.momentum)
        optimizer.zero_grad(set_to_none=True)
        loss, squared_error = minibatch.batch_loss(network, examples, rows, l2=plan.l2, n_batch=len(rows))
        loss.backward()
        optimizer.step()
        yield float(squared_error) / len(rows)


def _batches(examples: Examples, batch_size: int, generator: torch.Generator) -> Iterator[Tensor]:
    while True:
        order = torch.randperm(len(examples), generator=generator).to(examples.rating.device)
        yield from order.split(batch_size)


def _rate(step: int, *, low: float, high: float, steps: int) -> float:
    return low * math.exp(math.log(high / low) * step / (steps - 1))


def steepest(points: list[Point]) -> float:
    """The rate where the smoothed loss falls fastest with the logarithm of the rate."""
    points = _up_to_least(points)
    falls = [
        (b.smoothed - a.smoothed) / (math.log(b.rate) - math.log(a.rate))
        for a, b in itertools.pairwise(points)
    ]
    return points[min(range(len(falls)), key=falls.__getitem__) + 1].rate


def valley(points: list[Point]) -> float:
    """The rate two thirds into the longest run in which the smoothed loss falls."""
    longest, start = (0, 0), 0
    for end in range(1, len(points) + 1):
        if end == len(points) or points[end].smoothed >= points[end - 1].smoothed:
            longest = max(longest, (start, end), key=lambda run: run[1] - run[0])
            start = end
    first, last = longest
    if last - first < 2:
        raise InputError(
            "lr-find: the loss never falls; give more --steps, or check that the ratings differ from one another"
        )
    return points[first + (last - first) * 2 // 3].rate


def _up_to_least(points: list[Point]) -> list[Point]:
    least = min(range(len(points)), key=lambda place: points[place].smoothed)
    return points[: max(least, 1) + 1]


# The plot -------------------------------------------------------------------------------------------


def chart(found: Found) -> Chart:
    """Loss against learning rate, as measured and smoothed, with both suggestions."""
    plot = Chart(
        "Loss while the learning rate rises",
        "learning rate",
        "loss (mean squared error)",
        _rates(found),
        _losses_shown(found),
        key=(("muted", "each batch"), ("main", "smoothed")),
        log_x=True,
        width=720,
        height=400,
    )
    plot.line([(point.rate, point.loss) for point in found.points], kind="muted")
    plot.line([(point.rate, point.smoothed) for point in found.points], kind="main")
    valley_after = found.valley >= found.steepest
    plot.marker(found.valley, f"valley {found.valley:.2g}", line=0, after=valley_after)
    return plot.marker(found.steepest, f"steepest {found.steepest:.2g}", line=1, after=not valley_after)


def _rates(found: Found) -> tuple[float, float]:
    rates = [point.rate for point in found.points]
    return min(rates), max(rates)


def _losses_shown(found: Found) -> tuple[float, float]:
    """From the least loss to half above it or the first one,
    so that the divergence does not flatten the curve."""
    smoothed = [point.smoothed for point in found.points]
    low = min(min(point.loss, point.smoothed) for point in found.points)
    high = max(smoothed[0], min(smoothed) * 1.5)
    margin = 0.08 * (high - low)
    return max(0.0, low - margin), high + margin


def sketch(found: Found, *, width: int = 54, height: int = 10) -> str:
    """The smoothed loss as lines of text, for a terminal."""
    (low_rate, high_rate), (low_loss, high_loss) = _rates(found), _losses_shown(found)
    columns: list[list[float]] = [[] for _ in range(width)]
    for point in found.points:
        place = math.log(point.rate / low_rate) / math.log(high_rate / low_rate)
        columns[min(width - 1, int(place * width))].append(point.smoothed)
    grid = [[" "] * width for _ in range(height)]
    for column, losses in enumerate(columns):
        if losses:
            loss = min(sum(losses) / len(losses), high_loss)
            place = (loss - low_loss) / (high_loss - low_loss)
            grid[height - 1 - min(height - 1, int(place * height))][column] = "*"
    rows = [f"{'' if number else f'{high_loss:.3g}':>7} |{''.join(row)}" for number, row in enumerate(grid)]
    rows[-1] = f"{low_loss:>7.3g} |{''.join(grid[-1])}"
    ends = f"{low_rate:.0e}"
    return "\n".join(
        [
            *rows,
            f"{'':>7} +{'-' * width}",
            f"{'':>9}{ends}{f'{high_rate:.0e}':>{width - len(ends)}}  learning rate",
        ]
    )
