"""What the sections of the page are made of. Every text that comes from data is escaped."""

import json
from collections.abc import Iterable, Sequence
from datetime import date
from html import escape
from importlib.resources import files
from typing import Any

from cfjobs.report.charts import Chart

LONGEST_TITLE = 160


def section(title: str, note: str, body: str) -> str:
    """A section. All three are HTML."""
    return f'<section><h2>{title}</h2><p class="note">{note}</p>{body}</section>\n'


def grid(cards: Iterable[str]) -> str:
    """Cards side by side; empty ones are left out. Each is HTML."""
    found = [
        card if card.startswith('<div class="card"') else f'<div class="card">{card}</div>'
        for card in cards
        if card
    ]
    return f'<div class="grid">{"".join(found)}</div>'


def card(figure: str, note: str) -> str:
    """A figure with a caption; nothing for no figure. Both are HTML."""
    return (
        f'<div class="card">{figure.replace("</figure>", f"<figcaption>{note}</figcaption></figure>")}</div>'
        if figure
        else ""
    )


def figure(title: str, chart: Chart, *, key: Sequence[tuple[str, str]] = ()) -> str:
    """A chart under its title, with a legend of (class, name). Title and names are plain text."""
    items = "".join(f'<li class="{kind}">{text(name)}</li>' for kind, name in key)
    legend = f'<ul class="key">{items}</ul>' if items else ""
    return f"<figure><h3>{text(title)}</h3>{legend}{chart.svg()}</figure>"


def table(header: Sequence[tuple[str, str]], rows: Iterable[Sequence[str]]) -> str:
    """Rows of plain text; each column is `text` or `number`."""
    top = "".join(f'<th class="{kind}">{text(name)}</th>' for name, kind in header)
    body = "".join(
        "<tr>"
        + "".join(
            f'<td class="{kind}">{text(value)}</td>' for (_, kind), value in zip(header, row, strict=True)
        )
        + "</tr>"
        for row in rows
    )
    return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"


def title(row: dict[str, Any]) -> str:
    """The title of a row with title, movie_id, as plain text of bounded length."""
    title = row.get("title")
    return str(title)[:LONGEST_TITLE] if title is not None else f"movie {row['movie_id']}"


def text(value: object) -> str:
    """Plain text as HTML."""
    return escape(str(value), quote=True)


def day(day: date) -> str:
    """Such as 1 March 2026."""
    return f"{day.day} {day:%B %Y}"


def from_json(run: dict[str, Any], name: str) -> Any:
    """A column of a row of `runs` that holds JSON."""
    return json.loads(run[name])


def resource(name: str) -> str:
    """A file of this package."""
    return (files("cfjobs.report") / name).read_text(encoding="utf-8")
