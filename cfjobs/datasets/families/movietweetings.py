"""MovieTweetings: user::imdb_id::rating of 0 to 10::time. Movies keep the zeros of their IMDb ids, so ids are
text."""

from collections.abc import Iterator, Sequence

import polars as pl

from cfjobs.datasets.archive import Member
from cfjobs.datasets.family import Family, Found, Table, beside, has_lines, one_of, without_header
from cfjobs.datasets.text import divided, lines

_IDS = {"user_id": pl.Int64(), "movie_id": pl.String()}


def _find(members: Sequence[Member]) -> Found | None:
    candidates = [m for m in members if has_lines(m, r"\d+::\d{7,8}::\d+::\d+")]
    if not candidates:
        return None
    ratings = one_of(candidates, preferred=["ratings.dat"])
    movies = beside([m for m in members if has_lines(m, r"\d{7,8}::.*::.*")], ratings)
    return Found(
        "MovieTweetings",
        without_header([ratings], ["user_id", "movie_id", "rating", "timestamp"], separator="::", ids=_IDS),
        Table((movies,), lambda: _movies(movies), {"movie_id": pl.String()}) if movies else None,
    )


def _movies(member: Member) -> Iterator[pl.DataFrame]:
    for frame in lines(member):
        yield divided(frame, r"^(?<movie_id>[^:]*)::(?<title>.*)::(?<genres>[^:]*)$")


FAMILY = Family("MovieTweetings", _find)
