"""What a rating must be: the accepted column types, and the reason for which a row is set aside.

Types are a matter of the file, checked once from its footer; values are a matter of the row, checked by one
Polars expression, so that the streaming engine does it as it reads.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import polars as pl
from numpy.typing import NDArray

from cfjobs.config import Config
from cfjobs.errors import InputError

ROW = "__row"
"""Column of a query that holds the row's number."""
GOOD = 0
REASONS = (
    "",
    "user is missing",
    "movie is missing",
    "user is not a valid id",
    "movie is not a valid id",
    "rating is missing",
    "rating is not a finite number",
    "rating is too large",
    "rating is out of y_range",
    "timestamp is missing",
    "timestamp is outside of the calendar",
    "timestamp is in the future",
    "event is missing",
    "event is not in event_weights",
    "weight is missing",
    "weight is not a finite number",
    "weight is negative",
    "weight is too large",
)
"""By code; 0 is a good row. A row with several faults gets the first of them."""

_ROLES = {
    "user_column": "an integer or a string",
    "movie_column": "an integer or a string",
    "rating_column": "a number",
    "timestamp_column": "a datetime or seconds since 1970",
    "weight_column": "a number",
    "event_column": "an integer or a string",
}
_MICROSECONDS = {"ms": 1_000, "us": 1, "ns": -1_000}
_EPOCH = datetime(1970, 1, 1)
_YEAR_1, _YEAR_10000 = -62_135_596_800_000_000, 253_402_300_800_000_000


@dataclass(frozen=True)
class IdTypes:
    """Types of the ids of a night: Int64 when every file has integers, else String."""

    user: pl.DataType
    movie: pl.DataType


def roles_of(config: Config) -> tuple[str, ...]:
    """The settings whose columns are read: user and movie, the rating or what weighs implicit feedback,
    and the timestamp."""
    implicit = config.feedback == "implicit"
    wanted = {
        "user_column": True,
        "movie_column": True,
        "rating_column": not implicit,
        "timestamp_column": config.timestamp_column is not None,
        "weight_column": implicit and config.weight_column is not None,
        "event_column": implicit and config.event_column is not None,
    }
    return tuple(setting for setting in _ROLES if wanted[setting])


def columns_of(config: Config) -> tuple[str, ...]:
    """Names of the columns that are read, in the order of `roles_of`."""
    return tuple(getattr(config, setting) for setting in roles_of(config))


def check_columns(
    schema: Mapping[str, pl.DataType],
    *,
    file: str,
    config: Config,
) -> tuple[pl.DataType, ...]:
    """Types of the columns that are read; InputError for one absent or of a wrong type."""
    return tuple(_checked(schema, setting, file=file, config=config) for setting in roles_of(config))


def id_types(types: Iterable[tuple[pl.DataType, ...]]) -> IdTypes:
    """The common type of the ids of all files: where types mix, 7 and "7" are one id.

    It depends on types alone, not on values: the published tables keep their types from night to night.
    Unsigned 64-bit ids do not fit Int64 and become text.
    """
    found = list(types)
    whole = [all(_fits_int64(file[column]) for file in found) for column in (0, 1)]
    return IdTypes(*(pl.Int64() if fits else pl.String() for fits in whole))


def check_type(dtype: pl.DataType, setting: str, *, column: str, file: str) -> None:
    """InputError for a type that cannot be used. file: how the line begins, as in 'movies part-0.parquet'."""
    if not is_usable(dtype, setting):
        raise InputError(
            f"{file}: {column!r} is {_spoken(dtype)}, expected {_ROLES[setting]}; "
            f"cast it on export or map another column with {setting}"
        )


def id_type(dtype: pl.DataType) -> pl.DataType:
    """Int64 for a column of integers that fit it, else String."""
    return pl.Int64() if _fits_int64(dtype) else pl.String()


def validated(
    query: pl.LazyFrame,
    types: tuple[pl.DataType, ...],
    *,
    ids: IdTypes,
    config: Config,
    now: datetime,
) -> pl.LazyFrame:
    """Rows in canonical form, each with the code of its reason, `GOOD` for none.

    Columns: user, movie (of the id types), rating (float32), timestamp (int64 microseconds, UTC; 0 without
    times), code (uint8), user_raw, movie_raw, rating_raw as they came, and `ROW` of the query. Of implicit
    feedback the rating is the row's weight, and rating_raw its event or weight. now: naive UTC.
    """
    type_of = dict(zip(roles_of(config), types, strict=True))
    user, movie = pl.col(config.user_column), pl.col(config.movie_column)
    wide, rating = _strength(config) if config.feedback == "implicit" else _rating(config)
    narrow = wide.cast(pl.Float32) + pl.lit(0, pl.Float32)  # -0 becomes 0: equal ratings have equal bits
    time, untimed = pl.lit(0, pl.Int64), pl.lit(False)
    if config.timestamp_column is not None:
        timestamp, dtype = pl.col(config.timestamp_column), type_of["timestamp_column"]
        time, untimed = utc_microseconds(timestamp, dtype), _is_no_time(timestamp, dtype)
    query = query.select(
        ROW,
        user.cast(ids.user, strict=False).alias("user"),
        movie.cast(ids.movie, strict=False).alias("movie"),
        wide.alias("wide"),
        narrow.alias("rating"),
        time.alias("timestamp"),
        user.alias("user_raw"),
        movie.alias("movie_raw"),
        rating.alias("rating_raw"),
        untimed.alias("untimed"),
        *_unweighed(config),
    )
    faults = {
        "user is missing": _is_no_id("user", ids.user),
        "movie is missing": _is_no_id("movie", ids.movie),
        "user is not a valid id": pl.col("user").is_null(),
        "movie is not a valid id": pl.col("movie").is_null(),
        **(_WEIGHT_FAULTS if config.feedback == "implicit" else _rating_faults(config)),
        "timestamp is missing": pl.col("untimed"),
        "timestamp is outside of the calendar": pl.col("timestamp").is_null()
        | (pl.col("timestamp") < _YEAR_1),
        "timestamp is in the future": pl.col("timestamp") > microseconds(now),
    }
    code = pl.lit(GOOD, pl.UInt8)
    for reason, fault in reversed(faults.items()):
        code = pl.when(fault).then(pl.lit(REASONS.index(reason), pl.UInt8)).otherwise(code)
    return query.with_columns(code.alias("code")).drop("wide", "untimed", "no_event", "no_weight")


def _rating(config: Config) -> tuple[pl.Expr, pl.Expr]:
    """The rating as a number, and as it came."""
    rating = pl.col(config.rating_column)
    return rating.cast(pl.Float64, strict=False), rating


def _rating_faults(config: Config) -> dict[str, pl.Expr]:
    low, high = (pl.lit(end, pl.Float32) for end in config.y_range or (-float("inf"), float("inf")))
    return {
        "rating is missing": pl.col("wide").is_null(),
        "rating is not a finite number": ~pl.col("wide").is_finite(),
        "rating is too large": ~pl.col("rating").is_finite(),
        "rating is out of y_range": (pl.col("rating") < low) | (pl.col("rating") > high),
    }


def _strength(config: Config) -> tuple[pl.Expr, pl.Expr]:
    """What a row of implicit feedback counts, null for an event without a weight; and from what, as text."""
    strength, raw = pl.lit(1.0), pl.lit(None, pl.String)
    if config.weight_column is not None:
        weight = pl.col(config.weight_column)
        strength, raw = weight.cast(pl.Float64, strict=False), weight.cast(pl.String, strict=False)
    if config.event_column is not None:
        event = pl.col(config.event_column).cast(pl.String, strict=False)
        weights = config.event_weights
        of_event = event.replace_strict(
            list(weights), list(weights.values()), default=None, return_dtype=pl.Float64
        )
        raw = pl.when(of_event.is_not_null()).then(raw).otherwise(event)
        strength = pl.when(of_event == 0).then(0.0).otherwise(strength * of_event)
    return strength, raw


def _unweighed(config: Config) -> tuple[pl.Expr, pl.Expr]:
    """Whether a row has no event, and whether no weight, where its column is read."""
    return tuple(  # type: ignore[return-value]  # two
        (pl.lit(False) if role not in roles_of(config) else pl.col(getattr(config, role)).is_null()).alias(
            name
        )
        for role, name in (("event_column", "no_event"), ("weight_column", "no_weight"))
    )


_WEIGHT_FAULTS = {
    "event is missing": pl.col("no_event"),
    "weight is missing": pl.col("no_weight"),
    "event is not in event_weights": pl.col("wide").is_null(),
    "weight is not a finite number": ~pl.col("wide").is_finite(),
    "weight is negative": pl.col("wide") < 0,
    "weight is too large": ~pl.col("rating").is_finite(),
}


def rejected_rows(bad: pl.DataFrame, *, files: list[str], rows: NDArray[np.int64]) -> pl.DataFrame:
    """Judged rows with a reason, as rows of the rejected table. files, rows [R]: where each row is from."""
    return bad.select(
        pl.Series("file", files, dtype=pl.String),
        pl.Series("row", rows, dtype=pl.Int64),
        pl.col("code").replace_strict(range(len(REASONS)), REASONS, return_dtype=pl.String).alias("reason"),
        *(
            pl.col(raw).cast(pl.String, strict=False).alias(name)
            for raw, name in (("user_raw", "user_id"), ("movie_raw", "movie_id"), ("rating_raw", "rating"))
        ),
    )


REJECTED_SCHEMA = pl.Schema(
    {
        "file": pl.String(),
        "row": pl.Int64(),
        "reason": pl.String(),
        "user_id": pl.String(),
        "movie_id": pl.String(),
        "rating": pl.String(),
    }
)


def microseconds(moment: datetime) -> int:
    """Microseconds since 1970 of a naive UTC datetime."""
    passed = moment - _EPOCH
    return (passed.days * 86_400 + passed.seconds) * 1_000_000 + passed.microseconds


def _checked(schema: Mapping[str, pl.DataType], setting: str, *, file: str, config: Config) -> pl.DataType:
    column = getattr(config, setting)
    if column not in schema:
        remedy = f"rename it on export or set {setting}"
        if f"/{column}=" in file:
            remedy = "a folder's name is not read as a column: write it into the file"
        raise InputError(f"ratings {file}: has no column {column!r} (got {', '.join(schema)}); {remedy}")
    check_type(schema[column], setting, column=column, file=f"ratings {file}")
    return schema[column]


def is_usable(dtype: pl.DataType, setting: str) -> bool:
    """Whether a column of this type can be what the setting names."""
    if dtype == pl.Null:
        return True
    if setting in {"user_column", "movie_column", "event_column"}:
        text = isinstance(dtype, pl.String | pl.Categorical | pl.Enum | pl.Binary)
        return text or dtype.is_integer() or (isinstance(dtype, pl.Decimal) and dtype.scale == 0)
    return dtype.is_numeric() or (setting == "timestamp_column" and isinstance(dtype, pl.Datetime | pl.Date))


def _fits_int64(dtype: pl.DataType) -> bool:
    if isinstance(dtype, pl.Decimal) or dtype == pl.Null:
        return True
    return dtype.is_integer() and dtype not in (pl.UInt64, pl.Int128, pl.UInt128)


def _is_no_id(name: str, dtype: pl.DataType) -> pl.Expr:
    """Null, or an empty text."""
    absent = pl.col(f"{name}_raw").is_null()
    return absent | (pl.col(name) == "") if dtype == pl.String else absent


def _is_no_time(column: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    """Null, or NaN, which stands for it in a column of floats."""
    return column.is_null() | column.is_nan() if dtype.is_float() else column.is_null()


def utc_microseconds(column: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    """A timestamp of any accepted type as UTC microseconds; null when it lies outside of the calendar.

    Plain numbers are seconds up to 1e11, the year 5138; beyond it milliseconds, from 1973 on; from 1e14
    microseconds and from 1e17 nanoseconds, likewise.
    """
    if isinstance(dtype, pl.Datetime):
        factor = _MICROSECONDS[dtype.time_unit]
        stamp = column.to_physical()
        return stamp.floordiv(-factor) if factor < 0 else _scaled(stamp, factor)
    if dtype == pl.Date:
        return _scaled(column.to_physical().cast(pl.Int64), 86_400_000_000)
    if dtype.is_integer():
        number = column.cast(pl.Int64, strict=False)
        seconds, milli, nano = number * 1_000_000, number * 1_000, number.floordiv(1_000)
    else:
        number = column.cast(pl.Float64)
        number = pl.when(number.is_finite() & (number.abs() < 9e18)).then(number)
        seconds, milli, nano = number * 1e6, number * 1e3, number / 1e3
    return (
        pl.when(number.is_between(-(10**11), 10**11))
        .then(seconds)
        .when(number.is_between(-(10**14), 10**14))
        .then(milli)
        .when(number.is_between(-(10**17), 10**17))
        .then(number)
        .otherwise(nano)
    ).cast(pl.Int64)


def _scaled(stamp: pl.Expr, factor: int) -> pl.Expr:
    """A moment in microseconds; null where the product would not fit 64 bits."""
    if factor == 1:
        return stamp
    inside = (stamp >= _YEAR_1 // factor) & (stamp <= _YEAR_10000 // factor)
    return pl.when(inside).then(stamp * factor)


def _spoken(dtype: pl.DataType) -> str:
    names = {pl.String: "string", pl.Boolean: "boolean", pl.Binary: "binary"}
    return names.get(dtype.base_type(), str(dtype).partition("(")[0])
