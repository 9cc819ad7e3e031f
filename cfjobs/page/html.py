"""The page itself: sections of HTML around the charts. Every text that comes from data is escaped here."""

import itertools
import json
from collections.abc import Callable, Iterable, Sequence
from datetime import date
from html import escape
from importlib.resources import files
from typing import Any

import polars as pl

from cfjobs.page import charts
from cfjobs.page.charts import Chart
from cfjobs.page.facts import FIRST, Facts, Reader

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
_LONGEST_TITLE = 160


def document(facts: Facts) -> str:
    """The whole page, self-contained: no style, script, font or picture comes from anywhere else."""
    night = facts.run["run_date"]
    sections = [
        _header(facts),
        _tiles(facts),
        _training(facts),
        _served(facts),
        _errors(facts),
        _map(facts),
        _loved(facts),
        _lists(facts),
        _readers(facts.readers),
        _rejected(facts),
        _run(facts),
    ]
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Recommendations of {night}</title>
<link rel="icon" href="data:,">
<style>
{_resource("page.css")}</style>
</head>
<body>
<main>
{"".join(sections)}
</main>
<script id="map-data" type="application/json">{_map_data(facts)}</script>
<script>
{_resource("page.js")}</script>
</body>
</html>
"""


# The night in five numbers ---------------------------------------------------------------------------


def _header(facts: Facts) -> str:
    run, counts = facts.run, _json(facts.run, "counts")
    return (
        f"<header><h1>Recommendations of {_day(run['run_date'])}</h1>"
        f"<p>{counts.get('lists', 0):,} lists over {counts.get('movies', 0):,} movies, published "
        f"{run['finished_at']:%Y-%m-%d %H:%M} UTC. Gate: {_text(run['gate'])}. Run <code>{_text(run['run_id'])}</code>.</p></header>"
    )


def _tiles(facts: Facts) -> str:
    def of(name: str) -> Callable[[dict[str, Any]], float | None]:
        return lambda night: _json(night, "metrics").get(name)

    def counted(name: str) -> Callable[[dict[str, Any]], float | None]:
        return lambda night: _json(night, "counts").get(name)

    tiles = [
        _tile(
            facts,
            "Error of the stars (RMSE)",
            of("rmse"),
            "{:.3f}",
            better=-1,
            beside=("rmse_bias_only", "biases alone"),
        ),
        _tile(
            facts,
            "Ranking (nDCG@10)",
            of("ndcg_at_10"),
            "{:.3f}",
            better=1,
            beside=("ndcg_at_10_popular", "popularity list"),
        ),
        _tile(
            facts,
            "Coverage of the movies",
            of("coverage"),
            "{:.1%}",
            better=1,
            beside=("coverage_popular", "popularity list"),
        ),
        _tile(facts, "Lists", counted("lists"), "{:,.0f}", better=0),
        _tile(facts, "Ratings kept", counted("kept"), "{:,.0f}", better=0),
    ]
    return f'<div class="tiles">{"".join(tiles)}</div>'


def _tile(
    facts: Facts,
    what: str,
    value_of: Callable[[dict[str, Any]], float | None],
    form: str,
    *,
    better: int,
    beside: tuple[str, str] | None = None,
) -> str:
    """One number with its baseline, its change since last night, and the last nights. better: +1 when more is better."""
    values = [value_of(night) for night in facts.nights]
    value = values[-1]
    lines = []
    if beside and (baseline := _json(facts.run, "metrics").get(beside[0])) is not None:
        lines.append(f"{beside[1]} {form.format(baseline)}")
    if value is not None and len(values) > 1 and values[-2] is not None:
        lines.append(_change(value - values[-2], form, better=better))
    shown = "none" if value is None else form.format(value)
    return (
        f'<div class="tile"><div class="what">{what}</div><div class="value">{shown}</div>'
        f'<div class="beside">{"<br>".join(lines) or "the first night"}</div>{charts.sparkline(values)}</div>'
    )


def _change(change: float, form: str, *, better: int) -> str:
    text = form.format(abs(change))
    if text == form.format(0):
        return "as last night"
    kind = "" if better == 0 else "better" if change * better > 0 else "worse"
    return f'<span class="{kind}">{"+" if change > 0 else "−"}{text}</span> since last night'


# Training and stars ----------------------------------------------------------------------------------


def _training(facts: Facts) -> str:
    losses: list[list[float | None]] = _json(facts.run, "losses")
    note = "Mean squared error per epoch. The best epoch on the holdout is kept."
    cards = [_card(_losses(losses), note), _metrics(facts.metrics)]
    about = (
        "The holdout: each user’s latest ratings, or random ones, kept from the training that is measured."
        if not facts.metrics.is_empty()
        else "No ratings were held out for this night, so there is nothing to measure."
    )
    return _section("Training", about, _grid(cards))


def _metrics(metrics: pl.DataFrame) -> str:
    if metrics.is_empty():
        return ""
    rows = []
    for row in metrics.filter(band="all").to_dicts():
        interval = "" if row["low"] is None else f"{row['low']:.3f} to {row['high']:.3f}"
        rows.append((row["metric"], f"{row['value']:.3f}", interval, f"{row['baseline']:.3f}"))
    header = (("metric", "text"), ("tonight", "number"), ("95 % interval", "number"), ("baseline", "number"))
    note = "Baselines: biases alone for rmse and mae, the popularity list for the others."
    return f"<h3>All metrics</h3>{_table(header, rows)}<p class='note' style='margin-top:8px'>{note}</p>"


def _served(facts: Facts) -> str:
    if facts.metrics.is_empty():
        return ""
    cards = [
        _card(_bands(facts.metrics, "rmse", "RMSE (stars)"), "Stars: lower is better."),
        _card(_bands(facts.metrics, "ndcg_at_10", "nDCG@10"), "Lists: higher is better."),
    ]
    return _section("Who is served how well", _BANDS_NOTE, _grid(cards))


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
    return _figure("Loss curves", chart, key=(("second", "training"), ("main", "holdout")))


def _errors(facts: Facts) -> str:
    if facts.by_rating.is_empty():
        return ""
    cards = [
        _card(
            _predicted(facts.by_rating),
            "For each rating given: the middle half of the predictions (bar), 10 to 90&nbsp;% (line), and their median.",
        ),
        _card(
            _calibration(facts.calibration),
            "Twenty equal parts of the predictions. On the dashed line, a prediction of 4 is followed by ratings of 4 on average.",
        ),
        _card(
            _error_by_rating(facts.by_rating),
            "RMSE of the predictions for each rating given, and how many ratings there are.",
        ),
    ]
    if not facts.by_decade.is_empty():
        cards.append(
            _card(
                _error_by_decade(facts.by_decade),
                "RMSE by the year in the movie’s title, for decades with at least 20 ratings.",
            )
        )
    return _section(
        "Predicted against true",
        "What the network, which had not seen them, predicted for the held-out ratings. <code>holdout_predictions</code> has every row.",
        _grid(cards),
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
    return _figure("Predicted against true ratings", chart)


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
    return _figure("Calibration", chart)


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
    return _figure("Error by rating", chart, key=(("main", "RMSE"), ("pale", f"ratings, tallest {most:,}")))


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
    return _figure(
        "Error by movie age", chart, key=(("main", "RMSE"), ("pale", f"ratings, tallest {most:,}"))
    )


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
    return _figure(
        f"{y_label.partition(' (')[0]} by activity", chart, key=(("main", "tonight"), ("second", name))
    )


def _spacing(places: Sequence[float]) -> float:
    gaps = [b - a for a, b in itertools.pairwise(places)]
    return min(gaps, default=1.0)


# Movies ----------------------------------------------------------------------------------------------


def _map(facts: Facts) -> str:
    options = "".join(
        f'<option value="{_text(label)}">{_text(label)} ({len(places):,})</option>'
        for label, places in facts.labels.items()
    )
    pick = (
        f'<select id="map-label" aria-label="Highlight a kind"><option value="">every kind</option>{options}</select>'
        if options
        else ""
    )
    return _section(
        "Map of the movies",
        "First two principal components of the embeddings: movies near each other please the same people. Larger is more rated; "
        "blue is better loved than its audience explains, orange worse. Drag to move, wheel or pinch to zoom, point for a title.",
        f"""<div class="card" id="map-card">
<div class="map-tools"><input id="map-search" type="search" placeholder="Highlight titles with …" aria-label="Highlight titles">{pick}<button id="map-whole" type="button">Whole map</button></div>
<div class="map-frame"><canvas id="map" tabindex="0" aria-label="Map of {facts.movies.height:,} movies"></canvas><div id="tip"></div></div>
<noscript><p class="note">The map needs JavaScript; movie_embeddings has its points.</p></noscript>
</div>""",
    )


def _map_data(facts: Facts) -> str:
    movies = facts.movies
    found = {
        "title": [_title(row) for row in movies.select("movie_id", "title").to_dicts()],
        "n": movies["n_ratings"].to_list(),
        "x": [round(value, 3) for value in movies["pc1"].to_list()],
        "y": [round(value, 3) for value in movies["pc2"].to_list()],
        "bias": [round(value, 2) for value in movies["bias"].to_list()],
        "labels": facts.labels,
    }
    text = json.dumps(found, ensure_ascii=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _loved(facts: Facts) -> str:
    def rows(movies: pl.DataFrame) -> str:
        return _table(
            (("movie", "text"), ("bias", "number"), ("ratings", "number")),
            [(_title(row), f"{row['bias']:+.2f}", f"{row['n_ratings']:,}") for row in movies.to_dicts()],
        )

    return _section(
        "Most and least loved",
        "By the movie’s bias: what is left of its ratings when the taste of those who rated it is taken off. Among the tenth of the movies with most ratings.",
        _grid([f"<h3>Most loved</h3>{rows(facts.loved)}", f"<h3>Least loved</h3>{rows(facts.unloved)}"]),
    )


# Lists -----------------------------------------------------------------------------------------------


def _lists(facts: Facts) -> str:
    v = facts.variety
    users = max(v["lists"], 1)
    said = [
        ("movies in somebody’s first ten", f"{v['listed_movies']:,.0f} of {v['movies']:,.0f}", ""),
        ("users", f"{v['lists']:,.0f}", ""),
        ("different lists", f"{v['distinct']:,.0f}", ""),
        ("users whose list somebody else has too", f"{v['repeated_share']:.1%}", ""),
        ("users with the most repeated list", f"{v['most_copies']:,.0f}", ""),
        ("users who get the popularity list", f"{v['popular_share']:.1%}", ""),
    ]
    for name, what in (
        ("novelty_at_10", "novelty of a listed movie, bits"),
        ("popular_share_at_10", "places for popular movies"),
    ):
        for row in facts.metrics.filter(metric=name, band="all").to_dicts():
            form = "{:.1f}" if name.startswith("novelty") else "{:.1%}"
            said.append((what, form.format(row["value"]), form.format(row["baseline"])))
    most = _table(
        (("movie", "text"), ("lists", "number"), ("of users", "number")),
        [
            (_title(row), f"{row['lists']:,}", f"{row['lists'] / users:.1%}")
            for row in facts.most_listed.to_dicts()
        ],
    )
    cards = [
        _card(
            _popularity_curve(facts),
            "Movies sorted by how often they are listed (or rated): what share of the places the first of them take.",
        ),
        _changed(facts),
        f"<h3>Recommended most</h3>{most}",
        f"<h3>Variety</h3>{_table((('what', 'text'), ('tonight', 'number'), ('popularity list', 'number')), said)}",
    ]
    return _section("Who gets what", "Over the first ten places of every list.", _grid(cards))


def _popularity_curve(facts: Facts) -> str:
    chart = Chart(
        "Popularity curve",
        "share of the movies, most listed first",
        "share of the places",
        (0, 1),
        (0, 1),
        x_ticks=_percents(),
        y_ticks=_percents(),
    )
    chart.line([(0, 0), (1, 1)], kind="ideal")
    for values, kind in ((facts.ratings_of_movies, "second"), (facts.places, "main")):
        chart.line(_cumulative(values), kind=kind)
    return _figure("Popularity curve", chart, key=(("main", "places in lists"), ("second", "ratings")))


def _cumulative(values: Sequence[int], *, points: int = 200) -> list[tuple[float, float]]:
    total = sum(values) or 1
    running, found, every = 0, [(0.0, 0.0)], max(1, len(values) // points)
    for number, value in enumerate(values, 1):
        running += value
        if number % every == 0 or number == len(values) or number <= 50:
            found.append((number / len(values), running / total))
    return found


def _percents() -> list[tuple[float, str]]:
    return [(part / 5, f"{part * 20}%") for part in range(6)]


def _changed(facts: Facts) -> str:
    if facts.changed is None:
        return "<h3>Changes since last night</h3><p>This is the first night.</p>"
    found = facts.changed
    users = max(found["users"], 1)
    shares = [number / users for number in found["histogram"]]
    chart = Chart(
        "New movies in the first ten",
        "new movies among the first ten",
        "share of the users",
        (-0.7, FIRST + 0.7),
        charts.room(shares, foot=0),
        x_ticks=[(n, str(n)) for n in range(FIRST + 1)],
        y_ticks=[(at, f"{at:.0%}") for at, _ in charts.ticks(*charts.room(shares, foot=0))],
    )
    for number, share in enumerate(shares):
        chart.bar(
            number,
            share,
            width=0.8,
            kind="main",
            tip=f"{number} new: {found['histogram'][number]:,} users, {share:.1%}",
        )
    note = f"{found['changed']:,} of {found['users']:,} lists ({found['changed'] / users:.1%}) have a new movie among their first ten since {found['since']}, {found['mean_new']:.1f} on average."
    return _card(_figure("Changes since last night", chart), note)


def _readers(readers: Sequence[Reader]) -> str:
    if not readers:
        return ""
    return _section(
        "A few users",
        "One from the middle of each band of activity: what they rated last, and what they are shown.",
        "".join(_reader(reader) for reader in readers),
    )


def _reader(reader: Reader) -> str:
    rated = _table(
        (("rated last", "text"), ("rating", "number"), ("when", "number")),
        [(_title(row), f"{row['rating']:g}", f"{row['timestamp']:%Y-%m-%d}") for row in reader.history],
    )
    shown = _table(
        (("shown", "text"), ("predicted", "number")),
        [(f"{row['rank']}. {_title(row)}", f"{row['predicted_rating']:.1f}") for row in reader.list],
    )
    about = f"{reader.band}, {reader.n_ratings:,} ratings"
    empty = "<p class='note'>Nothing to show.</p>"
    return (
        f'<div class="card reader"><h3>User {_text(reader.user_id)} <span>· {_text(about)}</span></h3>'
        f'<div class="grid"><div>{rated if reader.history else empty}</div><div>{shown if reader.list else empty}</div></div></div>'
    )


# What was rejected, and the record -------------------------------------------------------------------


def _rejected(facts: Facts) -> str:
    counts = _json(facts.run, "counts")
    parts = [counts.get(name, 0) for name in ("read", "kept", "superseded", "rejected")]
    total = "{:,} read = {:,} kept + {:,} superseded + {:,} rejected".format(*parts)
    if counts.get("later"):
        total += f"; {counts['later']:,} more belong to later nights"
    if facts.rejected.is_empty():
        return _section("Set aside", total + ".", '<div class="card"><p>Nothing was rejected.</p></div>')
    reasons = _table(
        (("reason", "text"), ("rows", "number")),
        [(row["reason"], f"{row['rows']:,}") for row in facts.rejected.to_dicts()],
    )
    some = _table(
        (
            ("file", "text"),
            ("row", "number"),
            ("reason", "text"),
            ("user", "text"),
            ("movie", "text"),
            ("rating", "text"),
        ),
        [
            tuple("" if value is None else str(value) for value in row)
            for row in facts.rejected_rows.select(
                "file", "row", "reason", "user_id", "movie_id", "rating"
            ).iter_rows()
        ],
    )
    return _section(
        "Set aside",
        total + ". <code>rejected_ratings</code> has every row.",
        _grid([f"<h3>Reasons</h3>{reasons}"])
        + f'<div class="card" style="margin-top:16px"><h3>The first of them</h3><div class="wide">{some}</div></div>',
    )


def _run(facts: Facts) -> str:
    run = facts.run
    seconds = ", ".join(f"{_text(name)} {value:,.1f} s" for name, value in _json(run, "seconds").items())
    versions = ", ".join(f"{_text(name)} {_text(value)}" for name, value in _json(run, "versions").items())
    table_versions = ", ".join(
        f"{_text(name)} {value}" for name, value in _json(run, "table_versions").items()
    )
    inputs = [file for file in _json(run, "inputs") if file["what"] == "ratings"]
    read = f"{len(inputs):,} files, {sum(file['size'] for file in inputs):,} bytes"
    rows = [
        ("model", f"<code>{_text(run['model_uri'])}</code>"),
        ("ratings", read),
        ("code", f"<code>{_text(run['git_commit'] or 'no commit known')}</code>"),
        ("packages", versions),
        ("tables, by Delta version", table_versions),
        ("time", seconds),
    ]
    body = "".join(f'<tr><th>{name}</th><td class="text">{value}</td></tr>' for name, value in rows)
    config = "\n".join(
        f"{name} = {json.dumps(value, ensure_ascii=False)}" for name, value in _json(run, "config").items()
    )
    return _section(
        "How it was made",
        "Everything needed to make these lists again; <code>runs</code> has it in full.",
        f'<div class="card"><table>{body}</table><details><summary>Configuration</summary><pre>{_text(config)}</pre></details></div>',
    )


# Parts -----------------------------------------------------------------------------------------------


def _section(title: str, note: str, body: str) -> str:
    return f'<section><h2>{title}</h2><p class="note">{note}</p>{body}</section>\n'


def _grid(cards: Iterable[str]) -> str:
    found = [
        card if card.startswith('<div class="card"') else f'<div class="card">{card}</div>'
        for card in cards
        if card
    ]
    return f'<div class="grid">{"".join(found)}</div>'


def _card(figure: str, note: str) -> str:
    return (
        f'<div class="card">{figure.replace("</figure>", f"<figcaption>{note}</figcaption></figure>")}</div>'
        if figure
        else ""
    )


def _figure(title: str, chart: Chart, *, key: Sequence[tuple[str, str]] = ()) -> str:
    items = "".join(f'<li class="{kind}">{_text(name)}</li>' for kind, name in key)
    legend = f'<ul class="key">{items}</ul>' if items else ""
    return f"<figure><h3>{_text(title)}</h3>{legend}{chart.svg()}</figure>"


def _table(header: Sequence[tuple[str, str]], rows: Iterable[Sequence[str]]) -> str:
    """Rows of plain text; each column is `text` or `number`."""
    top = "".join(f'<th class="{kind}">{_text(name)}</th>' for name, kind in header)
    body = "".join(
        "<tr>"
        + "".join(
            f'<td class="{kind}">{_text(value)}</td>' for (_, kind), value in zip(header, row, strict=True)
        )
        + "</tr>"
        for row in rows
    )
    return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"


def _title(row: dict[str, Any]) -> str:
    title = row.get("title")
    return str(title)[:_LONGEST_TITLE] if title is not None else f"movie {row['movie_id']}"


def _text(value: object) -> str:
    return escape(str(value), quote=True)


def _day(day: date) -> str:
    return f"{day.day} {day:%B %Y}"


def _json(run: dict[str, Any], name: str) -> Any:
    return json.loads(run[name])


def _resource(name: str) -> str:
    return (files("cfjobs.page") / name).read_text(encoding="utf-8")
