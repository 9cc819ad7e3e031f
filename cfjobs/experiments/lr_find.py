"""The learning-rate finder: train while the rate rises from step to step, and see where the loss falls fastest.

    rate_t     = low x (high / low)^(t / T)
    smoothed_t = a moving mean with weight 0.95, corrected for its start

It stops when the smoothed loss is four times its least. Two suggestions: `steepest`, where the smoothed loss falls
fastest with the logarithm of the rate; and `valley`, two thirds into the longest fall, the more careful of fast.ai's.
Sources: Smith, "Cyclical learning rates for training neural networks" (2015); the fast.ai lesson; `valley` is that
of fast.ai 2.
"""

import html
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
from cfjobs.training import minibatch
from cfjobs.training.loop import Examples

_SMOOTHING = 0.95
_DIVERGED = 4.0
_LEAVE_OUT = 0.05  # share of the steps at the start, where the smoothed loss has seen next to nothing


@dataclass(frozen=True)
class Point:
    """One step: its learning rate, the loss of its batch, and the smoothed loss."""

    rate: float
    loss: float
    smoothed: float


@dataclass(frozen=True)
class Found:
    """The points, whether the loss went out of bounds, both suggestions, and the rate of the configuration."""

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
    """Train the network in place for at most so many steps at rising rates. Raises InputError where the loss never falls.

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
    network.begin(examples.user_idx, examples.movie_idx)
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

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 720, 420, 70, 24, 48, 56

_STYLE = """
.lr { font: 13px system-ui, sans-serif; --ink: #1f2328; --faint: #d0d7de; --curve: #0969da; --raw: #9ec5f5; --mark: #bc4c00; --ground: #ffffff }
@media (prefers-color-scheme: dark) { .lr { --ink: #e6edf3; --faint: #3d444d; --curve: #58a6ff; --raw: #264f86; --mark: #ffa657; --ground: #0d1117 } }
.lr rect { fill: var(--ground) } .lr text { fill: var(--ink) } .lr .title { font-size: 15px; font-weight: 600 }
.lr .grid { stroke: var(--faint) } .lr .axis { stroke: var(--ink) } .lr .mark { stroke: var(--mark); stroke-dasharray: 5 4 }
.lr polyline { fill: none; stroke: var(--curve); stroke-width: 2 } .lr .raw { stroke: var(--raw); stroke-width: 1 }
"""


@dataclass(frozen=True)
class _Axes:
    """From values to places on the plot; the rate is logarithmic."""

    low_rate: float
    high_rate: float
    low_loss: float
    high_loss: float

    def x(self, rate: float) -> float:
        share = math.log(rate / self.low_rate) / math.log(self.high_rate / self.low_rate)
        return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)

    def y(self, loss: float) -> float:
        share = (min(loss, self.high_loss) - self.low_loss) / (self.high_loss - self.low_loss)
        return _HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM)


def svg(found: Found) -> str:
    """The plot as one SVG file that needs nothing else and follows the reader's light or dark mode."""
    axes = _axes(found)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="lr" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-labelledby="t d">',
        "<title id='t'>Learning-rate finder</title>",
        f"<desc id='d'>Loss against learning rate; valley {found.valley:.2g}, steepest {found.steepest:.2g}.</desc>",
        f"<style>{_STYLE}</style>",
        f'<rect width="{_WIDTH}" height="{_HEIGHT}"/>',
        f'<text class="title" x="{_LEFT}" y="24">Loss while the learning rate rises</text>',
        *_rate_axis(axes),
        *_loss_axis(axes),
        _curve(axes, [(point.rate, point.loss) for point in found.points], kind="raw"),
        _curve(axes, [(point.rate, point.smoothed) for point in found.points], kind="smoothed"),
        *_mark(
            axes,
            found.valley,
            f"valley {found.valley:.2g}",
            y=_TOP + 14,
            right=found.valley >= found.steepest,
        ),
        *_mark(
            axes,
            found.steepest,
            f"steepest {found.steepest:.2g}",
            y=_TOP + 32,
            right=found.steepest > found.valley,
        ),
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _axes(found: Found) -> _Axes:
    rates = [point.rate for point in found.points]
    smoothed = [point.smoothed for point in found.points]
    low = min(min(point.loss, point.smoothed) for point in found.points)
    high = max(smoothed[0], min(smoothed) * 1.5)
    margin = 0.08 * (high - low)
    return _Axes(min(rates), max(rates), max(0.0, low - margin), high + margin)


def _curve(axes: _Axes, points: list[tuple[float, float]], *, kind: str) -> str:
    places = " ".join(f"{axes.x(rate):.1f},{max(_TOP, axes.y(loss)):.1f}" for rate, loss in points)
    return f'<polyline class="{kind}" points="{places}"/>'


def _rate_axis(axes: _Axes) -> list[str]:
    bottom = _HEIGHT - _BOTTOM
    lines = [f'<line class="axis" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{bottom}" y2="{bottom}"/>']
    for power in range(
        math.ceil(math.log10(axes.low_rate) - 1e-9), math.floor(math.log10(axes.high_rate)) + 1
    ):
        x = axes.x(10.0**power)
        lines.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{bottom}"/>')
        lines.append(f'<text x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{10.0**power:g}</text>')
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    return [*lines, f'<text x="{middle}" y="{_HEIGHT - 14}" text-anchor="middle">learning rate</text>']


def _loss_axis(axes: _Axes) -> list[str]:
    lines = [f'<line class="axis" x1="{_LEFT}" x2="{_LEFT}" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}"/>']
    for tick in range(5):
        loss = axes.low_loss + (axes.high_loss - axes.low_loss) * tick / 4
        y = axes.y(loss)
        lines.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        lines.append(f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{loss:.3g}</text>')
    middle = (_TOP + _HEIGHT - _BOTTOM) / 2
    label = "loss (mean squared error)"
    return [
        *lines,
        f'<text transform="translate(18 {middle}) rotate(-90)" text-anchor="middle">{label}</text>',
    ]


def _mark(axes: _Axes, rate: float, words: str, *, y: int, right: bool) -> list[str]:
    x = axes.x(rate)
    place = f'x="{x + 6:.1f}"' if right else f'x="{x - 6:.1f}" text-anchor="end"'
    return [
        f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}"/>',
        f'<text {place} y="{y}">{html.escape(words)}</text>',
    ]


def sketch(found: Found, *, width: int = 54, height: int = 10) -> str:
    """The smoothed loss as lines of text, for a terminal."""
    axes = _axes(found)
    columns: list[list[float]] = [[] for _ in range(width)]
    for point in found.points:
        share = (axes.x(point.rate) - _LEFT) / (_WIDTH - _LEFT - _RIGHT)
        columns[min(width - 1, int(share * width))].append(point.smoothed)
    grid = [[" "] * width for _ in range(height)]
    for place, losses in enumerate(columns):
        if losses:
            loss = min(sum(losses) / len(losses), axes.high_loss)
            share = (loss - axes.low_loss) / (axes.high_loss - axes.low_loss)
            grid[height - 1 - min(height - 1, int(share * height))][place] = "*"
    rows = [
        f"{'' if number else f'{axes.high_loss:.3g}':>7} |{''.join(row)}" for number, row in enumerate(grid)
    ]
    rows[-1] = f"{axes.low_loss:>7.3g} |{''.join(grid[-1])}"
    ends = f"{axes.low_rate:.0e}"
    return "\n".join(
        [
            *rows,
            f"{'':>7} +{'-' * width}",
            f"{'':>9}{ends}{f'{axes.high_rate:.0e}':>{width - len(ends)}}  learning rate",
        ]
    )
