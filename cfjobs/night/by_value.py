"""The table `top_n_by_value`: for each user the best movies of each value of a column, when the configuration
asks for it.

    a chunk of a shard's users: their ratings, pairs to exclude, rows of the model    (read ahead)
      -> the lists of one value after another, by the engine of `top_n`
      -> rows, a block of users at a time -> Parquet parts of bounded size
      -> read back and held against every rule of the table

What grows with the users is the files alone. A shard leaves a record when its parts keep the rules, and is
not scored again.
"""

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from uuid import uuid4

import numpy as np
import polars as pl
from numpy.typing import NDArray

from cfjobs import storage, tables
from cfjobs.errors import DamagedFile
from cfjobs.lists import by_value
from cfjobs.lists.build import Batch
from cfjobs.lists.by_value import Value
from cfjobs.lists.writer import PartsWriter
from cfjobs.model_store.files import Model
from cfjobs.night.check import refuse_broken
from cfjobs.night.records import Night, Prepared, Scored, Shard, Trained
from cfjobs.night.score import listable, requests_of, shards
from cfjobs.night.side_tables import schema_of
from cfjobs.storage.parquet import SortedFile, TableFile
from cfjobs.tables.parts import Part, Ready, is_whole, part_path
from cfjobs.tables.rules import by_value_faults

log = logging.getLogger(__name__)

BLOCK_ROWS = 250_000
_PER_ROW = 600  # bytes that a row takes at most while it is made or checked
_PER_PLACE = 16  # bytes of a place of a list: movie and score, as found and side by side


def write_by_value(night: Night, prepared: Prepared, trained: Trained, model: Model) -> tuple[Ready, int]:
    """The night's rows, and how many lists they are; none without `lists_per`.

    Raises GateRefused for a list that breaks a rule of the table.
    """
    schema = schema_of(night, tables.TOP_N_BY_VALUE)
    if not night.config.lists_per:
        return Ready(tables.TOP_N_BY_VALUE, schema, ()), 0
    started = time.perf_counter()
    listed = listable(night, prepared, model)
    values = by_value.values(night.frame("values"), lists_per=night.config.lists_per, listed=listed)
    records = [
        _of_shard(night, prepared, trained, shard, values=values, listed=listed)
        for shard in shards(night, prepared)
    ]
    parts = tuple(Part(**part) for record in records for part in record.parts)
    n_lists = sum(record.lists for record in records)
    log.info(
        "lists by value: %d of %d values, %d rows, %d bytes in %d files, %.1f s",
        n_lists,
        len(values),
        sum(part.rows for part in parts),
        sum(part.size for part in parts),
        len(parts),
        time.perf_counter() - started,
    )
    return Ready(tables.TOP_N_BY_VALUE, schema, parts), n_lists


def _of_shard(
    night: Night,
    prepared: Prepared,
    trained: Trained,
    shard: Shard,
    *,
    values: Sequence[Value],
    listed: NDArray[np.bool_],
) -> Scored:
    """The parts of a shard, written, read back and checked; what an earlier run has left of it is taken."""
    name = f"by-value-{shard.number:05d}"
    done = night.load(name, Scored)
    if done and all(is_whole(night.output, tables.TOP_N_BY_VALUE, Part(**part)) for part in done.parts):
        return done
    attempt = uuid4().hex[:8]
    schema = schema_of(night, tables.TOP_N_BY_VALUE)
    in_file = schema.remove(schema.get_field_index(tables.RUN_DATE))
    writer = PartsWriter(
        storage.join(night.output, tables.TOP_N_BY_VALUE.name),
        schema=in_file,
        path=lambda n: part_path(night.run_date, f"{night.run_id}-{shard.number:05d}-{n:03d}-{attempt}"),
        part_rows=night.config.part_rows,
    )
    with writer:
        for rows in _rows(night, prepared, trained, shard, values):
            writer.write(rows.to_arrow().cast(in_file))
    _check(night, prepared, shard, writer.parts, listed)
    return night.done(name, Scored(parts=[asdict(part) for part in writer.parts], lists=writer.n_lists))


def _rows(
    night: Night, prepared: Prepared, trained: Trained, shard: Shard, values: Sequence[Value]
) -> Iterator[pl.DataFrame]:
    """The rows of a shard, of a block of users at a time."""
    if not values:
        return
    width = by_value.places(values)
    n_users = max(1, _block_rows(night) // width)
    for chunk, engine in requests_of(night, prepared, trained, shard=shard, per_user=_PER_PLACE * width):
        found = by_value.best(chunk.request, values, **engine)
        for start in range(0, len(chunk.users), n_users):
            block = slice(start, start + n_users)
            some = Batch(start, found.movie_idx[block], found.score[block], found.by_model[block])
            yield by_value.rows(some, values, chunk.request, chunk.user_ids)


def _check(
    night: Night, prepared: Prepared, shard: Shard, parts: Sequence[Part], listed: NDArray[np.bool_]
) -> None:
    """GateRefused for parts that break a rule of the table, DamagedFile for one that cannot be read back."""
    movie_ids = night.frame("movies", ["movie_id"])["movie_id"]
    ids = TableFile(storage.join(night.work, "users.parquet"), columns=["user_id"])
    user_ids = ids.rows(shard.start, shard.stop)["user_id"]
    having = night.frame("values")
    having = having.select("column", "value", movie_ids.gather(having["movie_idx"]).alias("movie_id"))
    withheld = movie_ids.filter(~pl.Series(listed))
    after = -1
    for part in parts:
        uri = storage.join(night.output, tables.TOP_N_BY_VALUE.name, part.path)
        if not storage.exists(uri):
            raise DamagedFile(f"{uri}: is gone; nothing was published, run the night again")
        n_rows = 0
        for rows in TableFile(uri, columns=_COLUMNS).blocks(_block_rows(night)):
            users = user_ids.search_sorted(rows["user_id"].unique(maintain_order=True))
            first, last = int(users[0]), int(users[-1])
            faults = by_value_faults(
                rows,
                seen=_never_listed(night, range(first, last + 1), shard, user_ids, movie_ids),
                lists_per=night.config.lists_per,
                having=having,
                y_range=None if prepared.implicit else prepared.y_range,
                withheld=withheld,
            )
            if first <= after or not rows["user_id"].is_sorted():
                faults.append("the users are not in order")
            if not rows["user_id"].is_in(user_ids.implode()).all():
                faults.append("there are users of another shard")
            refuse_broken(uri, faults)
            after, n_rows = last, n_rows + rows.height
        refuse_broken(uri, [f"{n_rows:,} rows, {part.rows:,} were written"] * (n_rows != part.rows))


_COLUMNS = [column.name for column in tables.TOP_N_BY_VALUE.columns if column.name != tables.RUN_DATE]


def _never_listed(
    night: Night, users: range, shard: Shard, user_ids: pl.Series, movie_ids: pl.Series
) -> pl.DataFrame:
    """user_id, movie_id that these users of a shard have rated, or that are excluded for them."""
    pair, found = ["user_idx", "movie_idx"], []
    for name in ("ratings", *(["excluded"] if night.inputs.exclude else [])):
        file = SortedFile(night.files(name), key="user_idx", columns=pair)
        found.append(file.between(shard.start + users.start, shard.start + users.stop).select(pair))
    here = pl.concat(found)
    return pl.DataFrame(
        {"user_id": user_ids[here["user_idx"] - shard.start], "movie_id": movie_ids[here["movie_idx"]]}
    )


def _block_rows(night: Night) -> int:
    """Rows that are made or checked at once: an eighth of `memory_gb`."""
    return max(10_000, min(BLOCK_ROWS, int(night.config.memory_gb * 2**30 / 8 / _PER_ROW)))
