"""The written lists read back, a block of row groups at a time: held against every rule of `top_n`,
and described."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from cfjobs import storage, tables
from cfjobs.config import Config
from cfjobs.errors import DamagedFile, GateRefused
from cfjobs.evaluation.gate import Written, list_comparisons, none_at_all, refusals
from cfjobs.evaluation.places import Places
from cfjobs.night.records import Described, Night, Prepared, Scored, Shard
from cfjobs.night.score import score_again, shards
from cfjobs.storage.parquet import SortedFile, TableFile
from cfjobs.storage.read_ahead import ahead
from cfjobs.tables import runs
from cfjobs.tables.parts import Part
from cfjobs.tables.rules import list_faults
from cfjobs.tables.runs import LastNight, Source

log = logging.getLogger(__name__)

BLOCK_ROWS = 500_000
RATINGS_AT_ONCE = 5_000_000
_PER_ROW = 600  # bytes that the check of a row takes at most, two blocks being read ahead


def check(night: Night, prepared: Prepared, scored: Sequence[Scored]) -> int:
    """Read the written parts back and hold them against every rule of `top_n`; returns the rows read.

    What the lists are like is left in the work folder, for `commit`.

    Raises GateRefused for a broken list, which nothing overrides, and DamagedFile for a part that cannot be
    read.
    """
    n_rows = n_lists = 0
    try:
        places = _places(night, prepared)
    except DamagedFile as error:
        raise night.damaged(str(error).partition(": ")[0], error) from error
    churn = _Churn(night, n_users=prepared.n_users)
    for shard, record in zip(shards(night, prepared), scored, strict=True):
        try:
            rows, found = _check(night, prepared, shard, record, places=places, churn=churn)
        except DamagedFile as error:
            if str(error).startswith(night.work):
                raise night.damaged(str(error).partition(": ")[0], error) from error
            score_again(night, shard)
            raise DamagedFile(
                f"{error}; nothing was published, run the night again to score shard {shard.number} anew"
            ) from error
        n_rows, n_lists = n_rows + rows, n_lists + found
    log.info("checked %d rows of %d lists", n_rows, n_lists)
    last = runs.last(night.output, before=night.run_date)
    written = Written(n_lists, n_rows, places.figures(), churn.since(last) if last else None)
    overridden = _judge(night, written, last)
    night.done("described", Described(figures=places.figures(), churn=written.churn, overridden=overridden))
    return n_rows


def _judge(night: Night, written: Written, last: LastNight | None) -> list[str]:
    """What an override overrides. Raises GateRefused for lists that must not be published."""
    if words := none_at_all(written):
        raise GateRefused(f"the gate refused: {words}; the published tables are as they were")
    lines = list_comparisons(night.config, written, last)
    for line in lines:
        log.info("gate: %s is %.4g, limit %.4g", line.what, line.got, line.limit)
    reasons = refusals(lines)
    if reasons and not night.config.gate_override:
        raise GateRefused(
            f"the gate refused the written lists: {'; '.join(reasons)}; the published tables are as they were (gate_override=true publishes all the same)"
        )
    return reasons


class _Churn:
    """The first places of some users' lists, tonight's and last night's. n_users: of the night."""

    def __init__(self, night: Night, *, n_users: int) -> None:
        self._output = night.output
        self._some = pl.col("user_id").hash(seed=0) % max(1, n_users // CHURN_USERS) == 0
        self._blocks: list[pl.DataFrame] = []

    def add(self, rows: pl.DataFrame) -> None:
        first = rows.filter(self._some, pl.col("rank") <= runs.FIRST)
        self._blocks.append(first.select("user_id", "movie_id"))

    def since(self, last: LastNight) -> float | None:
        """The share of places of users who had a list then whose movie was not in its first places."""
        if not self._blocks:
            return None
        tonight = pl.concat(self._blocks)
        scan = Source(self._output, dict(last.row)).first_lists()
        before = scan.filter(self._some).select("user_id", "movie_id").collect()
        if before.schema != tonight.schema:
            return None
        both = tonight.join(before.select("user_id").unique(), on="user_id", how="semi")
        if both.is_empty():
            return None
        return both.join(before, on=["user_id", "movie_id"], how="anti").height / both.height


CHURN_USERS = 50_000
"""Users whose lists are compared with last night's, about: enough for a share to a fraction of a per cent."""


def _places(night: Night, prepared: Prepared) -> Places:
    """Nothing yet of what the night's lists are like. A movie's ratings are those outside the holdout, by
    which the measured lists are described too."""
    movie_ids = night.frame("movies", ["movie_id"])["movie_id"]
    held_out = None
    if storage.exists(storage.join(night.work, "holdout.parquet")):
        held_out = night.frame("holdout")["held_out"]
    n_ratings, at = np.zeros(movie_ids.len(), np.int64), 0
    rated = TableFile(storage.join(night.work, "ratings.parquet"), columns=["movie_idx"])
    for block in rated.blocks(RATINGS_AT_ONCE):
        movie_idx = block["movie_idx"]
        if held_out is not None:
            movie_idx = movie_idx.filter(~held_out[at : at + block.height])
        n_ratings += np.bincount(movie_idx, minlength=movie_ids.len())
        at += block.height
    return Places(
        movie_ids,
        n_ratings,
        n_ratings >= max(1, night.config.min_ratings),
        n_users=prepared.n_users,
    )


def _check(
    night: Night, prepared: Prepared, shard: Shard, record: Scored, *, places: Places, churn: _Churn
) -> tuple[int, int]:
    """The rows and lists of a shard."""
    for part in _parts(record):
        uri = storage.join(night.output, tables.TOP_N.name, part.path)
        if not storage.exists(uri):
            raise DamagedFile(f"{uri}: is gone")
    n_lists = after = 0
    n_left = {part.path: part.rows for part in _parts(record)}
    for block in ahead(_blocks(night, shard, record)):
        faults = block.faults(after=after)
        faults += list_faults(block.rows, seen=block.seen, top_n=night.config.top_n, y_range=prepared.y_range)
        _refuse(block.path, faults)
        if not shard.cold:
            places.add(block.rows)
            churn.add(block.rows)
        after = block.users.stop - shard.start
        n_left[block.path] -= block.rows.height
        n_lists += block.rows["user_id"].n_unique()
    for path, n in n_left.items():
        _refuse(path, [f"{abs(n):,} rows {'fewer' if n > 0 else 'more'} than were written"] * (n != 0))
    return sum(part.rows for part in _parts(record)), n_lists


@dataclass(frozen=True)
class _Block:
    """Some whole row groups of a part, and what its users have rated."""

    path: str
    rows: pl.DataFrame
    shard: Shard
    ids: pl.Series  # of the shard's users, ascending
    users: range  # of these rows, by the first and the last of them
    seen: pl.DataFrame  # user_id, movie_id

    def faults(self, *, after: int) -> list[str]:
        """What is wrong with the users. after: where those of the block before end in the shard."""
        listed = self.rows["user_id"]
        faults = []
        if n := int((~listed.is_in(self.ids.implode())).sum()):
            faults.append(f"{n:,} rows are of users of another shard")
        if not listed.is_sorted():
            faults.append("the users are not in order")
        if self.users.start - self.shard.start < after:
            faults.append("a user is in two parts")
        return faults


def _blocks(night: Night, shard: Shard, record: Scored) -> Iterator[_Block]:
    """What was written of a shard, read back."""
    rated = SortedFile(
        storage.join(night.work, "ratings.parquet"), key="user_idx", columns=["user_idx", "movie_idx"]
    )
    user_ids = TableFile(storage.join(night.work, "users.parquet"), columns=["user_id"])
    movie_ids = night.frame("movies", ["movie_id"])["movie_id"]
    ids = user_ids.rows(shard.start, shard.stop)["user_id"]
    columns = [column.name for column in tables.TOP_N.columns if column.name != tables.RUN_DATE]
    for path in (part.path for part in _parts(record)):
        file = TableFile(storage.join(night.output, tables.TOP_N.name, path), columns=columns)
        for rows in file.blocks(_block_rows(night.config)):
            first, last = (int(ids.search_sorted(id_)) for id_ in (rows["user_id"][0], rows["user_id"][-1]))
            users = range(shard.start + first, shard.start + min(last + 1, ids.len()))
            here = rated.between(users.start, users.stop)
            seen = {"user_id": ids[here["user_idx"] - shard.start], "movie_id": movie_ids[here["movie_idx"]]}
            yield _Block(path, rows, shard, ids, users, pl.DataFrame(seen))


def _block_rows(config: Config) -> int:
    """Rows that are checked at once: an eighth of `memory_gb`."""
    return max(10_000, min(BLOCK_ROWS, int(config.memory_gb * 2**30 / 8 / _PER_ROW)))


def _parts(record: Scored) -> list[Part]:
    return [Part(**part) for part in record.parts]


def _refuse(what: str, faults: Sequence[str]) -> None:
    if faults:
        raise GateRefused(
            f"the gate refused broken lists: {what}: {'; '.join(faults)}; the published tables are as they were, please report this"
        )
