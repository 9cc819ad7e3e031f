"""The written lists read back, a block of row groups at a time: held against every rule of `top_n`,
and described."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Self

import numpy as np
import polars as pl

from cfjobs import lists, storage, tables
from cfjobs.config import Config
from cfjobs.errors import DamagedFile, GateRefused
from cfjobs.evaluation.gate import Written, list_comparisons, none_at_all, refusals
from cfjobs.night.list_statistics import Listed, ListStatistics
from cfjobs.night.records import Described, Night, Prepared, Scored, Shard, as_decided
from cfjobs.night.score import score_again, shards
from cfjobs.night.side_tables import schema_of, write_table
from cfjobs.storage.parquet import SortedFile, TableFile, parquet_bytes
from cfjobs.storage.read_ahead import ahead
from cfjobs.tables import runs
from cfjobs.tables.parts import Part
from cfjobs.tables.rules import ShopRules, list_faults
from cfjobs.tables.runs import LastNight

log = logging.getLogger(__name__)

BLOCK_ROWS = 500_000
_PER_ROW = 600  # bytes that the check of a row takes at most, two blocks being read ahead


def check(night: Night, prepared: Prepared, scored: Sequence[Scored]) -> int:
    """Read the written parts back and hold them against every rule of `top_n`; returns the rows read.

    What the lists are like is left in the work folder, for `commit`: the table `users` is written on the way.

    Raises GateRefused for a broken list, which nothing overrides, and DamagedFile for a part that cannot be
    read.
    """
    last = runs.last(night.output, before=night.run_date)
    try:
        statistics = ListStatistics.of(night, prepared, last)
    except DamagedFile as error:
        raise night.damaged(str(error).partition(": ")[0], error) from error
    users = write_table(
        night, tables.USERS, schema_of(night, tables.USERS), _users(night, prepared, scored, statistics)
    )
    log.info("checked %d rows of %d lists", statistics.n_rows, statistics.n_lists)
    night.write("reach.parquet", parquet_bytes(statistics.movies()))
    figures, churns = statistics.places.figures(), statistics.churns()
    churn = churns[0]["value"] if churns else None
    written = Written(statistics.n_lists, statistics.n_rows, figures, churn)
    overridden = _judge(as_decided(night, prepared), written, last)
    described = Described(
        figures=figures,
        churn=churn,
        churns=churns,
        overridden=overridden,
        users=[asdict(part) for part in users.parts],
    )
    night.done("described", described)
    return statistics.n_rows


def _users(
    night: Night, prepared: Prepared, scored: Sequence[Scored], statistics: ListStatistics
) -> Iterator[pl.DataFrame]:
    """Rows of `users`, block after block of lists that keep the rules."""
    kept = _Kept.of(night, prepared, statistics.places.movie_ids)
    for shard, record in zip(shards(night, prepared), scored, strict=True):
        try:
            yield from _check(night, kept, shard, record, statistics)
        except DamagedFile as error:
            if str(error).startswith(night.work):
                raise night.damaged(str(error).partition(": ")[0], error) from error
            score_again(night, shard)
            raise DamagedFile(
                f"{error}; nothing was published, run the night again to score shard {shard.number} anew"
            ) from error


def _judge(config: Config, written: Written, last: LastNight | None) -> list[str]:
    """What an override overrides. Raises GateRefused for lists that must not be published."""
    if words := none_at_all(written):
        raise GateRefused(f"the gate refused: {words}; the published tables are as they were")
    lines = list_comparisons(config, written, last)
    for line in lines:
        log.info("gate: %s is %.4g, limit %.4g", line.what, line.got, line.limit)
    reasons = refusals(lines)
    if reasons and not config.gate_override:
        raise GateRefused(
            f"the gate refused the written lists: {'; '.join(reasons)}; the published tables are as they were (gate_override=true publishes all the same)"
        )
    return reasons


@dataclass(frozen=True)
class _Kept:
    """What every list of the night keeps. withheld: movies that must not be listed, None where all may be;
    rules: of the shop, None where there are none."""

    y_range: tuple[float, float] | None
    withheld: pl.Series | None
    rules: ShopRules | None

    @classmethod
    def of(cls, night: Night, prepared: Prepared, movie_ids: pl.Series) -> Self:
        n_ratings = np.zeros(movie_ids.len(), np.int64)  # which movies are new cannot be seen in a list
        rules = lists.rules.of(
            night.frame("movies"), night.config, n_ratings=n_ratings, run_date=night.run_date
        )
        return cls(
            y_range=None if prepared.implicit else prepared.y_range,
            withheld=movie_ids.filter(~night.frame("listed")["listed"]) if prepared.limited else None,
            rules=None if rules is None else rules.as_published(movie_ids),
        )


def _check(
    night: Night, kept: _Kept, shard: Shard, record: Scored, statistics: ListStatistics
) -> Iterator[pl.DataFrame]:
    """The rows of `users` of a shard."""
    for part in _parts(record):
        uri = storage.join(night.output, tables.TOP_N.name, part.path)
        if not storage.exists(uri):
            raise DamagedFile(f"{uri}: is gone")
    after = 0
    n_left = {part.path: part.rows for part in _parts(record)}

    def judged() -> Iterator[tuple[_Block, list[str]]]:
        for block in _blocks(night, shard, record, statistics):
            yield (
                block,
                list_faults(
                    block.rows,
                    seen=block.seen,
                    top_n=night.config.top_n,
                    y_range=kept.y_range,
                    withheld=kept.withheld,
                    rules=kept.rules,
                ),
            )

    for block, faults in ahead(judged()):  # the next block is judged while this one is counted
        refuse_broken(block.path, block.faults(after=after) + faults)
        yield statistics.add(block.listed, cold=shard.cold)
        if block.path:
            after = block.users.stop - shard.start
            n_left[block.path] -= block.rows.height
    for path, n in n_left.items():
        refuse_broken(path, [f"{abs(n):,} rows {'fewer' if n > 0 else 'more'} than were written"] * (n != 0))


@dataclass(frozen=True)
class _Block:
    """Some whole row groups of a part, and what its users have rated; the last of a shard has no rows."""

    path: str
    rows: pl.DataFrame
    shard: Shard
    ids: pl.Series  # of the shard's users, ascending
    users: range  # of these rows, by the first and the last of them
    seen: pl.DataFrame  # user_id, movie_id
    listed: Listed

    def faults(self, *, after: int) -> list[str]:
        """What is wrong with the users. after: where those of the block before end in the shard."""
        listed = self.rows["user_id"]
        faults = []
        if n := int((~listed.is_in(self.ids.implode())).sum()):
            faults.append(f"{n:,} rows are of users of another shard")
        if not listed.is_sorted():
            faults.append("the users are not in order")
        if self.path and self.users.start - self.shard.start < after:
            faults.append("a user is in two parts")
        return faults


def _blocks(night: Night, shard: Shard, record: Scored, statistics: ListStatistics) -> Iterator[_Block]:
    """What was written of a shard, read back; the users without a list are among those of the next block."""
    rated = SortedFile(night.files("ratings"), key="user_idx", columns=statistics.rating_columns)
    user_ids = TableFile(storage.join(night.work, "users.parquet"), columns=["user_id"])
    movie_ids = statistics.places.movie_ids
    ids = user_ids.rows(shard.start, shard.stop)["user_id"]
    columns = [column.name for column in tables.TOP_N.columns if column.name != tables.RUN_DATE]
    at, rows = shard.start, _no_rows(ids, movie_ids)

    def block(path: str, rows: pl.DataFrame, users: range, covered: range) -> _Block:
        here = rated.between(covered.start, covered.stop)
        seen = {"user_id": ids[here["user_idx"] - shard.start], "movie_id": movie_ids[here["movie_idx"]]}
        own = ids[covered.start - shard.start : covered.stop - shard.start]
        listed = Listed(rows, here, covered, own, *statistics.before.of(own))
        return _Block(path, rows, shard, ids, users, pl.DataFrame(seen), listed)

    for path in (part.path for part in _parts(record)):
        file = TableFile(storage.join(night.output, tables.TOP_N.name, path), columns=columns)
        for rows in file.blocks(_block_rows(night.config)):
            first, last = (int(ids.search_sorted(id_)) for id_ in (rows["user_id"][0], rows["user_id"][-1]))
            users = range(shard.start + first, shard.start + min(last + 1, ids.len()))
            yield block(path, rows, users, range(min(at, users.start), users.stop))
            at = max(at, users.stop)
    if at < shard.stop:
        yield block("", rows.clear(), range(at, at), range(at, shard.stop))


def _no_rows(user_ids: pl.Series, movie_ids: pl.Series) -> pl.DataFrame:
    """Rows of `top_n` of a shard in which nobody has a list."""
    types = {"user": user_ids.dtype, "movie": movie_ids.dtype, "int16": pl.Int16(), "float32": pl.Float32()}
    columns = (column for column in tables.TOP_N.columns if column.name != tables.RUN_DATE)
    return pl.DataFrame(schema={column.name: types.get(column.kind, pl.String()) for column in columns})


def _block_rows(config: Config) -> int:
    """Rows that are checked at once: an eighth of `memory_gb`."""
    return max(10_000, min(BLOCK_ROWS, int(config.memory_gb * 2**30 / 8 / _PER_ROW)))


def _parts(record: Scored) -> list[Part]:
    return [Part(**part) for part in record.parts]


def refuse_broken(what: str, faults: Sequence[str]) -> None:
    """GateRefused for a file of lists with faults."""
    if faults:
        raise GateRefused(
            f"the gate refused broken lists: {what}: {'; '.join(faults)}; the published tables are as they were, please report this"
        )
