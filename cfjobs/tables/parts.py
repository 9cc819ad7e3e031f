"""Parts: a night's files inside a table's folder, written and read back, before a commit names them.

No reader looks at a file that no commit names; `delta.Seen.publish` names a night's parts all at once.
"""

import io
import json
from dataclasses import dataclass
from datetime import date
from typing import Any
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq

from cfjobs import storage
from cfjobs.errors import DamagedFile
from cfjobs.tables.schema import RUN_DATE, Table


@dataclass(frozen=True)
class Part:
    """A Parquet file inside a table's folder, not yet named by a commit. path: below the table;
    stats: Delta's."""

    path: str
    size: int
    rows: int
    stats: str


@dataclass(frozen=True)
class Ready:
    """A night's rows of a table, written and read back, which wait for their commit. schema:
    with the date."""

    table: Table
    schema: pa.Schema
    parts: tuple[Part, ...]


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
