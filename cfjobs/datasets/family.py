"""What a family of data sets says: how its files are recognised, and what each of their columns is.

A family is one file in `cfjobs/datasets/families/` that defines `FAMILY`. It looks at the members of a
source, at their first lines rather than their names, and returns what it found, or None.
"""

import csv
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import polars as pl

from cfjobs.datasets.archive import Member
from cfjobs.datasets.text import FAULT, delimited
from cfjobs.errors import InputError

Frames = Callable[[], Iterator[pl.DataFrame]]


@dataclass(frozen=True)
class Table:
    """A table of a source, not read yet.

    members: the files it is in. frames: its rows as strings, with a column `fault`, from the beginning at
    every call. ids: the type of each id column; None where it is that of what is written there: Int64 if
    every id is an integer, else String. numbers: further columns that are numbers.
    """

    members: tuple[Member, ...]
    frames: Frames
    ids: Mapping[str, pl.DataType | None]
    numbers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Found:
    """What a family found in a source. family: its name, for people."""

    family: str
    ratings: Table
    movies: Table | None = None
    users: Table | None = None


@dataclass(frozen=True)
class Family:
    """A family of data sets. rank: tried in this order; those that take only what is surely theirs first."""

    name: str
    find: Callable[[Sequence[Member]], Found | None]
    rank: int = 0


WHOLE: Mapping[str, pl.DataType] = {"user_id": pl.Int64(), "movie_id": pl.Int64()}
TEXT: Mapping[str, pl.DataType] = {"user_id": pl.String(), "movie_id": pl.String()}


@dataclass(frozen=True)
class Header:
    """The first line of a file, where it names the columns."""

    separator: str
    names: tuple[str, ...]
    plain: tuple[str, ...] = field(default=())

    def has(self, *wanted: str) -> bool:
        """Whether it has all of these columns; named plainly, as in `userid`."""
        return set(wanted) <= set(self.plain)

    def columns(self, wanted: Mapping[str, str], *, keep: Sequence[str] = ()) -> list[str | None]:
        """A name for each column: ours by its plain name, None for one that is not wanted, once each.

        keep: plain names of further columns that are wanted under their own name.
        """
        found: list[str | None] = []
        for name, plain in zip(self.names, self.plain, strict=True):
            ours = wanted.get(plain) or (re.sub(r"\W+", "_", name.strip().lower()) if plain in keep else None)
            found.append(None if ours in found else ours)
        return found


def plain(name: str) -> str:
    """A column's name without case and punctuation."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def header(member: Member) -> Header | None:
    """The names of the columns, where line 1 has names and no values."""
    if not member.lines:
        return None
    line = member.lines[0]
    separator = max(",;\t|", key=line.count)
    try:
        names = next(csv.reader([line], delimiter=separator, strict=True))
    except (csv.Error, StopIteration):
        return None
    plains = tuple(plain(name) for name in names)
    if len(names) < 2 or any(not re.search("[a-z]", name) for name in plains[1:]):
        return None  # the first may be unnamed: an index that pandas wrote
    return Header(separator, tuple(names), plains)


def has_lines(member: Member, pattern: str, *, skip: int = 0) -> bool:
    """Whether most of a member's first lines, some at least, are such; a few bad ones do not hide a
    format."""
    lines = member.lines[skip:]
    hits = sum(re.fullmatch(pattern, line) is not None for line in lines)
    return hits > 0 and hits >= 0.6 * len(lines)


def with_header(
    members: Sequence[Member],
    wanted: Mapping[str, str],
    *,
    ids: Mapping[str, pl.DataType | None],
    keep: Sequence[str] = (),
    numbers: Sequence[str] = (),
    quoted: bool = True,
    backslashes: bool = False,
) -> Table:
    """A table in files whose first line names the columns. wanted: our name for each, by its plain name."""

    def frames() -> Iterator[pl.DataFrame]:
        for member in members:
            head = header(member)
            assert head is not None
            columns = head.columns(wanted, keep=keep)
            yield from delimited(
                member,
                columns,
                separator=head.separator,
                quoted=quoted,
                skip=1 + _blank(member),
                backslashes=backslashes,
            )

    return Table(tuple(members), frames, ids, tuple(numbers))


def without_header(
    members: Sequence[Member],
    columns: Sequence[str | None],
    *,
    separator: str,
    ids: Mapping[str, pl.DataType | None],
    quoted: bool = False,
    numbers: Sequence[str] = (),
) -> Table:
    """A table in files without a line of names. columns: a name for each field, None for one not wanted."""

    def frames() -> Iterator[pl.DataFrame]:
        for member in members:
            yield from delimited(member, columns, separator=separator, quoted=quoted)

    return Table(tuple(members), frames, ids, tuple(numbers))


def _blank(member: Member) -> int:
    """Blank lines before the first."""
    head = member.head.removeprefix(b"\xef\xbb\xbf")
    return head[: len(head) - len(head.lstrip(b"\r\n"))].count(b"\n")


def one_of(candidates: Sequence[Member], *, preferred: Sequence[str] = (), what: str = "ratings") -> Member:
    """The one member that is meant; InputError where several could be. preferred: base names that win."""
    by_name = [member for name in preferred for member in candidates if member.base == name]
    if len(candidates) > 1 and len(by_name) != 1:
        named = ", ".join(member.name for member in candidates[:5])
        raise InputError(
            f"{candidates[0].what}: is one of several {what} files ({named}); give the one that is meant, "
            "or a folder with it"
        )
    return by_name[0] if by_name else candidates[0]


def beside(candidates: Sequence[Member], ratings: Member) -> Member | None:
    """The one member in the folder of the ratings; None for none."""
    here = [member for member in candidates if member.folder == ratings.folder and member is not ratings]
    return here[0] if here else None


def marked(frames: Iterator[pl.DataFrame], fails: pl.Expr, words: str) -> Iterator[pl.DataFrame]:
    """The same frames with one more fault: of the rows for which the expression holds, and that have none."""
    for frame in frames:
        fault = pl.when(pl.col(FAULT).is_null() & fails.fill_null(False)).then(pl.lit(words))
        yield frame.with_columns(fault.otherwise(pl.col(FAULT)).alias(FAULT))
