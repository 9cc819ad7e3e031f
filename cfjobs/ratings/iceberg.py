"""An Iceberg table from its metadata alone, without a catalog: the data files of a snapshot and the rows
that it has deleted of each. Needs the extra `iceberg`.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from cfjobs import storage
from cfjobs.errors import CfjobsError, InputError
from cfjobs.storage.faults import first_line

if TYPE_CHECKING:
    from pyiceberg.manifest import DataFile
    from pyiceberg.table import FileScanTask, StaticTable

_METADATA = re.compile(r"(?:v(\d+)|(\d+)-[^/]+?)(?:\.gz)?\.metadata\.json$")
_OPTIONS = {
    "aws_endpoint_url": "s3.endpoint",
    "aws_access_key_id": "s3.access-key-id",
    "aws_secret_access_key": "s3.secret-access-key",
    "aws_session_token": "s3.session-token",
    "aws_region": "s3.region",
}


@dataclass(frozen=True)
class Part:
    """A data file. deleted: numbers of the rows that are no longer the table's."""

    uri: str
    size: int
    deleted: NDArray[np.int64]


@dataclass(frozen=True)
class Planned:
    """The files of a snapshot, None where nothing was ever written. ids: the number of each column."""

    snapshot: int | None
    parts: Sequence[Part]
    ids: Mapping[str, int]


def planned(uri: str, *, snapshot: int | None, moment: datetime | None, about: str) -> Planned:
    """The files of a snapshot, or of the one at a moment, or of the current one.

    uri: of the table, or of one `.metadata.json` of it. Raises InputError where the table cannot be read
    exactly.
    """
    try:
        from pyiceberg.table import StaticTable
    except ImportError as error:
        raise InputError(
            f"{about}: is an Iceberg table, for which the extra `iceberg` is needed; pip install 'cfjobs[iceberg]'"
        ) from error
    metadata = uri if uri.endswith(".metadata.json") else _newest(uri, about=about)
    try:
        with storage.explained(uri):
            table = StaticTable.from_metadata(metadata, _properties(uri))
            chosen = _snapshot(table, snapshot=snapshot, moment=moment, about=about)
            tasks = [] if chosen is None else list(table.scan(snapshot_id=chosen).plan_files())
            parts = [_part(task, about=about) for task in tasks]
            ids = {column.name: column.field_id for column in table.schema().fields}
    except CfjobsError:
        raise
    except Exception as error:  # pyiceberg raises what its parsers raise, of many kinds
        raise InputError(
            f"{about}: this Iceberg table cannot be read exactly ({first_line(error)}); "
            "compact it (rewrite_data_files), or export it as Parquet"
        ) from error
    return Planned(chosen, parts, ids)


def _newest(uri: str, *, about: str) -> str:
    """The metadata that the hint of a file-system table names, else the one with the highest number."""
    hint = f"{uri}/metadata/version-hint.text"
    there = [file.uri for file in storage.walk(f"{uri}/metadata")]
    found: dict[int, list[str]] = {}
    for name in there:
        if number := _METADATA.search(name.rpartition("/")[2]):
            found.setdefault(int(number[1] or number[2]), []).append(name)
    if hint in there:
        text = storage.read_bytes(hint).decode(errors="replace").strip()
        if text.isdecimal() and int(text) in found:
            return found[int(text)][0]
        raise InputError(f"{about}: its version-hint.text names {text!r}, which is not there; mend the table")
    if not found:
        raise InputError(f"{about}: no metadata of this Iceberg table has a number; name its .metadata.json")
    newest = found[max(found)]
    if len(newest) > 1:
        raise InputError(
            f"{about}: {len(newest)} files say they are the newest metadata of this Iceberg table; "
            f"name the one that your catalog has, as in {sorted(newest)[0]}"
        )
    return newest[0]


def _snapshot(
    table: "StaticTable", *, snapshot: int | None, moment: datetime | None, about: str
) -> int | None:
    if snapshot is not None:
        if table.snapshot_by_id(snapshot) is None:
            known = ", ".join(str(s.snapshot_id) for s in table.metadata.snapshots[-3:])
            raise InputError(
                f"{about}: has no snapshot {snapshot} (the latest: {known}); ask for one of them"
            )
        return snapshot
    if moment is not None:
        found = table.snapshot_as_of_timestamp(int(moment.timestamp() * 1000))
        if found is None:
            raise InputError(f"{about}: had no snapshot at {moment.isoformat()}; ask for a later moment")
        return int(found.snapshot_id)
    current = table.current_snapshot()
    return None if current is None else int(current.snapshot_id)


def _part(task: "FileScanTask", *, about: str) -> Part:
    from pyiceberg.manifest import FileFormat

    data = task.file
    if data.file_format != FileFormat.PARQUET:
        raise InputError(
            f"{about}: has data files in {data.file_format.value}, expected Parquet; rewrite them"
        )
    deleted = [_positions(delete, data.file_path) for delete in task.delete_files]
    rows = np.unique(np.concatenate([np.empty(0, dtype=np.int64), *deleted]))
    return Part(_uri(data.file_path), data.file_size_in_bytes, rows)


def _positions(delete: "DataFile", path: str) -> NDArray[np.int64]:
    """The rows of a data file that one delete file deletes."""
    from pyiceberg.manifest import FileFormat

    data = storage.read_bytes(_uri(delete.file_path))
    if delete.file_format == FileFormat.PUFFIN:
        from pyiceberg.table.puffin import PuffinFile

        rows = PuffinFile(data).to_vector().get(path, ())
        return np.array([int(row.as_py()) for row in rows], dtype=np.int64)
    frame = pl.read_parquet(data, columns=["file_path", "pos"])
    return frame.filter(pl.col("file_path") == path)["pos"].cast(pl.Int64).to_numpy()


def _uri(path: str) -> str:
    """The URI of a path of the metadata, where they are neither quoted nor normal."""
    if path.startswith("file:"):
        return "/" + path.removeprefix("file:").lstrip("/")
    return re.sub(r"^s3[an]://", "s3://", path)


def _properties(uri: str) -> dict[str, Any]:
    found = {"py-io-impl": "pyiceberg.io.pyarrow.PyArrowFileIO"}
    return found | {
        _OPTIONS[name]: value for name, value in (storage.options(uri) or {}).items() if name in _OPTIONS
    }
