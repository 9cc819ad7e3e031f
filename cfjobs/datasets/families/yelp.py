"""Yelp: reviews, businesses and users as JSON lines; a business is what is rated."""

from collections.abc import Iterator, Sequence

import polars as pl

from cfjobs.datasets.archive import Member
from cfjobs.datasets.families.amazon import has_keys, of_json
from cfjobs.datasets.family import Family, Found, Table
from cfjobs.datasets.text import json_lines

_BUSINESS = {
    "business_id": "movie_id",
    "name": "title",
    "categories": "categories",
    "city": "city",
    "state": "state",
}
_USER = {"user_id": "user_id", "yelping_since": "yelping_since"}


def _find(members: Sequence[Member]) -> Found | None:
    reviews = [m for m in members if has_keys(m, "review_id", "user_id", "business_id", "stars")]
    if not reviews:
        return None
    businesses = [
        m
        for m in members
        if has_keys(m, "business_id", "name", "categories") or has_keys(m, "business_id", "name", "city")
    ]
    users = [m for m in members if has_keys(m, "user_id", "name", "yelping_since")]
    return Found(
        "Yelp",
        of_json(reviews, ("user_id", "business_id", "stars", "date")),
        Table(tuple(businesses), lambda: _businesses(businesses), {"movie_id": pl.String()})
        if businesses
        else None,
        Table(tuple(users), lambda: _users(users), {"user_id": pl.String()}) if users else None,
    )


def _businesses(members: Sequence[Member]) -> Iterator[pl.DataFrame]:
    """Categories come as `A, B`; a night takes them as `A|B`."""
    for member in members:
        for frame in json_lines(member, _BUSINESS):
            yield frame.with_columns(pl.col("categories").str.replace_all(", ", "|", literal=True))


def _users(members: Sequence[Member]) -> Iterator[pl.DataFrame]:
    for member in members:
        yield from json_lines(member, _USER)


FAMILY = Family("Yelp", _find)
