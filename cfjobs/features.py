"""Side features: further columns of the movies and users tables as numbers for the networks.

    learn(table, columns)      -> an Encoding: for each column its values, or its mean and spread
    encode(table, encoding)    -> Features: for each row a few (value, weight) pairs

A column is taken as

    text, categorical   one or several categories, divided by `|`; a list column holds several too
    boolean             the categories true and false
    number              one value, standardised over the table; missing is a value of its own

k categories of a row weigh 1 / k each: what a movie of several genres is said to be is their mean. A category
that the encoding has not seen, or that only one row has, is left out. A row of which no column says anything
is not described: it has no features at all.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from cfjobs.errors import InputError

SEPARATOR = "|"
MOST_CATEGORIES = 5_000
_FEW_ROWS = 20
_LEAST_ROWS_OF_A_CATEGORY = 2
_FURTHEST = 3.0


@dataclass(frozen=True)
class Column:
    """How a column is encoded. categories: its values, for one of categories; mean, spread: of a number."""

    name: str
    categories: tuple[str, ...] | None = None
    mean: float = 0.0
    spread: float = 1.0

    @property
    def n_values(self) -> int:
        """Values that the column adds: one a category; a number and its absence."""
        return 2 if self.categories is None else len(self.categories)


@dataclass(frozen=True)
class Encoding:
    """How the columns of a table are encoded, one after the other."""

    columns: tuple[Column, ...]

    @property
    def n_values(self) -> int:
        return sum(column.n_values for column in self.columns)

    def as_json(self) -> list[dict[str, Any]]:
        """Plain lists and dictionaries; `from_json` is the way back."""
        return [asdict(column) for column in self.columns]

    @classmethod
    def from_json(cls, columns: list[dict[str, Any]]) -> "Encoding":
        def column(plain: dict[str, Any]) -> Column:
            categories = plain["categories"]
            return Column(**(plain | {"categories": None if categories is None else tuple(categories)}))

        return cls(tuple(map(column, columns)))


@dataclass(frozen=True)
class Features:
    """The features of N rows: row n has values[indptr[n] : indptr[n + 1]], each with its weight."""

    indptr: NDArray[np.int64]
    values: NDArray[np.int64]
    weights: NDArray[np.float32]
    n_values: int

    @property
    def described(self) -> NDArray[np.bool_]:
        """[N]: whether anything is known of a row."""
        return np.diff(self.indptr) > 0


def learn(table: pl.DataFrame, columns: Sequence[str], *, what: str) -> Encoding:
    """The encoding of these columns of a table; what: `movie` or `user`, for the messages.

    Raises InputError for a column that is absent, empty, of a type without an encoding, or that tells the
    rows apart rather than describing them.
    """
    return Encoding(tuple(_learn_column(table, name, what) for name in columns))


def encode(table: pl.DataFrame, encoding: Encoding) -> Features:
    """The features of a table's rows. A column that the table lacks is missing in every row."""
    rows, values, weights = [], [], []
    known = np.zeros(table.height, dtype=np.bool_)
    first = 0
    for column in encoding.columns:
        cells = table[column.name] if column.name in table.columns else pl.Series([None] * table.height)
        if column.categories is None:
            found, is_known = _encode_number(cells, column)
        else:
            found, is_known = _encode_categories(cells, column)
        rows.append(found[0])
        values.append(found[1] + first)
        weights.append(found[2])
        known |= is_known
        first += column.n_values
    row, value, weight = (np.concatenate(part) if part else np.empty(0) for part in (rows, values, weights))
    row, value = row.astype(np.int64), value.astype(np.int64)
    kept = known[row]
    row, value, weight = row[kept], value[kept], weight[kept]
    order = np.argsort(row, kind="stable")
    indptr = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=table.height))])
    return Features(indptr, value[order], weight[order].astype(np.float32), encoding.n_values)


_Triples = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]
"""Row, value and weight, entry by entry."""


def _encode_number(cells: pl.Series, column: Column) -> tuple[_Triples, NDArray[np.bool_]]:
    number = cells.cast(pl.Float64, strict=False).fill_nan(None)
    known = (number.is_not_null() & number.is_finite()).fill_null(False).to_numpy()
    z = (number.fill_null(column.mean).to_numpy() - column.mean) / column.spread
    weight = np.where(known, np.clip(np.where(known, z, 0.0), -_FURTHEST, _FURTHEST), 1.0)
    return (np.arange(cells.len()), np.where(known, 0, 1).astype(np.int64), weight), known


def _encode_categories(cells: pl.Series, column: Column) -> tuple[_Triples, NDArray[np.bool_]]:
    assert column.categories is not None
    place = {category: number for number, category in enumerate(column.categories)}
    of_rows = [sorted({place[c] for c in found if c in place}) for found in categories(cells)]
    count = np.array([len(found) for found in of_rows], dtype=np.int64)
    row = np.repeat(np.arange(cells.len()), count)
    value = np.fromiter(chain.from_iterable(of_rows), dtype=np.int64, count=int(count.sum()))
    return (row, value, 1 / np.maximum(count, 1)[row]), count > 0


def _learn_column(table: pl.DataFrame, name: str, what: str) -> Column:
    key = f"configuration key {what}_features"
    if name not in table.columns:
        others = ", ".join(column for column in table.columns if column != f"{what}_id") or "none"
        raise InputError(f"{key}: the {what}s table has no column {name!r} (further columns: {others})")
    cells = table[name]
    if cells.null_count() == cells.len():
        raise InputError(f"{key}: column {name!r} of the {what}s table is empty; leave it out")
    if cells.dtype.is_numeric():
        return _learn_number(cells, name, key=key, what=what)
    text = (pl.String, pl.Categorical, pl.Enum, pl.Boolean, pl.List, pl.Array)
    if not isinstance(cells.dtype, text):
        raise InputError(
            f"{key}: column {name!r} is {cells.dtype}, expected text, a list, a number or a boolean; cast it on export"
        )
    return _learn_categories(cells, name, key=key, what=what)


def _learn_number(cells: pl.Series, name: str, *, key: str, what: str) -> Column:
    known = cells.drop_nulls()
    if cells.dtype.is_integer() and known.len() >= _FEW_ROWS and known.n_unique() == known.len():
        raise InputError(
            f"{key}: column {name!r} has another whole number for every {what}, which looks like an id; leave it out, or cast it to float if it is a quantity"
        )
    number = known.cast(pl.Float64).to_numpy()
    number = number[np.isfinite(number)]
    if number.size == 0:
        raise InputError(f"{key}: column {name!r} of the {what}s table holds no finite number; leave it out")
    spread = float(number.std())
    return Column(name, None, float(number.mean()), spread if spread > 0 else 1.0)


def _learn_categories(cells: pl.Series, name: str, *, key: str, what: str) -> Column:
    of_rows = categories(cells)
    counts = Counter(chain.from_iterable(map(set, of_rows)))
    n_known = sum(bool(found) for found in of_rows)
    if n_known >= _FEW_ROWS and len(counts) > n_known / 2:
        raise InputError(
            f"{key}: column {name!r} has {len(counts):,} categories for {n_known:,} {what}s, which looks like an id or a title; leave it out, or give coarser categories"
        )
    if len(counts) > MOST_CATEGORIES:
        raise InputError(
            f"{key}: column {name!r} has {len(counts):,} categories, at most {MOST_CATEGORIES:,} are taken; leave it out, or give coarser categories"
        )
    kept = (category for category, count in counts.items() if count >= _LEAST_ROWS_OF_A_CATEGORY)
    return Column(name, tuple(sorted(kept)))


def categories(cells: pl.Series) -> list[list[str]]:
    """The categories of each row, as text; none where the cell is empty."""
    if isinstance(cells.dtype, pl.List | pl.Array):
        lists = cells.to_list()
    else:
        lists = cells.cast(pl.String, strict=False).str.split(SEPARATOR).to_list()
    return [
        [text for c in found if c is not None and (text := str(c).strip())] if found else []
        for found in lists
    ]
