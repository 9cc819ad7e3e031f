"""Amazon Reviews of 2014, 2018 and 2023: ratings alone as CSV, or reviews as JSON lines; products beside
them.

The ratings of 2014 are user,item,rating,time and those of 2018 item,user,rating,time, both without names: a
user's id begins with A and is no ASIN. Of 2023, a product is its `parent_asin`, which stands for all its
variants.
"""

import re
from collections.abc import Iterator, Sequence

import polars as pl

from cfjobs.datasets.archive import Member
from cfjobs.datasets.family import TEXT, Family, Found, Table, has_lines, header, with_header, without_header
from cfjobs.datasets.text import FAULT, json_lines

_BY_NAME = {"userid": "user_id", "parentasin": "movie_id", "rating": "rating", "timestamp": "timestamp"}
_ROW = r"[^,]+,[^,]+,\d(\.\d+)?,\d{9,13}"
_USER = re.compile(r"A[A-Z0-9]{11,}")
_REVIEWS = (  # keys of a review: user, product, rating, time
    ("reviewerID", "asin", "overall", "unixReviewTime"),
    ("user_id", "parent_asin", "rating", "timestamp"),
)
_RATING = ("user_id", "movie_id", "rating", "timestamp")


def _find(members: Sequence[Member]) -> Found | None:
    named = [m for m in members if (head := header(m)) and head.has(*_BY_NAME)]
    bare = [m for m in members if has_lines(m, _ROW) and _user_place(m) is not None]
    reviews = {keys: [m for m in members if has_keys(m, *keys)] for keys in _REVIEWS}
    if bare or named:
        ratings = _bare(bare) if bare else with_header(named, _BY_NAME, ids=TEXT)
    elif keys := next((keys for keys, found in reviews.items() if found), None):
        ratings = of_json(reviews[keys], keys)
    else:
        return None
    products = [m for m in members if m not in ratings.members and has_keys(m, "title") and _key(m)]
    table = (
        Table(tuple(products), lambda: _products(products), {"movie_id": pl.String()}) if products else None
    )
    return Found("Amazon Reviews", ratings, table)


def _user_place(member: Member) -> int | None:
    """Which of the first two fields is the user: that which looks like one most often; None where neither
    does."""
    rows = [line.split(",") for line in member.lines]
    hits = [sum(len(row) > 1 and _USER.fullmatch(row[place]) is not None for row in rows) for place in (0, 1)]
    return hits.index(max(hits)) if max(hits) else None


def _bare(members: Sequence[Member]) -> Table:
    parts = []
    for member in members:
        ids = ("user_id", "movie_id") if _user_place(member) == 0 else ("movie_id", "user_id")
        parts.append(without_header([member], [*ids, *_RATING[2:]], separator=",", ids=TEXT))

    def frames() -> Iterator[pl.DataFrame]:
        for part in parts:
            for frame in part.frames():
                yield frame.select(*_RATING, FAULT)

    return Table(tuple(members), frames, TEXT)


def has_keys(member: Member, *keys: str) -> bool:
    """Whether a file has a JSON object a line, with these keys in the first."""
    if not member.is_text or not member.head.lstrip().startswith(b"{"):
        return False
    line = member.head.split(b"\n", 1)[0].decode("utf-8", "replace")
    return all(re.search(rf'"{key}"\s*:', line) for key in keys)


def of_json(members: Sequence[Member], keys: Sequence[str]) -> Table:
    """Ratings in JSON lines. keys: of user, movie, rating and time."""
    fields = dict(zip(keys, _RATING, strict=True))

    def frames() -> Iterator[pl.DataFrame]:
        for member in members:
            yield from json_lines(member, fields)

    return Table(tuple(members), frames, TEXT)


def _key(member: Member) -> str | None:
    return next((key for key in ("parent_asin", "asin") if has_keys(member, key)), None)


def _products(members: Sequence[Member]) -> Iterator[pl.DataFrame]:
    for member in members:
        key = _key(member)
        assert key is not None
        yield from json_lines(member, {key: "movie_id", "title": "title", "main_category": "main_category"})


FAMILY = Family("Amazon Reviews", _find)
