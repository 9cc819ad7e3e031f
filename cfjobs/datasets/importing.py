"""A download as input tables: its family is recognised by content, its rows are validated and written as they
stream.

source -> members                               (archive)
       -> the family that knows them            (families, one file each)
       -> batches of rows as they are written   (text)
       -> good rows, and reasons of the others  (rows)
       -> OUTPUT/ratings.parquet, and movies.parquet and users.parquet where there are any
"""

import importlib
import logging
import pkgutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypedDict

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from cfjobs import storage
from cfjobs.datasets import families
from cfjobs.datasets.archive import Member, opened
from cfjobs.datasets.family import Family, Found, Table
from cfjobs.datasets.rows import REASON, UNRATED, are_whole, validated
from cfjobs.datasets.table import example, in_columns
from cfjobs.errors import InputError

log = logging.getLogger(__name__)

MAX_SKIPPED = 0.05
"""Largest fraction of rows that cannot be read; above it the file is taken for broken, or for another than it
seems."""
ROW_GROUP = 1 << 20
_EVERY_SECONDS = 10.0
_NAMED = 5
_NAMES = ("ratings", "movies", "users")

Progress = Callable[[str, float, str], None]


class Count(TypedDict):
    """Rows of a table: read = written + the sum of skipped, which has how many for each reason."""

    read: int
    written: int
    skipped: dict[str, int]


class Imported(TypedDict):
    """What an import wrote: where, and how much. The URI of a table that the source has not is None."""

    family: str
    ratings: str
    movies: str | None
    users: str | None
    n_ratings: int
    n_movies: int
    n_users: int
    counts: dict[str, Count]


def known() -> list[Family]:
    """The families, in the order in which they are tried."""
    names = sorted(module.name for module in pkgutil.iter_modules(families.__path__))
    found = [importlib.import_module(f"{families.__name__}.{name}").FAMILY for name in names]
    return sorted(found, key=lambda family: family.rank)


def import_to(
    source: str,
    output: str,
    *,
    columns: Mapping[str, str] | None = None,
    max_skipped: float = MAX_SKIPPED,
    progress: Progress | None = None,
) -> Imported:
    """Write a source as Parquet under an output; nothing is there when it fails.

    source: a file, an archive or a folder, local or s3://. columns: for a table that no family knows, the
    column (its name, or its number from 1 in a file without names) of `user`, `movie` and, where there are,
    `rating`, `timestamp`, `weight`. progress: called with a stage, a fraction and words.

    Raises InputError for a source that is no archive, a damaged or an unsafe one, one in which nothing is
    recognised, rows of which more than `max_skipped` cannot be read, and an output that holds tables already.
    """
    output = storage.normal(output)
    _check_empty(output)
    with opened(source) as members:
        found = in_columns(members, columns, source=source) if columns else recognised(members, source)
        log.info("%s: %s (%s)", source, found.family, _listed(found.ratings.members))
        storage.check_writable(output)
        return _written(found, output, max_skipped=max_skipped, progress=progress or (lambda *_: None))


def recognised(members: Sequence[Member], source: str) -> Found:
    """What the first family that knows these members found; InputError where none does."""
    for family in known():
        if found := family.find(members):
            return found
    names = ", ".join(family.name for family in known())
    raise InputError(
        f"{source}: nothing is recognised inside (got {_listed(members) or 'no files'}){_hint(members)}; known are "
        f"{names}; for any other table of ratings say which columns: add {example(members)}"
    )


def _hint(members: Sequence[Member]) -> str:
    """What is known of files that are no text."""
    for magic, words in (
        (b"\xd0\xcf\x11\xe0", "is an Excel file: save it as CSV"),
        (b"PAR1", "is Parquet: a night reads it as it is, with --ratings"),
        (b"SQLite format 3", "is an SQLite database: export its table as CSV"),
    ):
        for member in members:
            if member.head.startswith(magic):
                return f"; {member.name} {words}"
    return ""


def _listed(members: Sequence[Member]) -> str:
    more = f" and {len(members) - _NAMED:,} more" if len(members) > _NAMED else ""
    return ", ".join(member.name for member in members[:_NAMED]) + more


def _check_empty(output: str) -> None:
    """Parts of an earlier import would be read together with the new ones."""
    there = [file.uri for name in _NAMES for file in _parquet(output, name)]
    if there:
        raise InputError(f"{output}: holds {there[0]} already; give another output, or remove it")


def _parquet(output: str, name: str) -> list[storage.FileInfo]:
    uri = storage.join(output, f"{name}.parquet")
    return [
        *storage.list_files(storage.join(output, name)),
        *(storage.list_files(uri) if storage.exists(uri) else []),
    ]


# Writing --------------------------------------------------------------------------------------------


class _NotWhole(Exception):
    """An id that is no integer, in a column whose first ids were; the types that the ids have now."""

    def __init__(self, ids: dict[str, pl.DataType]) -> None:
        self.ids = ids


def _written(found: Found, output: str, *, max_skipped: float, progress: Progress) -> Imported:
    """Write the tables; each gets its name when all are whole, the ratings last."""
    tables = {name: table for name in _NAMES if (table := getattr(found, name)) is not None}
    uris = {name: storage.join(output, f"{name}.parquet") for name in tables}
    done: dict[str, _Sink] = {}
    ids: dict[str, pl.DataType] = {}
    try:
        with ExitStack() as stack:
            for name, table in tables.items():
                path = stack.enter_context(storage.new_file(uris[name]))
                typed = replace(table, ids={key: dtype or ids.get(key) for key, dtype in table.ids.items()})
                done[name] = _table(typed, path, name=name, max_skipped=max_skipped, progress=progress)
                ids |= done[name].ids
    except BaseException:
        for uri in uris.values():
            storage.delete(uri)  # one that was whole before another failed
        raise
    counts = {name: sink.count() for name, sink in done.items()}
    for name, count in counts.items():
        log.info(
            "%s: %d read, %d written%s", name, count["read"], count["written"], _reasons(count["skipped"])
        )
    return Imported(
        family=found.family,
        ratings=uris["ratings"],
        movies=uris.get("movies"),
        users=uris.get("users"),
        n_ratings=counts["ratings"]["written"],
        n_movies=counts["movies"]["written"] if "movies" in counts else 0,
        n_users=done["ratings"].n_users(),
        counts=counts,
    )


def _reasons(skipped: Mapping[str, int]) -> str:
    return "".join(f", {n:,} skipped: {words}" for words, n in skipped.items())


def _table(table: Table, path: Path, *, name: str, max_skipped: float, progress: Progress) -> "_Sink":
    """One table, from its beginning again where ids turn out to be text."""
    known = dict(table.ids)
    while True:
        ids, guessed = dict(known), set[str]()
        try:
            sink = _Sink(path, name=name, what=table.members[0].what, numbers=table.numbers)
            for frame in _metered(table, sink, name=name, progress=progress):
                sink.add(frame, _types(ids, guessed, frame))
            sink.close(max_skipped)
            return sink
        except _NotWhole as found:
            sink.abandon()
            known |= found.ids


def _metered(table: Table, sink: "_Sink", *, name: str, progress: Progress) -> Iterator[pl.DataFrame]:
    """The frames of a table, and word of them now and then."""
    meter, total = table.members[0].meter, sum(member.size for member in table.members)
    meter.done, reported = 0, time.monotonic()
    for frame in table.frames():
        yield frame
        fraction = min(1.0, meter.done / total)
        progress(name, fraction, f"{sink.n_read:,} rows")
        if time.monotonic() - reported > _EVERY_SECONDS:
            reported = time.monotonic()
            log.info("%s: %.0f %%, %d rows", name, 100 * fraction, sink.n_read)


def _types(
    ids: dict[str, pl.DataType | None], guessed: set[str], frame: pl.DataFrame
) -> dict[str, pl.DataType]:
    """The type of each id: as said, or as the first rows have it. guessed: ids that are integers as far as
    seen.

    Raises _NotWhole for another one among them.
    """
    for key, dtype in ids.items():
        if frame[key].null_count() == frame.height:
            continue
        if dtype is None and are_whole(frame[key]):
            ids[key] = pl.Int64()
            guessed.add(key)
        elif dtype is None:
            ids[key] = pl.String()
        elif key in guessed and not are_whole(frame[key]):
            raise _NotWhole({key: pl.String()})
    return {key: dtype or pl.String() for key, dtype in ids.items()}


@dataclass
class _Sink:
    """A table being written."""

    path: Path
    name: str
    what: str
    numbers: Sequence[str] = ()
    ids: dict[str, pl.DataType] = field(default_factory=dict)
    n_read: int = 0
    n_written: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    first: dict[str, int] = field(default_factory=dict)
    _writer: pq.ParquetWriter | None = None
    _waiting: list[pl.DataFrame] = field(default_factory=list)
    _users: list[pl.Series] = field(default_factory=list)

    def add(self, raw: pl.DataFrame, ids: dict[str, pl.DataType]) -> None:
        self.ids = ids
        frame = validated(raw, ids=ids, rated=self.name == "ratings")
        reason = frame[REASON]
        if reason.null_count() < frame.height:
            for words, n, at in (
                frame.with_row_index("at")
                .filter(pl.col(REASON).is_not_null())
                .group_by(REASON, maintain_order=True)
                .agg(pl.len(), pl.col("at").first())
                .iter_rows()
            ):
                self.skipped[words] += n
                self.first.setdefault(words, self.n_read + at + 1)
            frame = frame.filter(reason.is_null())
        self.n_read += raw.height
        self.n_written += frame.height
        if frame.is_empty():
            return
        numbers = [pl.col(column).cast(pl.Float64, strict=False) for column in self.numbers]
        self._waiting.append(frame.drop(REASON).with_columns(numbers))
        if self.name == "ratings":
            self._see(frame["user_id"].unique())
        if sum(part.height for part in self._waiting) >= ROW_GROUP:
            self._flush()

    def close(self, max_skipped: float) -> None:
        """Write what waits. Raises InputError for a table of too many rows that cannot be read, or of
        none."""
        bad = {words: n for words, n in self.skipped.items() if not words.startswith(UNRATED)}
        n_bad, n_meant = sum(bad.values()), self.n_written + sum(bad.values())
        try:
            if bad and n_bad > max_skipped * n_meant:
                most = max(bad, key=lambda words: bad[words])
                raise InputError(
                    f"{self.what}: {n_bad:,} of {n_meant:,} rows cannot be read, most often because the {most} "
                    f"({bad[most]:,}, first row {self.first[most]:,}); mend them, or raise --max-skipped (now {max_skipped:g})"
                )
            if not self.n_written:
                raise InputError(
                    f"{self.what}: holds no {self.name}{_reasons(self.skipped)}; download it again"
                )
            self._flush()
        finally:
            self.abandon()

    def abandon(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def count(self) -> Count:
        return Count(read=self.n_read, written=self.n_written, skipped=dict(self.skipped.most_common()))

    def n_users(self) -> int:
        return pl.concat(self._users).n_unique() if self._users else 0

    def _see(self, users: pl.Series) -> None:
        """Remember users; those seen twice are thrown together now and then."""
        self._users.append(users)
        if sum(part.len() for part in self._users[1:]) > self._users[0].len() + ROW_GROUP:
            self._users = [pl.concat(self._users).unique()]

    def _flush(self) -> None:
        table = pl.concat(self._waiting).to_arrow(compat_level=pl.CompatLevel.oldest())
        self._waiting.clear()
        if self._writer is None:
            self._writer = pq.ParquetWriter(self.path, table.schema, compression="zstd")
        self._writer.write_table(_as(table, self._writer.schema), row_group_size=ROW_GROUP)


def _as(table: pa.Table, schema: pa.Schema) -> pa.Table:
    return table if table.schema.equals(schema) else table.cast(schema)
