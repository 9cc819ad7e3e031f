"""Making a night visible: one atomic Delta commit a table, the row of `runs` last.

Parts are written into the table's own folder, where no reader looks at a file that no commit names, and read
back. `Seen.publish` names them all at once and drops the date's former ones in the same commit.

A commit is conditional: it succeeds only on the version of the table that was seen when the lease was taken,
right after that lease was renewed. A writer that was paused, cut off or cloned so either commits before its
successor looks, or not at all.
"""

import io
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable, Schema, write_deltalake
from deltalake.exceptions import DeltaError, TableNotFoundError
from deltalake.transaction import AddAction, CommitProperties, RemoveAction, create_table_with_add_actions

from cfjobs import storage
from cfjobs.errors import DamagedFile, InputError, StorageFault
from cfjobs.storage.faults import first_line
from cfjobs.storage.lease import Claim
from cfjobs.tables.schema import PUBLISHED, RUN_DATE, RUNS, Table

KEEP_LOG = {"delta.logRetentionDuration": "interval 520 weeks"}
"""Property of every table: a kept night's version can be read, and gone back to, however old it is."""


@dataclass(frozen=True)
class Part:
    """A Parquet file inside a table's folder, not yet named by a commit. path: below the table;
    stats: Delta's."""

    path: str
    size: int
    rows: int
    stats: str


def part_path(run_date: date, name: str) -> str:
    """Where a part of a night lives below its table: never twice the same,
    so that no published file is written over."""
    return f"{RUN_DATE}={run_date.isoformat()}/{name}-{uuid4().hex[:8]}.parquet"


def part_stats(table: pa.Table) -> str:
    """Delta's statistics of a part: rows, and least and greatest value of each scalar column."""
    low: dict[str, Any] = {}
    high: dict[str, Any] = {}
    for name in table.column_names:
        column = table[name]
        if pa.types.is_nested(column.type) or len(column) == column.null_count:
            continue
        extremes = pa.compute.min_max(column).as_py()
        low[name], high[name] = extremes["min"], extremes["max"]
    nulls = {name: table[name].null_count for name in table.column_names}
    return json.dumps({"numRecords": table.num_rows, "minValues": low, "maxValues": high, "nullCount": nulls})


def write_part(output: str, table: Table, rows: pa.Table, *, run_date: date, name: str) -> Part:
    """Write rows without the date as a part of a night, which no commit names yet, and read it back.

    Its statistics: ids and ranks. Raises DamagedFile when the storage gives back other bytes.
    """
    buffer = io.BytesIO()
    pq.write_table(rows, buffer, compression="zstd")
    path, data = part_path(run_date, name), buffer.getvalue()
    uri = storage.join(output, table.name, path)
    storage.write_bytes(uri, data)
    if storage.read_bytes(uri) != data:
        raise DamagedFile(
            f"{uri}: the storage gave back other bytes than were written; nothing was published, rerun"
        )
    keys = [column for column in rows.column_names if column == "rank" or column.endswith("_id")]
    return Part(path, len(data), rows.num_rows, part_stats(rows.select(keys)))


def is_whole(output: str, table: Table, part: Part) -> bool:
    """Whether a part is there, with the bytes that it was written with."""
    uri = storage.join(output, table.name, part.path)
    return storage.exists(uri) and storage.size(uri) == part.size


@dataclass(frozen=True)
class Ready:
    """A night's rows of a table, written and read back, which wait for their commit. schema:
    with the date."""

    table: Table
    schema: pa.Schema
    parts: tuple[Part, ...]


class Overtaken(StorageFault):
    """Another writer changed a table after this one had looked at it: look again,
    if the lease is still ours."""


class Seen:
    """The tables of an output as they were when the lease was taken;
    every commit holds that lease and those versions."""

    def __init__(self, output: str, claim: Claim) -> None:
        self.output, self._claim = output, claim
        self._tables = {table.name: open_table(output, table.name) for table in PUBLISHED}

    def table(self, name: str) -> DeltaTable | None:
        """The table as it was seen; None when there was none."""
        return self._tables[name]

    def look_again(self, name: str) -> None:
        """See the version that a commit of ours has made."""
        self._tables[name] = open_table(self.output, name)

    def next_version(self, name: str) -> int:
        """The version that a commit makes."""
        existing = self._tables[name]
        return 0 if existing is None else existing.version() + 1

    def check(self, ready: Ready) -> None:
        """InputError when the published table has other columns than what is to become part of it."""
        existing = self._tables[ready.table.name]
        if existing is not None:
            _check_schema(existing, ready.schema, storage.join(self.output, ready.table.name))

    def publish(self, ready: Ready, *, run_date: date, run_id: str) -> int:
        """Make parts the night's partition of a table, in one commit, unless they are.
        Returns the table's version.

        Raises LeaseLost or Overtaken instead of committing beside another writer.
        """
        table, existing = ready.table, self._tables[ready.table.name]
        if existing is not None and {part.path for part in ready.parts} == partition(existing, run_date):
            return existing.version()
        now = int(time.time() * 1000)
        named: Mapping[str, str | None] = {RUN_DATE: run_date.isoformat()}
        actions = [AddAction(part.path, part.size, named, now, True, part.stats) for part in ready.parts]

        def commit(properties: CommitProperties) -> None:
            if existing is None:
                create_table_with_add_actions(
                    storage.join(self.output, table.name),
                    Schema.from_arrow(ready.schema),
                    actions,
                    partition_by=[RUN_DATE],
                    name=table.name,
                    description=table.meaning,
                    configuration=KEEP_LOG,
                    storage_options=storage.options(self.output),
                    commit_properties=properties,
                )
            else:
                existing.create_write_transaction(
                    list[AddAction | RemoveAction](actions),
                    "overwrite",
                    ready.schema,
                    partition_by=[RUN_DATE],
                    partition_filters=[(RUN_DATE, "=", run_date.isoformat())],
                    commit_properties=properties,
                )

        return self.commit(table.name, commit, run_id=run_id)

    def fence(self) -> None:
        """Make `runs` a version newer, so that the one whose lease was taken over cannot commit the row that
        ends his night."""
        existing = self._tables[RUNS.name]
        if existing is None:
            return
        schema = pa.schema(existing.schema().to_arrow())
        self.commit(
            RUNS.name,
            lambda properties: existing.create_write_transaction(
                [], "append", schema, partition_by=[RUN_DATE], commit_properties=properties
            ),
            fence=self._claim.uri,
        )
        self.look_again(RUNS.name)

    def commit(self, name: str, action: Callable[[CommitProperties], object], **metadata: str) -> int:
        """Let an action commit to a table on the version that was seen, and look at what it made."""
        uri, version, token = storage.join(self.output, name), self.next_version(name), uuid4().hex
        self._claim.renew()
        with storage.explained(uri):
            try:
                action(
                    CommitProperties(custom_metadata={**metadata, "commit_id": token}, max_commit_retries=0)
                )
            except DeltaError as error:
                if not _made(
                    self.output, name, version, token
                ):  # the store may have kept it and lost its answer
                    newest = open_table(self.output, name)
                    if newest is not None and newest.version() >= version:
                        raise Overtaken(
                            f"table {uri}: another writer has made version {version} meanwhile; nothing was committed over it, rerun"
                        ) from error
                    raise StorageFault(
                        f"table {uri}: the commit failed ({first_line(error)}); nothing changed, retry"
                    ) from error
        return version


def _made(output: str, name: str, version: int, token: str) -> bool:
    """Whether a version of a table exists and its commit is the one with this token."""
    try:
        made = open_table(output, name, version=version)
    except DamagedFile:
        return False
    return made is not None and made.history(1)[0].get("commit_id") == token


def partition(table: DeltaTable, run_date: date) -> set[str]:
    """The files of a night in a version, below the table."""
    begin = f"{RUN_DATE}={run_date.isoformat()}/"
    return {path for path in paths(table) if path.startswith(begin)}


def paths(table: DeltaTable) -> set[str]:
    """The files of a version, below the table."""
    return set(pa.table(table.get_add_actions(flatten=True))["path"].to_pylist())


def append_rows(output: str, table: Table, rows: pa.Table) -> None:
    """Add rows to a table that only grows, in one commit."""
    uri = storage.join(output, table.name)
    with storage.explained(uri), commits(uri):
        write_deltalake(
            uri,
            rows,
            mode="append",
            partition_by=[RUN_DATE],
            name=table.name,
            description=table.meaning,
            storage_options=storage.options(uri),
        )


def open_table(output: str, name: str, *, version: int | None = None) -> DeltaTable | None:
    """The Delta table of this name under the output URI; None when no night has been published there.

    Raises DamagedFile when its log, or what the log has of this version, cannot be read.
    """
    uri = storage.join(output, name)
    try:
        with storage.explained(uri):
            return DeltaTable(uri, version=version, storage_options=storage.options(uri))
    except TableNotFoundError:
        return None
    except DeltaError as error:
        of_version = "" if version is None else f" for version {version}"
        raise DamagedFile(
            f"table {uri}: its log cannot be read{of_version} ({first_line(error)}); `cfjobs doctor` says more"
        ) from error


def check_id_types(output: str, table: Table, schema: pa.Schema) -> None:
    """InputError when the published table has other column types,
    such as int ids where tonight's are strings."""
    existing = open_table(output, table.name)
    if existing is not None:
        _check_schema(existing, schema, storage.join(output, table.name))


def _check_schema(existing: DeltaTable, schema: pa.Schema, uri: str) -> None:
    published = {field.name: str(field.type) for field in pa.schema(existing.schema().to_arrow())}
    tonight = {field.name: str(field.type) for field in schema}
    for name in published.keys() | tonight.keys():
        if published.get(name) != tonight.get(name):
            raise InputError(
                f"table {uri}: column {name!r} is {published.get(name, 'absent')} as published and {tonight.get(name, 'absent')} tonight; "
                "keep the type of the ids from night to night, or publish to another output"
            )


class commits:
    """Turn a lost race or a broken store into StorageFault: the stage can be run again."""

    def __init__(self, uri: str) -> None:
        self.uri = uri

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, DeltaError):
            raise StorageFault(
                f"table {self.uri}: the commit failed ({str(error).splitlines()[0][:200]}); nothing changed, retry"
            ) from error
