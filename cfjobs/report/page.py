"""The page itself: its sections, one after the other, and its head: the night in five numbers."""

from collections.abc import Callable
from typing import Any

from cfjobs.report import charts, lists, movies, rating_errors, run
from cfjobs.report.facts import Facts
from cfjobs.report.html import day, from_json, resource, text

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"


def document(facts: Facts) -> str:
    """The whole page, self-contained: no style, script, font or picture comes from anywhere else."""
    night = facts.run["run_date"]
    sections = [
        _header(facts),
        _tiles(facts),
        rating_errors.training(facts),
        rating_errors.served(facts),
        rating_errors.errors(facts),
        movies.movie_map(facts),
        movies.loved(facts),
        lists.lists(facts),
        lists.readers(facts.readers),
        run.rejected(facts),
        run.run(facts),
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
{resource("page.css")}</style>
</head>
<body>
<main>
{"".join(sections)}
</main>
<script id="map-data" type="application/json">{movies.map_data(facts)}</script>
<script>
{resource("page.js")}</script>
</body>
</html>
"""


def _header(facts: Facts) -> str:
    run, counts = facts.run, from_json(facts.run, "counts")
    return (
        f"<header><h1>Recommendations of {day(run['run_date'])}</h1>"
        f"<p>{counts.get('lists', 0):,} lists over {counts.get('movies', 0):,} movies, published "
        f"{run['finished_at']:%Y-%m-%d %H:%M} UTC. Gate: {text(run['gate'])}. Run <code>{text(run['run_id'])}</code>.</p></header>"
    )


def _tiles(facts: Facts) -> str:
    def of(name: str) -> Callable[[dict[str, Any]], float | None]:
        return lambda night: from_json(night, "metrics").get(name)

    def counted(name: str) -> Callable[[dict[str, Any]], float | None]:
        return lambda night: from_json(night, "counts").get(name)

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
    if beside and (baseline := from_json(facts.run, "metrics").get(beside[0])) is not None:
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
