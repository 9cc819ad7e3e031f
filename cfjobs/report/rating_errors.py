"""Of the page: the training, and how well stars were predicted."""

import itertools
from collections.abc import Sequence

import polars as pl

from cfjobs.report import charts
from cfjobs.report.charts import Chart
from cfjobs.report.facts import Facts
from cfjobs.report.html import card, figure, from_json, grid, section, table


def training(facts: Facts) -> str:
    """How the loss fell."""
    losses: list[list[float | None]] = from_json(facts.run, "losses")
    note = "Mean squared error per epoch. The best epoch on the holdout is kept."
    cards = [card(_losses(losses), note), _metrics(facts.metrics)]
    about = (
        "The holdout: each user’s latest ratings, or random ones, kept from the training that is measured."
        if not facts.metrics.is_empty()
        else "No ratings were held out for this night, so there is nothing to measure."
    )
    return section("Training", about, grid(cards))


def _metrics(metrics: pl.DataFrame) -> str:
    if metrics.is_empty():
        return ""
    rows = []
    for row in metrics.filter(band="all").to_dicts():
        interval = "" if row["low"] is None else f"{row['low']:.3f} to {row['high']:.3f}"
        rows.append((row["metric"], f"{row['value']:.3f}", interval, f"{row['baseline']:.3f}"))
    header = (("metric", "text"), ("tonight", "number"), ("95 % interval", "number"), ("baseline", "number"))
    note = "Baselines: biases alone for rmse and mae, the measured lists for those published, the popularity list for the others."
    return f"<h3>All metrics</h3>{table(header, rows)}<p class='note' style='margin-top:8px'>{note}</p>"


def served(facts: Facts) -> str:
    """The metrics beside their baselines, by activity."""
    if facts.metrics.is_empty():
        return ""
    cards = [
        card(_bands(facts.metrics, "rmse", "RMSE (stars)"), "Stars: lower is better."),
        card(_bands(facts.metrics, "ndcg_at_10", "nDCG@10"), "Lists: higher is better."),
    ]
    return section("Who is served how well", _BANDS_NOTE, grid(cards))


_BANDS_NOTE = (
    "Thirds of the measured users by training ratings, with 95&nbsp;% bootstrap intervals over users; "
    "the short line is the baseline."
)


def _losses(losses: Sequence[Sequence[float | None]]) -> str:
    train = [(row[0], row[1]) for row in losses if row[0] is not None and row[1] is not None]
    valid = [(row[0], row[2]) for row in losses if row[0] is not None and row[2] is not None]
    if not train:
        return ""
    chart = Chart(
        "Training and holdout loss by epoch",
        "epoch",
        "mean squared error (stars²)",
        (1, max(2, train[-1][0])),
        charts.room([loss for _, loss in train + valid]),
    )
    chart.line(train, kind="second").line(valid, kind="main")
    if valid:
        epoch, loss = min(valid, key=lambda point: point[1])
        chart.dot(epoch, loss, kind="main", tip=f"best epoch {epoch:.0f}: holdout loss {loss:.4f}", radius=5)
    return figure("Loss curves", chart, key=(("second", "training"), ("main", "holdout")))


def errors(facts: Facts) -> str:
    """Where predicted stars were off."""
    if facts.by_rating.is_empty():
        return ""
    cards = [
        card(
            _predicted(facts.by_rating),
            "For each rating given: the middle half of the predictions (bar), 10 to 90&nbsp;% (line), and their median.",
        ),
        card(
            _calibration(facts.calibration),
            "Twenty equal parts of the predictions. On the dashed line, a prediction of 4 is followed by ratings of 4 on average.",
        ),
        card(
            _error_by_rating(facts.by_rating),
            "RMSE of the predictions for each rating given, and how many ratings there are.",
        ),
    ]
    if not facts.by_decade.is_empty():
        cards.append(
            card(
                _error_by_decade(facts.by_decade),
                "RMSE by the year in the movie’s title, for decades with at least 20 ratings.",
            )
        )
    return section(
        "Predicted against true",
        "What the network, which had not seen them, predicted for the held-out ratings. <code>holdout_predictions</code> has every row.",
        grid(cards),
    )


def _predicted(by_rating: pl.DataFrame) -> str:
    rows = by_rating.to_dicts()
    low = min(row["rating"] for row in rows)
    high = max(row["rating"] for row in rows)
    width = _spacing([row["rating"] for row in rows])
    chart = Chart(
        "Predictions for each rating",
        "rating given",
        "rating predicted",
        (low - width, high + width),
        (low - width, high + width),
    )
    chart.line([(low, low), (high, high)], kind="ideal")
    for row in rows:
        at = row["rating"]
        chart.whisker(at, row["q10"], row["q90"], kind="main")
        tip = f"rated {at:g}: median prediction {row['q50']:.2f}, {row['n']:,} ratings"
        chart.bar(at, row["q75"], foot=row["q25"], width=width * 0.5, kind="main", tip=tip)
        chart.dot(at, row["q50"], kind="second", tip=tip)
    return figure("Predicted against true ratings", chart)


def _calibration(calibration: pl.DataFrame) -> str:
    rows = calibration.to_dicts()
    ends = charts.room([value for row in rows for value in (row["predicted"], row["rating"])])
    chart = Chart(
        "Mean rating by predicted rating", "predicted (mean of a part)", "rating given (mean)", ends, ends
    )
    chart.line([(ends[0], ends[0]), (ends[1], ends[1])], kind="ideal")
    chart.line([(row["predicted"], row["rating"]) for row in rows], kind="main")
    for row in rows:
        tip = f"predicted {row['predicted']:.2f}, rated {row['rating']:.2f}, {row['n']:,} ratings"
        chart.dot(row["predicted"], row["rating"], kind="main", tip=tip)
    return figure("Calibration", chart)


def _error_by_rating(by_rating: pl.DataFrame) -> str:
    rows = by_rating.to_dicts()
    places = [row["rating"] for row in rows]
    width = _spacing(places)
    ends = (min(places) - width, max(places) + width)
    chart = Chart(
        "Error by rating",
        "rating given",
        "RMSE (stars)",
        ends,
        charts.room([row["rmse"] for row in rows], foot=0),
    )
    most = max(row["n"] for row in rows)
    for row in rows:
        tip = f"rated {row['rating']:g}: RMSE {row['rmse']:.2f} over {row['n']:,} ratings"
        chart.bar(row["rating"], chart.y[1] * row["n"] / most, width=width * 0.9, kind="pale", tip=tip)
        chart.bar(row["rating"], row["rmse"], width=width * 0.45, kind="main", tip=tip)
    return figure("Error by rating", chart, key=(("main", "RMSE"), ("pale", f"ratings, tallest {most:,}")))


def _error_by_decade(by_decade: pl.DataFrame) -> str:
    rows = by_decade.to_dicts()
    most = max(row["n"] for row in rows)
    first, last = rows[0]["decade"], rows[-1]["decade"]
    labels = [(row["decade"], f"{row['decade']}s") for row in rows][:: -(-len(rows) // 6)]
    chart = Chart(
        "Error by movie age",
        "decade of the movie",
        "RMSE (stars)",
        (first - 10, last + 10),
        charts.room([row["rmse"] for row in rows], foot=0),
        x_ticks=labels,
    )
    for row in rows:
        tip = f"{row['decade']}s: RMSE {row['rmse']:.2f} over {row['n']:,} ratings"
        chart.bar(row["decade"], chart.y[1] * row["n"] / most, width=9, kind="pale", tip=tip)
        chart.bar(row["decade"], row["rmse"], width=4.5, kind="main", tip=tip)
    return figure("Error by movie age", chart, key=(("main", "RMSE"), ("pale", f"ratings, tallest {most:,}")))


def _bands(metrics: pl.DataFrame, metric: str, y_label: str) -> str:
    rows = metrics.filter(metric=metric).to_dicts()
    order = {band: place for place, band in enumerate(("all", "light", "medium", "heavy"))}
    rows.sort(key=lambda row: order[row["band"]])
    values = [
        row[key] for row in rows for key in ("value", "low", "high", "baseline") if row[key] is not None
    ]
    labels = [
        (
            place,
            row["band"]
            if row["band"] == "all"
            else f"{row['band']}\n{row['min_ratings']:,}–{row['max_ratings']:,}",
        )
        for place, row in enumerate(rows)
    ]
    chart = Chart(
        f"{y_label} by activity",
        "band of users, training ratings",
        y_label,
        (-0.6, len(rows) - 0.4),
        charts.room(values),
        x_ticks=labels,
    )
    for place, row in enumerate(rows):
        tip = f"{row['band']}: {row['value']:.3f} ({row['low']:.3f} to {row['high']:.3f}), {row['users']:,} users"
        chart.whisker(place, row["low"], row["high"], kind="main")
        chart.dot(place, row["value"], kind="main", tip=tip, radius=5)
        chart.level(place, row["baseline"], width=0.5, kind="second", tip=f"baseline {row['baseline']:.3f}")
    name = "biases alone" if metric == "rmse" else "popularity list"
    return figure(
        f"{y_label.partition(' (')[0]} by activity", chart, key=(("main", "tonight"), ("second", name))
    )


def _spacing(places: Sequence[float]) -> float:
    gaps = [b - a for a, b in itertools.pairwise(places)]
    return min(gaps, default=1.0)
