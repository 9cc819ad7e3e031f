"""What templates are given, and the templates. Every text that comes from data is escaped by autoescape."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from cfjobs.report import charts
from cfjobs.report.charts import Chart

LONGEST_TITLE = 160

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"

TEXT, NUMBER, RANGE = "text", "number", "number range"
"""Kinds of columns; a range may break into two lines."""


@dataclass(frozen=True)
class Cell:
    """A cell that is more than its text. kind: a class of the style sheet, such as better, worse, muted."""

    text: str
    kind: str


Row = Sequence[str | Cell]


@dataclass(frozen=True)
class Table:
    """Rows of plain text under a header. columns: (name, kind); the first column names its row."""

    caption: str
    columns: Sequence[tuple[str, str]]
    rows: Sequence[Row]


@dataclass(frozen=True, repr=False)
class Figure:
    """A chart, and the table of what it shows for those who cannot see it or want the numbers.
    In a notebook, the chart."""

    chart: Chart
    numbers: Table

    def __repr__(self) -> str:
        lines = [" | ".join(name for name, _ in self.numbers.columns)]
        for row in self.numbers.rows:
            lines.append(" | ".join(cell if isinstance(cell, str) else cell.text for cell in row))
        return "\n".join([self.chart.title, *lines])

    def _repr_svg_(self) -> str:
        return str(self.chart.file())


def render(template: str, **values: object) -> str:
    """A template of this package as HTML, with the look and the policy of every page."""
    styles = [charts.style(), resource("page.css")]
    return _environment().get_template(template).render(policy=_POLICY, styles=styles, **values)


def resource(name: str) -> Markup:
    """A file of this package, to stand in the page as it is."""
    return Markup((files("cfjobs.report") / name).read_text(encoding="utf-8"))


def script_json(value: object) -> Markup:
    """JSON that is safe inside a script element."""
    data = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return Markup(data.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029"))


def from_json(run: Mapping[str, Any], name: str) -> Any:
    """A column of a row of `runs` that holds JSON."""
    return json.loads(run[name])


def title(row: Mapping[str, Any]) -> str:
    """The title of a row with title, movie_id, of bounded length."""
    title = row.get("title")
    return str(title)[:LONGEST_TITLE] if title is not None else f"movie {row['movie_id']}"


def day(day: date) -> str:
    """Such as 1 March 2026."""
    return f"{day.day} {day:%B %Y}"


@cache
def _environment() -> Environment:
    found = Environment(
        loader=PackageLoader("cfjobs.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters["day"] = day
    return found
