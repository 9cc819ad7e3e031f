"""A user's list, from the published tables."""

import io
from dataclasses import dataclass
from datetime import date
from typing import Any

import polars as pl

from cfjobs import storage, tables
from cfjobs.errors import InputError
from cfjobs.tables.runs import chosen_night, published_nights


@dataclass(frozen=True)
class UserList:
    """One user's list. frame: rank, movie_id, score, predicted_rating and, where known, title.

    user_id: None for a user who came without one. unknown_movies: rated ones that the model does not have.
    """

    user_id: str | int | None
    run_date: date
    source: str
    frame: pl.DataFrame
    unknown_movies: tuple[str, ...] = ()


def user_list(output: str, user: str, *, run_date: date | None = None) -> UserList:
    """A user's list of the latest published night, or of one date,
    with titles where the movies table had them."""
    output = storage.normal(output)
    night = published_night(output, run_date)
    uri = storage.join(output, tables.TOP_N.name)
    with storage.explained(uri):
        scan = pl.scan_delta(uri, storage_options=storage.options(uri))
        user_type = scan.collect_schema()["user_id"]
        wanted = pl.Series([user]).cast(user_type, strict=False)[0]
        frame = (
            scan.filter((pl.col(tables.RUN_DATE) == night["run_date"]) & (pl.col("user_id") == wanted))
            .sort("rank")
            .collect()
        )
    if frame.is_empty():
        raise InputError(
            f"user {user}: has no list of {night['run_date']} in {uri}; lists are made for the users of the ratings and users tables"
        )
    titles_uri = storage.join(night["model_uri"], "movies.parquet")
    movies = pl.read_parquet(io.BytesIO(storage.read_bytes(titles_uri)))
    return UserList(wanted, night["run_date"], frame["source"][0], with_titles(frame, movies))


def with_titles(frame: pl.DataFrame, movies: pl.DataFrame) -> pl.DataFrame:
    """A list's columns for people, with titles where the movies table had them."""
    if "title" in movies.columns:
        frame = frame.join(
            movies.select("movie_id", "title"), on="movie_id", how="left", maintain_order="left"
        )
    columns = ("rank", "movie_id", "title", "score", "predicted_rating")
    return frame.select(name for name in columns if name in frame.columns)


def published_night(output: str, run_date: date | None) -> dict[str, Any]:
    """The row of `runs` of a date, the latest by default."""
    return chosen_night(published_nights(output), output, run_date)
