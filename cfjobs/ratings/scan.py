"""Rating files, from footers to batches of validated rows; whatever is wrong with a file becomes one line.

listing -> footer of each file: its rows and column types, a few kilobytes read
        -> groups of files with equal types, one scan a group: many small files are few scans
        -> batches of validated rows, as the streaming engine delivers them
"""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cfjobs import storage
from cfjobs.config import Config
from cfjobs.errors import CfjobsError, InputError
from cfjobs.ratings import column_types, source
from cfjobs.ratings.source import TableEntry
from cfjobs.ratings.validate import ROW, IdTypes, check_columns, columns_of, validated
from cfjobs.storage.uri import FileInfo

_TAIL_BYTES = 1 << 16
_REQUESTS = 32
"""Footers asked for at once from an object store, where each takes tens of milliseconds."""
_MAGIC = b"PAR1"
_GROUP_ROWS = 2_000_000
"""A scan reads ahead in all of its files: more rows cost memory, fewer time; a large file is alone."""
_GROUP_FILES = 2_000
_BATCH_ROWS = 50_000
"""Rows handed on at once: small files are joined up to it, which is what makes many of them bearable."""
DAMAGE = (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError)
"""What a read of a file that is not whole raises."""


@dataclass(frozen=True)
class Footer:
    """What a file says of itself: its rows, the Arrow types of the columns asked for, as one text, and the
    names of all. entry: what its table says of it."""

    file: FileInfo
    n_rows: int
    types: str
    names: tuple[str, ...] = ()
    entry: TableEntry = field(default_factory=TableEntry)


@dataclass
class Group:
    """Files with the same types of the columns that are read; their rows are numbered through.
    deleted: the numbers of those that their table has deleted. constants: columns that are the same in all of
    them, by what their table says."""

    types: tuple[pl.DataType, ...]
    constants: Mapping[str, Any] = field(default_factory=dict)
    files: list[FileInfo] = field(default_factory=list)
    first_rows: list[int] = field(default_factory=lambda: [0])
    deleted: list[NDArray[np.int64]] = field(default_factory=list)

    @property
    def n_rows(self) -> int:
        return self.first_rows[-1] - sum(rows.size for rows in self.deleted)

    def add(self, footer: Footer) -> None:
        self.files.append(footer.file)
        if footer.entry.deleted.size:
            self.deleted.append(self.first_rows[-1] + footer.entry.deleted)
        self.first_rows.append(self.first_rows[-1] + footer.n_rows)

    def has_room_for(self, footer: Footer) -> bool:
        return len(self.files) < _GROUP_FILES and self.first_rows[-1] + footer.n_rows < _GROUP_ROWS

    def locate(self, rows: NDArray[np.int64]) -> tuple[list[str], NDArray[np.int64]]:
        """The file of each row of the group, and its number there. rows: [R], by the group's numbering."""
        first = np.array(self.first_rows)
        number = np.searchsorted(first, rows, side="right") - 1
        return [self.files[i].uri for i in number], rows - first[number]


def read_footers(files: Sequence[FileInfo], *, columns: Sequence[str], what: str) -> list[Footer]:
    """The footers, in the order of the files. Raises InputError for a file that is not whole Parquet, and for
    one of the columns that cannot be read as it is meant."""
    tables = source.entries_of(files, what=what)

    def read(file: FileInfo) -> Footer:
        metadata, entry = read_footer(file, what=what), tables.get(file.uri, TableEntry())
        if metadata.num_rows == 0:
            return Footer(file, 0, "", entry=entry)
        about = f"{what} {file.uri}"
        schema = column_types.footer_schema(metadata, file=about)
        source.check_columns(schema, entry, columns=columns, file=about)
        column_types.check(schema, columns, file=about)
        places = [schema.get_field_index(column) for column in columns]
        types = "; ".join(_type_text(schema.field(place)) if place >= 0 else "-" for place in places)
        old = sorted(column_types.int96(metadata) & set(columns))
        names = (*schema.names, *entry.columns)
        return Footer(file, metadata.num_rows, f"{types} {old}", names, entry)

    if not files or not storage.is_s3(files[0].uri):
        return [read(file) for file in files]
    with ThreadPoolExecutor(_REQUESTS) as pool:
        return list(pool.map(read, files))


def group_files(footers: Sequence[Footer], *, config: Config) -> list[Group]:
    """Files with rows, grouped by the types of their columns.

    A file without rows is left out unchecked: exporters give the columns of an empty table any type. Raises
    InputError for a column that is absent or of a wrong type.
    """
    types: dict[str, tuple[pl.DataType, ...]] = {}
    groups: dict[str, list[Group]] = {}
    for footer in footers:
        if footer.n_rows == 0:
            continue
        constants = {n: v for n, v in footer.entry.columns.items() if n in columns_of(config)}
        kind = f"{footer.types} {constants}"
        if kind not in types:
            schema = {n: pl.Series([value]).dtype for n, value in constants.items()} | schema_of(footer.file)
            types[kind] = check_columns(schema, file=footer.file.uri, config=config)
        alike = groups.setdefault(kind, [])
        if not alike or not alike[-1].has_room_for(footer):
            alike.append(Group(types[kind], constants))
        alike[-1].add(footer)
    return [group for alike in groups.values() for group in alike]


def validated_batches(group: Group, *, ids: IdTypes, config: Config, now: datetime) -> Iterator[pl.DataFrame]:
    """The rows of a group as `validate.validated` gives them, in batches of any size and in any order.

    `ROW` numbers them through the group. Raises InputError for a file that is damaged or changes meanwhile.
    """
    query = validated(_rows(group, config), group.types, ids=ids, config=config, now=now)
    n_rows = 0
    try:
        for batch in query.collect_batches(chunk_size=_BATCH_ROWS, maintain_order=False, engine="streaming"):
            n_rows += batch.height
            if n_rows > group.n_rows:
                break
            yield batch
    except DAMAGE as error:
        check_unchanged(group.files)
        raise _damage(group, error, config=config) from error
    if n_rows != group.n_rows:
        check_unchanged(group.files)
        raise InputError(
            f"ratings {group.files[0].uri} and {len(group.files) - 1} more: hold other rows than the "
            f"{group.n_rows:,} that their footers tell; export them again"
        )


def validated_rows_of(
    users: pl.Series, group: Group, *, ids: IdTypes, config: Config, now: datetime
) -> pl.DataFrame:
    """The rows of a few users as `validate.validated` gives them; the others' are left behind while reading.

    users: ids as text. Raises InputError for a file that is gone or damaged.
    """
    mine = pl.col(config.user_column).cast(pl.String).is_in(users.implode())
    query = _rows(group, config).filter(mine)
    try:
        return validated(query, group.types, ids=ids, config=config, now=now).collect(engine="streaming")
    except DAMAGE as error:
        raise _damage(group, error, config=config) from error


def sampled_users(group: Group, *, ids: IdTypes, config: Config, every: int) -> pl.Series:
    """The user id of each row of a group whose number is a multiple of `every`; null where it is none.
    Raises InputError for a file that is gone or damaged."""
    query = _rows(group, config).filter(pl.col(ROW) % every == 0)
    query = query.select(pl.col(config.user_column).cast(ids.user, strict=False))
    try:
        return query.collect(engine="streaming").to_series()
    except DAMAGE as error:
        raise _damage(group, error, config=config) from error


def check_unchanged(files: Sequence[FileInfo]) -> None:
    """Raise InputError for a file that is no longer as it was listed: its rows may be of two exports."""
    for file, found in zip(files, _listed_again(files), strict=True):
        if found != file:
            state = f"{file.size:,} bytes, then {found.size:,}" if found else "gone"
            if found and found.size == file.size:
                state = f"{file.size:,} bytes of other content"
            raise InputError(
                f"ratings {file.uri}: changed while it was read ({state}); rerun once the export is complete"
            )


def read_footer(file: FileInfo, *, what: str) -> pq.FileMetaData:
    """The footer, from the end of the file alone. Raises InputError for a file that is not whole Parquet."""
    again = "export it again, or take it out of the folder"
    if file.size == 0:
        raise InputError(f"{what} {file.uri}: is empty (0 bytes), expected a Parquet file; {again}")
    tail = storage.read_tail(file.uri, _TAIL_BYTES)
    if tail[-4:] != _MAGIC:
        whole = tail if len(tail) < _TAIL_BYTES else storage.read_tail(file.uri, file.size)
        if whole[:4] == _MAGIC:
            raise InputError(
                f"{what} {file.uri}: is truncated (Parquet without its end, {file.size:,} bytes); {again}"
            )
        raise InputError(f"{what} {file.uri}: is not a Parquet file (begins with {whole[:4]!r}); {again}")
    n_bytes = int.from_bytes(tail[-8:-4], "little") + 8
    if n_bytes > len(tail):
        tail = storage.read_tail(file.uri, n_bytes)
    try:
        return pq.read_metadata(pa.BufferReader(tail))
    except (pa.ArrowException, OSError) as error:
        cause = _first_line(error)
        raise InputError(f"{what} {file.uri}: its footer is damaged ({cause}); {again}") from error


def _type_text(column: pa.Field) -> str:
    """The type as Polars will see it: pandas and Polars add to it in the field's metadata."""
    return f"{column.type} {sorted((column.metadata or {}).items())}"


def schema_of(file: FileInfo) -> pl.Schema:
    """The columns of a file and their types."""
    with storage.explained(file.uri):
        try:
            return pl.scan_parquet(
                file.uri,
                storage_options=storage.options(file.uri),
                hive_partitioning=False,
                glob=False,
            ).collect_schema()
        except DAMAGE as error:
            raise explained_damage(file, error, what="ratings") from error


def _rows(group: Group, config: Config) -> pl.LazyFrame:
    """The rows of a group that its tables have not deleted."""
    types = dict(zip(columns_of(config), group.types, strict=True))
    constants = [pl.lit(value, types[name]).alias(name) for name, value in group.constants.items()]
    query = _scan(group.files, group, config).with_columns(constants)
    if not group.deleted:
        return query
    deleted = pl.Series(ROW, np.concatenate(group.deleted)).cast(pl.get_index_type())
    return query.join(deleted.to_frame().lazy(), on=ROW, how="anti")


def _scan(files: Sequence[FileInfo], group: Group, config: Config) -> pl.LazyFrame:
    """The rows of files of a group, of the columns that are in the files."""
    types = dict(zip(columns_of(config), group.types, strict=True))
    return pl.scan_parquet(
        [file.uri for file in files],
        schema={name: dtype for name, dtype in types.items() if name not in group.constants},
        extra_columns="ignore",
        row_index_name=ROW,
        hive_partitioning=False,
        glob=False,
        storage_options=storage.options(files[0].uri),
    )


def _damage(group: Group, error: BaseException, *, config: Config) -> Exception:
    """Which file of the group it was, found by reading each alone."""
    for file in group.files:
        try:
            with storage.explained(file.uri):
                for _ in _scan([file], group, config).collect_batches(engine="streaming"):
                    pass
        except InputError as cause:
            return cause
        except DAMAGE as cause:
            return explained_damage(file, cause, what="ratings")
    return explained_damage(group.files[0], error, what="ratings")


def explained_damage(file: FileInfo, error: BaseException, *, what: str) -> Exception:
    """StorageFault when the store is to blame, InputError for a file that is gone or damaged."""
    try:
        with storage.explained(file.uri):
            raise error
    except CfjobsError as explained:
        if storage.is_s3(file.uri) or isinstance(error, FileNotFoundError | PermissionError):
            return explained
    except DAMAGE:
        pass
    if "invalid utf8" in str(error):
        return InputError(
            f"{what} {file.uri}: has bytes that are no text in UTF-8; cast ids to strings on export"
        )
    return InputError(
        f"{what} {file.uri}: is damaged ({_first_line(error)}); export it again, or take it out of the folder"
    )


def _listed_again(files: Sequence[FileInfo]) -> list[FileInfo | None]:
    if not files:
        return []
    if files[0].table:  # a table's files never change; one that is gone cannot have been read
        return list(files)
    if storage.is_s3(files[0].uri):
        first, last = min(file.uri for file in files), max(file.uri for file in files)
        n_shared = next((i for i in range(len(first)) if first[i] != last[i : i + 1]), len(first))
        now = {file.uri: file for file in storage.walk(first[:n_shared].rpartition("/")[0])}
        return [now.get(file.uri) for file in files]
    return [next(iter(storage.walk(file.uri)), None) for file in files]


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
