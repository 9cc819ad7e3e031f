"""Rows as they were written, validated: good ones with their types, the others with a reason.

Frames in, frames out: read = written + skipped holds by construction, every row has a reason or none.
"""

from collections.abc import Mapping

import polars as pl

from cfjobs.datasets.text import FAULT
from cfjobs.ratings.validate import utc_microseconds

REASON = "__reason"
UNRATED = "no rating: "
"""Begins the faults of rows that say, as their format has it, that nobody rated: they are skipped in any
number."""

USER, MOVIE, RATING, WEIGHT, TIMESTAMP = "user_id", "movie_id", "rating", "weight", "timestamp"
_TIME_FORMATS = (
    "%Y-%m-%d %H:%M:%S%.f",
    "%Y-%m-%dT%H:%M:%S%.f",
    "%Y-%m-%dT%H:%M:%S%.fZ",
    "%Y-%m-%d %H:%M",
    "%Y-%m-%d",
)
_NO_ID = {pl.Int64(): "is not an integer", pl.String(): "is missing"}


def validated(raw: pl.DataFrame, *, ids: Mapping[str, pl.DataType], rated: bool = True) -> pl.DataFrame:
    """The same rows with their types and a `reason`, null for a good one.

    raw: strings: `FAULT`, the ids, and further columns, which stay as they are. ids: the type of each id,
    Int64 or String. rated: rating, weight and timestamp, where they are, have to be numbers, and times as
    text or since 1970; otherwise they are columns as any.
    """
    frame = raw.with_columns(pl.col(*ids).str.strip_chars())
    checks = [(pl.col(FAULT).is_not_null(), pl.col(FAULT))]
    typed: list[pl.Expr | pl.Series] = []
    for name, dtype in ids.items():
        what = name.removesuffix("_id")
        value = pl.col(name).cast(dtype, strict=False)
        checks.append((pl.col(name).is_null() | (pl.col(name) == ""), pl.lit(f"{what} is missing")))
        checks.append((value.is_null(), pl.lit(f"{what} {_NO_ID[dtype]}")))
        typed.append(value)
    for name in (RATING, WEIGHT):
        if rated and name in frame.columns:
            number = pl.col(name).str.strip_chars().cast(pl.Float32, strict=False)
            checks.append((pl.col(name).is_null(), pl.lit(f"{name} is missing")))
            checks.append((number.is_null() | ~number.is_finite(), pl.lit(f"{name} is not a number")))
            typed.append(number)
    if rated and TIMESTAMP in frame.columns:
        moment = times(frame[TIMESTAMP])
        checks.append((pl.col(TIMESTAMP).is_null(), pl.lit("timestamp is missing")))
        checks.append((pl.lit(moment.is_null()), pl.lit("timestamp is no time")))
        typed.append(moment)
    reason = pl.lit(None, pl.String)
    for fails, words in reversed(checks):
        reason = pl.when(fails).then(words).otherwise(reason)
    return frame.with_columns(reason.alias(REASON)).with_columns(typed).drop(FAULT)


def times(text: pl.Series) -> pl.Series:
    """Moments [N] of numbers since 1970 or of dates and times as text, which are taken for UTC; else null."""
    number = text.str.strip_chars().cast(pl.Int64, strict=False)
    if number.null_count() > text.null_count():
        number = number.cast(pl.Float64).fill_null(text.cast(pl.Float64, strict=False))
    moment = number.to_frame("t").select(utc_microseconds(pl.col("t"), number.dtype)).to_series()
    moment = moment.cast(pl.Datetime("us"))
    for form in _TIME_FORMATS:
        if moment.null_count() == text.null_count():
            break
        found = text.str.strip_chars().str.to_datetime(form, strict=False, time_unit="us", time_zone=None)
        moment = moment.fill_null(found)
    year = moment.dt.year()
    return (
        moment.to_frame(text.name)
        .select(pl.when(year.is_between(1, 9999)).then(pl.col(text.name)))
        .to_series()
    )


def are_whole(text: pl.Series) -> bool:
    """Whether ids are integers that lose nothing as such: no leading zeros, within 64 bits."""
    found = text.drop_nulls().str.strip_chars()
    return bool(found.len()) and bool(found.str.contains(r"^(0|-?[1-9]\d{0,17})$").all())
