"""The page of all nights: metrics over time, and a link to the page of each night."""

from collections.abc import Sequence
from typing import Any

from cfjobs.report import charts, metric_names
from cfjobs.report.charts import Chart
from cfjobs.report.html import NUMBER, TEXT, Figure, Table, from_json
from cfjobs.report.metric_names import MetricName
from cfjobs.tables.schema import OF_PUBLISHED, RUN_DATE

MOST_NIGHTS = 366

_TABLED = ("rmse", "ndcg_at_10", "coverage" + OF_PUBLISHED)
_DRAWN = (*_TABLED, "popular_share_at_10" + OF_PUBLISHED)
_COUNTS = ("users", "movies", "lists", "kept", "rejected")


def view(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What the template shows of the rows of `runs`, which are by date and at least one."""
    shown = runs[-MOST_NIGHTS:]
    metrics = [from_json(run, "metrics") for run in shown]
    counts = [from_json(run, "counts") for run in shown]
    series = [
        *((metric_names.of(metric), [night.get(metric) for night in metrics]) for metric in _DRAWN),
        (_count("Lists"), [night.get("lists") for night in counts]),
        (_count("Ratings kept"), [night.get("kept") for night in counts]),
    ]
    nights = [
        {
            "date": run[RUN_DATE].isoformat(),
            "link": f"{RUN_DATE}={run[RUN_DATE].isoformat()}/index.html",
            "gate": run["gate"],
            "values": [
                *(metric_names.of(metric).written(measured.get(metric)) for metric in _TABLED),
                *(_count(name).written(counted.get(name)) for name in _COUNTS),
            ],
        }
        for run, measured, counted in zip(shown, metrics, counts, strict=True)
    ]
    return {
        "n_nights": len(runs),
        "first": runs[0][RUN_DATE],
        "last": runs[-1][RUN_DATE],
        "figures": [found for about, values in series if (found := _over_time(about, shown, values))],
        "columns": [*(metric_names.of(metric).name for metric in _TABLED), *_COUNTS],
        "nights": nights[::-1],
    }


def _count(name: str) -> MetricName:
    return MetricName(name, "{:,.0f}", better=0)


def _over_time(
    about: MetricName, runs: Sequence[dict[str, Any]], values: Sequence[float | None]
) -> Figure | None:
    """A metric by night; nothing for fewer than three nights that have it."""
    known = [(place, value) for place, value in enumerate(values) if value is not None]
    if len(known) < 3:
        return None
    last = len(runs) - 1
    ends = charts.limits([value for _, value in known])
    chart = Chart(
        about.name,
        "night",
        "",
        (-0.05 * last, 1.05 * last),
        ends,
        x_ticks=[
            (place, f"{runs[place][RUN_DATE]:%m-%d}\n{runs[place][RUN_DATE]:%Y}")
            for place in sorted({0, last // 2, last})
        ],
        y_ticks=[(at, about.written(at)) for at, _ in charts.ticks(*ends, at_most=5)],
    )
    chart.line(known, kind="main")
    dates = [run[RUN_DATE].isoformat() for run in runs]
    for place, value in known:
        chart.dot(place, value, kind="main", tip=f"{dates[place]}: {about.written(value)}", radius=2.5)
    numbers = [(dates[place], about.written(value)) for place, value in reversed(known)]
    return Figure(chart, Table(about.name, (("night", TEXT), ("value", NUMBER)), numbers))
