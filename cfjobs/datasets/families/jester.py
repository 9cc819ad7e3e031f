"""Jester: a line a user, how many jokes they rated and 100 ratings from -10 to 10, where 99 is none; or,
later, lines of user, joke and rating.

Users have no ids in the matrix: they are numbered from 1, through all its files. A joke is the number of its
column.
"""

from collections.abc import Iterator, Sequence

import polars as pl

from cfjobs.datasets.archive import Member
from cfjobs.datasets.family import WHOLE, Family, Found, Table, has_lines
from cfjobs.datasets.rows import UNRATED
from cfjobs.datasets.text import FAULT, delimited, divided, lines

_NONE = 99.0
_CELL = r"\s*-?\d+(\.\d+)?\s*"


def _find(members: Sequence[Member]) -> Found | None:
    matrix = [m for m in members if has_lines(m, rf"{_CELL}([,;\t]{_CELL}){{99,}}[,;\t]*")]
    if matrix:
        return Found("Jester", Table(tuple(matrix), lambda: _cells(matrix), WHOLE))
    listed = [m for m in members if has_lines(m, r"\d+\t+\d+\t+-?\d*\.\d+\s*")]
    if listed:
        return Found("Jester", Table(tuple(listed), lambda: _listed(listed), WHOLE))
    return None


def _cells(members: Sequence[Member]) -> Iterator[pl.DataFrame]:
    """A row for every cell; a line that is not as long as the first is one row with a fault."""
    user = 0
    for member in members:
        separator = max(",;\t", key=member.lines[0].count)
        n_cells = len(member.lines[0].rstrip(separator).split(separator)) - 1
        jokes = [str(joke) for joke in range(1, n_cells + 1)]
        for frame in delimited(member, [None, *jokes], separator=separator, quoted=False):
            for part in frame.iter_slices(20_000):
                numbered = part.with_columns(
                    (pl.int_range(pl.len()) + user + 1).cast(pl.String).alias("user_id")
                )
                user += part.height
                broken = pl.col(FAULT).is_not_null()
                whole = numbered.filter(~broken)
                long = whole.unpivot(
                    jokes, index=["user_id", FAULT], variable_name="movie_id", value_name="rating"
                )
                none = pl.col("rating").cast(pl.Float64, strict=False) == _NONE
                words = pl.when(none).then(pl.lit(f"{UNRATED}it is 99, a joke that was not rated"))
                yield long.select("user_id", "movie_id", "rating", words.alias(FAULT))
                text = pl.lit(None, pl.String)
                yield numbered.filter(broken).select(
                    "user_id", text.alias("movie_id"), text.alias("rating"), FAULT
                )


def _listed(members: Sequence[Member]) -> Iterator[pl.DataFrame]:
    for member in members:
        for frame in lines(member):
            yield divided(frame, r"^(?<user_id>\d+)\t+(?<movie_id>\d+)\t+(?<rating>\S+)\s*$")


FAMILY = Family("Jester", _find)
