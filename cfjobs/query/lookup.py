"""A user's list, from the published tables."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from deltalake import DeltaTable
from deltalake.schema import PrimitiveType

from cfjobs import storage, tables
from cfjobs.errors import InputError
from cfjobs.tables import delta
from cfjobs.tables.runs import night_of

Row = dict[str, Any]

_COLUMNS = ("rank", "movie_id", "title", "score", "predicted_rating")

_LIST = """
    select l.rank, l.movie_id, m.title, l.score, l.predicted_rating, l.source
    from top_n l left join movie_embeddings m on m.run_date = l.run_date and m.movie_id = l.movie_id
    where l.run_date = {run_date} and l.user_id = {user} order by l.rank
"""


@dataclass(frozen=True)
class UserList:
    """One user's list. rows: rank, movie_id, title, score, predicted_rating; without titles where no movie
    has one, and without predicted ratings where none are predicted.

    user_id: None for a user who came without one. unknown_movies: rated ones that the model does not have.
    """

    user_id: str | int | None
    run_date: date
    source: str
    rows: Sequence[Row]
    unknown_movies: tuple[str, ...] = ()


def user_list(output: str, user: str, *, run_date: date | None = None) -> UserList:
    """A user's list of the latest published night, or of one date,
    with titles where the movies table had them."""
    night = night_of(output, run_date)
    day, top_n = night.run["run_date"], night.table(tables.TOP_N)
    wanted = id_like(top_n, "user_id", user)
    found: list[Row] = []
    if wanted is not None:
        found = delta.select(
            _LIST.format(run_date=delta.literal(day), user=delta.literal(wanted)),
            top_n=top_n,
            movie_embeddings=night.table(tables.MOVIE_EMBEDDINGS),
        )
    if wanted is None or not found:
        raise InputError(
            f"user {user}: has no list of {day} in {storage.join(night.output, tables.TOP_N.name)}; "
            "lists are made for the users of the ratings and users tables"
        )
    return UserList(wanted, day, found[0]["source"], for_people(found))


def id_like(table: DeltaTable, column: str, text: str) -> str | int | None:
    """An id as the table has it, int or string; None for a text that cannot be one."""
    kind = next(field.type for field in table.schema().fields if field.name == column)
    if kind == PrimitiveType("string"):
        return text
    return int(text) if re.fullmatch(r"[+-]?\d{1,18}", text) else None


def for_people(rows: Sequence[Row]) -> list[Row]:
    """A list's columns for people, with titles and predicted ratings if there are any."""
    absent = {name for name in ("title", "predicted_rating") if all(row.get(name) is None for row in rows)}
    columns = [name for name in _COLUMNS if name not in absent]
    return [{name: row[name] for name in columns} for row in rows]
