"""What an input's URI stands for, and which of its files hold rows.

    a Parquet file                               itself, whatever its name
    a folder                                     every Parquet file in it, by its name or its first bytes
    a Delta or Iceberg table                     the files that the table names, less the rows that it deletes
    a table with ?version=3 or ?at=2026-03-01    the table as it was

A folder is accounted for file by file: what is not read is hidden (`_x`, `.x`), empty, or named in a warning.
"""

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote

import numpy as np
import polars as pl
import pyarrow as pa
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError
from numpy.typing import NDArray

from cfjobs import storage
from cfjobs.errors import InputError
from cfjobs.ratings import iceberg
from cfjobs.storage.faults import first_line
from cfjobs.storage.uri import FileInfo

log = logging.getLogger(__name__)

_SUFFIXES = (".parquet", ".parq", ".pq")
_MAGIC = b"PAR1"
_REQUESTS = 32
_DELTA, _ICEBERG, _HUDI = "Delta", "Iceberg", "Hudi"
_FEATURES = {"deletionVectors", "timestampNtz", "typeWidening", "v2Checkpoint", "vacuumProtocolCheck"}
"""Reader features of a Delta table that change nothing of what is read here, or are honoured."""
_MISREAD = re.compile(r"[#?%\[\]^|\\]")
"""Characters that Delta's library takes for others, in an object store even for another key."""


_NO_ROWS: NDArray[np.int64] = np.empty(0, dtype=np.int64)


@dataclass(frozen=True)
class TableEntry:
    """What a table says of one of its files. deleted: the row numbers that are no rows of the table. columns:
    those that are not in the file, by name. ids: the number of each column, by which a renamed one shows."""

    deleted: NDArray[np.int64] = field(default_factory=lambda: _NO_ROWS)
    columns: Mapping[str, Any] = field(default_factory=dict)
    ids: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class _Named:
    """A table of one version, and its files."""

    uri: str
    files: Mapping[str, tuple[FileInfo, TableEntry]]


def list_parquet(uri: str, *, what: str) -> list[FileInfo]:
    """The Parquet files that hold the rows of an input, of a table without rows none.

    Raises InputError when there is neither a table nor a Parquet file.
    """
    bare, wanted, value = storage.split_version(uri)
    if kind := _kind_of(bare):
        named = _named(bare, kind, wanted=(wanted, value), what=what)
        return [file for file, _ in named.files.values()]
    there = storage.walk(bare)
    if inner := _tables_among(there, bare):
        table, kind = next(iter(inner.items()))
        raise InputError(f"{what} {bare}: has the {kind} table {table} in it; name the table itself")
    if wanted:
        raise InputError(
            f"{what} {bare}: is no Delta or Iceberg table, so it has no versions; leave out ?{wanted}={value}"
        )
    files = _parquet_among(there, bare, what=what)
    if not files:
        raise InputError(
            f"{what} {uri}: holds no .parquet file; give a Parquet file, a folder of them, or a Delta or Iceberg "
            "table (other files: `cfjobs import`)"
        )
    return files


def pinned(uri: str, *, what: str) -> str:
    """The URI with the version that the table has now, where it is a table: a night reads one version.

    Raises InputError for a part of a table, whose log alone says which rows count.
    """
    bare, wanted, value = storage.split_version(uri)
    for folder in _above(bare) if not bare.endswith(".metadata.json") else ():
        if kind := _kind_of(folder):
            raise InputError(
                f"{what} {uri}: lies in the {kind} table {folder}, which alone says which of these rows count; "
                "name the table itself"
            )
    kind = _kind_of(bare)
    return _named(bare, kind, wanted=(wanted, value), what=what).uri if kind else uri


def entries_of(files: Iterable[FileInfo], *, what: str) -> dict[str, TableEntry]:
    """What tables say of their files, by the file's URI; nothing of a file that no table names."""
    found: dict[str, TableEntry] = {}
    for table in sorted({file.table for file in files} - {""}):
        bare, wanted, value = storage.split_version(table)
        named = _named(bare, _kind_of(bare) or _DELTA, wanted=(wanted, value), what=what)
        found |= {uri: entry for uri, (_, entry) in named.files.items()}
    return found


def check_columns(schema: pa.Schema, entry: TableEntry, *, columns: Sequence[str], file: str) -> None:
    """InputError for a column that stands twice, and for one of these that a table has renamed since."""
    if twice := [name for name in schema.names if schema.names.count(name) > 1]:
        raise InputError(f"{file}: column {twice[0]!r} stands twice; rename one on export")
    names = {number: name for name, number in entry.ids.items()}
    for column in schema:
        number = int((column.metadata or {}).get(b"PARQUET:field_id", -1))
        is_asked = column.name in columns or names.get(number) in columns
        renamed = names.get(number, column.name) != column.name
        if is_asked and number >= 0 and (renamed or entry.ids.get(column.name, number) != number):
            raise InputError(
                f"{file}: column {column.name!r} is {names.get(number, 'another one')!r} in the table by now; "
                "rewrite its data files (rewrite_data_files), or export the table"
            )


def _tables_among(files: Sequence[FileInfo], uri: str) -> dict[str, str]:
    """The tables at or under a URI, by what they are."""
    found: dict[str, str] = {}
    for file in files:
        parts = _relative(file, uri)
        for depth, name in enumerate(parts[:-1]):
            is_iceberg = (
                name == "metadata" and depth == len(parts) - 2 and parts[-1].endswith(".metadata.json")
            )
            kind = {"_delta_log": _DELTA, ".hoodie": _HUDI}.get(name) or (_ICEBERG if is_iceberg else None)
            if kind:
                found.setdefault("/".join([uri, *parts[:depth]]), kind)
    return dict(sorted(found.items()))


def _kind_of(folder: str) -> str | None:
    """Which table a folder is, or the metadata of one; None where it is none."""
    if folder.endswith(".metadata.json"):
        return _ICEBERG
    if storage.is_folder(f"{folder}/_delta_log"):
        return _DELTA
    if storage.is_folder(f"{folder}/.hoodie"):
        return _HUDI
    metadata = f"{folder}/metadata"
    if storage.is_folder(metadata) and any(f.uri.endswith(".metadata.json") for f in storage.walk(metadata)):
        return _ICEBERG
    return None


def _above(uri: str) -> list[str]:
    """The folders that a URI lies in, the nearest first; of an object store those inside of the bucket."""
    root = "s3://" if storage.is_s3(uri) else "/"
    parts = uri.removeprefix(root).split("/")
    return [root + "/".join(parts[:n]) for n in range(len(parts) - 1, int(root != "/"), -1)]


def _relative(file: FileInfo, uri: str) -> list[str]:
    return file.uri.removeprefix(uri).lstrip("/").split("/")


def _parquet_among(files: Sequence[FileInfo], uri: str, *, what: str) -> list[FileInfo]:
    """The Parquet files of a listing; a warning names the others."""
    if [file.uri for file in files] == [uri]:
        return list(files)
    shown = [file for file in files if not _is_hidden(_relative(file, uri))]
    named = [file for file in shown if file.uri.lower().endswith(_SUFFIXES)]
    others = [file for file in shown if not file.uri.lower().endswith(_SUFFIXES) and file.size]
    with ThreadPoolExecutor(_REQUESTS) as pool:
        begins = list(pool.map(lambda file: storage.read_range(file.uri, 0, len(_MAGIC)), others))
    named += [file for file, begin in zip(others, begins, strict=True) if begin == _MAGIC]
    left = [file.uri for file, begin in zip(others, begins, strict=True) if begin != _MAGIC]
    if left:
        more = f" and {len(left) - 3} more" if len(left) > 3 else ""
        log.warning(
            "%s %s: %s no Parquet and not read: %s%s",
            what,
            uri,
            "1 file is" if len(left) == 1 else f"{len(left)} files are",
            ", ".join(name.removeprefix(uri).lstrip("/") for name in left[:3]),
            more,
        )
    return sorted(named, key=lambda file: file.uri)


def _is_hidden(parts: Sequence[str]) -> bool:
    """Whether a file holds no rows by its name: `_SUCCESS`, `.part-0.crc`, Hadoop's `folder_$folder$`.

    A folder `_year=2026` is a partition, as Spark has it.
    """
    *folders, name = parts
    hidden = [part for part in folders if part[:1] == "." or (part[:1] == "_" and "=" not in part)]
    return bool(hidden) or name[:1] in {"", "_", "."} or name.endswith((".crc", "_$folder$"))


def _named(uri: str, kind: str, *, wanted: tuple[str, str], what: str) -> _Named:
    """A table of the version that is asked for: ("version", "3"), ("at", "2026-03-01"), or the newest."""
    about = f"{what} {uri}"
    if kind == _HUDI:
        raise InputError(
            f"{about}: is a Hudi table, which is not read; export it as Parquet, or as a Delta table"
        )
    if wanted[0] == "version" and not wanted[1].isdecimal():
        raise InputError(f"{about}: got version={wanted[1]}, expected a number, as in ?version=3")
    version = int(wanted[1]) if wanted[0] == "version" else None
    moment = _moment(wanted[1], about=about) if wanted[0] == "at" else None
    if kind == _ICEBERG:
        table = iceberg.planned(uri, snapshot=version, moment=moment, about=about)
        named = uri if table.snapshot is None else f"{uri}?version={table.snapshot}"
        return _Named(
            named,
            {
                part.uri: (
                    FileInfo(part.uri, part.size, f"snapshot-{table.snapshot}", named),
                    TableEntry(deleted=part.deleted, ids=table.ids),
                )
                for part in table.parts
            },
        )
    return _delta(uri, version=version, moment=moment, about=about)


def _moment(text: str, *, about: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise InputError(
            f"{about}: got at={text}, expected a date or a time, as in ?at=2026-03-01"
        ) from error
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _delta(uri: str, *, version: int | None, moment: datetime | None, about: str) -> _Named:
    if odd := _MISREAD.search(uri.removeprefix("s3://")):
        raise InputError(
            f"{about}: is a Delta table under a name with {odd[0]!r}, which Delta's library misreads; move it"
        )
    try:
        with storage.explained(uri):
            table = DeltaTable(uri, version=version, storage_options=storage.options(uri))
            if moment is not None:
                table.load_as_version(moment)
                if table.history(1)[0]["timestamp"] > moment.timestamp() * 1000:
                    raise InputError(
                        f"{about}: had no version at {moment.isoformat()}; ask for a later moment"
                    )
            _check_features(table, about=about)
            added = pl.DataFrame(pa.table(table.get_add_actions(flatten=True)))
            masks = pl.DataFrame(pa.table(table.deletion_vectors())) if _deletes(table) else pl.DataFrame()
    except DeltaError as error:
        raise InputError(
            f"{about}: the log of this Delta table cannot be read ({first_line(error)}); "
            "check the version that is asked for, and the table"
        ) from error
    deleted: dict[str, NDArray[np.int64]] = {}
    n_deleted = 0
    for row in masks.iter_rows(named=True):
        path = row["filepath"].removeprefix("file://")  # quoted, or not, by the kind of storage
        rows = np.flatnonzero(~np.array(row["selection_vector"], dtype=np.bool_))
        deleted[path] = deleted[unquote(path)] = rows
        n_deleted += rows.size
    constants = [name for name in added.columns if name.startswith("partition.")]
    named, files = f"{uri}?version={table.version()}", {}
    for row in added.iter_rows(named=True):
        path = unquote(row["path"])
        file = FileInfo(_absolute(uri, path), row["size_bytes"], f"version-{table.version()}", named)
        columns = {name.removeprefix("partition."): row[name] for name in constants}
        files[file.uri] = (file, TableEntry(deleted=deleted.pop(file.uri, _NO_ROWS), columns=columns))
    if sum(entry.deleted.size for _, entry in files.values()) != n_deleted:
        raise InputError(f"{about}: deletes rows of files that are not found by name; run OPTIMIZE on it")
    return _Named(named, files)


def _check_features(table: DeltaTable, *, about: str) -> None:
    features = set(table.protocol().reader_features or ()) - _FEATURES
    if table.metadata().configuration.get("delta.columnMapping.mode", "none") != "none":
        features |= {"columnMapping"}
    else:
        features -= {"columnMapping"}
    if features:
        raise InputError(
            f"{about}: is a Delta table with {', '.join(sorted(features))}, which is not read here; "
            "drop the feature (ALTER TABLE ... DROP FEATURE), or export the table as Parquet"
        )


def _deletes(table: DeltaTable) -> bool:
    return "deletionVectors" in (table.protocol().reader_features or ())


def _absolute(uri: str, path: str) -> str:
    """Where a file of a table is: below it, or, in a shallow clone, anywhere."""
    if "://" in path:
        return re.sub(r"^(s3)[an]://", r"\1://", path).removeprefix("file://")
    return storage.join(uri, path)
