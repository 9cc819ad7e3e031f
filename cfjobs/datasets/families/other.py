"""Any table of ratings with a first line of names that people use, such as Kaggle's; movies and users beside
it."""

import logging
from collections.abc import Sequence

import polars as pl

from cfjobs.datasets.archive import Member
from cfjobs.datasets.family import Family, Found, beside, header, one_of, plain, with_header
from cfjobs.datasets.table import by_names
from cfjobs.ratings import names

log = logging.getLogger(__name__)

_ANY = {"user_id": None, "movie_id": None}


def _find(members: Sequence[Member]) -> Found | None:
    heads = {member.name: head for member in members if (head := header(member))}
    wanted = {name: by_names(head) for name, head in heads.items()}
    pairs = [m for m in members if {"user_id", "movie_id"} <= set(wanted.get(m.name, {}).values())]
    rated = [m for m in pairs if {"rating", "weight"} & set(wanted[m.name].values())]
    if not pairs:
        return None
    ratings = one_of(rated or pairs)
    taken = wanted[ratings.name]
    if left := [name for name in heads[ratings.name].names if name and plain(name) not in taken]:
        log.warning(
            "%s: takes %s, and leaves out %s; where one of these is meant, say so by --columns",
            ratings.name,
            ", ".join(f"{ours} from {name!r}" for name, ours in taken.items()),
            ", ".join(map(repr, left)),
        )
    others = [m for m in members if m.name in heads and m not in pairs]
    movies = beside(
        [m for m in others if _is_of(wanted[m.name], "movie_id") and _title(heads[m.name].names)], ratings
    )
    users = beside([m for m in others if _is_of(wanted[m.name], "user_id")], ratings)
    tables = {}
    for what, member in (("movie", movies), ("user", users)):
        if member is not None:
            head = heads[member.name]
            key = {p: ours for p, ours in wanted[member.name].items() if ours == f"{what}_id"}
            key |= (
                {plain(old): new for old, new in names.titled(head.names).items()} if what == "movie" else {}
            )
            ids: dict[str, pl.DataType | None] = {f"{what}_id": None}
            tables[what] = with_header([member], key, ids=ids, keep=head.plain)
    return Found(
        "a table with names",
        with_header([ratings], wanted[ratings.name], ids=_ANY),
        tables.get("movie"),
        tables.get("user"),
    )


def _is_of(wanted: dict[str, str], key: str) -> bool:
    return key in wanted.values()


def _title(columns: Sequence[str]) -> bool:
    return "title" in columns or names.recognised(columns, "title") is not None


FAMILY = Family("any CSV whose first line names user and item", _find, rank=9)
