"""The written lists read back and held against every rule of `top_n`, a block of row groups at a time."""

import logging
from collections.abc import Iterator, Sequence

import polars as pl

from cfjobs import storage, tables
from cfjobs.errors import GateRefused
from cfjobs.gate import list_faults
from cfjobs.night import Night, Prepared, Scored, Shard
from cfjobs.publish import Part
from cfjobs.scoring import shards
from cfjobs.table_file import SortedFile, TableFile

log = logging.getLogger(__name__)

BLOCK_ROWS = 500_000


def check(night: Night, prepared: Prepared, scored: Sequence[Scored]) -> int:
    """Read the written parts back and hold them against every rule of `top_n`; returns the rows read.

    Raises GateRefused for a broken list, which nothing overrides.
    """
    ratings = SortedFile(
        storage.join(night.work, "ratings.parquet"), key="user_idx", columns=["user_idx", "movie_idx"]
    )
    user_ids = TableFile(storage.join(night.work, "users.parquet"), columns=["user_id"])
    movie_ids = night.frame("movies", ["movie_id"])["movie_id"]
    n_rows = n_lists = 0
    for shard, record in zip(shards(night, prepared), scored, strict=True):
        ids = user_ids.rows(shard.start, shard.stop)["user_id"]
        after = 0
        for part in (Part(**part) for part in record.parts):
            n_read = 0
            for rows in _blocks(night, part):
                users, faults = _users(rows, ids, shard, after=after)
                here = ratings.between(users.start, users.stop)
                seen = pl.DataFrame(
                    {
                        "user_id": ids[here["user_idx"] - shard.start],
                        "movie_id": movie_ids[here["movie_idx"]],
                    }
                )
                faults += list_faults(rows, seen=seen, top_n=night.config.top_n, y_range=prepared.y_range)
                _refuse(part.path, faults)
                after, n_read = users.stop - shard.start, n_read + rows.height
                n_lists += rows["user_id"].n_unique()
            _refuse(
                part.path, [f"{n_read:,} rows are there, {part.rows:,} were written"] * (n_read != part.rows)
            )
            n_rows += n_read
    log.info("checked %d rows of %d lists", n_rows, n_lists)
    return n_rows


def _blocks(night: Night, part: Part) -> Iterator[pl.DataFrame]:
    """The rows of a part, whole row groups at a time."""
    columns = [column.name for column in tables.TOP_N.columns if column.name != tables.RUN_DATE]
    return TableFile(storage.join(night.output, tables.TOP_N.name, part.path), columns=columns).blocks(
        BLOCK_ROWS
    )


def _users(rows: pl.DataFrame, ids: pl.Series, shard: Shard, *, after: int) -> tuple[range, list[str]]:
    """The rows of the users in a block, and what is wrong with them.

    ids: of the shard's users, ascending. after: where the users of the block before end among them.
    """
    listed = rows["user_id"]
    first, last = (int(ids.search_sorted(value)) for value in (listed[0], listed[-1]))
    faults = []
    if n := int((~listed.is_in(ids.implode())).sum()):
        faults.append(f"{n:,} rows are of users of another shard")
    if not listed.is_sorted():
        faults.append("the users are not in order")
    if first < after:
        faults.append("a user is in two parts")
    return range(shard.start + first, shard.start + min(last + 1, ids.len())), faults


def _refuse(what: str, faults: Sequence[str]) -> None:
    if faults:
        raise GateRefused(
            f"the gate refused broken lists: {what}: {'; '.join(faults)}; the published tables are as they were, please report this"
        )
