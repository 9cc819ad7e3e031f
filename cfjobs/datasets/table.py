"""A table of ratings that no family knows: its columns under the names that people use, or as they are
said."""

from collections.abc import Iterator, Mapping, Sequence

import polars as pl

from cfjobs.datasets.archive import Member
from cfjobs.datasets.family import Found, Header, Table, header, plain
from cfjobs.datasets.text import delimited
from cfjobs.errors import InputError
from cfjobs.ratings import names

_ROLES = {
    "user": "user_id",
    "movie": "movie_id",
    "rating": "rating",
    "timestamp": "timestamp",
    "weight": "weight",
}
_SETTINGS = {
    "user_column": "user_id",
    "movie_column": "movie_id",
    "rating_column": "rating",
    "timestamp_column": "timestamp",
}
_WEIGHTS = ("weight", "plays", "playcount", "clicks", "views", "count", "quantity", "listens")


def by_names(head: Header) -> dict[str, str]:
    """Our name for each column of a header that is recognised, by its plain name."""
    found = {
        name: ours
        for setting, ours in _SETTINGS.items()
        if (name := names.recognised(head.names, setting)) is not None
    }
    wanted = {plain(name): ours for name, ours in found.items()}
    weight = next((name for name in _WEIGHTS if name in head.plain), None)
    if weight and "rating" not in wanted.values():
        wanted[weight] = "weight"
    return wanted


def parse(text: str) -> dict[str, str]:
    """The option `--columns user=..,movie=..` as a mapping. Raises InputError for what is not such."""
    found: dict[str, str] = {}
    for part in text.split(","):
        role, equals, name = part.partition("=")
        if not equals or role.strip() not in _ROLES or not name.strip():
            raise InputError(
                f"--columns {text}: {part!r} is not one of {', '.join(f'{r}=NAME' for r in _ROLES)}; "
                "write such as --columns user=uid,movie=item,rating=stars"
            )
        found[role.strip()] = name.strip()
    if missing := [role for role in ("user", "movie") if role not in found]:
        raise InputError(f"--columns {text}: says no {missing[0]}; add {missing[0]}=NAME")
    if len(set(found.values())) < len(found):
        raise InputError(f"--columns {text}: has a column twice; give each once")
    return found


def example(members: Sequence[Member]) -> str:
    """The option to add for the first table with names, its columns filled in as far as they are
    recognised."""
    head = next((head for member in members if (head := header(member))), None)
    if head is None:
        return "--columns user=NAME,movie=NAME,rating=NAME"
    ours = by_names(head)
    taken = {
        role: next((n for n in head.names if ours.get(plain(n)) == key), None) for role, key in _ROLES.items()
    }
    free = [name for name in head.names if name and name not in taken.values()]
    for role in ("user", "movie"):
        if taken[role] is None:
            taken[role] = free.pop(0) if free else "NAME"
    columns = ",".join(f"{role}={name}" for role, name in taken.items() if name)
    return f"--columns {columns} (of {', '.join(head.names)}; the ones that are meant)"


def in_columns(members: Sequence[Member], columns: Mapping[str, str], *, source: str) -> Found:
    """The ratings in these columns, by name, or by number from 1 in files without names.

    Every text file of the source that has them is read. Raises InputError where none does.
    """
    wanted = {name: _ROLES[role] for role, name in columns.items()}
    if all(name.isdigit() for name in wanted):
        places = {int(name) - 1: ours for name, ours in wanted.items()}
        found = [member for member in members if member.is_text and header(member) is None and member.lines]
        fitting = {member.name: _fields(member) for member in found}
        found = [member for member in found if fitting[member.name][1] > max(places)]
    else:
        heads = {member.name: head for member in members if (head := header(member))}
        found = [
            m for m in members if m.name in heads and set(wanted) <= {n.strip() for n in heads[m.name].names}
        ]
    if not found:
        seen = "; ".join(f"{m.name}: {_shown(m)}" for m in members[:3] if m.is_text) or "no text files"
        raise InputError(
            f"{source}: no file has the columns {', '.join(wanted)} (got {seen}); name columns of the first line, "
            "or their numbers from 1 in a file without names"
        )

    def frames() -> Iterator[pl.DataFrame]:
        for member in found:
            head = header(member)
            if head is None:
                separator, n = _fields(member)
                yield from delimited(member, [places.get(place) for place in range(n)], separator=separator)
            else:
                ours = [wanted.get(name.strip()) for name in head.names]
                yield from delimited(member, ours, separator=head.separator, skip=1)

    ids: dict[str, pl.DataType | None] = {"user_id": None, "movie_id": None}
    return Found("a table", Table(tuple(found), frames, ids))


def _fields(member: Member) -> tuple[str, int]:
    """What separates the fields of a file without names, and how many there are."""
    line = member.lines[0]
    separator = "::" if "::" in line else max(",;\t|", key=line.count)
    return separator, line.count(separator) + 1


def _shown(member: Member) -> str:
    head = header(member)
    return ", ".join(head.names) if head else "no names"
