"""Sections of the page: the map of the movies, and the best loved ones."""

from typing import Any

import polars as pl

from cfjobs.report.facts import Facts
from cfjobs.report.html import NUMBER, TEXT, Table, title

_ENDS = 5


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
