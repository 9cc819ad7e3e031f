"""Rating files in, a clean indexed table out; every row kept, superseded, or rejected with its reason.

    files -> one query a file, in canonical columns, each row with its reason to be rejected or none
          -> kept rows, latest of each (user, movie) pair
          -> ids mapped to rows 0..U-1 and 0..M-1 in the order of the ids, sorted by user, time, movie

Reading goes through Polars, so a local path and an object store are the same code.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import polars as pl
from numpy.typing import NDArray

from cfjobs import storage
from cfjobs.config import Config
from cfjobs.errors import InputError
from cfjobs.storage import FileInfo

_CANONICAL = ("user_id", "movie_id", "rating", "timestamp")


@dataclass(frozen=True)
class Ratings:
    """Clean ratings as columns, sorted by user, timestamp, movie; row numbers stand for ids.

    frame: user_idx int32, movie_idx int32, rating float32, timestamp datetime[us] (UTC, no zone), R rows.
    users: user_id by row, ascending. movies: movie_id by row, ascending, with the further columns of
    the movies file. cold_users: ids of the users file that have rated nothing.
    """

    frame: pl.DataFrame
    users: pl.Series
    movies: pl.DataFrame
    cold_users: pl.Series

    def column(self, name: str) -> NDArray[np.generic]:
        return self.frame[name].to_numpy()


@dataclass(frozen=True)
class Cleaned:
    """Clean ratings, the rows set aside, and counts that add up: read = kept + superseded + rejected."""

    ratings: Ratings
    rejected: pl.DataFrame
    counts: dict[str, int]


def read_ratings(
    files: Sequence[FileInfo],
    *,
    config: Config,
    until: datetime,
    now: datetime,
    movies: pl.DataFrame | None = None,
    users: pl.DataFrame | None = None,
) -> Cleaned:
    """Read, check and index rating files.

    until: the end of the night's date; later ratings belong to another night and are left out, counted as
    `later`. now: ratings after this moment cannot be and are rejected. Both naive UTC. movies, users: the
    optional tables, as `read_table` gives them. Raises InputError for a file without the columns or with wrong types, for
    no ratings at all, and for a share of rejected rows above `max_rejected`.
    """
    schemas = {file.uri: _schema(file, config) for file in files}
    id_types = {
        name: pl.Int64 if all(_is_int64(schema[column]) for schema in schemas.values()) else pl.String
        for name, column in (("user_id", config.user_column), ("movie_id", config.movie_column))
    }
    parts, rejected_parts, n_later = [], [], 0
    for number, file in enumerate(files):
        judged = _judged(file, schemas[file.uri], config, id_types, now)
        with storage.explained(file.uri):
            rows = _collect(judged, file)
        bad = rows.filter(pl.col("reason").is_not_null())
        rejected_parts.append(_rejected(bad, file))
        good = rows.filter(pl.col("reason").is_null())
        tonight = good.filter(pl.col("timestamp") < until)
        n_later += good.height - tonight.height
        parts.append(tonight.select(*_CANONICAL, pl.lit(number, pl.Int32).alias("part"), "row"))
    table = pl.concat(parts)
    rejected = pl.concat(rejected_parts)
    n_read = table.height + rejected.height
    _check_share(table.height, rejected, n_read, config)
    kept = table.sort("timestamp", "part", "row").unique(
        ["user_id", "movie_id"], keep="last", maintain_order=True
    )
    counts = {
        "read": n_read,
        "kept": kept.height,
        "superseded": table.height - kept.height,
        "rejected": rejected.height,
        "later": n_later,
    }
    return Cleaned(_indexed(kept, movies, users), rejected, counts)


def read_table(uri: str, *, key: str, name: str) -> pl.DataFrame:
    """A movies or users table: every Parquet file under the URI, its key column renamed to `{name}_id`.

    Null and repeated keys are dropped (the first row of a key stays). Raises InputError when there is no
    file, or no key column.
    """
    files = list_parquet(uri, what=f"{name}s")
    frames = []
    for file in files:
        schema = _read_schema(file)
        if key not in schema:
            raise InputError(
                f"{name}s {file.uri}: has no column {key!r} (got {', '.join(schema)}); rename it or set {name}_column"
            )
        with storage.explained(file.uri):
            frames.append(pl.read_parquet(file.uri, storage_options=storage.options(file.uri)))
    table = pl.concat(frames, how="diagonal_relaxed").rename({key: f"{name}_id"})
    return table.filter(pl.col(f"{name}_id").is_not_null()).unique(
        f"{name}_id", keep="first", maintain_order=True
    )


def list_parquet(uri: str, *, what: str) -> list[FileInfo]:
    """The Parquet files at or under a URI; InputError when there is none."""
    files = storage.list_files(uri)
    if not files:
        raise InputError(
            f"{what} {uri}: holds no .parquet file; give a Parquet file or a folder of them (GroupLens files: `cfjobs import`)"
        )
    return files


def with_rows_of(found: Ratings, *, users: pl.Series, movies: pl.DataFrame) -> Ratings:
    """The same ratings with the rows of an existing model.

    users: the model's user ids by row; movies: its movies by row. A user it does not know becomes a cold one;
    ratings of a movie it does not know are left out, since it can neither score nor list that movie.
    """
    for known, tonight, column in (
        (users, found.users, "user_id"),
        (movies["movie_id"], found.movies["movie_id"], "movie_id"),
    ):
        if known.dtype != tonight.dtype:
            raise InputError(
                f"ratings: {column} is {tonight.dtype}, but the model was trained on {known.dtype}; keep the type, or train again"
            )
    unknown = found.users.filter(~found.users.is_in(users.implode()))
    cold = pl.concat([unknown, found.cold_users]).unique().sort()
    cold = cold.filter(~cold.is_in(users.implode()))
    user_rows = rows_of(found.users, pl.concat([users, cold]))
    movie_rows = rows_of(found.movies["movie_id"], movies["movie_id"])
    frame = found.frame.with_columns(
        pl.Series("user_idx", user_rows[found.column("user_idx")]),
        pl.Series("movie_idx", movie_rows[found.column("movie_idx")]),
    ).filter(pl.col("movie_idx") >= 0)
    return Ratings(frame.sort("user_idx", "timestamp", "movie_idx"), users, movies, cold)


def rows_of(ids: pl.Series, known: pl.Series) -> NDArray[np.int32]:
    """Row of each id among the known ones (unique), -1 for an id that is not known."""
    if known.dtype != ids.dtype:
        ids = _as_ids(ids, known.dtype)
    numbered = pl.DataFrame({"id": known, "row": np.arange(known.len(), dtype=np.int32)})
    rows = pl.DataFrame({"id": ids}).join(numbered, on="id", how="left", maintain_order="left")["row"]
    return rows.fill_null(-1).to_numpy()


def _indexed(kept: pl.DataFrame, movies: pl.DataFrame | None, users: pl.DataFrame | None) -> Ratings:
    user_ids = kept["user_id"].unique().sort()
    movie_ids = kept["movie_id"].unique().sort()
    frame = pl.DataFrame(
        {
            "user_idx": rows_of(kept["user_id"], user_ids),
            "movie_idx": rows_of(kept["movie_id"], movie_ids),
            "rating": kept["rating"].cast(pl.Float32),
            "timestamp": kept["timestamp"],
        }
    ).sort("user_idx", "timestamp", "movie_idx")
    catalogue = pl.DataFrame({"movie_id": movie_ids})
    if movies is not None:
        described = movies.with_columns(_as_ids(movies["movie_id"], movie_ids.dtype).alias("movie_id"))
        catalogue = catalogue.join(described, on="movie_id", how="left", maintain_order="left")
    cold = pl.Series("user_id", [], dtype=user_ids.dtype)
    if users is not None:
        listed = _as_ids(users["user_id"], user_ids.dtype).drop_nulls().unique().sort()
        cold = listed.filter(~listed.is_in(user_ids.implode()))
    return Ratings(frame, user_ids, catalogue, cold)


def _judged(
    file: FileInfo,
    schema: pl.Schema,
    config: Config,
    id_types: dict[str, type[pl.Int64] | type[pl.String]],
    now: datetime,
) -> pl.LazyFrame:
    """The rows of one file in canonical columns, with `row` and with `reason`, null for a good row."""
    rating = pl.col(config.rating_column).cast(pl.Float64, strict=False)
    lowest, highest = config.y_range or (-float("inf"), float("inf"))
    query = pl.scan_parquet(
        file.uri, storage_options=storage.options(file.uri), row_index_name="row", hive_partitioning=False
    )
    return query.select(
        pl.col("row").cast(pl.Int64),
        pl.col(config.user_column).cast(id_types["user_id"], strict=False).alias("user_id"),
        pl.col(config.movie_column).cast(id_types["movie_id"], strict=False).alias("movie_id"),
        rating.alias("rating"),
        moment(config.timestamp_column, schema[config.timestamp_column]).alias("timestamp"),
        pl.col(config.rating_column).cast(pl.String, strict=False).alias("rating_text"),
    ).with_columns(
        pl.when(pl.col("user_id").is_null())
        .then(pl.lit("user is missing"))
        .when(pl.col("movie_id").is_null())
        .then(pl.lit("movie is missing"))
        .when(pl.col("rating").is_null())
        .then(pl.lit("rating is missing"))
        .when(~pl.col("rating").is_finite())
        .then(pl.lit("rating is not a finite number"))
        .when((pl.col("rating") < lowest) | (pl.col("rating") > highest))
        .then(pl.lit("rating is out of y_range"))
        .when(pl.col("rating").abs() > float(np.finfo(np.float32).max))
        .then(pl.lit("rating is too large"))
        .when(pl.col("timestamp").is_null())
        .then(pl.lit("timestamp is missing"))
        .when(pl.col("timestamp") > now)
        .then(pl.lit("timestamp is in the future"))
        .alias("reason"),
    )


def moment(column: str, dtype: pl.DataType) -> pl.Expr:
    """A timestamp of any accepted type as naive UTC microseconds; numbers beyond 1e11 are milliseconds."""
    value = pl.col(column)
    if isinstance(dtype, pl.Datetime):
        return (
            value.dt.convert_time_zone("UTC").dt.replace_time_zone(None) if dtype.time_zone else value
        ).cast(pl.Datetime("us"))
    if dtype == pl.Date:
        return value.cast(pl.Datetime("us"))
    seconds = value.cast(pl.Float64)
    finite = pl.when(seconds.is_finite() & (seconds.abs() < 1e14)).then(seconds)
    microseconds = pl.when(finite.abs() > 1e11).then(finite * 1e3).otherwise(finite * 1e6)
    return microseconds.cast(pl.Int64).cast(pl.Datetime("us"))


def _schema(file: FileInfo, config: Config) -> pl.Schema:
    schema = _read_schema(file)
    for column, knob in (
        (config.user_column, "user_column"),
        (config.movie_column, "movie_column"),
        (config.rating_column, "rating_column"),
        (config.timestamp_column, "timestamp_column"),
    ):
        if column not in schema:
            raise InputError(
                f"ratings {file.uri}: has no column {column!r} (got {', '.join(schema)}); rename it on export or set {knob}"
            )
        dtype = schema[column]
        if knob in {"user_column", "movie_column"}:
            fits, expected = dtype.is_integer() or dtype == pl.String, "an integer or a string"
        elif knob == "rating_column":
            fits, expected = dtype.is_numeric(), "a number"
        else:
            fits, expected = (
                dtype.is_numeric() or isinstance(dtype, pl.Datetime) or dtype == pl.Date,
                "a datetime or seconds since 1970",
            )
        if not fits:
            raise InputError(
                f"ratings {file.uri}: {column!r} is {dtype}, expected {expected}; cast it on export or map another column with {knob}"
            )
    return schema


def _read_schema(file: FileInfo) -> pl.Schema:
    with storage.explained(file.uri):
        try:
            return pl.scan_parquet(
                file.uri, storage_options=storage.options(file.uri), hive_partitioning=False
            ).collect_schema()
        except (pl.exceptions.ComputeError, OSError) as error:
            if _is_damage(error):
                raise InputError(
                    f"{file.uri}: is not a readable Parquet file; export it again or take it out of the folder"
                ) from error
            raise


def _collect(query: pl.LazyFrame, file: FileInfo) -> pl.DataFrame:
    try:
        return query.collect(engine="streaming")
    except (pl.exceptions.ComputeError, OSError) as error:
        if _is_damage(error):
            raise InputError(
                f"{file.uri}: is damaged or was changed while it was read; export it again, then rerun"
            ) from error
        raise


def _is_damage(error: Exception) -> bool:
    text = str(error).lower()
    return any(
        word in text
        for word in (
            "parquet",
            "thrift",
            "out of specification",
            "eof",
            "magic",
            "corrupt",
            "file size is",
            "underlying",
        )
    )


def _rejected(bad: pl.DataFrame, file: FileInfo) -> pl.DataFrame:
    return bad.select(
        pl.lit(file.uri).alias("file"),
        "row",
        "reason",
        pl.col("user_id").cast(pl.String),
        pl.col("movie_id").cast(pl.String),
        pl.col("rating_text").alias("rating"),
    )


def _check_share(n_good: int, rejected: pl.DataFrame, n_read: int, config: Config) -> None:
    if n_read == 0:
        raise InputError("ratings: the files hold no rows; check the export")
    if n_good and rejected.height / n_read <= config.max_rejected:
        return
    reason, number = rejected["reason"].value_counts(sort=True).row(0)
    raise InputError(
        f"ratings: {rejected.height:,} of {n_read:,} rows are rejected, most often because the {reason} ({number:,}); "
        f"mend the export, or raise max_rejected (now {config.max_rejected})"
    )


def _is_int64(dtype: pl.DataType) -> bool:
    return dtype.is_integer() and dtype not in (pl.UInt64, pl.Int128, pl.UInt128)


def _as_ids(ids: pl.Series, dtype: pl.DataType) -> pl.Series:
    return ids.cast(dtype, strict=False)
