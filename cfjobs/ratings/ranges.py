"""Good rows divided among ranges of users, so that each range is cleaned and indexed apart from the others.

    a few of the user ids -> cuts between ranges of about equally many rows
    rows of some files    -> a file whose row groups are the rows of one range each
    those of a range      -> its users, then its ratings as columns, in the order of the whole

A range's ratings are the rows that `read_ratings` would give its users, in the same order.
"""

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime

import numpy as np
import polars as pl
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cfjobs import storage
from cfjobs.config import Config
from cfjobs.ratings import scan, validate
from cfjobs.ratings.read import frame_of
from cfjobs.ratings.scan import Group
from cfjobs.ratings.sieve import Sieve
from cfjobs.ratings.sort import Columns, sort_and_deduplicate
from cfjobs.storage.parquet import SortedFile

RANGE = "range"
"""Column with the number of the range."""
_GOOD = ["user", "movie", "rating", "timestamp"]


def cuts_of(sample: pl.Series, n_ranges: int) -> pl.Series:
    """The first user of each range but the first, ascending: about as many of the sampled ids in each."""
    ids = sample.drop_nulls().sort()
    at = np.arange(1, n_ranges) * ids.len() // max(n_ranges, 1)
    return ids.gather(at).unique().sort() if ids.len() else ids


def divided(rows: pl.DataFrame, cuts: pl.Series) -> tuple[pl.DataFrame, NDArray[np.int64]]:
    """The rows in the order of their ranges, and how many of them are in each."""
    number = cuts.search_sorted(rows["user"], side="right").cast(pl.Int32)
    ordered = rows.select(*_GOOD).with_columns(number.alias(RANGE)).sort(RANGE)
    return ordered, np.bincount(number.to_numpy(), minlength=cuts.len() + 1)


def write_divided(rows: pl.DataFrame, counts: NDArray[np.int64], uri: str) -> None:
    """Rows and counts as `divided` gives them, as a file with a row group for each range that has rows."""
    table = rows.to_arrow(compat_level=pl.CompatLevel.oldest())
    ends = counts.cumsum()
    with (
        storage.new_file(uri) as path,
        pq.ParquetWriter(path, table.schema, compression="zstd", write_statistics=[RANGE]) as writer,
    ):
        for end, count in zip(ends.tolist(), counts.tolist(), strict=True):
            if count:
                writer.write_table(table.slice(end - count, count), row_group_size=count)


def good_rows(
    groups: Iterable[Group],
    sieve: Sieve,
    *,
    ids: validate.IdTypes,
    config: Config,
    now: datetime,
    at_once: int,
) -> Iterator[pl.DataFrame]:
    """What passes the sieve of groups of files, about `at_once` bytes at a time, or nothing."""
    waiting, size = list[pl.DataFrame](), 0
    for group in groups:
        for batch in scan.validated_batches(group, ids=ids, config=config, now=now):
            good = sieve.good(batch, group).select(*_GOOD)
            if good.height:
                waiting.append(good)
                size += int(good.estimated_size())
            if size >= at_once:
                together, waiting, size = pl.concat(waiting), [], 0
                yield together
    if waiting:
        yield pl.concat(waiting)


def users_of(files: Sequence[str], number: int) -> pl.Series:
    """The users of a range, ascending. files: with rows of it."""
    found = pl.Series("user_id", [])
    for uri in files:
        own = SortedFile(uri, key=RANGE, columns=["user", RANGE]).between(number, number + 1)["user"].unique()
        found = pl.concat([found, own]).unique() if found.len() else own
    return found.sort().alias("user_id")


def ratings_of(
    files: Sequence[str],
    number: int,
    *,
    n_rows: int,
    users: pl.Series,
    movies: pl.Series,
    first_user: int,
    added_up: bool,
) -> pl.DataFrame:
    """The clean ratings of a range, as `Ratings.frame`; the first of its users has the row first_user.

    files: with rows of it, n_rows in all. users: of the range, movies: of the night, both ascending.
    added_up: see `sort_and_deduplicate`.
    """
    columns, at = Columns.empty(n_rows), 0
    for uri in files:
        found = SortedFile(uri, key=RANGE, columns=[*_GOOD, RANGE]).between(number, number + 1)
        here = slice(at, at + found.height)
        columns.user[here] = users.search_sorted(found["user"]).to_numpy()
        columns.movie[here] = movies.search_sorted(found["movie"]).to_numpy()
        columns.rating[here] = found["rating"].to_numpy()
        columns.timestamp[here] = found["timestamp"].to_numpy()
        at = here.stop
    assert at == n_rows
    sizes = {"n_users": users.len(), "n_movies": movies.len()}
    columns.shrink(sort_and_deduplicate(columns, **sizes, added_up=added_up).user.size)
    np.add(columns.user, np.int32(first_user), out=columns.user)
    return frame_of(columns)
