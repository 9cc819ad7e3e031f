"""A user's list, from the published tables."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from deltalake import DeltaTable
from deltalake.schema import PrimitiveType

from cfjobs import storage, tables
from cfjobs.errors import InputError
from cfjobs.tables import delta
from cfjobs.tables.runs import Source, night_of

Row = dict[str, Any]

_COLUMNS = ("rank", "movie_id", "title", "genres", "score", "predicted_rating", "rule")
_WHERE_KNOWN = ("title", "genres", "predicted_rating", "rule")

_LIST = """
    select l.rank, l.movie_id, m.title, {genres} as genres, l.score, l.predicted_rating, l.source,
           {rule} as rule
    from top_n l left join movie_embeddings m on m.run_date = l.run_date and m.movie_id = l.movie_id {described}
    where l.run_date = {run_date} and l.user_id = {user} order by l.rank
"""


_LISTS_PER = """
    select l.value, l.rank, l.movie_id, m.title, {genres} as genres, l.score, l.predicted_rating, l.source
    from lists l left join movie_embeddings m on m.run_date = l.run_date and m.movie_id = l.movie_id {described}
    where l.run_date = {run_date} and l.user_id = {user} and l."column" = {column} order by l.value, l.rank
"""


@dataclass(frozen=True)
class UserList:
    """One user's list. rows: rank, movie_id, title, genres, score, predicted_rating, rule; without titles,
    genres, predicted ratings or rules where no movie has any.

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
        described = _described(night)
        join = "left join described d on d.run_date = l.run_date and d.movie_id = l.movie_id"
        found = delta.select(
            _LIST.format(
                run_date=delta.literal(day),
                user=delta.literal(wanted),
                genres="d.genres" if described else "null",
                described=join if described else "",
                rule="l.rule" if _has(top_n, "rule") else "null",
            ),
            top_n=top_n,
            movie_embeddings=night.table(tables.MOVIE_EMBEDDINGS),
            **described,
        )
    if wanted is None or not found:
        raise InputError(
            f"user {user}: has no list of {day} in {storage.join(night.output, tables.TOP_N.name)}; "
            "lists are made for the users of the ratings and users tables"
        )
    return UserList(wanted, day, found[0]["source"], for_people(found))


@dataclass(frozen=True)
class ListsPer:
    """One user's lists of the values of a column, by value. Rows are as in `UserList`."""

    user_id: str | int
    run_date: date
    column: str
    lists: Mapping[str, UserList]


def lists_per(
    output: str, user: str, column: str, *, value: str | None = None, run_date: date | None = None
) -> ListsPer:
    """A user's lists of the values of a column, or of one value; of the latest published night, or of a date.

    InputError where the night made none by that column, where the user has none, and for a value without a
    list, whose case may differ.
    """
    night = night_of(output, run_date)
    day = night.run["run_date"]
    made = json.loads(night.run["config"]).get("lists_per") or {}
    if column not in made or night.version(tables.TOP_N_BY_VALUE) is None:
        there = f"has lists per {', '.join(sorted(made))}" if made else "has none"
        raise InputError(
            f"--per {column}: the night of {day} {there}; set lists_per={{{column} = 20}} for the next one"
        )
    table = night.table(tables.TOP_N_BY_VALUE)
    wanted = id_like(table, "user_id", user)
    described = _described(night)
    join = "left join described d on d.run_date = l.run_date and d.movie_id = l.movie_id"
    found = (
        []
        if wanted is None
        else delta.select(
            _LISTS_PER.format(
                run_date=delta.literal(day),
                user=delta.literal(wanted),
                column=delta.literal(column),
                genres="d.genres" if described else "null",
                described=join if described else "",
            ),
            lists=table,
            movie_embeddings=night.table(tables.MOVIE_EMBEDDINGS),
            **described,
        )
    )
    if wanted is None or not found:
        raise InputError(
            f"user {user}: has no list of {day} in {storage.join(night.output, tables.TOP_N_BY_VALUE.name)}; "
            "lists are made for the users of the ratings and users tables"
        )
    of_values: dict[str, list[Row]] = {}
    for row in found:
        of_values.setdefault(row["value"], []).append(row)
    if value is not None:
        of_values = {name: of_values[name] for name in [_value_like(of_values, value, user=user)]}
    lists = {
        name: UserList(wanted, day, rows[0]["source"], for_people(rows)) for name, rows in of_values.items()
    }
    return ListsPer(wanted, day, column, lists)


def _value_like(values: Iterable[str], wanted: str, *, user: str) -> str:
    """The value of this name, in any case where only one is so called."""
    values = list(values)
    for found in ([wanted] if wanted in values else [], [v for v in values if v.lower() == wanted.lower()]):
        if len(found) == 1:
            return found[0]
    some = ", ".join(values[:20]) + (f" and {len(values) - 20} more" if len(values) > 20 else "")
    raise InputError(f"--value {wanted!r}: user {user} has no list of it; there are {some}")


def _described(night: Source) -> dict[str, DeltaTable]:
    """The night's table of movies, where there is one with genres."""
    version = json.loads(night.run["table_versions"]).get("movies")
    movies = None if version is None else delta.open_table(night.output, "movies", version=version)
    return {"described": movies} if movies is not None and _has(movies, "genres") else {}


def _has(table: DeltaTable, column: str) -> bool:
    return any(field.name == column for field in table.schema().fields)


def id_like(table: DeltaTable, column: str, text: str) -> str | int | None:
    """An id as the table has it, int or string; None for a text that cannot be one."""
    kind = next(field.type for field in table.schema().fields if field.name == column)
    if kind == PrimitiveType("string"):
        return text
    return int(text) if re.fullmatch(r"[+-]?\d{1,18}", text) else None


def for_people(rows: Sequence[Row]) -> list[Row]:
    """A list's columns for people, with titles, genres, predicted ratings and rules if there are any."""
    missing = [name for name in _WHERE_KNOWN if all(row.get(name) is None for row in rows)]
    columns = [name for name in _COLUMNS if name not in missing]
    return [{name: _genres(row[name]) if name == "genres" else row[name] for name in columns} for row in rows]


def _genres(value: str | Sequence[str] | None) -> str | None:
    """Genres as text: Drama, Crime."""
    parts = re.split(r"[|;,]", value) if isinstance(value, str) else value
    return ", ".join(part.strip() for part in parts if part) if parts else None
