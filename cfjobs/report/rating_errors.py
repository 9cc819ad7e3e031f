"""Sections of the page: how good ratings and lists were on the holdout, the training,
and where predicted stars were off."""

import itertools
from collections.abc import Sequence
from typing import Any

import polars as pl

from cfjobs.report import charts, metric_names
from cfjobs.report.charts import Chart
from cfjobs.report.facts import Facts
from cfjobs.report.html import NUMBER, RANGE, TEXT, Cell, Figure, Table, from_json
from cfjobs.report.metric_names import MetricName
from cfjobs.tables.schema import OF_PUBLISHED

_BANDS = ("all", "light", "medium", "heavy")


def training(facts: Facts) -> dict[str, Any]:
    """The loss by epoch, and the metrics with their baselines."""
    losses = from_json(facts.run, "losses")
    return {
        "implicit": facts.is_implicit,
        "losses": loss_curves(losses),
        "metrics": None if facts.metrics.is_empty() else _metrics(facts.metrics),
    }


def served(facts: Facts) -> dict[str, Any] | None:
    """How well users are served by activity, and movies by age."""
    if facts.metrics.is_empty():
        return None
    there = facts.metrics["metric"].unique().to_list()
    return {
        "bands": [by_activity(facts.metrics, name) for name in ("rmse", "ndcg_at_10") if name in there],
        "by_decade": None if facts.by_decade.is_empty() else _error_by_decade(facts.by_decade),
    }


def errors(facts: Facts) -> dict[str, Any] | None:
    """Where predicted stars were off."""
    if facts.by_rating.is_empty():
        return None
    return {
        "predicted": predicted(facts.by_rating),
        "calibration": _calibration(facts.calibration),
        "by_rating": _error_by_rating(facts.by_rating),
    }


# Metrics --------------------------------------------------------------------------------------------


def _metrics(metrics: pl.DataFrame) -> Table:
    rows = []
    held_out = metrics.filter(~pl.col("metric").str.ends_with(OF_PUBLISHED), band="all")
    for row in held_out.to_dicts():
        about = metric_names.of(row["metric"])
        low, high, baseline = row["low"], row["high"], row["baseline"]
        kind = about.verdict(row["value"], baseline, (low, high))
        rows.append(
            (
                about.name,
                about.written(row["value"]),
                _interval(about, row),
                about.written(baseline),
                Cell(about.change(row["value"], baseline) or "±0", kind),
            )
        )
    columns = (
        ("metric", TEXT),
        ("tonight", NUMBER),
        ("95% interval", RANGE),
        ("baseline", NUMBER),
        ("gap", NUMBER),
    )
    return Table("All metrics, on the holdout", columns, rows)


def _interval(about: MetricName, row: dict[str, Any]) -> str:
    return "" if row["low"] is None else f"{about.written(row['low'])}–{about.written(row['high'])}"


def by_activity(metrics: pl.DataFrame, metric: str, *, width: int = charts.WIDTH) -> Figure:
    """A metric of all users and of each third of them by activity, with intervals, beside its baseline.
    metrics: a night's rows of `metrics`."""
    about = metric_names.of(metric)
    rows = metrics.filter(metric=metric).to_dicts()
    rows.sort(key=lambda row: _BANDS.index(row["band"]))
    ends = [row[key] for row in rows for key in ("value", "low", "high", "baseline") if row[key] is not None]
    chart = Chart(
        f"{about.name.partition(',')[0]} by activity",
        "users, by number of training ratings",
        about.name.partition(" (")[2].replace(")", ""),
        (-0.6, len(rows) - 0.4),
        charts.limits(ends),
        x_ticks=[(place, "\n".join(_band(row))) for place, row in enumerate(rows)],
        key=(("main", "tonight"), ("second", about.baseline)),
        width=width,
    )
    for place, row in enumerate(rows):
        kind = about.verdict(row["value"], row["baseline"], (row["low"], row["high"]))
        colour = "muted" if kind == "muted" else "main"
        if row["low"] is not None:
            chart.whisker(place, row["low"], row["high"], kind=colour)
        tip = f"{row['band']}: {about.written(row['value'])}, {row['users']:,} users"
        chart.dot(place, row["value"], kind=colour, tip=tip, radius=5)
        tip = f"{about.baseline}: {about.written(row['baseline'])}"
        chart.level(place, row["baseline"], width=0.5, kind="second", tip=tip)
    numbers = Table(
        chart.title,
        (
            ("users", TEXT),
            ("count", NUMBER),
            ("tonight", NUMBER),
            ("95% interval", RANGE),
            (about.baseline, NUMBER),
        ),
        [
            (
                " ".join(_band(row)),
                f"{row['users']:,}",
                about.written(row["value"]),
                _interval(about, row),
                about.written(row["baseline"]),
            )
            for row in rows
        ],
    )
    return Figure(chart, numbers)


def against_baselines(metrics: pl.DataFrame, *, width: int = charts.WIDTH) -> Figure | None:
    """How many times as good as its baseline each metric of all users is, with its interval: the value over
    the baseline, or where less is better the baseline over the value. metrics: a night's rows of `metrics`.
    None where there is nothing to compare."""
    rows = [found for row in metrics.filter(band="all").to_dicts() if (found := _times(row)) is not None]
    rows.sort(key=lambda row: row["times"])
    if not rows:
        return None
    low = min(0.8, *(row["low"] * 0.95 for row in rows))
    high = max(2.0, *(row["high"] * 1.05 for row in rows))
    marks = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8, 16, 32, 64)
    chart = Chart(
        "How good each metric is, beside its baseline",
        "times as good as the baseline",
        "",
        (low, high),
        (-0.7, len(rows) - 0.3),
        x_ticks=[(at, f"{at:g}×") for at in marks if low <= at <= high],
        y_ticks=[(place, row["name"]) for place, row in enumerate(rows)],
        key=(("main", "tonight, with 95% interval"), ("second", "its baseline")),
        log_x=True,
        width=width,
        height=70 + 24 * len(rows),
    )
    chart.line([(1, -0.7), (1, len(rows) - 0.3)], kind="second")
    for place, row in enumerate(rows):
        kind = "muted" if row["kind"] == "muted" else "main"
        chart.across(place, row["low"], row["high"], kind=kind)
        chart.dot(row["times"], place, kind=kind, tip=f"{row['name']}: {row['written']}", radius=5)
    columns = (("metric", TEXT), ("times its baseline", NUMBER), ("tonight", NUMBER), ("baseline", NUMBER))
    numbers = [
        (row["name"], f"{row['times']:.2f}", row["written"], row["baseline"]) for row in reversed(rows)
    ]
    return Figure(chart, Table(chart.title, columns, numbers))


def _times(row: dict[str, Any]) -> dict[str, Any] | None:
    """A metric as a multiple of its baseline, more is better; None where that says nothing."""
    about = metric_names.of(row["metric"])
    ends = (row["value"], row["low"], row["high"], row["baseline"])
    if not about.better or row["metric"].endswith(OF_PUBLISHED) or any(not end or end < 0 for end in ends):
        return None
    value, *interval = (end / row["baseline"] for end in ends[:3])
    if about.better < 0:
        value, *interval = (1 / end for end in (value, *interval))
    return {
        "name": about.name,
        "times": value,
        "low": min(interval),
        "high": max(interval),
        "kind": about.verdict(row["value"], row["baseline"], (row["low"], row["high"])),
        "written": about.written(row["value"]),
        "baseline": about.written(row["baseline"]),
    }


def _band(row: dict[str, Any]) -> tuple[str, ...]:
    if row["band"] == "all":
        return ("all",)
    return row["band"], f"{row['min_ratings']:,}–{row['max_ratings']:,}"


# Losses ---------------------------------------------------------------------------------------------


def loss_curves(losses: Sequence[Sequence[float | None]], *, width: int = charts.WIDTH) -> Figure | None:
    """Training and holdout loss of (epoch, training loss, holdout loss);
    nothing for fewer than two epochs."""
    train = [(row[0], row[1]) for row in losses if row[0] is not None and row[1] is not None]
    valid = [(row[0], row[2]) for row in losses if row[0] is not None and row[2] is not None]
    if len(train) < 2:
        return None
    first, last = train[0][0], train[-1][0]
    every = -(-int(last - first + 1) // 7)
    chart = Chart(
        "Loss curves",
        "epoch",
        "mean squared error",
        (first, last),
        charts.limits([loss for _, loss in train + valid]),
        x_ticks=[(epoch, f"{epoch:.0f}") for epoch, _ in train[::every]],
        key=(("second", "training"), *((("main", "holdout"),) if valid else ())),
        width=width,
    )
    chart.line(train, kind="second").line(valid, kind="main")
    if valid:
        epoch, loss = min(valid, key=lambda point: point[1])
        chart.dot(epoch, loss, kind="main", tip=f"best epoch {epoch:.0f}: holdout loss {loss:.4f}", radius=5)
    holdout = dict(valid)
    numbers = Table(
        chart.title,
        (("epoch", NUMBER), ("training", NUMBER), ("holdout", NUMBER)),
        [
            (f"{epoch:.0f}", f"{loss:.4f}", f"{holdout[epoch]:.4f}" if epoch in holdout else "")
            for epoch, loss in train
        ],
    )
    return Figure(chart, numbers)


# Stars ----------------------------------------------------------------------------------------------


def predicted(by_rating: pl.DataFrame, *, width: int = charts.WIDTH, height: int = charts.HEIGHT) -> Figure:
    """The spread of the predictions for each rating given. by_rating: rating, n, q10, q25, q50, q75, q90, by
    rating; at least one row."""
    rows = by_rating.to_dicts()
    low, high, step = _extent(by_rating)
    ends = (low - step, high + step)
    chart = Chart(
        "Predicted against true ratings",
        "rating given",
        "rating predicted",
        ends,
        ends,
        width=width,
        height=height,
    )
    chart.line([(low, low), (high, high)], kind="ideal")
    for row in rows:
        at = row["rating"]
        chart.whisker(at, row["q10"], row["q90"], kind="main")
        tip = f"rated {at:g}: median prediction {row['q50']:.2f}, {row['n']:,} ratings"
        chart.bar(at, row["q75"], base=row["q25"], width=step * 0.5, kind="main", tip=tip)
        chart.dot(at, row["q50"], kind="second", tip=tip)
    quantiles = ("q10", "q25", "q50", "q75", "q90")
    numbers = Table(
        chart.title,
        (
            ("rating", NUMBER),
            ("10%", NUMBER),
            ("25%", NUMBER),
            ("median", NUMBER),
            ("75%", NUMBER),
            ("90%", NUMBER),
        ),
        [(f"{row['rating']:g}", *(f"{row[name]:.2f}" for name in quantiles)) for row in rows],
    )
    return Figure(chart, numbers)


def _calibration(calibration: pl.DataFrame) -> Figure:
    rows = calibration.to_dicts()
    ends = charts.limits([value for row in rows for value in (row["predicted"], row["rating"])])
    chart = Chart("Calibration", "rating predicted (mean of a bin)", "rating given (mean)", ends, ends)
    chart.line([(ends[0], ends[0]), (ends[1], ends[1])], kind="ideal")
    chart.line([(row["predicted"], row["rating"]) for row in rows], kind="main")
    for row in rows:
        tip = f"predicted {row['predicted']:.2f}, rated {row['rating']:.2f}, {row['n']:,} ratings"
        chart.dot(row["predicted"], row["rating"], kind="main", tip=tip)
    numbers = Table(
        chart.title,
        (("predicted", NUMBER), ("given", NUMBER), ("ratings", NUMBER)),
        [(f"{row['predicted']:.2f}", f"{row['rating']:.2f}", f"{row['n']:,}") for row in rows],
    )
    return Figure(chart, numbers)


def _error_by_rating(by_rating: pl.DataFrame) -> Figure:
    low, high, width = _extent(by_rating)
    rows = [(row["rating"], f"{row['rating']:g}", row) for row in by_rating.to_dicts()]
    return _error(
        "Error by rating", "rating given", rows, ends=(low - width, high + width), width=width * 0.6
    )


def _error_by_decade(by_decade: pl.DataFrame) -> Figure:
    rows = [(row["decade"], f"{row['decade']}s", row) for row in by_decade.to_dicts()]
    return _error(
        "Error by movie age", "decade of the movie", rows, ends=(rows[0][0] - 10, rows[-1][0] + 10), width=6
    )


def _error(
    title: str,
    x_label: str,
    rows: Sequence[tuple[float, str, dict[str, Any]]],
    *,
    ends: tuple[float, float],
    width: float,
) -> Figure:
    """A bar for each (x, name, row with rmse and n)."""
    errors = [row["rmse"] for _, _, row in rows]
    every = -(-len(rows) // 6)
    chart = Chart(
        title,
        x_label,
        "RMSE (stars)",
        ends,
        charts.limits(errors, base=0),
        x_ticks=[(at, name) for at, name, _ in rows][(len(rows) - 1) % every :: every],
    )
    for at, name, row in rows:
        tip = f"{name}: RMSE {row['rmse']:.2f} over {row['n']:,} ratings"
        chart.bar(at, row["rmse"], width=width, kind="main", tip=tip)
    numbers = Table(
        title,
        ((x_label, TEXT), ("RMSE", NUMBER), ("ratings", NUMBER)),
        [(name, f"{row['rmse']:.2f}", f"{row['n']:,}") for _, name, row in rows],
    )
    return Figure(chart, numbers)


def _extent(by_rating: pl.DataFrame) -> tuple[float, float, float]:
    """The lowest and highest rating given, and the least step between ratings."""
    given = by_rating["rating"].to_list()
    return given[0], given[-1], min((b - a for a, b in itertools.pairwise(given)), default=1.0)
