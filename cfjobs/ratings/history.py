"""What users had rated by a night: read again from the rating files that its row of `runs` names."""

import json
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any

import polars as pl

from cfjobs import storage
from cfjobs.config import Config, validated
from cfjobs.errors import InputError
from cfjobs.ratings import scan, validate
from cfjobs.ratings.feedback import as_found
from cfjobs.ratings.source import list_parquet
from cfjobs.storage.uri import FileInfo

_TEXT = validate.IdTypes(pl.String(), pl.String())


def of_night(
    run: dict[str, Any], users: Sequence[str | int], *, ratings_uri: str | None = None
) -> pl.DataFrame:
    """The ratings that a published night knew of these users: `read_histories` over its inputs.

    run: a row of `runs`. ratings_uri: where the ratings are now, if not where the night read them.
    """
    config = validated(json.loads(run["config"]))
    if ratings_uri is not None:
        files = list_parquet(storage.normal(ratings_uri), what="ratings")
    else:
        inputs = [dict(file) for file in json.loads(run["inputs"])]
        files = [FileInfo(**file) for file in inputs if file.pop("what") == "ratings"]
    now = run["started_at"].astimezone(UTC).replace(tzinfo=None) + timedelta(days=1)
    try:
        return read_histories(files, users, config=config, run_date=run["run_date"], now=now)
    except InputError as error:
        remedy = "" if ratings_uri else "; if the ratings moved, name them with --ratings"
        raise InputError(f"{error}{remedy}") from error


def read_histories(
    files: Sequence[FileInfo], users: Sequence[str | int], *, config: Config, run_date: date, now: datetime
) -> pl.DataFrame:
    """user_id, movie_id (as text), rating, timestamp of these users up to the end of the date,
    by user and time; the timestamp is null without times.

    Only these users' rows are kept in memory. They are validated as in the night, and the latest of a pair
    counts; implicit feedback has null ratings. now: ratings after this moment are none; naive UTC.
    Raises InputError for a file that is gone.
    """
    wanted = pl.Series([str(user) for user in users], dtype=pl.String)
    until = datetime.combine(run_date + timedelta(days=1), datetime.min.time())
    footers = scan.read_footers(files, columns=validate.columns_of(config), what="ratings")
    config = as_found(config, footers)
    implicit, timed = config.feedback == "implicit", config.timestamp_column is not None
    parts = [
        scan.validated_rows_of(wanted, group, ids=_TEXT, config=config, now=now).select(
            pl.col("user").alias("user_id"), pl.col("movie").alias("movie_id"), "rating", "timestamp", "code"
        )
        for group in scan.group_files(footers, config=config)
    ]
    found = pl.concat(parts).with_columns(pl.from_epoch("timestamp", time_unit="us"))
    good = found.filter(pl.col("code") == validate.GOOD, pl.col("timestamp") < until).drop("code")
    if implicit:
        good = good.filter(pl.col("rating") > 0).with_columns(pl.lit(None, pl.Float32).alias("rating"))
    if not timed:
        good = good.with_columns(pl.lit(None, good.schema["timestamp"]).alias("timestamp"))
    latest = good.sort("timestamp", "rating").unique(
        ["user_id", "movie_id"], keep="last", maintain_order=True
    )
    return latest.sort("user_id", "timestamp", "movie_id")
