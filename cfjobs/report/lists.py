"""Sections of the page: the lists, what changed in them, and some users with theirs."""

from collections.abc import Sequence
from typing import Any

import polars as pl

from cfjobs.report import charts, metric_names
from cfjobs.report.charts import Chart
from cfjobs.report.facts import Facts, UserExample
from cfjobs.report.html import NUMBER, TEXT, Cell, Figure, Table, from_json, title
from cfjobs.tables import rule_words
from cfjobs.tables.runs import FIRST
from cfjobs.tables.schema import OF_PUBLISHED

COVERAGE = "coverage" + OF_PUBLISHED

_OF_LISTS = (
    "coverage",
    "novelty_at_10",
    "popular_share_at_10",
    "gini",
    "diversity_at_10",
    "genre_distance_at_10",
    "stars_at_10",
)
_CURVE_POINTS = 200
_NEW_MOVIES = 12


def lists(facts: Facts) -> dict[str, Any]:
    """What the lists are like: how alike, how popular, how different from the last night."""
    users = max(facts.variety["lists"], 1)
    return {
        "order": _order(facts),
        "rules": _rules(facts),
        "popularity": popularity_curve(facts.places, facts.ratings_of_movies),
        "changed": facts.changed,
        "changes": None if facts.changed is None else changes(facts.changed["histogram"]),
        "genres": None if facts.genres.is_empty() else genres(facts.genres),
        "most": _movies("Recommended most", facts.most_listed, users=users),
        "n_new": facts.newly_listed.height,
        "new": _movies("New in lists tonight", facts.newly_listed.head(_NEW_MOVIES), users=users),
        "variety": _variety(facts),
    }


def _order(facts: Facts) -> str:
    """What the night's lists answer, what orders them, and what the ratings do not have."""
    config = from_json(facts.run, "config")
    asked = {
        "next": "what the user chooses next",
        "any": "what else belongs in the user’s profile, whatever the order of their ratings",
    }.get(config.get("question"), "what the user chooses")
    if config.get("rank_by") == "rating":
        return "Ordered by predicted stars."
    weight = from_json(facts.run, "metrics").get("stars_weight")
    stars = f", and {weight:g} × predicted stars: what they would like" if weight else ""
    words = [f"Ordered by affinity: {asked}{stars}."]
    if facts.is_implicit:
        words.append("The ratings are implicit feedback: nobody gave a value, so no stars are predicted.")
    if not facts.is_timed:
        words.append("They have no times.")
    return " ".join(words)


def _rules(facts: Facts) -> str | None:
    """The rules of the shop that the lists went by, with the places that each decided; None without any."""
    counts, config = from_json(facts.run, "counts"), from_json(facts.run, "config")
    found = rule_words.in_force(counts, config)
    if not found:
        return None
    places = [
        f"{facts.places_by_rule[rule]:,} {words}"
        for rule, words in rule_words.OF_PLACE.items()
        if rule in facts.places_by_rule
    ]
    decided = f" Places in all lists: {', '.join(places)}." if places else ""
    return f"Rules of the shop: {'; '.join(found)}.{decided}"


def _movies(caption: str, movies: pl.DataFrame, *, users: float) -> Table:
    return Table(
        caption,
        (("movie", TEXT), ("lists", NUMBER), ("of users", NUMBER)),
        [(title(row), f"{row['lists']:,}", f"{row['lists'] / users:.1%}") for row in movies.to_dicts()],
    )


def _variety(facts: Facts) -> Table:
    v = facts.variety
    counted = [
        ("Lists", f"{v['lists']:,.0f}"),
        ("Different lists", f"{v['distinct']:,.0f}"),
        ("Users whose list somebody else has too", f"{v['repeated_fraction']:.1%}"),
        ("Users with the most repeated list", f"{v['most_copies']:,.0f}"),
        ("Users who get the popularity list", f"{v['popular_fraction']:.1%}"),
        ("Movies in some first ten", f"{v['listed_movies']:,.0f}"),
    ]
    published = from_json(facts.run, "metrics") | {COVERAGE: coverage(facts)}
    measured = {row["metric"]: row for row in facts.metrics.filter(band="all").to_dicts()}
    compared = []
    for metric in _OF_LISTS:
        about, row = metric_names.of(metric), measured.get(metric, {})
        values = (published.get(metric + OF_PUBLISHED), row.get("value"), row.get("baseline"))
        if any(value is not None for value in values):
            compared.append((about.name, *(about.written(value) for value in values)))
    return Table(
        "Variety",
        (
            ("over the first ten places", TEXT),
            ("tonight", NUMBER),
            ("on the holdout", NUMBER),
            ("popularity list", NUMBER),
        ),
        [*((name, value, "", "") for name, value in counted), *compared],
    )


def coverage(facts: Facts) -> float:
    """The fraction of the movies that could be listed and are in some published first ten:
    one number for the page."""
    known: float | None = from_json(facts.run, "metrics").get(COVERAGE)
    return facts.variety["listed_movies"] / max(facts.variety["movies"], 1) if known is None else known


def popularity_curve(places: Sequence[int], ratings: Sequence[int], *, width: int = charts.WIDTH) -> Figure:
    """Cumulative fraction of the places in lists, and of the ratings, over the number of movies, which is
    logarithmic: few movies take many. places, ratings: of each movie, most first."""
    n_movies = max(len(places), 2)
    curves = {"main": _cumulative(places), "second": _cumulative(ratings)}
    chart = Chart(
        "Popularity curve",
        "number of movies, most listed first",
        "of all places",
        (1, n_movies),
        (0, 1),
        y_ticks=[(part / 4, f"{part * 25}%") for part in range(5)],
        key=(("main", "places in lists"), ("second", "ratings")),
        log_x=True,
        width=width,
    )
    keep = sorted({round(n_movies ** (place / _CURVE_POINTS)) for place in range(_CURVE_POINTS + 1)})
    for kind, curve in curves.items():
        chart.line([(number, curve[number - 1]) for number in keep if number <= len(curve)], kind=kind)
    rows = [
        (f"{number:,}", *(f"{curve[number - 1]:.1%}" for curve in curves.values()))
        for number in (1, 10, 100, 1_000, 10_000, 100_000)
        if number <= len(places)
    ]
    columns = (("first movies", NUMBER), ("of places in lists", NUMBER), ("of ratings", NUMBER))
    return Figure(chart, Table(chart.title, columns, rows))


def _cumulative(values: Sequence[int]) -> list[float]:
    total, running, found = sum(values) or 1, 0, []
    for value in values:
        running += value
        found.append(running / total)
    return found


def changes(histogram: Sequence[int], *, width: int = charts.WIDTH) -> Figure:
    """How many users have 0, 1, ... 10 new movies among their first ten, as the histogram counts them."""
    users = max(sum(histogram), 1)
    fractions = [number / users for number in histogram]
    ends = charts.limits(fractions, base=0)
    chart = Chart(
        "Changes since last night",
        "new movies in a list’s first ten",
        "of users",
        (-0.7, FIRST + 0.7),
        ends,
        x_ticks=[(number, str(number)) for number in range(FIRST + 1)],
        y_ticks=[(at, f"{at:.0%}") for at, _ in charts.ticks(*ends)],
        width=width,
    )
    rows = []
    for number, (count, fraction) in enumerate(zip(histogram, fractions, strict=True)):
        tip = f"{number} new: {count:,} users, {fraction:.1%}"
        chart.bar(number, fraction, width=0.8, kind="main", tip=tip)
        rows.append((str(number), f"{count:,}", f"{fraction:.1%}"))
    columns = (("new movies", NUMBER), ("users", NUMBER), ("of users", NUMBER))
    return Figure(chart, Table(chart.title, columns, rows))


def genres(fractions: pl.DataFrame, *, width: int = charts.WIDTH) -> Figure:
    """Each genre's fraction of the places and of the ratings: genre, of_places, of_ratings, most rated
    first."""
    rows = fractions.reverse().to_dicts()
    chart = Chart(
        "Genres in lists and in ratings",
        "of places, of ratings",
        "",
        charts.limits([row[name] for row in rows for name in ("of_places", "of_ratings")], base=0),
        (-0.7, len(rows) - 0.3),
        y_ticks=[(place, row["genre"][:18]) for place, row in enumerate(rows)],
        key=(("main", "places in lists"), ("second", "ratings")),
        height=70 + 19 * len(rows),
        width=width,
    )
    chart.x_ticks = [(at, f"{at:.0%}") for at, _ in charts.ticks(*chart.x, at_most=4)]
    for place, row in enumerate(rows):
        low, high = sorted((row["of_places"], row["of_ratings"]))
        chart.across(place, low, high, kind="muted")
        for kind, name in (("second", "of_ratings"), ("main", "of_places")):
            tip = f"{row['genre']}: {row['of_places']:.1%} of places, {row['of_ratings']:.1%} of ratings"
            chart.dot(row[name], place, kind=kind, tip=tip, radius=4.5)
    columns = (("genre", TEXT), ("of places", NUMBER), ("of ratings", NUMBER))
    numbers = [
        (row["genre"], f"{row['of_places']:.1%}", f"{row['of_ratings']:.1%}") for row in reversed(rows)
    ]
    return Figure(chart, Table(chart.title, columns, numbers))


# Users ----------------------------------------------------------------------------------------------


def users(facts: Facts) -> dict[str, Any] | None:
    """Some users: what they liked, and their first recommendations."""
    if not facts.users:
        return None
    shown = [(user, _rated(user), _shown(user)) for user in facts.users]
    return {"users": shown, "timed": facts.is_timed, "stars": not facts.is_implicit}


def _rated(user: UserExample) -> Table:
    valued, timed = (any(row[name] is not None for row in user.history) for name in ("rating", "timestamp"))
    columns = [("movie", TEXT), *[("rating", NUMBER)] * valued, *[("when", NUMBER)] * timed]
    rows = []
    for row in user.history:
        rating = [f"{row['rating']:g}"] if valued else []
        when = [f"{row['timestamp']:%Y-%m-%d}"] if timed else []
        rows.append((title(row), *rating, *when))
    return Table(("Rated" if valued else "Chosen") + (" last" if timed else ""), columns, rows)


def _shown(user: UserExample) -> Table:
    columns = [("rank", NUMBER), ("movie", TEXT)]
    predicted = any(row["predicted_rating"] is not None for row in user.list)
    ruled = any(row.get("rule") is not None for row in user.list)
    rows: list[tuple[str | Cell, ...]] = []
    for row in user.list:
        cells: list[str | Cell] = [str(row["rank"]), title(row)]
        if predicted:
            stars = f"{row['predicted_rating']:.1f}"
            below = user.mean is not None and row["predicted_rating"] < user.mean
            cells.append(Cell(f"{stars} ↓", "muted") if below else stars)
        if ruled:
            cells.append(Cell(rule_words.OF_PLACE.get(row["rule"], ""), "muted"))
        rows.append(tuple(cells))
    columns += [("predicted", NUMBER)] * predicted + [("rule", TEXT)] * ruled
    return Table("Recommended", columns, rows)
