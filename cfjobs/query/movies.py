"""A look around the published movies: search by title, and what is like what.
Reads the published tables only."""

import re
from dataclasses import dataclass
from datetime import date
from typing import Any

import polars as pl

from cfjobs import storage, tables
from cfjobs.errors import InputError
from cfjobs.tables.runs import Source, chosen_night, published_nights

_SHOWN = ("movie_id", "title", "n_ratings", "bias")


@dataclass(frozen=True)
class Similar:
    """A movie and those like it. frame: rank, movie_id, title, n_ratings, cosine."""

    movie_id: str | int
    title: str | None
    run_date: date
    frame: pl.DataFrame


def night_of(output: str, run_date: date | None = None) -> Source:
    """The tables of a published night, the latest by default."""
    output = storage.normal(output)
    return Source(output, chosen_night(published_nights(output), output, run_date))


def search(output: str, text: str, *, run_date: date | None = None, n: int = 20) -> pl.DataFrame:
    """Movies whose title has every word of the text, or whose id it is; most rated first.

    movie_id, title, n_ratings, bias. InputError when there is none.
    """
    movies = _movies(night_of(output, run_date))
    found = _matching(movies, text)
    if found.is_empty():
        raise InputError(f"movies: no title has {text!r} in it; try fewer letters, or the movie's id")
    return found.head(n)


def similar(output: str, movie: str, *, run_date: date | None = None, n: int = 10) -> Similar:
    """The movies most like one, which is named by its id, its title, or words that only its title has."""
    night = night_of(output, run_date)
    movies = _movies(night)
    chosen = one_movie(movies, movie)
    frame = (
        night.scan(tables.SIMILAR_MOVIES)
        .filter(pl.col("movie_id") == chosen["movie_id"], pl.col("rank") <= n)
        .select("rank", pl.col("similar_movie_id").alias("movie_id"), "cosine")
        .collect()
        .join(movies.select("movie_id", "title", "n_ratings"), on="movie_id", how="left")
        .sort("rank")
        .select("rank", "movie_id", "title", "n_ratings", "cosine")
    )
    return Similar(chosen["movie_id"], chosen["title"], night.run["run_date"], frame)


def one_movie(movies: pl.DataFrame, text: str) -> dict[str, Any]:
    """The row of the movie that the text names: by id, by title, or by words.
    InputError when it is none or several."""
    title = pl.col("title").str.to_lowercase()
    wanted = text.strip().lower()
    bare = title.str.replace(r"\s*\(\d{4}\)\s*$", "")
    short = bare.str.replace(r",\s+(the|a|an)$", "")  # "Matrix, The"
    by_id = pl.col("movie_id").cast(pl.String) == text.strip()
    for same in (by_id, title == wanted, bare == wanted, short == re.sub(r"^(the|a|an)\s+", "", wanted)):
        if (found := movies.filter(same)).height == 1:
            return found.row(0, named=True)
    found = _matching(movies, text)
    if found.height == 1:
        return found.row(0, named=True)
    if found.is_empty():
        raise InputError(f"movie {text!r}: no id and no title is like it; `cfjobs movies` searches titles")
    some = "; ".join(f"{row['movie_id']} {row['title']}" for row in found.head(5).to_dicts())
    raise InputError(f"movie {text!r}: fits {found.height} movies ({some}); name one by its id")


def _movies(night: Source) -> pl.DataFrame:
    found = night.scan(tables.MOVIE_EMBEDDINGS).select(_SHOWN).collect()
    return found.sort("n_ratings", "movie_id", descending=[True, False])


def _matching(movies: pl.DataFrame, text: str) -> pl.DataFrame:
    by_id = pl.col("movie_id").cast(pl.String) == text.strip()
    title = pl.col("title").fill_null("").str.to_lowercase()
    words = text.lower().split()
    by_title = pl.all_horizontal(title.str.contains(word, literal=True) for word in words) if words else False
    return movies.filter(by_id | by_title)
