"""One published night, from its tables to where an app reads it."""

import logging
import time
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import PurePosixPath

import polars as pl

from cfjobs import storage, tables
from cfjobs.errors import InputError
from cfjobs.export import files, postgres
from cfjobs.export.rows import Lists
from cfjobs.record import Record
from cfjobs.storage.read_ahead import ahead
from cfjobs.tables.runs import Source, night_of

log = logging.getLogger(__name__)

FORMS = {
    ".csv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".sqlite": "sqlite",
    ".sqlite3": "sqlite",
    ".db": "sqlite",
}

_SECONDS = 10


class Exported(Record):
    """What was written. to: without credentials. users_without_list: of those asked for."""

    to: str
    format: str
    table: str | None
    run_date: date
    run_id: str
    lists: int
    rows: int
    users_without_list: int
    seconds: float


def export(
    output: str,
    to: str,
    *,
    form: str | None = None,
    run_date: date | None = None,
    top: int | None = None,
    users: str | None = None,
    titles: bool = True,
    table: str | None = None,
    in_place: bool = False,
    progress: Callable[[str, float, str], None] = lambda _stage, _fraction, _message: None,
) -> Exported:
    """Write the lists of a published night, the latest by default, at the versions that its row of `runs`
    names.

    to: the URI of a file, or of a database, `postgresql://...`. form: csv, jsonl, parquet or sqlite where the
    name of the file does not say it. top: places of each list; all by default. users: URI of a table of
    user_id; only theirs. table: in a database; top_n by default. in_place: replace the rows of a Postgres
    table rather than the table. A reader of `to` has what was there before, or all of it; memory is bounded.
    InputError for what cannot be written.
    """
    start = time.monotonic()
    into_postgres = postgres.is_postgres(to)
    form = "postgres" if into_postgres else form or _form_of(to)
    to = to if into_postgres else storage.normal(to)
    night = night_of(output, run_date)
    wanted = None if users is None else _ids(users, night)
    lists = Lists(night, top=top, users=wanted, titles=_titles(night) if titles else None)
    blocks = _with_progress(lists, progress)
    if into_postgres:
        postgres.load(to, lists, blocks, table=table or tables.TOP_N.name, in_place=in_place)
    else:
        files.write(form, to, lists, blocks, table=table or tables.TOP_N.name)
    return Exported(
        to=postgres.shown(to) if into_postgres else to,
        format=form,
        table=(table or tables.TOP_N.name) if form in {"postgres", "sqlite"} else None,
        run_date=night.run["run_date"],
        run_id=night.run["run_id"],
        lists=lists.lists,
        rows=lists.rows,
        users_without_list=0 if wanted is None else wanted.len() - lists.lists,
        seconds=round(time.monotonic() - start, 2),
    )


def _with_progress(lists: Lists, progress: Callable[[str, float, str], None]) -> Iterator[pl.DataFrame]:
    """The blocks, with word of how far they are."""
    reported = time.monotonic()
    for block in ahead(lists.blocks()):
        yield block
        progress("export", lists.done, f"{lists.lists:,} lists")
        if time.monotonic() > reported + _SECONDS:
            reported = time.monotonic()
            log.info("export: %s lists, %.0f %%", f"{lists.lists:,}", 100 * lists.done)


def _form_of(to: str) -> str:
    end = PurePosixPath(to).suffix.lower()
    if end not in FORMS:
        raise InputError(
            f"{postgres.shown(to) if '://' in to and not storage.is_s3(to) else to}: its end does not say what to write; "
            f"expected {', '.join(FORMS)}, --format, or postgresql://host/database"
        )
    return FORMS[end]


def _titles(night: Source) -> pl.DataFrame:
    """movie_id, title of the night's movies."""
    found = night.scan(tables.MOVIE_EMBEDDINGS).select("movie_id", "title").collect()
    return found.unique("movie_id", keep="first")


def _ids(users: str, night: Source) -> pl.Series:
    """The ids of a table of users, as `top_n` has them."""
    from cfjobs import ratings  # here: it compiles

    found = ratings.read_table(storage.normal(users), key="user_id", name="user")["user_id"]
    dtype = night.scan(tables.TOP_N).collect_schema()["user_id"]
    ids = found.cast(dtype, strict=False)
    if ids.null_count():
        raise InputError(
            f"users {users}: user_id {found.filter(ids.is_null())[0]!r} cannot be an id of the lists, which are {dtype}"
        )
    return ids.unique()
