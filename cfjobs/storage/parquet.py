"""A Parquet file in storage, or several as one, read by ranges:
footers once, then only the row groups that are wanted."""

import io
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cfjobs.errors import CfjobsError, DamagedFile
from cfjobs.storage.faults import explained
from cfjobs.storage.files import RandomAccess

_REQUESTS = 16
"""Footers asked for at once: in an object store each takes tens of milliseconds."""


@contextmanager
def _whole(uri: str) -> Iterator[None]:
    """Raises DamagedFile for bytes that are not those that were written,
    as far as Parquet and its checksums show."""
    with explained(uri):
        try:
            yield
        except (pa.ArrowInvalid, OSError) as error:
            if isinstance(error, OSError) and (isinstance(error, CfjobsError) or error.errno is not None):
                raise  # of the storage
            raise DamagedFile(f"{uri}: is damaged ({str(error).splitlines()[0][:200]})") from error


class TableFile:
    """Rows of one Parquet file, or of several one after another, by place or by the value of a sorted column.
    Safe to use from one thread at a time."""

    def __init__(self, uris: str | Sequence[str], *, columns: list[str]) -> None:
        self._uris, self._columns = [uris] if isinstance(uris, str) else list(uris), columns
        with ThreadPoolExecutor(_REQUESTS) as pool:
            self._files = list(pool.map(_opened, self._uris))
        found = [file.metadata for file in self._files]
        self.names: list[str] = list(found[0].schema.names)
        places = [(i, g) for i, m in enumerate(found) for g in range(m.num_row_groups) if m.num_rows]
        self._groups_of: list[tuple[int, int]] = places  # of each row group, its file and its place there
        self._start: NDArray[np.int64] = np.cumsum([0, *(found[i].row_group(g).num_rows for i, g in places)])

    @property
    def n_rows(self) -> int:
        """The rows of all."""
        return int(self._start[-1])

    def rows(self, start: int, stop: int) -> pl.DataFrame:
        """The rows start..stop-1."""
        first = int(np.searchsorted(self._start, start, side="right")) - 1
        last = int(np.searchsorted(self._start, stop, side="left"))
        return self._read(first, last).slice(start - int(self._start[first]), stop - start)

    def blocks(self, rows: int) -> Iterator[pl.DataFrame]:
        """All rows, whole row groups at a time, of at most `rows` rows where one group is not more."""
        first, n_groups = 0, len(self._start) - 1
        while first < n_groups:
            last = int(np.searchsorted(self._start, self._start[first] + rows, side="right")) - 1
            last = max(first + 1, min(last, n_groups))
            yield self._read(first, last)
            first = last

    def _read(self, first: int, last: int) -> pl.DataFrame:
        """Row groups first..last-1."""
        of_file: dict[int, list[int]] = {}
        for file, group in self._groups_of[first:last]:
            of_file.setdefault(file, []).append(group)
        tables = []
        for file, groups in (of_file or {0: []}).items():
            with _whole(self._uris[file]):
                tables.append(self._files[file].read_row_groups(groups, columns=self._columns))
        frame = pl.from_arrow(tables[0] if len(tables) == 1 else pa.concat_tables(tables))
        assert isinstance(frame, pl.DataFrame)
        return frame


def _opened(uri: str) -> pq.ParquetFile:
    with _whole(uri):
        return pq.ParquetFile(
            pa.PythonFile(RandomAccess(uri), mode="r"),
            pre_buffer=True,
            page_checksum_verification=True,
        )


class SortedFile(TableFile):
    """Rows sorted by an integer column, `key`, whose least and greatest value each row group states."""

    def __init__(self, uris: str | Sequence[str], *, key: str, columns: list[str]) -> None:
        super().__init__(uris, columns=columns)
        self._key = key
        place = self.names.index(key)
        files = [file.metadata for file in self._files]
        found = [files[file].row_group(group).column(place).statistics for file, group in self._groups_of]
        self._low: NDArray[np.int64] = np.array([s.min for s in found], dtype=np.int64)
        self._high: NDArray[np.int64] = np.array([s.max for s in found], dtype=np.int64)

    def between(self, start: int, stop: int) -> pl.DataFrame:
        """The rows whose key is start..stop-1."""
        first, last = self._groups(start, stop)
        frame = self._read(first, last)
        here = [int(frame[self._key].search_sorted(value)) for value in (start, stop)]
        return frame.slice(here[0], here[1] - here[0])

    def ranges(self, start: int, stop: int, *, keys: int, rows: int) -> list[range]:
        """Keys start..stop-1 in ranges of at most `keys`, to be read with about `rows` rows at most.

        A range whose one key has more rows than that is read whole.
        """
        found = []
        while start < stop:
            end = min(stop, start + keys)
            first, last = self._groups(start, end)
            last = min(last, int(np.searchsorted(self._start, self._start[first] + rows, side="right")) - 1)
            if last < len(self._low):
                end = max(start + 1, min(end, int(self._low[max(last, first)])))
            found.append(range(start, end))
            start = end
        return found

    def _groups(self, start: int, stop: int) -> tuple[int, int]:
        """The row groups that hold keys start..stop-1, as first and last + 1."""
        first = int(np.searchsorted(self._high, start, side="left"))
        return first, max(first, int(np.searchsorted(self._low, stop, side="left")))


def parquet_bytes(frame: pl.DataFrame) -> bytes:
    """A frame as one Parquet file, zstd."""
    buffer = io.BytesIO()
    frame.write_parquet(buffer, compression="zstd", statistics=True)
    return buffer.getvalue()
