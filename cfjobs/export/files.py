"""Lists as a file: written under a temporary name, and whole before it has its own."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from cfjobs import storage
from cfjobs.errors import InputError
from cfjobs.export.rows import Lists

Blocks = Iterator[pl.DataFrame]


def write(form: str, to: str, lists: Lists, blocks: Blocks, *, table: str) -> None:
    """Write blocks of lists to a URI in one of the forms of `WRITERS`; table: the one in a SQLite file."""
    if form == "sqlite":
        _check_alone(to, table)
    with storage.new_file(to) as path:
        WRITERS[form](path, lists, blocks, table)


def arrow_schema(schema: pl.Schema) -> pa.Schema:
    """The Arrow schema of the rows, with the string type that everything reads."""
    names: dict[pl.DataType, pa.DataType] = {pl.String(): pa.string()}
    return pa.schema(
        [
            pa.field(name, names.get(dtype) or pl.Series([], dtype=dtype).to_arrow().type)
            for name, dtype in schema.items()
        ]
    )


def arrow_batches(lists: Lists, blocks: Blocks) -> Iterator[pa.RecordBatch]:
    """The rows as Arrow."""
    schema = arrow_schema(lists.schema)
    for block in blocks:
        yield from block.to_arrow().cast(schema).to_batches()


def _csv(path: Path, lists: Lists, blocks: Blocks, _table: str) -> None:
    with path.open("wb") as file:
        pl.DataFrame(schema=lists.schema).write_csv(file)
        for block in blocks:
            block.write_csv(file, include_header=False)


def _jsonl(path: Path, lists: Lists, blocks: Blocks, _table: str) -> None:
    """A user a line, with their movies in the order of the list."""
    columns = [
        name for name in ("movie_id", "title", "rank", "score", "predicted_rating") if name in lists.schema
    ]
    rest = pl.DataFrame(schema=lists.schema)
    with path.open("wb") as file:

        def put(rows: pl.DataFrame) -> None:
            if rows.height:
                lines = rows.group_by("user_id", maintain_order=True).agg(pl.struct(columns).alias("items"))
                lines.write_ndjson(file)

        for block in blocks:
            rows = pl.concat([rest, block])
            last = rows["user_id"][-1] if rows.height else None
            goes_on = rows["user_id"] == last  # the next block may go on with this list
            put(rows.filter(~goes_on))
            rest = rows.filter(goes_on)
        put(rest)


def _parquet(path: Path, lists: Lists, blocks: Blocks, _table: str) -> None:
    schema = arrow_schema(lists.schema)
    with pq.ParquetWriter(path, schema, compression="zstd") as file:
        for block in blocks:
            file.write_table(block.to_arrow().cast(schema))


def _sqlite(path: Path, lists: Lists, blocks: Blocks, table: str) -> None:
    kinds: dict[type[pl.DataType], str] = {pl.String: "text", pl.Date: "text", pl.Float32: "real"}
    columns = ", ".join(f"{name} {kinds.get(type(dtype), 'integer')}" for name, dtype in lists.schema.items())
    places = ", ".join("?" * len(lists.schema))
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("pragma journal_mode = off")  # the file is nobody's until it is whole
        database.execute("pragma synchronous = off")
        database.execute(
            f"create table {quoted(table)} ({columns}, primary key (user_id, rank)) without rowid"
        )
        database.execute("begin")
        for block in blocks:
            values = block.with_columns(pl.col("run_date").cast(pl.String)).get_columns()
            rows = zip(*(value.to_list() for value in values), strict=True)
            database.executemany(f"insert into {quoted(table)} values ({places})", rows)
        database.execute("commit")
        database.execute("analyze")


WRITERS: dict[str, Callable[[Path, Lists, Blocks, str], None]] = {
    "csv": _csv,
    "jsonl": _jsonl,
    "parquet": _parquet,
    "sqlite": _sqlite,
}


def quoted(name: str) -> str:
    """An identifier of SQL."""
    return '"' + name.replace('"', '""') + '"'


def _check_alone(to: str, table: str) -> None:
    """InputError for a SQLite file that holds anything else, or that somebody is writing to:
    the new file takes its place."""
    if storage.is_s3(to) or not Path(to).is_file() or not Path(to).stat().st_size:
        return
    for end in ("-wal", "-journal"):
        log = Path(to + end)
        if log.exists() and log.stat().st_size:
            raise InputError(
                f"{to}: somebody writes to it ({log.name} is there); close that, or name another file"
            )
    try:
        with closing(sqlite3.connect(f"{Path(to).as_uri()}?mode=ro", uri=True)) as database:
            found = database.execute("select name from sqlite_master where name not like 'sqlite_%'")
            others = sorted({name for (name,) in found} - {table})
    except sqlite3.DatabaseError as error:
        raise InputError(f"{to}: is there and no SQLite file ({error}); name another file") from error
    if others:
        raise InputError(
            f"{to}: holds more than the table {table} ({', '.join(others[:5])}) and would be replaced; name a file of its own"
        )
