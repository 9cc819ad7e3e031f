"""Making a night visible: one atomic Delta commit a table, the row of `runs` last.

Parts of `top_n` are written by the shards into the table's own folder, where no reader looks at a file that
no commit names. `publish_parts` names them all at once and drops the date's former ones in the same commit.
"""

import io
import json
import time
from collections.abc import Mapping, Sequence
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
from cfjobs.errors import InputError, StorageFault
from cfjobs.tables.schema import RUN_DATE, Table

KEEP_LOG = {"delta.logRetentionDuration": "interval 520 weeks"}
"""Property of every table: a kept night's version can be read, and gone back to, however old it is."""


@dataclass(frozen=True)
class Part:
    """A Parquet file inside a table's folder, not yet named by a commit. path: below the table; stats: Delta's."""

    path: str
    size: int
    rows: int
    stats: str


def part_path(run_date: date, name: str) -> str:
    """Where a part of a night lives below its table: never twice the same, so that no published file is written over."""
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
    """Write rows without the date as a part of a night, which no commit names yet. Its statistics: ids and ranks."""
    buffer = io.BytesIO()
    pq.write_table(rows, buffer, compression="zstd")
    path, data = part_path(run_date, name), buffer.getvalue()
    storage.write_bytes(storage.join(output, table.name, path), data)
    keys = [column for column in rows.column_names if column == "rank" or column.endswith("_id")]
    return Part(path, len(data), rows.num_rows, part_stats(rows.select(keys)))


def publish_parts(
    output: str, table: Table, schema: pa.Schema, parts: Sequence[Part], *, run_date: date, run_id: str
) -> int:
    """Make these parts the night's partition of a table, in one commit. Returns the table's version."""
    uri = storage.join(output, table.name)
    now = int(time.time() * 1000)
    partition: Mapping[str, str | None] = {RUN_DATE: run_date.isoformat()}
    actions = [AddAction(part.path, part.size, partition, now, True, part.stats) for part in parts]
    properties = _commit_properties(run_id)
    with storage.explained(uri), commits(uri):
        existing = open_table(output, table.name)
        if existing is None:
            create_table_with_add_actions(
                uri,
                Schema.from_arrow(schema),
                actions,
                partition_by=[RUN_DATE],
                name=table.name,
                description=table.meaning,
                configuration=KEEP_LOG,
                storage_options=storage.options(uri),
                commit_properties=properties,
            )
        else:
            _check_schema(existing, schema, uri)
            existing.create_write_transaction(
                list[AddAction | RemoveAction](actions),
                "overwrite",
                schema,
                partition_by=[RUN_DATE],
                partition_filters=[(RUN_DATE, "=", run_date.isoformat())],
                commit_properties=properties,
            )
        return _version(output, table.name)


def publish_rows(output: str, table: Table, rows: pa.Table, *, run_date: date, run_id: str) -> int:
    """Make these rows the night's partition of a table, in one commit. Returns the table's version.

    A table that was published before one of its nullable columns existed gets it, null in its earlier nights.
    """
    uri = storage.join(output, table.name)
    with storage.explained(uri), commits(uri):
        existing = open_table(output, table.name)
        if existing is not None:
            _check_schema(existing, rows.schema, uri, may_grow=True)
        write_deltalake(
            existing if existing is not None else uri,
            rows,
            mode="overwrite",
            schema_mode="merge" if existing is not None else None,
            partition_by=[RUN_DATE],
            predicate=f"{RUN_DATE} = '{run_date.isoformat()}'" if existing is not None else None,
            name=table.name if existing is None else None,
            description=table.meaning if existing is None else None,
            configuration=KEEP_LOG if existing is None else None,
            storage_options=storage.options(uri) if existing is None else None,
            commit_properties=_commit_properties(run_id),
        )
        return _version(output, table.name)


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
    """The Delta table of this name under the output URI; None when no night has been published there."""
    uri = storage.join(output, name)
    with storage.explained(uri):
        try:
            return DeltaTable(uri, version=version, storage_options=storage.options(uri))
        except TableNotFoundError:
            return None


def check_id_types(output: str, table: Table, schema: pa.Schema) -> None:
    """InputError when the published table has other column types, such as int ids where tonight's are strings."""
    existing = open_table(output, table.name)
    if existing is not None:
        _check_schema(existing, schema, storage.join(output, table.name))


def _version(output: str, name: str) -> int:
    table = open_table(output, name)
    assert table is not None
    return table.version()


def _check_schema(existing: DeltaTable, schema: pa.Schema, uri: str, *, may_grow: bool = False) -> None:
    published = {field.name: str(field.type) for field in pa.schema(existing.schema().to_arrow())}
    tonight = {field.name: str(field.type) for field in schema}
    new = {field.name for field in schema if may_grow and field.nullable} - published.keys()
    for name in (published.keys() | tonight.keys()) - new:
        if published.get(name) != tonight.get(name):
            raise InputError(
                f"table {uri}: column {name!r} is {published.get(name, 'absent')} as published and {tonight.get(name, 'absent')} tonight; "
                "keep the type of the ids from night to night, or publish to another output"
            )


def _commit_properties(run_id: str) -> CommitProperties:
    return CommitProperties(custom_metadata={"run_id": run_id})


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
