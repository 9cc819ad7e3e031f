"""Parts of a published table: Parquet files of bounded size, sorted by user, written as the lists are made.

    rows -> row groups of whole users -> a temporary file of its own -> uploaded under its name when it is
    full

A look-up of one user so opens one file and one row group. Where files and row groups end depends on the rows
alone, so the same lists always make the same bytes.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cfjobs import storage
from cfjobs.tables.parts import Part, Statistics

GROUP_ROWS = 100_000
"""Rows of a row group, at most: what a look-up of one user decodes."""


class PartsWriter:
    """Takes rows in order of user, and writes parts below a table's URI; use it as a context manager. A list
    begins at rank 1.

    path: the n-th part's place below the table. part_rows: rows at which a part is full; it ends with a row
    group.
    """

    def __init__(
        self,
        table_uri: str,
        *,
        schema: pa.Schema,
        path: Callable[[int], str],
        part_rows: int,
        group_rows: int = GROUP_ROWS,
    ) -> None:
        self._table_uri, self._schema, self._path = table_uri, schema, path
        self._part_rows, self._group_rows = part_rows, group_rows
        self._waiting: list[pa.Table] = []
        self._n_waiting = 0
        self._open: _OpenPart | None = None
        self.parts: list[Part] = []
        self.n_lists = 0

    def __enter__(self) -> "PartsWriter":
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self._write_groups(all_rows=True)
            self._close()
        elif self._open is not None:
            self._open.abandon()

    def write(self, rows: pa.Table) -> None:
        """Add rows; what fills row groups is written."""
        self._waiting.append(rows)
        self._n_waiting += rows.num_rows
        if self._n_waiting >= 2 * self._group_rows:
            self._write_groups(all_rows=False)

    def _write_groups(self, *, all_rows: bool) -> None:
        rows = pa.concat_tables([self._schema.empty_table(), *self._waiting]).combine_chunks()
        end = 0
        begins = _begins(rows["user_id"])
        for start, end in _groups(begins, self._group_rows, all_rows=all_rows):
            self._write_group(rows.slice(start, end - start))
        self._waiting = [rows.slice(end)]
        self._n_waiting = rows.num_rows - end

    def _write_group(self, group: pa.Table) -> None:
        if self._open is None:
            self._open = _OpenPart(self._table_uri, self._path(len(self.parts)), self._schema)
        self._open.write(group)
        self.n_lists += pc.sum(pc.equal(group["rank"], 1)).as_py()
        if self._open.n_rows >= self._part_rows:
            self._close()

    def _close(self) -> None:
        if self._open is not None:
            self.parts.append(self._open.close())
            self._open = None


def _begins(user_id: pa.ChunkedArray) -> NDArray[np.int64]:
    """Where each user's rows begin, and the end of all."""
    n = len(user_id)
    # Through Polars: pyarrow's to_numpy imports pandas where it is installed, a third of a second.
    changes = pl.Series(pc.not_equal(user_id.slice(1), user_id.slice(0, max(0, n - 1)))).to_numpy()
    return np.concatenate([np.zeros(min(n, 1), np.int64), np.flatnonzero(changes) + 1, [n]])


def _groups(begins: NDArray[np.int64], size: int, *, all_rows: bool) -> Iterator[tuple[int, int]]:
    """Start and end of row groups of whole users with at most `size` rows;
    without all_rows only those that are sure."""
    start, n_rows = 0, int(begins[-1])
    while start < n_rows:
        end = int(begins[np.searchsorted(begins, start + size, side="right") - 1])
        if end <= start:  # one user with more than a row group
            end = int(begins[np.searchsorted(begins, start, side="right")])
        if end == n_rows and not all_rows:
            return
        yield start, end
        start = end


_REPEATED = ("user_id", "column", "value", "rank", "movie_id", "source")
"""Columns with few different values."""


@dataclass
class _OpenPart:
    table_uri: str
    path: str
    schema: pa.Schema

    def __post_init__(self) -> None:
        self._statistics = Statistics(self.schema)
        self._files = ExitStack()
        uri = storage.join(self.table_uri, self.path)
        self._file: Path = self._files.enter_context(storage.new_file(uri))
        self._writer = pq.ParquetWriter(
            self._file,
            self.schema,
            compression="zstd",
            use_dictionary=[name for name in _REPEATED if name in self.schema.names],
            write_statistics=True,
            write_page_index=True,
            write_page_checksum=True,
        )

    def write(self, group: pa.Table) -> None:
        self._writer.write_table(group, row_group_size=group.num_rows)
        self._statistics.add(group)

    @property
    def n_rows(self) -> int:
        """Rows so far."""
        return self._statistics.n_rows

    def close(self) -> Part:
        """Finish the file and put it in its place."""
        self._writer.close()
        size = self._file.stat().st_size
        self._files.close()
        return Part(self.path, size, self.n_rows, self._statistics.as_json())

    def abandon(self) -> None:
        """Leave no trace of the part."""
        self._writer.close()
        with suppress(_Abandoned), self._files:
            raise _Abandoned


class _Abandoned(Exception):
    """A part that is not to be: its temporary file goes away."""
