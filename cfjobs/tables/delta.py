"""Making a night visible: one atomic Delta commit a table, the row of `runs` last.

`Seen.publish` names a night's parts (`parts.py`) all at once and drops the date's former ones in the same
commit.

A commit is conditional: it succeeds only on the version of the table that was seen when the lease was taken,
right after that lease was renewed. A writer that was paused, cut off or cloned so either commits before its
successor looks, or not at all.
"""

import time
from collections.abc import Callable, Mapping
from datetime import date
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from deltalake import DeltaTable, QueryBuilder, Schema, write_deltalake
from deltalake.exceptions import DeltaError, TableNotFoundError
from deltalake.transaction import AddAction, CommitProperties, RemoveAction, create_table_with_add_actions

from cfjobs import storage
from cfjobs.errors import DamagedFile, InputError, StorageFault
from cfjobs.storage.faults import first_line
from cfjobs.storage.lease import Lease
from cfjobs.tables.schema import PUBLISHED, RUN_DATE, RUNS, Table

if TYPE_CHECKING:
    import pyarrow as pa

    from cfjobs.tables.parts import Ready

KEEP_LOG = {"delta.logRetentionDuration": "interval 520 weeks"}
"""Property of every table: a kept night's version can be read, and gone back to, however old it is."""


class Overtaken(StorageFault):
    """Another writer changed a table after this one had looked at it: look again,
    if the lease is still ours."""


class Seen:
    """The tables of an output as they were when the lease was taken;
    every commit holds that lease and those versions."""

    def __init__(self, output: str, lease: Lease) -> None:
        self.output, self._lease = output, lease
        self.tables = {table.name: open_table(output, table.name) for table in PUBLISHED}

    def table(self, name: str) -> DeltaTable | None:
        """The table as it was seen; None when there was none."""
        return self.tables[name]

    def look_again(self, name: str) -> None:
        """See the version that a commit of ours has made."""
        self.tables[name] = open_table(self.output, name)

    def next_version(self, name: str) -> int:
        """The version that a commit makes."""
        existing = self.tables[name]
        return 0 if existing is None else existing.version() + 1

    def check(self, ready: "Ready") -> None:
        """InputError when what is to become part of the published table does not fit its columns."""
        existing = self.tables[ready.table.name]
        if existing is not None:
            _check_schema(existing, ready.schema, storage.join(self.output, ready.table.name))

    def publish(self, ready: "Ready", *, run_date: date, run_id: str) -> int:
        """Make parts the night's partition of a table, in one commit, unless they are.
        Returns the table's version.

        Raises LeaseLost or Overtaken instead of committing beside another writer.
        """
        table, existing = ready.table, self.tables[ready.table.name]
        if existing is not None and {part.path for part in ready.parts} == partition(existing, run_date):
            return existing.version()
        schema = ready.schema if existing is None else _joined(existing, ready.schema)
        now = int(time.time() * 1000)
        named: Mapping[str, str | None] = {RUN_DATE: run_date.isoformat()}
        actions = [AddAction(part.path, part.size, named, now, True, part.stats) for part in ready.parts]

        def commit(properties: CommitProperties) -> None:
            if existing is None:
                create_table_with_add_actions(
                    storage.join(self.output, table.name),
                    Schema.from_arrow(schema),
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
                    schema,
                    partition_by=[RUN_DATE],
                    partition_filters=[(RUN_DATE, "=", run_date.isoformat())],
                    commit_properties=properties,
                )

        return self.commit(table.name, commit, run_id=run_id)

    def fence(self) -> None:
        """Make `runs` a version newer, so that the one whose lease was taken over cannot commit the row that
        ends his night."""
        existing = self.tables[RUNS.name]
        if existing is None:
            return
        self.commit(
            RUNS.name,
            lambda properties: existing.create_write_transaction(
                [], "append", existing.schema(), partition_by=[RUN_DATE], commit_properties=properties
            ),
            fence=self._lease.uri,
        )
        self.look_again(RUNS.name)

    def commit(self, name: str, action: Callable[[CommitProperties], object], **metadata: str) -> int:
        """Let an action commit to a table on the version that was seen, and look at what it made."""
        uri, version, token = storage.join(self.output, name), self.next_version(name), uuid4().hex
        self._lease.renew()
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
    return set(table.get_add_actions(flatten=True)["path"].to_pylist())


def select(query: str, **tables: DeltaTable) -> list[dict[str, Any]]:
    """The rows of an SQL query over tables, by the names given here.

    deltalake's own engine: a look-up starts in a third of the time that importing Polars or pyarrow takes.
    """
    engine = QueryBuilder()
    for name, table in tables.items():
        engine.register(name, table)
    with storage.explained(next(iter(tables.values())).table_uri):
        found = engine.execute(query).read_all()
        rows: list[dict[str, Any]] = list(found.to_struct_array().to_pylist())
    return rows


def literal(value: str | int | date) -> str:
    """A value in an SQL query."""
    if isinstance(value, date):
        return f"date '{value.isoformat()}'"
    return str(value) if isinstance(value, int) else "'" + value.replace("'", "''") + "'"


def append_rows(output: str, table: Table, rows: "pa.Table") -> None:
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


def check_id_types(output: str, table: Table, schema: "pa.Schema") -> None:
    """InputError when the published table has other column types,
    such as int ids where tonight's are strings."""
    existing = open_table(output, table.name)
    if existing is not None:
        _check_schema(existing, schema, storage.join(output, table.name))


def _check_schema(existing: DeltaTable, schema: "pa.Schema", uri: str) -> None:
    """InputError for a column of another type, and for one that only one side has and that may not be
    null."""
    published, tonight = {field.name: field for field in columns(existing)}, {f.name: f for f in schema}
    for name in published.keys() | tonight.keys():
        both = [side.get(name) for side in (published, tonight)]
        then, now = (str(field.type) if field is not None else "absent" for field in both)
        if then == now or (
            "absent" in (then, now) and all(field is None or field.nullable for field in both)
        ):
            continue
        raise InputError(
            f"table {uri}: column {name!r} is {then} as published and {now} tonight; "
            "keep the type of the ids from night to night, or publish to another output"
        )


def columns(table: DeltaTable) -> "list[pa.Field]":
    """The columns of a version of a table, in Arrow's types."""
    import pyarrow as pa  # here: looking at what is published does without it

    return list(pa.schema(table.schema().to_arrow()))


def _joined(existing: DeltaTable, schema: "pa.Schema") -> "pa.Schema":
    """The published columns, and behind them those that tonight adds: none is ever taken away."""
    import pyarrow as pa

    published, tonight = columns(existing), {field.name: field for field in schema}
    names = {field.name for field in published}
    kept = [tonight.get(field.name, field) for field in published]
    return pa.schema([*kept, *(field for field in schema if field.name not in names)])


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
