"""Netflix Prize: a line `movie:`, then its ratings as user,rating,date; combined_data_*.txt or thousands of
mv_*.txt.

movie_titles has id,year,title without quotes, so that a title may hold commas.
"""

from collections.abc import Iterator, Sequence

import polars as pl

from cfjobs.datasets.archive import Member
from cfjobs.datasets.family import WHOLE, Family, Found, Table, has_lines
from cfjobs.datasets.text import FAULT, delimited, divided, lines

_IS_MOVIE = pl.col("user_id").str.contains(r"^\d+:$") & pl.col("rating").is_null()


def _find(members: Sequence[Member]) -> Found | None:
    ratings = [m for m in members if m.lines and _begins(m.lines)]
    if not ratings:
        return None
    movies = next((m for m in members if has_lines(m, r"\d+,(\d{4}|NULL),.+")), None)
    return Found(
        "Netflix Prize",
        Table(tuple(ratings), lambda: _ratings(ratings), WHOLE),
        Table((movies,), lambda: _movies(movies), {"movie_id": pl.Int64()}, ("year",)) if movies else None,
    )


def _begins(first: Sequence[str]) -> bool:
    """A movie, then a rating; the sets without ratings, probe and qualifying, have fewer fields."""
    ratings = pl.Series(first[1:], dtype=pl.String).str.contains(r"^\d+,\d+,\d{4}-\d\d-\d\d$")
    return first[0].rstrip(":").isdigit() and first[0].endswith(":") and bool(ratings.any())


def _ratings(members: Sequence[Member]) -> Iterator[pl.DataFrame]:
    """Rating rows, each with the movie that the last line of one named; those lines are no rows."""
    for member in members:
        movie = pl.Series("movie_id", [None], dtype=pl.String)
        for frame in delimited(member, ["user_id", "rating", "timestamp"], quoted=False):
            named = pl.when(_IS_MOVIE).then(pl.col("user_id").str.head(-1)).forward_fill().alias("movie_id")
            rows = frame.with_columns(named.fill_null(pl.lit(movie[0], pl.String)))
            if rows.height:
                movie = rows["movie_id"].tail(1)
            yield rows.filter(~_IS_MOVIE.fill_null(False)).select(
                "user_id", "movie_id", "rating", "timestamp", FAULT
            )


def _movies(member: Member) -> Iterator[pl.DataFrame]:
    for frame in lines(member):
        yield divided(frame, r"^(?<movie_id>\d+),(?<year>[^,]*),(?<title>.*)$").select(
            "movie_id", "title", "year", FAULT
        )


FAMILY = Family("Netflix Prize", _find)
