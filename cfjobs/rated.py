"""What users had rated by a night: read again from the rating files that its row of `runs` names."""

import json
from collections.abc import Sequence
from datetime import date, datetime, timedelta
from typing import Any

import polars as pl

from cfjobs import ratings, storage
from cfjobs.config import Config, validated
from cfjobs.errors import InputError


def of_night(
    run: dict[str, Any], users: Sequence[str | int], *, ratings_uri: str | None = None
) -> pl.DataFrame:
    """The ratings that a published night knew of these users: `read_histories` over its inputs.

    run: a row of `runs`. ratings_uri: where the ratings are now, if not where the night read them.
    """
    config = validated(json.loads(run["config"]))
    if ratings_uri is not None:
        uris = [file.uri for file in ratings.list_parquet(storage.normal(ratings_uri), what="ratings")]
    else:
        uris = [file["uri"] for file in json.loads(run["inputs"])]
    return read_histories(uris, users, config=config, run_date=run["run_date"])


def read_histories(
    uris: Sequence[str], users: Sequence[str | int], *, config: Config, run_date: date
) -> pl.DataFrame:
    """user_id, movie_id, rating, timestamp of these users up to the end of the date, by user and time.

    Only these users' rows are kept in memory. The latest rating of a pair counts, as in the night itself; ids that
    are strings in one file and integers in another are compared as text. Raises InputError for a file that is gone.
    """
    wanted = pl.Series([str(user) for user in users], dtype=pl.String)
    until = datetime.combine(run_date + timedelta(days=1), datetime.min.time())
    low, high = config.y_range or (float("-inf"), float("inf"))
    parts = []
    for number, uri in enumerate(uris):
        with storage.explained(uri):
            try:
                scan = pl.scan_parquet(uri, storage_options=storage.options(uri), hive_partitioning=False)
                mine = scan.filter(pl.col(config.user_column).cast(pl.String).is_in(wanted.implode())).select(
                    pl.col(config.user_column).cast(pl.String).alias("user_id"),
                    pl.col(config.movie_column).cast(pl.String).alias("movie_id"),
                    pl.col(config.rating_column).cast(pl.Float64, strict=False).alias("rating"),
                    pl.col(config.timestamp_column).alias("timestamp"),
                )
                found = mine.collect(engine="streaming")
            except (FileNotFoundError, pl.exceptions.ColumnNotFoundError) as error:
                raise InputError(
                    f"ratings {uri}: is not there any more, or not as the night read it; name the ratings with --ratings"
                ) from error
        parts.append(
            found.with_columns(
                as_datetime(found["timestamp"]).alias("timestamp"), pl.lit(number).alias("part")
            )
        )
    good = pl.concat(parts).filter(
        pl.col("movie_id").is_not_null(),
        pl.col("rating").is_finite(),
        pl.col("rating").is_between(low, high),
        pl.col("timestamp") < until,
    )
    latest = good.sort("timestamp", "part", maintain_order=True).unique(
        ["user_id", "movie_id"], keep="last", maintain_order=True
    )
    return latest.sort("user_id", "timestamp", "movie_id", maintain_order=True).drop("part")


def as_datetime(moments: pl.Series) -> pl.Series:
    """Moments of any accepted type as naive UTC; numbers are seconds since 1970, beyond 1e11 milliseconds."""
    dtype = moments.dtype
    if isinstance(dtype, pl.Datetime):
        naive = moments.dt.convert_time_zone("UTC").dt.replace_time_zone(None) if dtype.time_zone else moments
        return naive.cast(pl.Datetime("us"))
    if dtype == pl.Date:
        return moments.cast(pl.Datetime("us"))
    seconds = moments.cast(pl.Float64)
    frame = pl.DataFrame({"s": seconds}).select(
        pl.when(pl.col("s").abs() > 1e11).then(pl.col("s") * 1e3).otherwise(pl.col("s") * 1e6)
    )
    return frame.to_series().cast(pl.Int64, strict=False).cast(pl.Datetime("us"))
