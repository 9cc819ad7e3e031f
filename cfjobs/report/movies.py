"""Sections of the page: the map of the movies, and the best loved ones."""

from typing import Any

import polars as pl

from cfjobs.report import charts
from cfjobs.report.charts import Chart
from cfjobs.report.facts import Facts
from cfjobs.report.html import NUMBER, TEXT, Figure, Table, title

_ENDS = 5
_FEWEST_OF_GENRE = 8
_LABELS = 40
_LABEL = 40


def movie_map(facts: Facts) -> dict[str, Any]:
    """A map of the movies by taste, which the script fills, and the movies at the ends of its axes."""
    rows = []
    for axis, name in (("pc1", "first component"), ("pc2", "second component")):
        ordered = facts.weighty.sort(axis, "movie_id")
        for side, found in (("low", ordered.head(_ENDS)), ("high", ordered.tail(_ENDS).reverse())):
            rows += [
                (
                    f"{name}, {side} end",
                    title(row),
                    f"{row[axis]:.2f}".replace("-", "−"),
                    f"{row['n_ratings']:,}",
                )
                for row in found.to_dicts()
            ]
    columns = (("where", TEXT), ("movie", TEXT), ("value", NUMBER), ("ratings", NUMBER))
    return {
        "labels": {label: len(places) for label, places in facts.labels.items()},
        "n_movies": facts.movies.height,
        "by_bias": not facts.is_implicit,
        "ends": Table("Movies at the ends of the axes", columns, rows),
    }


def drawn_map(movies: pl.DataFrame, genres: pl.DataFrame, *, width: int = charts.WIDTH) -> Figure:
    """The map as a chart that stands still: dots of a size by ratings, titles of the most rated movies as
    far as there is room, and in colour the two genres that lie farthest apart. movies: movie_id, title,
    n_ratings, pc1, pc2. genres: movie_id, genre; may be empty."""
    movies = movies.sort("n_ratings", "movie_id", descending=[True, False])
    apart = _farthest_apart(movies, genres)
    of = {genre: set(genres.filter(genre=genre)["movie_id"]) for genre in apart}
    chart = Chart(
        "Map of the movies",
        "first principal component",
        "second principal component",
        charts.limits(movies["pc1"], margin=0.06),
        charts.limits(movies["pc2"], margin=0.06),
        key=tuple(zip(("main", "second"), apart, strict=False)),
        width=width,
        height=round(width * 0.8),
    )
    most = max(movies["n_ratings"].to_list(), default=0) or 1
    dots = [
        (row["pc1"], row["pc2"], 1.5 + 6 * (row["n_ratings"] / most) ** 0.5, row) for row in movies.to_dicts()
    ]
    for x, y, radius, row in reversed(dots):
        mine = [kind for kind, genre in chart.key if row["movie_id"] in of[genre]]
        kind = mine[0] if len(mine) == 1 else "pale"
        chart.dot(x, y, kind=kind, radius=radius, tip=f"{title(row)}: {row['n_ratings']:,} ratings")
    chart.labels([(x, y, radius, _short(title(row))) for x, y, radius, row in dots], at_most=_LABELS)
    columns = (("movie", TEXT), ("first", NUMBER), ("second", NUMBER), ("ratings", NUMBER))
    rows = [
        (title(row), *(f"{value:.2f}".replace("-", "−") for value in (x, y)), f"{row['n_ratings']:,}")
        for x, y, _, row in dots[:_LABELS]
    ]
    return Figure(chart, Table(chart.title, columns, rows))


def _farthest_apart(movies: pl.DataFrame, genres: pl.DataFrame) -> list[str]:
    """The two genres whose movies lie farthest apart on average; fewer where there are no two."""
    centres = (
        movies.join(genres, on="movie_id")
        .group_by("genre")
        .agg(pl.len(), pl.col("pc1", "pc2").mean())
        .filter(pl.col("len") >= _FEWEST_OF_GENRE)
        .select("genre", "pc1", "pc2")
    )
    distance = (pl.col("pc1") - pl.col("pc1_other")) ** 2 + (pl.col("pc2") - pl.col("pc2_other")) ** 2
    pairs = centres.join(centres, how="cross", suffix="_other").filter(
        pl.col("genre") < pl.col("genre_other")
    )
    found = pairs.sort(distance, "genre", "genre_other", descending=[True, False, False]).head(1)
    return list(found.select("genre", "genre_other").row(0)) if found.height else []


def _short(text: str) -> str:
    return text if len(text) <= _LABEL else text[: _LABEL - 1].rstrip() + "…"


def map_data(facts: Facts) -> dict[str, Any]:
    """The points of the map, for the script. ends: the titles at the low and the high end of each axis."""
    movies = facts.movies
    ends = {
        axis: [title(facts.weighty.sort(axis, "movie_id").row(place, named=True)) for place in (0, -1)]
        for axis in ("pc1", "pc2")
        if facts.weighty.height
    }
    return {
        "title": [title(row) for row in movies.select("movie_id", "title").to_dicts()],
        "n": movies["n_ratings"].to_list(),
        "x": [round(value, 3) for value in movies["pc1"].to_list()],
        "y": [round(value, 3) for value in movies["pc2"].to_list()],
        "bias": [round(value, 2) for value in movies["bias"].fill_null(0).to_list()],
        "by_bias": not facts.is_implicit,
        "labels": facts.labels,
        "ends": ends,
    }


def loved(facts: Facts) -> dict[str, Any] | None:
    """The movies with the highest and the lowest biases; of implicit feedback none is known."""
    if facts.loved.is_empty():
        return None
    return {"tables": [_by_bias("Most loved", facts.loved), _by_bias("Least loved", facts.unloved)]}


def _by_bias(caption: str, movies: pl.DataFrame) -> Table:
    return Table(
        caption,
        (("movie", TEXT), ("bias", NUMBER), ("ratings", NUMBER)),
        [
            (title(row), f"{row['bias']:+.2f}".replace("-", "−"), f"{row['n_ratings']:,}")
            for row in movies.to_dicts()
        ],
    )
