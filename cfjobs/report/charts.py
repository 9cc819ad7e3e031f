"""Charts as SVG text: a plot area with labelled axes, and marks on it. Colours come from the page's style sheet."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape

WIDTH, HEIGHT = 420, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 50, 12, 12, 42
_SECOND_LINE = 15


@dataclass
class Chart:
    """A plot of x in [x0, x1] against y in [y0, y1]; marks are added in the order in which they are drawn."""

    title: str
    x_label: str
    y_label: str
    x: tuple[float, float]
    y: tuple[float, float]
    x_ticks: Sequence[tuple[float, str]] = ()
    y_ticks: Sequence[tuple[float, str]] = ()
    height: int = HEIGHT
    marks: list[str] = field(default_factory=list)

    def px(self, value: float) -> float:
        """The place of an x."""
        low, high = self.x
        return _LEFT + (value - low) / ((high - low) or 1) * (WIDTH - _LEFT - _RIGHT)

    def py(self, value: float) -> float:
        """The place of a y."""
        low, high = self.y
        foot = self.height - self._bottom
        return foot - (value - low) / ((high - low) or 1) * (foot - _TOP)

    def line(self, points: Iterable[tuple[float, float]], *, kind: str) -> "Chart":
        """A line through the points."""
        path = " ".join(f"{self.px(x):.1f},{self.py(y):.1f}" for x, y in points)
        self.marks.append(f'<polyline class="line {kind}" points="{path}"/>')
        return self

    def dot(self, x: float, y: float, *, kind: str, tip: str, radius: float = 3.5) -> "Chart":
        """A dot that says something when pointed at."""
        place = f'cx="{self.px(x):.1f}" cy="{self.py(y):.1f}" r="{radius:.1f}"'
        self.marks.append(f'<circle class="dot {kind}" {place}><title>{escape(tip)}</title></circle>')
        return self

    def bar(self, x: float, y: float, *, width: float, kind: str, tip: str, foot: float = 0.0) -> "Chart":
        """A bar from the foot to y, of a width in units of x."""
        left, right = self.px(x - width / 2), self.px(x + width / 2)
        top, bottom = sorted((self.py(y), self.py(foot)))
        place = f'x="{left:.1f}" y="{top:.1f}" width="{right - left:.1f}" height="{bottom - top:.1f}"'
        self.marks.append(f'<rect class="bar {kind}" {place}><title>{escape(tip)}</title></rect>')
        return self

    def whisker(self, x: float, low: float, high: float, *, kind: str) -> "Chart":
        """A vertical line from low to high."""
        at = f'x1="{self.px(x):.1f}" x2="{self.px(x):.1f}"'
        self.marks.append(
            f'<line class="whisker {kind}" {at} y1="{self.py(low):.1f}" y2="{self.py(high):.1f}"/>'
        )
        return self

    def level(self, x: float, y: float, *, width: float, kind: str, tip: str) -> "Chart":
        """A short horizontal line at y."""
        ends = f'x1="{self.px(x - width / 2):.1f}" x2="{self.px(x + width / 2):.1f}"'
        at = f'y1="{self.py(y):.1f}" y2="{self.py(y):.1f}"'
        self.marks.append(f'<line class="level {kind}" {ends} {at}><title>{escape(tip)}</title></line>')
        return self

    def label(self, x: float, y: float, text: str, *, kind: str = "", anchor: str = "start") -> "Chart":
        """Text at a point."""
        place = f'x="{self.px(x):.1f}" y="{self.py(y):.1f}"'
        self.marks.append(f'<text class="name {kind}" {place} text-anchor="{anchor}">{escape(text)}</text>')
        return self

    def svg(self) -> str:
        """The chart, with its title for those who cannot see it."""
        return (
            f'<svg viewBox="0 0 {WIDTH} {self.height}" role="img" aria-label="{escape(self.title)}">'
            f"{self._axes()}{''.join(self.marks)}</svg>"
        )

    @property
    def _bottom(self) -> int:
        return _BOTTOM + (_SECOND_LINE if any("\n" in text for _, text in self.x_ticks) else 0)

    def _axes(self) -> str:
        left, right, bottom = _LEFT, WIDTH - _RIGHT, self.height - self._bottom
        parts = []
        for value, text in self.y_ticks or ticks(*self.y):
            y = self.py(value)
            parts.append(f'<line class="grid" x1="{left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
            parts.append(
                f'<text class="tick" x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{escape(text)}</text>'
            )
        for value, text in self.x_ticks or ticks(*self.x):
            for number, line in enumerate(text.split("\n")):
                place = f'x="{self.px(value):.1f}" y="{bottom + 16 + number * _SECOND_LINE}"'
                parts.append(f'<text class="tick" {place} text-anchor="middle">{escape(line)}</text>')
        parts.append(f'<line class="axis" x1="{left}" x2="{right}" y1="{bottom}" y2="{bottom}"/>')
        middle_x, middle_y = (left + right) / 2, (_TOP + bottom) / 2
        parts.append(
            f'<text class="axis-name" x="{middle_x:.0f}" y="{self.height - 6}" text-anchor="middle">{escape(self.x_label)}</text>'
        )
        parts.append(
            f'<text class="axis-name" transform="translate(12 {middle_y:.0f}) rotate(-90)" text-anchor="middle">{escape(self.y_label)}</text>'
        )
        return "".join(parts)


def ticks(low: float, high: float, *, at_most: int = 6) -> list[tuple[float, str]]:
    """Round numbers from low to high, at most so many."""
    span = (high - low) or 1.0
    step = 10 ** math.floor(math.log10(span / at_most))
    step *= next(factor for factor in (1, 2, 5, 10) if span / (step * factor) <= at_most)
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    first = math.ceil(low / step - 1e-9)
    return [
        (number * step, f"{number * step:,.{digits}f}")
        for number in range(first, math.floor(high / step + 1e-9) + 1)
    ]


def sparkline(values: Sequence[float | None]) -> str:
    """The last nights as a small line, tonight as a dot; nothing for fewer than two nights."""
    known = [(place, value) for place, value in enumerate(values) if value is not None]
    if len(known) < 2:
        return ""
    low, high = min(v for _, v in known), max(v for _, v in known)
    flat = high == low

    def at(place: int, value: float) -> tuple[float, float]:
        y = 12.0 if flat else 20 - (value - low) / (high - low) * 16
        return 4 + place / (len(values) - 1) * 92, y

    points = [at(place, value) for place, value in known]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    x, y = points[-1]
    return (
        f'<svg class="spark" viewBox="0 0 100 24" aria-hidden="true"><polyline class="line main" points="{path}"/>'
        f'<circle class="dot main" cx="{x:.1f}" cy="{y:.1f}" r="3"/></svg>'
    )


def room(values: Iterable[float], *, foot: float | None = None, above: float = 0.08) -> tuple[float, float]:
    """An axis that holds the values, with a little room; from the foot where one is given."""
    known = [value for value in values if math.isfinite(value)]
    if not known:
        return (0.0, 1.0)
    low, high = min(known), max(known)
    span = (high - (foot if foot is not None else low)) or abs(high) or 1.0
    return (foot if foot is not None else low - span * above, high + span * above)
