"""Any table with ids but the ratings, read whole: movies, users, allow, deny, exclude, pairs to predict.

Whatever the files hold, an id column comes out as Int64 where every file has integers that fit it, else as
text, by types alone: 7 and "7" are one id, 2.7 is none.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence

import polars as pl
import pyarrow as pa

from cfjobs import storage
from cfjobs.errors import InputError
from cfjobs.ratings import column_types, names, scan, source, validate
from cfjobs.ratings.source import TableEntry
from cfjobs.storage.uri import FileInfo

log = logging.getLogger(__name__)


def read(uri: str, *, what: str, keys: Mapping[str, str], others: bool = False) -> pl.DataFrame:
    """The rows of a table, in the order of its files; without any, its id columns alone.

    what: the table, as an error names it. keys: the id column that each setting names, as in
    {"movie_column": "movie_id"}; one that is not there is recognised by a name that people use, and renamed.
    others: with all other columns that can be read. Raises InputError for a damaged file, an id column that
    is absent or of a wrong type, and columns of different kinds in its files.
    """
    files = source.list_parquet(uri, what=what)
    tables = source.entries_of(files, what=what)
    frames, renamed = [], dict[str, str]()
    for file in files:
        metadata = scan.read_footer(file, what=what)
        if metadata.num_rows == 0:
            continue  # exporters give the columns of an empty table any type
        about = f"{what} {file.uri}"
        schema = column_types.footer_schema(metadata, file=about)
        entry = tables.get(file.uri, TableEntry())
        recognised = names.renaming([*schema.names, *entry.columns], keys)
        frames.append(_read(file, schema, entry, recognised, what=what, keys=keys, others=others))
        renamed |= recognised
    if renamed:
        log.info("%s: %s", what, names.words_of(renamed))
    if not frames:
        return pl.DataFrame(schema=dict.fromkeys(keys.values(), pl.Null))
    return _together(frames, keys.values(), about=f"{what} {uri}")


def id_type(types: Iterable[pl.DataType]) -> pl.DataType:
    """The common type of ids of these types: Int64 where every one is of integers that fit, else String."""
    return pl.Int64() if all(validate.id_type(dtype) == pl.Int64 for dtype in types) else pl.String()


def as_ids(ids: pl.Series, dtype: pl.DataType) -> pl.Series:
    """Ids as Int64 or String, whatever accepted type they have; null where one cannot be such an id."""
    if not ids.dtype.is_integer() and not isinstance(ids.dtype, pl.Decimal):
        ids = as_text(ids)  # categories and bytes by what they say, not by how they are stored
    return ids.cast(dtype, strict=False)


def as_text(values: pl.Series) -> pl.Series:
    """Values as text; null for bytes that are none in UTF-8."""
    if values.dtype != pl.Binary:
        return values.cast(pl.String, strict=False)
    try:
        return values.cast(pl.String)
    except pl.exceptions.ComputeError:
        texts = [None if value is None else value.decode(errors="replace") for value in values]
        return pl.Series(
            values.name, [None if text and "\ufffd" in text else text for text in texts], pl.String
        )


def _read(
    file: FileInfo,
    schema: pa.Schema,
    entry: TableEntry,
    recognised: Mapping[str, str],
    *,
    what: str,
    keys: Mapping[str, str],
    others: bool,
) -> pl.DataFrame:
    """The rows of one file. recognised: the new name of each column that is renamed."""
    about = f"{what} {file.uri}"
    wanted = keys
    own = {new: old for old, new in recognised.items()}
    keys = {setting: own.get(column, column) for setting, column in keys.items()}
    source.check_columns(schema, entry, columns=schema.names if others else list(keys.values()), file=about)
    for setting, column in keys.items():
        if column not in schema.names and column not in entry.columns:
            raise InputError(
                f"{about}: has no column {wanted[setting]!r} (got {', '.join(schema.names)}); rename it or set {setting}"
            )
    column_types.check(schema, list(keys.values()), file=about)
    columns = [column for column in keys.values() if column in schema.names]
    if others:
        columns = _readable(schema, about=about)
    with storage.explained(file.uri):
        try:
            frame = pl.read_parquet(
                file.uri,
                columns=columns,
                storage_options=storage.options(file.uri),
                hive_partitioning=False,
                glob=False,
                row_index_name=validate.ROW,
            )
        except scan.DAMAGE as error:
            raise scan.explained_damage(file, error, what=what) from error
    for name, value in entry.columns.items():
        if others or name in keys.values():
            frame = frame.with_columns(pl.lit(value).alias(name))
    for setting, column in keys.items():
        validate.check_type(frame.schema[column], setting, column=column, file=about)
    if entry.deleted.size:
        frame = frame.filter(~pl.col(validate.ROW).is_in(pl.Series(entry.deleted).implode()))
    return frame.drop(validate.ROW).rename(recognised)


def _readable(schema: pa.Schema, *, about: str) -> list[str]:
    """The columns of a file that can be read as they are meant; a warning names the others."""
    left = {column.name: words for column in schema if (words := column_types.unreadable(column.type))}
    for name, words in left.items():
        log.warning("%s: column %r is left out: it is %s on export to have it", about, name, words)
    return [name for name in schema.names if name not in left]


def _together(frames: list[pl.DataFrame], ids: Iterable[str], *, about: str) -> pl.DataFrame:
    """The rows of all files, with ids of one type."""
    for column in ids:
        dtype = id_type(frame.schema[column] for frame in frames)
        frames = [frame.with_columns(as_ids(frame[column], dtype).alias(column)) for frame in frames]
    try:
        return pl.concat(frames, how="diagonal_relaxed")
    except pl.exceptions.PolarsError as error:
        raise InputError(f"{about}: {_contradiction(frames)}; give it one type on export") from error


def _contradiction(frames: Sequence[pl.DataFrame]) -> str:
    """The first column whose types in different files have nothing in common."""
    for name in dict.fromkeys(name for frame in frames for name in frame.columns):
        alone = [frame.select(name).clear() for frame in frames if name in frame.columns]
        try:
            pl.concat(alone, how="vertical_relaxed")
        except pl.exceptions.PolarsError:
            return f"{name!r} is {' and '.join(sorted({str(a.dtypes[0]) for a in alone}))} in different files"
    return "a column has different types in different files"
