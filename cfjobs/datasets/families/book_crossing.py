"""Book-Crossing: semicolons and Latin-1, or Kaggle's copy with commas; a rating of 0 says that a book was
touched and not rated, so it is none.
"""

from collections.abc import Sequence
from dataclasses import replace

import polars as pl

from cfjobs.datasets.archive import Member
from cfjobs.datasets.family import Family, Found, beside, header, marked, one_of, with_header
from cfjobs.datasets.rows import UNRATED

_RATING = {"userid": "user_id", "isbn": "movie_id", "bookrating": "rating"}
_BOOK = {
    "isbn": "movie_id",
    "booktitle": "title",
    "bookauthor": "author",
    "yearofpublication": "year",
    "publisher": "publisher",
}
_USER = {"userid": "user_id", "location": "location", "age": "age"}


def _find(members: Sequence[Member]) -> Found | None:
    heads = {member.name: head for member in members if (head := header(member))}

    def those(*columns: str) -> list[Member]:
        return [m for m in members if m.name in heads and heads[m.name].has(*columns)]

    candidates = those(*_RATING)
    if not candidates:
        return None
    ratings = one_of(candidates)
    table = with_header([ratings], _RATING, ids={"user_id": pl.Int64(), "movie_id": pl.String()})
    implicit = pl.col("rating").str.strip_chars().is_in(["0", "0.0"])
    books, users = beside(those("isbn", "booktitle"), ratings), beside(those("userid", "location"), ratings)
    return Found(
        "Book-Crossing",
        replace(
            table,
            frames=lambda: marked(table.frames(), implicit, f"{UNRATED}it is 0, a book without a rating"),
        ),
        with_header([books], _BOOK, ids={"movie_id": pl.String()}, numbers=("year",), backslashes=True)
        if books
        else None,
        with_header([users], _USER, ids={"user_id": pl.Int64()}, numbers=("age",), backslashes=True)
        if users
        else None,
    )


FAMILY = Family("Book-Crossing", _find)
