"""Goodbooks-10k: ratings of books without times. In Kaggle's first version a book of the ratings is the `id`
of books.csv, not its `book_id`, which is that of Goodreads.
"""

from collections.abc import Sequence

import polars as pl

from cfjobs.datasets.archive import Member
from cfjobs.datasets.family import WHOLE, Family, Found, beside, header, one_of, with_header

_RATING = {"userid": "user_id", "bookid": "movie_id", "rating": "rating"}
_KEPT = ("authors", "originalpublicationyear", "languagecode")


def _find(members: Sequence[Member]) -> Found | None:
    heads = {member.name: head for member in members if (head := header(member))}
    named = [m for m in members if m.name in heads]
    ratings = [m for m in named if set(heads[m.name].plain) == set(_RATING)]
    books = [m for m in named if heads[m.name].has("bookid", "title", "authors")]
    if not ratings:
        return None
    rated = one_of(ratings, preferred=["ratings.csv"])
    described = beside(books, rated)
    table = None
    if described is not None:
        key = "id" if "id" in heads[described.name].plain else "bookid"
        names = {key: "movie_id", "title": "title"}
        year = ("original_publication_year",)
        table = with_header([described], names, ids={"movie_id": pl.Int64()}, keep=_KEPT, numbers=year)
    return Found("Goodbooks-10k", with_header([rated], _RATING, ids=WHOLE), table)


FAMILY = Family("Goodbooks-10k", _find)
