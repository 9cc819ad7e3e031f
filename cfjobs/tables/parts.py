"""Parts: a night's files inside a table's folder, written and read back, before a commit names them.

No reader looks at a file that no commit names; `delta.Seen.publish` names a night's parts all at once.
"""

import io
import json
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any
from uuid import uuid4

import pyarrow as pa
import pyarrow.compute as pc
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


class Statistics:
    """Delta's statistics of a part, gathered table by table: its rows, and nulls, least and greatest value of
    every column that is not nested.

    Of all of them: an Arrow data set of deltalake takes a column without for one that holds nothing, and a
    filter on it for one that finds nothing.
    """

    def __init__(self, schema: pa.Schema) -> None:
        self.n_rows = 0
        self._nulls = {field.name: 0 for field in schema if not pa.types.is_nested(field.type)}
        self._low: dict[str, Any] = {}
        self._high: dict[str, Any] = {}

    def add(self, rows: pa.Table) -> None:
        """Take further rows of the part into account."""
        self.n_rows += rows.num_rows
        for name in self._nulls:
            self._nulls[name] += rows[name].null_count
            if rows[name].null_count < rows.num_rows:
                found = pc.min_max(rows[name]).as_py()
                self._low[name] = min(self._low.get(name, found["min"]), found["min"])
                self._high[name] = max(self._high.get(name, found["max"]), found["max"])

    def as_json(self) -> str:
        """As Delta's log has them."""
        low = {name: _bound(value, above=False) for name, value in self._low.items()}
        high = {name: _bound(value, above=True) for name, value in self._high.items()}
        found = {"numRecords": self.n_rows, "minValues": low, "maxValues": high, "nullCount": self._nulls}
        return json.dumps(found)


MOST_SIGNS = 64
"""Signs of a text in statistics."""


def _bound(value: Any, *, above: bool) -> Any:
    """A least or greatest value in JSON: a longer text by one that is as short and no greater, or no less."""
    if isinstance(value, datetime):  # in milliseconds, as readers expect
        whole = value - timedelta(microseconds=value.microsecond % 1000)
        if above and whole < value:
            whole += timedelta(milliseconds=1)
        return whole.strftime("%Y-%m-%dT%H:%M:%S.") + f"{whole.microsecond // 1000:03d}Z"
    if isinstance(value, date):
        return value.isoformat()
    if not isinstance(value, str) or len(value) <= MOST_SIGNS:
        return value
    begin = value[:MOST_SIGNS]
    if not above:
        return begin
    begin = begin.rstrip("\U0010ffff")
    after = 0xE000 if begin[-1:] == "\ud7ff" else ord(begin[-1:] or "\0") + 1  # no half of a pair is a sign
    return begin[:-1] + chr(after) if begin else value


def write_part(output: str, table: Table, rows: pa.Table, *, run_date: date, name: str) -> Part:
    """Write rows without the date as a part of a night, which no commit names yet, and read it back.

    Raises DamagedFile when the storage gives back other bytes.
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
    statistics = Statistics(rows.schema)
    statistics.add(rows)
    return Part(path, len(data), rows.num_rows, statistics.as_json())


def is_whole(output: str, table: Table, part: Part) -> bool:
    """Whether a part is there, with the bytes that it was written with."""
    uri = storage.join(output, table.name, part.path)
    return storage.exists(uri) and storage.size(uri) == part.size
