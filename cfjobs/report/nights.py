"""The page of all nights: metrics over time, what each night was, and a link to its page.
It is made of the rows of `runs` alone."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

from cfjobs.report import charts, html, metric_names
from cfjobs.report.charts import Chart, Ticks
from cfjobs.report.html import NUMBER, TEXT, Cell, Figure, Table, from_json
from cfjobs.report.metric_names import MetricName
from cfjobs.tables.schema import OF_PUBLISHED, RUN_DATE

MOST_TABLED = 100
"""Nights with a row in the table; charts have a point for each."""

_COVERAGE, _CHURN = "coverage" + OF_PUBLISHED, "churn" + OF_PUBLISHED
_POPULAR_SHARE = "popular_share_at_10" + OF_PUBLISHED
_TABLED = {"ndcg_at_10": "nDCG@10", "rmse": "RMSE", _COVERAGE: "coverage", _CHURN: "new places"}
_SECONDS = MetricName("Seconds of the night", "{:,.0f}", better=0)
_VERDICTS = {
    "no holdout": "no holdout, nothing measured",
    "existing model": "an existing model, nothing measured",
}
_OVERRIDDEN = "overridden: "


@dataclass(frozen=True)
class _Night:
    """A row of `runs`, read. seconds: from its start until it was published."""

    run: Mapping[str, Any]
    metrics: Mapping[str, Any]
    counts: Mapping[str, Any]
    seconds: float

    @classmethod
    def of(cls, run: Mapping[str, Any]) -> "_Night":
        spent: timedelta = run["finished_at"] - run["started_at"]
        return cls(run, from_json(run, "metrics"), from_json(run, "counts"), spent.total_seconds())

    @property
    def day(self) -> date:
        found: date = self.run[RUN_DATE]
        return found

    def metric(self, name: str) -> float | None:
        """A metric; None where it was not measured."""
        return _finite(self.metrics.get(name))

    def count(self, name: str) -> float | None:
        return _finite(self.counts.get(name))


def document(runs: Sequence[Mapping[str, Any]]) -> str:
    """The page as HTML: rows of `runs` by date, at least one."""
    nights = [_Night.of(run) for run in runs]
    newest_first = nights[::-1]
    return html.render(
        "nights.html.j2",
        n_nights=len(nights),
        first=nights[0].day,
        last=nights[-1].day,
        figures=_figures(nights),
        **_table(nights),
        older=[_link(night) for night in newest_first[MOST_TABLED:]],
    )


# Over time ------------------------------------------------------------------------------------------


def _figures(nights: Sequence[_Night]) -> list[tuple[Figure, str]]:
    """The charts that have enough to show, each with what its caption says."""

    def metric(name: str, caption: str, *, baseline: str = "") -> tuple[Figure, str] | None:
        figure = _metric_over_time(nights, name, baseline)
        return (figure, caption) if figure else None

    def other(about: MetricName, values: Sequence[float | None], caption: str) -> tuple[Figure, str] | None:
        figure = _over_time(about, nights, values)
        return (figure, caption) if figure else None

    found = [
        metric("ndcg_at_10", "On the holdout. More is better.", baseline="ndcg_at_10_popular"),
        metric("rmse", "On the holdout. Less is better.", baseline="rmse_bias_only"),
        metric(_COVERAGE, "Of the published lists."),
        metric(_CHURN, "Of the published lists, over users who had one the night before."),
        metric(_POPULAR_SHARE, "Of the published lists."),
        other(_SECONDS, [night.seconds for night in nights], "From its start until it was published."),
        other(_count("Lists"), [night.count("lists") for night in nights], "Published."),
        other(
            _count("Ratings kept"), [night.count("kept") for night in nights], "What the night read, cleaned."
        ),
    ]
    return [one for one in found if one is not None]


def over_time(
    runs: Sequence[Mapping[str, Any]], metric: str, *, baseline: str = "", width: int = charts.WIDTH
) -> Figure | None:
    """A metric of `runs` by night, beside another as its baseline; None for fewer than three nights that
    have it. runs: rows by date."""
    return _metric_over_time([_Night.of(run) for run in runs], metric, baseline, width=width)


def _metric_over_time(
    nights: Sequence[_Night], name: str, baseline: str, *, width: int = charts.WIDTH
) -> Figure | None:
    values = [night.metric(name) for night in nights]
    besides = [night.metric(baseline) for night in nights] if baseline else None
    return _over_time(metric_names.of(name), nights, values, besides, width=width)


def _count(name: str) -> MetricName:
    return MetricName(name, "{:,.0f}", better=0)


def _over_time(
    about: MetricName,
    nights: Sequence[_Night],
    values: Sequence[float | None],
    baseline: Sequence[float | None] | None = None,
    *,
    width: int = charts.WIDTH,
) -> Figure | None:
    """A metric by night, beside its baseline; nothing for fewer than three nights that have it."""
    ours, theirs = _points(nights, values), _points(nights, baseline or ())
    if len(ours) < 3:
        return None
    span = (nights[-1].day - nights[0].day).days
    ends = charts.limits([value for _, value in (*ours, *theirs)])
    chart = Chart(
        about.name,
        "night",
        "",
        (-0.05 * span, 1.05 * span),
        ends,
        x_ticks=[
            (at, f"{nights[0].day + timedelta(days=at):%m-%d\n%Y}") for at in sorted({0, span // 2, span})
        ],
        y_ticks=_ticks(about, ends),
        key=(("main", "model"), ("second", about.baseline)) if theirs else (),
        width=width,
    )
    radius = 2.5 if len(nights) <= MOST_TABLED else 1.5
    for points, kind, whose in ((theirs, "second", f", {about.baseline}"), (ours, "main", "")):
        chart.line(points, kind=kind)
        for at, value in points:
            day = nights[0].day + timedelta(days=at)
            chart.dot(at, value, kind=kind, tip=f"{day}{whose}: {about.written(value)}", radius=radius)
    columns = [("night", TEXT), ("model" if theirs else "value", NUMBER)]
    besides = dict(theirs)
    rows = []
    for at, value in ours[: -MOST_TABLED - 1 : -1]:
        row = [f"{nights[0].day + timedelta(days=at)}", about.written(value)]
        rows.append([*row, about.written(besides.get(at))] if theirs else row)
    if theirs:
        columns.append((about.baseline, NUMBER))
    return Figure(chart, Table(about.name, columns, rows))


def _points(nights: Sequence[_Night], values: Sequence[float | None]) -> list[tuple[int, float]]:
    """(days since the first night, value) of the nights that have one."""
    first = nights[0].day
    return [
        ((night.day - first).days, value)
        for night, value in zip(nights, values, strict=False)
        if value is not None
    ]


def _ticks(about: MetricName, ends: tuple[float, float]) -> Ticks:
    """Round numbers with as many digits as tell them apart."""
    if "%" not in about.form:
        return charts.ticks(*ends, at_most=5)
    return [(at / 100, f"{text}%") for at, text in charts.ticks(100 * ends[0], 100 * ends[1], at_most=5)]


# The table ------------------------------------------------------------------------------------------


def _table(nights: Sequence[_Night]) -> dict[str, Any]:
    """columns: (name, kind); rows of the newest nights, newest first: a link, and cells.
    A column that no night fills is left out."""
    before = [None, *nights[:-1]]
    newest = list(zip(nights, before, strict=True))[: -MOST_TABLED - 1 : -1]
    names = [metric_names.of(name) for name in _TABLED]
    columns = [
        ("gate", "text verdict"),
        *((name, NUMBER) for name in ("lists", "ratings read", "rejected", "users", "movies")),
        *((short, NUMBER) for short in _TABLED.values()),
        ("model", "text model"),
        ("time taken", NUMBER),
    ]
    cells = [
        [
            _verdict(str(night.run["gate"])),
            *(Cell(_written(night.count(name)), "") for name in ("lists", "read", "rejected")),
            *(Cell(_counted(night, last, name), "") for name in ("users", "movies")),
            *(
                Cell(about.written(night.metric(name)), "")
                for name, about in zip(_TABLED, names, strict=True)
            ),
            Cell(_model(night.run), ""),
            Cell(duration(night.seconds), ""),
        ]
        for night, last in newest
    ]
    filled = [place for place in range(len(columns)) if any(row[place].text for row in cells)]
    return {
        "columns": [columns[place] for place in filled],
        "rows": [
            (_link(night), [row[place] for place in filled])
            for (night, _), row in zip(newest, cells, strict=True)
        ],
    }


def _link(night: _Night) -> dict[str, str]:
    """The date of a night, and where its page is from here."""
    day = night.day.isoformat()
    return {"date": day, "to": f"{RUN_DATE}={day}/index.html"}


def _verdict(gate: str) -> Cell:
    """What the gate said, in words."""
    if gate.startswith(_OVERRIDDEN):
        return Cell(f"published although the gate refused: {gate.removeprefix(_OVERRIDDEN)}", "worse")
    return Cell(_VERDICTS.get(gate, gate), "")


def _model(run: Mapping[str, Any]) -> str:
    """The kind of network, or the folder of the existing model that the night took."""
    config = json.loads(run["config"])
    folder = str(run["model_uri"]).rstrip("/").rpartition("/")[2]
    if run["gate"] == "existing model":
        return folder
    return "ranking alone" if config.get("feedback") == "implicit" else str(config.get("model", folder))


def _counted(night: _Night, last: _Night | None, name: str) -> str:
    """A count, and in brackets what it has more or fewer than last night's."""
    now, before = night.count(name), last.count(name) if last else None
    if now is None or before is None or now == before:
        return _written(now)
    return f"{_written(now)} ({now - before:+,.0f})".replace("-", "−")


def _written(count: float | None) -> str:
    return "" if count is None else f"{count:,.0f}"


def duration(seconds: float) -> str:
    """Such as 1 h 12 min, 3 min 5 s or 42 s."""
    minutes, rest = divmod(round(seconds), 60)
    hours, left = divmod(minutes, 60)
    if hours:
        return f"{hours:,} h {left} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _finite(value: Any) -> float | None:
    """A number out of JSON; None for what is none."""
    return value if isinstance(value, int | float) and math.isfinite(value) else None
