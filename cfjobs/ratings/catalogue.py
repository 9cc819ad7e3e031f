"""The catalogue of a night: its movies and users with what describes them,
and the movies that nobody has rated."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING, Any

import polars as pl

from cfjobs import features
from cfjobs.config import Config
from cfjobs.errors import InputError
from cfjobs.features import Encoding, Features
from cfjobs.ratings.read import Ratings, rows_of

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Encodings:
    """How movies and users are described to the networks; None where they are not."""

    movies: Encoding | None = None
    users: Encoding | None = None


NOT_DESCRIBED = Encodings()

_TAKEN = ("movie_id", "user_id", "n_ratings")


def with_unrated(found: Ratings, movies: pl.DataFrame) -> Ratings:
    """The same ratings with a row for every movie of the movies table, rated or not;
    rows follow the ids as before."""
    table = movies.with_columns(pl.col("movie_id").cast(found.movies["movie_id"].dtype, strict=False))
    table = table.filter(pl.col("movie_id").is_not_null()).unique("movie_id", keep="first")
    unrated = table.join(found.movies, on="movie_id", how="anti")
    every = pl.concat([found.movies, unrated], how="diagonal_relaxed").sort("movie_id")
    rows = rows_of(found.movies["movie_id"], every["movie_id"])
    frame = found.frame.with_columns(pl.Series("movie_idx", rows[found.column("movie_idx")]))
    return replace(found, frame=frame, movies=every)


def users_with_columns(ids: pl.Series, users: pl.DataFrame | None, config: Config) -> pl.DataFrame:
    """user_id by row, with the columns of the users table that describe a user."""
    frame = ids.alias("user_id").to_frame()
    if users is None or not config.user_features:
        return frame
    _check_columns(users, config.user_features, what="user")
    described = users.select(pl.col("user_id").cast(ids.dtype, strict=False), *config.user_features)
    described = described.unique("user_id", keep="first")
    return frame.join(described, on="user_id", how="left", maintain_order="left")


def encodings(config: Config, *, movies: pl.DataFrame, users: pl.DataFrame) -> Encodings:
    """How the configuration describes movies and users, learnt from all of them.
    InputError for columns that will not do."""
    return Encodings(
        features.learn(movies, config.movie_features, what="movie") if config.movie_features else None,
        features.learn(users, config.user_features, what="user") if config.user_features else None,
    )


def encoded(frame: pl.DataFrame, encoding: Encoding | None) -> Features | None:
    """The features of the rows of a frame."""
    return features.encode(frame, encoding) if encoding else None


def unrated_counts(
    config: Config, *, found: Ratings, rated: pl.Series, movies: pl.DataFrame | None
) -> dict[str, int]:
    """How many movies of the movies table without a rating may be listed, and how many are left out.
    rated: ids of the movies with ratings."""
    if movies is None:
        return {"unrated_movies_listable": 0, "unrated_movies_left_out": 0}
    ids = movies["movie_id"].cast(found.movies["movie_id"].dtype, strict=False).drop_nulls().unique()
    n_unrated = ids.len() - int(ids.is_in(rated.implode()).sum())
    listable = 0
    if config.movie_features and config.min_ratings <= 1:
        encoding = features.learn(found.movies, config.movie_features, what="movie")
        described = features.encode(found.movies, encoding).described
        described[rows_of(rated, found.movies["movie_id"])] = False
        listable = int(described.sum())
    return {"unrated_movies_listable": listable, "unrated_movies_left_out": n_unrated - listable}


MOST_VALUES = 1_000
"""Values of a column that gives lists: each is a list for every user."""


def check_values(movies: pl.DataFrame | None, config: Config) -> None:
    """InputError for a column of `lists_per` that is not there, that holds no values, or that holds so many
    that it tells movies apart rather than describing them."""
    key = "configuration key lists_per"
    for name in config.lists_per if movies is not None else ():
        assert movies is not None
        n_values = len(set(chain.from_iterable(values_by_row(movies, name, key=key))))
        if not n_values:
            raise InputError(f"{key}: column {name!r} of the movies table is empty; leave it out")
        if n_values > MOST_VALUES:
            raise InputError(
                f"{key}: column {name!r} has {n_values:,} values, and at most {MOST_VALUES:,} give lists; leave it out, or give coarser values"
            )


def values_of(movies: pl.DataFrame, config: Config) -> pl.DataFrame:
    """column, value (as text) and movie_id of every value that a movie has in a column of `lists_per`, each
    once, sorted."""
    known = movies.filter(pl.col("movie_id").is_not_null()).unique(
        "movie_id", keep="first", maintain_order=True
    )
    found = [
        known.select("movie_id")
        .with_row_index("row")
        .join(_values(known, name), on="row")
        .select(pl.lit(name).alias("column"), "value", "movie_id")
        for name in config.lists_per
    ]
    return pl.concat(found).sort("column", "value", "movie_id")


def _values(movies: pl.DataFrame, name: str) -> pl.DataFrame:
    """row, value of a column of `lists_per`, each pair once."""
    found = values_by_row(movies, name, key="configuration key lists_per")
    of_rows = pl.Series("value", found, dtype=pl.List(pl.String))
    return of_rows.to_frame().with_row_index("row").explode("value").drop_nulls("value")


def values_by_row(movies: pl.DataFrame, name: str, *, key: str) -> list[list[str]]:
    """The values that each movie has in a column, as text, each once and sorted.

    key: what names the column. InputError for a column that is not there, and for one that holds neither
    text, numbers, truth values, dates nor lists of these.
    """
    if name not in movies.columns:
        raise InputError(
            f"{key}: got {name!r}, but the movies table has no such column (got {', '.join(movies.columns)}); leave it out, or name a column"
        )
    kind: Any = movies.schema[name]
    inner = kind.inner if isinstance(kind, pl.List | pl.Array) else kind
    if not (inner.is_numeric() or inner.base_type() in _PLAIN):
        raise InputError(
            f"{key}: column {name!r} of the movies table is {kind}, expected text, numbers, truth values, dates or lists of them; cast it on export"
        )
    cells = movies[name].fill_nan(None) if kind.is_float() else movies[name]
    return [sorted(set(found)) for found in features.categories(cells)]


def publishable(movies: pl.DataFrame, *, taken: Sequence[str]) -> pl.DataFrame:
    """The further columns of a movies table, with names and types that a Delta table has.

    taken: names of the job's own, whatever their case. A name that is taken becomes `input_NAME`, and signs
    that Parquet columns of Delta tables must not have become `_`. What is neither text, number, truth
    value, date, time nor a list of these becomes text.
    """
    used, found = {name.lower() for name in taken}, []
    for name in movies.columns:
        if name in {"movie_id", "title"}:
            continue
        public = public_name(name, taken=used)
        used.add(public.lower())
        found.append(_plain(movies[name]).alias(public))
    return pl.DataFrame(found)


def public_name(name: str, *, taken: Collection[str]) -> str:
    """What a column of the movies table is called in a published table. taken: names in lower case."""
    public = "".join("_" if sign in _REFUSED else sign for sign in name) or "_"
    while public.lower() in taken:
        public = f"input_{public}"
    return public


_REFUSED = " ,;{}()\n\t="


def _plain(column: pl.Series) -> pl.Series:
    """The column in a type that Delta tables have."""
    kind: Any = column.dtype
    if isinstance(kind, (pl.List, pl.Array)) and (plain := _PLAIN.get(kind.inner.base_type())) is not None:
        return column.cast(pl.List(plain))
    if (plain := _PLAIN.get(kind.base_type())) is not None:
        zone = getattr(kind, "time_zone", None)
        if isinstance(kind, pl.Datetime):
            column = column.dt.convert_time_zone("UTC") if zone else column.dt.replace_time_zone("UTC")
        return column.cast(plain)
    if kind == pl.UInt64:
        fits = bool((column.fill_null(0) < 2**63).all())
        return column.cast(pl.Int64 if fits else pl.String)
    if isinstance(kind, pl.Struct):
        return column.struct.json_encode()
    if kind in {pl.Binary, pl.Object} or kind.is_nested():
        return pl.Series(
            [None if value is None else str(value) for value in column.to_list()], dtype=pl.String
        )
    return column.cast(pl.String)


_AT = pl.Datetime("us", "UTC")
_PLAIN: dict[object, pl.DataType] = {
    pl.String: pl.String(),
    pl.Categorical: pl.String(),
    pl.Enum: pl.String(),
    pl.Null: pl.String(),
    pl.Boolean: pl.Boolean(),
    pl.Float32: pl.Float64(),
    pl.Float64: pl.Float64(),
    pl.Decimal: pl.Float64(),
    pl.Date: pl.Date(),
    pl.Datetime: _AT,
    **dict.fromkeys((pl.Int8, pl.Int16, pl.Int32, pl.Int64, pl.UInt8, pl.UInt16, pl.UInt32), pl.Int64()),
}


def arrow_type(kind: pl.DataType) -> "pa.DataType":
    """The Arrow type of a column of `publishable`."""
    import pyarrow as pa

    if isinstance(kind, pl.List):
        return pa.list_(pa.field("element", arrow_type(kind.inner)))  # type: ignore[arg-type]
    return {
        pl.String: pa.string(),
        pl.Boolean: pa.bool_(),
        pl.Int64: pa.int64(),
        pl.Float64: pa.float64(),
        pl.Date: pa.date32(),
        pl.Datetime: pa.timestamp("us", tz="UTC"),
    }[kind.base_type()]


def check_tables(config: Config, *, movies: str | None, users: str | None) -> None:
    """InputError when features, or lists per value, are asked for of a table that is not given."""
    for key, what, uri, columns in (
        ("movie_features", "movies", movies, config.movie_features),
        ("user_features", "users", users, config.user_features),
        ("lists_per", "movies", movies, tuple(config.lists_per)),
    ):
        if columns and uri is None:
            raise InputError(
                f"configuration key {key}: needs the {what} table, which is not given; give --{what}, or leave the key out"
            )
        if taken := [name for name in columns if name in _TAKEN]:
            raise InputError(
                f"configuration key {key}: {taken[0]!r} is a name of the job's own; rename the column"
            )


def _check_columns(table: pl.DataFrame, columns: tuple[str, ...], *, what: str) -> None:
    if missing := [name for name in columns if name not in table.columns]:
        raise InputError(
            f"configuration key {what}_features: the {what}s table has no column {missing[0]!r} (got {', '.join(table.columns)})"
        )
