"""Charts as SVG: a plot area with labelled axes, and marks on it. The only maker of charts in this project.

`Chart.svg` is for a page that includes `charts.css`; `Chart.file` carries that style sheet itself and is a
picture of its own: an SVG file, the image of a Markdown page, or what a notebook shows. Text is escaped
wherever it comes from."""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib.resources import files
from typing import NamedTuple

from markupsafe import Markup

WIDTH, HEIGHT = 320, 236
"""Narrow, so that text is not scaled below 12 px on a phone."""

WIDE = 560
"""The width where a picture stands alone in a column of text."""

_RIGHT, _TOP, _BOTTOM = 12, 12, 44
_LINE = 16
_CHARACTER = 8
_HEADING = 44
_LABEL_CHARACTER = 6.6
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

Ticks = Sequence[tuple[float, str]]
Points = Iterable[tuple[float, float]]


@dataclass
class Chart:
    """A plot of x in [x0, x1] against y in [y0, y1]; marks are drawn in the order in which they are added.

    key: (kind of mark, its name). Ticks are round numbers where none are given; a tick's text may have two
    lines. log_x: the x axis is logarithmic. What lies outside of the axes is drawn at their edge.
    """

    title: str
    x_label: str
    y_label: str
    x: tuple[float, float]
    y: tuple[float, float]
    x_ticks: Ticks = ()
    y_ticks: Ticks = ()
    key: Sequence[tuple[str, str]] = ()
    log_x: bool = False
    width: int = WIDTH
    height: int = HEIGHT
    marks: list[Markup] = field(default_factory=list)

    def px(self, value: float) -> float:
        """The place of an x."""
        low, high = self.x
        if self.log_x:
            value, low, high = math.log(max(value, low)), math.log(low), math.log(high)
        return self._left + _fraction(value, low, high) * (self.width - self._left - _RIGHT)

    def py(self, value: float) -> float:
        """The place of a y."""
        bottom = self.height - self._bottom
        return bottom - _fraction(value, *self.y) * (bottom - _TOP)

    def line(self, points: Points, *, kind: str) -> "Chart":
        """A line through the points."""
        path = " ".join(f"{self.px(x):.1f},{self.py(y):.1f}" for x, y in points)
        return self._add('<polyline class="line {}" points="{}"/>', kind, path)

    def dot(self, x: float, y: float, *, kind: str, tip: str, radius: float = 3.5) -> "Chart":
        """A dot with a tooltip."""
        return self._add(
            '<circle class="dot {}" cx="{:.1f}" cy="{:.1f}" r="{:.1f}"><title>{}</title></circle>',
            *(kind, self.px(x), self.py(y), radius, tip),
        )

    def bar(self, x: float, y: float, *, width: float, kind: str, tip: str, base: float = 0.0) -> "Chart":
        """A vertical bar from the base to y, of a width in units of x."""
        left, right = self.px(x - width / 2), self.px(x + width / 2)
        top, bottom = sorted((self.py(y), self.py(base)))
        return self._add(
            '<rect class="bar {}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"><title>{}</title></rect>',
            *(kind, left, top, right - left, bottom - top, tip),
        )

    def whisker(self, x: float, low: float, high: float, *, kind: str) -> "Chart":
        """A vertical line from low to high."""
        return self._segment("whisker", kind, (x, low), (x, high))

    def across(self, y: float, low: float, high: float, *, kind: str) -> "Chart":
        """A horizontal line from low to high."""
        return self._segment("whisker", kind, (low, y), (high, y))

    def level(self, x: float, y: float, *, width: float, kind: str, tip: str) -> "Chart":
        """A short horizontal line at y, with a tooltip."""
        return self._segment("level", kind, (x - width / 2, y), (x + width / 2, y), tip=tip)

    def marker(self, x: float, text: str, *, line: int, after: bool) -> "Chart":
        """A dashed line over the whole height with its text at the top, in that line, after or before it."""
        self._segment("marker", "", (x, self.y[0]), (x, self.y[1]))
        return self._add(
            '<text class="name" x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>',
            *(self.px(x) + (6 if after else -6), _TOP + _LINE * (line + 1), "start" if after else "end"),
            text,
        )

    def labels(self, points: Iterable[tuple[float, float, float, str]], *, at_most: int) -> "Chart":
        """Text beside dots of (x, y, radius, text), the first of them first: those that stand clear of one
        another, of the dots that came before and of the edges, at most so many."""
        dots = [(self.px(x), self.py(y), radius, text) for x, y, radius, text in points]
        plot = Box(self._left, _TOP, self.width - _RIGHT, self.height - self._bottom)
        for text, box in placed(dots, plot=plot, at_most=at_most):
            self._add('<text class="label" x="{:.1f}" y="{:.1f}">{}</text>', box.left, box.bottom - 4, text)
        return self

    def svg(self) -> Markup:
        """The chart, for a page that has the style sheet."""
        return Markup('<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">{}{}</svg>').format(
            self.width, self.height, self.title, self._axes(), Markup().join(self.marks)
        )

    def file(self) -> Markup:
        """The chart as an SVG file that needs nothing else and follows the reader's light or dark mode."""
        right = self.width - _RIGHT
        own = Markup(style().replace(":root", ".chart"))  # colours that stay within the picture
        key = Markup().join(
            Markup('<tspan class="{}" dx="{}">{}</tspan>').format(kind, 0 if number == 0 else 14, f"— {name}")
            for number, (kind, name) in enumerate(self.key)
        )
        svg = Markup(
            '<svg xmlns="http://www.w3.org/2000/svg" class="chart" width="{0}" height="{1}" viewBox="0 -{2} {0} {1}" role="img">\n'
            "<title>{3}</title>\n<style>\n{4}.chart tspan.main {{ fill: var(--main); }} .chart tspan.second {{ fill: var(--second); }}\n</style>\n"
            '<rect class="paper" y="-{2}" width="{0}" height="{1}"/>\n'
            '<text class="heading" x="12" y="-24">{3}</text><text x="{5}" y="-4" text-anchor="end">{6}</text>\n'
            "{7}{8}\n</svg>\n"
        ).format(
            *(self.width, self.height + _HEADING, _HEADING, self.title, own, right, key),
            *(self._axes(), Markup().join(self.marks)),
        )
        return Markup(_NOT_XML.sub("\N{REPLACEMENT CHARACTER}", svg))

    def _repr_svg_(self) -> str:
        return str(self.file())

    @cached_property
    def _y_ticks(self) -> Ticks:
        return self.y_ticks or ticks(*self.y)

    @cached_property
    def _x_ticks(self) -> Ticks:
        return self.x_ticks or (log_ticks if self.log_x else ticks)(*self.x)

    @cached_property
    def _left(self) -> float:
        """The width left of the plot area: the widest tick, and the name of the axis if there is one."""
        widest = max((len(text) for _, text in self._y_ticks), default=0)
        return 10 + _CHARACTER * widest + (18 if self.y_label else 0)

    @cached_property
    def _bottom(self) -> int:
        return _BOTTOM + (_LINE if any("\n" in text for _, text in self._x_ticks) else 0)

    def _add(self, element: str, *values: object) -> "Chart":
        self.marks.append(Markup(element).format(*values))
        return self

    def _segment(
        self, name: str, kind: str, start: tuple[float, float], end: tuple[float, float], *, tip: str = ""
    ) -> "Chart":
        return self._add(
            '<line class="{} {}" x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}">{}</line>',
            *(name, kind, self.px(start[0]), self.py(start[1]), self.px(end[0]), self.py(end[1])),
            Markup("<title>{}</title>").format(tip) if tip else "",
        )

    def _axes(self) -> Markup:
        left, right, bottom = self._left, self.width - _RIGHT, self.height - self._bottom
        drawn = []
        for value, text in self._y_ticks:
            y = self.py(value)
            drawn.append(
                Markup(
                    '<line class="grid" x1="{:.1f}" x2="{}" y1="{:.1f}" y2="{:.1f}"/>'
                    '<text x="{:.1f}" y="{:.1f}" text-anchor="end">{}</text>'
                ).format(left, right, y, y, left - 6, y + 4.5, text)
            )
        for value, text in self._x_ticks:
            for number, line in enumerate(text.split("\n")):
                half = _CHARACTER * len(line) / 2
                middle = min(max(self.px(value), half), self.width - half)
                drawn.append(
                    Markup('<text x="{:.1f}" y="{}" text-anchor="middle">{}</text>').format(
                        middle, bottom + 17 + number * _LINE, line
                    )
                )
        drawn.append(
            Markup(
                '<line class="axis" x1="{0:.1f}" x2="{1}" y1="{2}" y2="{2}"/>'
                '<text class="axis-name" x="{3:.0f}" y="{4}" text-anchor="middle">{5}</text>'
            ).format(left, right, bottom, (left + right) / 2, self.height - 6, self.x_label)
        )
        if self.y_label:
            drawn.append(
                Markup(
                    '<text class="axis-name" transform="translate(13 {:.0f}) rotate(-90)" text-anchor="middle">{}</text>'
                ).format((_TOP + bottom) / 2, self.y_label)
            )
        return Markup().join(drawn)


class Box(NamedTuple):
    """A rectangle in pixels; y grows downwards."""

    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: "Box") -> bool:
        """Whether the two have a point in common inside of both."""
        return (
            self.left < other.right
            and other.left < self.right
            and self.top < other.bottom
            and other.top < self.bottom
        )

    def holds(self, other: "Box") -> bool:
        """Whether the other lies wholly in this one."""
        return (
            self.left <= other.left
            and other.right <= self.right
            and self.top <= other.top
            and other.bottom <= self.bottom
        )


def placed(
    dots: Sequence[tuple[float, float, float, str]], *, plot: Box, at_most: int
) -> list[tuple[str, Box]]:
    """Where the texts of dots of (x, y, radius, text), in pixels, can be written: to the right of the dot,
    to its left, above or below it, within the plot and clear of one another and of every dot up to the last
    that has one. Dots come in the order of their weight; a text without room is left out."""
    found: list[tuple[str, Box]] = []
    solid = [Box(x - r, y - r, x + r, y + r) for x, y, r, _ in dots[: 2 * at_most]]
    for x, y, r, text in dots[: 2 * at_most]:
        wide, half = _LABEL_CHARACTER * len(text) + 4, _LINE / 2
        corners = (
            (x + r + 3, y - half),
            (x - r - 3 - wide, y - half),
            (x - wide / 2, y - r - _LINE),
            (x - wide / 2, y + r),
        )
        for left, top in corners:
            box = Box(left, top, left + wide, top + _LINE)
            if plot.holds(box) and not any(box.meets(other) for other in (*solid, *(b for _, b in found))):
                found.append((text, box))
                break
        if len(found) == at_most:
            break
    return found


def _fraction(value: float, low: float, high: float) -> float:
    return (min(max(value, low), high) - low) / ((high - low) or 1)


def style() -> Markup:
    """The style sheet of the charts, which also names the page's colours."""
    return Markup((files("cfjobs.report") / "charts.css").read_text(encoding="utf-8"))


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


def log_ticks(low: float, high: float) -> list[tuple[float, str]]:
    """The powers of ten from low to high."""
    first, last = math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9)
    return [
        (10.0**power, f"{10.0**power:{',.0f' if power >= 0 else 'g'}}") for power in range(first, last + 1)
    ]


def limits(
    values: Iterable[float], *, base: float | None = None, margin: float = 0.08
) -> tuple[float, float]:
    """An axis that holds the values, with a margin; from the base where one is given."""
    known = [value for value in values if math.isfinite(value)]
    if not known:
        return (0.0, 1.0)
    low, high = min(known), max(known)
    span = (high - (base if base is not None else low)) or abs(high) or 1.0
    return (base if base is not None else low - span * margin, high + span * margin)


def sparkline(values: Sequence[float | None]) -> Markup:
    """The last nights as a small line, tonight as a dot; nothing for fewer than three nights."""
    known = [(place, value) for place, value in enumerate(values) if value is not None]
    if len(known) < 3:
        return Markup()
    low, high = min(value for _, value in known), max(value for _, value in known)

    def at(place: int, value: float) -> tuple[float, float]:
        y = 12.0 if high == low else 20 - (value - low) / (high - low) * 16
        return 4 + place / (len(values) - 1) * 92, y

    points = [at(place, value) for place, value in known]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return Markup(
        '<svg class="spark" viewBox="0 0 100 24" aria-hidden="true"><polyline class="line main" points="{}"/>'
        '<circle class="dot main" cx="{:.1f}" cy="{:.1f}" r="3"/></svg>'
    ).format(path, *points[-1])
