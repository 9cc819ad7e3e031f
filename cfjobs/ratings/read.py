"""Rating files in, a clean indexed table out; every row kept, superseded, or rejected with its reason.

    files -> footers, groups of equal types, batches of validated rows              (source, scan, validate)
          -> rejected rows set aside; good ones into columns, ids encoded           (here, ids)
          -> ids to rows 0..U-1 and 0..M-1 in the order of the ids                  (ids)
          -> sorted by user, time, movie, the latest of each pair kept, in place    (sort)

A night of R input rows takes 20 R bytes (16 R while it reads, if times are whole seconds), and what a few
batches and the rejected rows take.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from cfjobs import storage
from cfjobs.config import Config
from cfjobs.errors import InputError
from cfjobs.ratings import id_table, names, scan, validate
from cfjobs.ratings.facts import Facts
from cfjobs.ratings.feedback import Feedback, as_found, is_one_value
from cfjobs.ratings.ids import IntegerIds, TextIds, relabel
from cfjobs.ratings.sieve import Sieve
from cfjobs.ratings.sort import Columns, Times, sort_and_deduplicate
from cfjobs.storage.uri import FileInfo

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Ratings:
    """Clean ratings as columns, sorted by user, timestamp, movie; row numbers stand for ids.

    frame: user_idx int32, movie_idx int32, rating float32, timestamp datetime[us] (UTC, no zone), R rows.
    users: user_id by row, ascending. movies: movie_id by row, ascending, with the further columns of the
    movies file. cold_users: ids of the users file that have rated nothing.
    """

    frame: pl.DataFrame
    users: pl.Series
    movies: pl.DataFrame
    cold_users: pl.Series

    def column(self, name: str) -> NDArray[np.generic]:
        return self.frame[name].to_numpy()


@dataclass(frozen=True)
class Cleaned:
    """Clean ratings, the rows set aside, and counts that add up: read = kept + superseded + rejected.

    feedback: what they are; of implicit feedback a rating is the pair's weight, and superseded rows are added
    up in the kept one. timed: whether they have times; 1970 stands for none. facts: of ratings that are in
    storage already, in pieces; the frame has no rows then.
    """

    ratings: Ratings
    rejected: pl.DataFrame
    counts: dict[str, int]
    feedback: Feedback = "ratings"
    timed: bool = True
    facts: Facts | None = None


def read_ratings(
    files: Sequence[FileInfo],
    *,
    config: Config,
    until: datetime,
    now: datetime,
    movies: pl.DataFrame | None = None,
    users: pl.DataFrame | None = None,
) -> Cleaned:
    """Read, check and index rating files.

    until: the end of the night's date; later ratings belong to another night and are left out, counted as
    `later`. now: ratings after this moment cannot be and are rejected. Both naive UTC. movies, users: the
    optional tables, as `read_table` gives them.

    Of a pair's ratings the latest is kept; of several at that time the highest, so that the order of the
    files does not matter. Implicit feedback of a pair is added up, and is as late as the latest.

    Raises InputError for a file that is not whole Parquet, lacks a column, has a wrong type or changes
    meanwhile, for no ratings at all, and for a share of rejected rows above `max_rejected`.
    """
    footers = scan.read_footers(files, columns=validate.columns_of(config), what="ratings")
    config = as_found(config, footers)
    groups = scan.group_files(footers, config=config)
    ids = validate.id_types(group.types for group in groups)
    n_rows = sum(group.n_rows for group in groups)
    intake, sieve = _Intake(n_rows, ids), Sieve(n_rows, config=config, until=until)
    for group in groups:
        for batch in scan.validated_batches(group, ids=ids, config=config, now=now):
            intake.add(sieve.good(batch, group))
    scan.check_unchanged(files)
    sieve.tally.check(config)
    intake.times.widen()
    good = intake.columns.head(intake.n)
    if is_one_value(good.rating, config) and not sieve.tally.rejected_by_rating:
        log.warning("ratings: every rating is %g, so they are implicit feedback", good.rating[0])
        del intake, good
        config = config.model_copy(update={"feedback": "implicit"})
        return read_ratings(files, config=config, until=until, now=now, movies=movies, users=users)
    implicit = config.feedback == "implicit"
    user_ids = relabel(good.user, intake.users.seen().alias("user_id"))
    movie_ids = relabel(good.movie, intake.movies.seen().alias("movie_id"))
    n_kept = sort_and_deduplicate(
        good, n_users=user_ids.len(), n_movies=movie_ids.len(), added_up=implicit
    ).user.size
    intake.columns.shrink(n_kept)
    counts = sieve.tally.counts(config) | {"kept": n_kept, "superseded": intake.n - n_kept}
    catalogue, cold = described(movie_ids, movies), cold_users(user_ids, users)
    return Cleaned(
        Ratings(frame_of(intake.columns), user_ids, catalogue, cold),
        sieve.rejected(),
        counts,
        feedback="implicit" if implicit else "ratings",
        timed=config.timestamp_column is not None,
    )


def with_names(files: Sequence[FileInfo], config: Config) -> Config:
    """The configuration with the columns that these rating files have, recognised by name where it does not
    say.

    The first file with rows tells. Raises InputError as `names.settings_of`, and for a file that is not
    Parquet.
    """
    for file in files:
        (footer,) = scan.read_footers([file], columns=(), what="ratings")
        if footer.n_rows == 0:
            continue
        schema = {name: pl.Series([value]).dtype for name, value in footer.entry.columns.items()}
        schema |= scan.schema_of(file)
        if any(f"/{name}=" in file.uri for name in validate.columns_of(config)):
            return config  # a folder's name is no column: `validate` says so
        found = names.settings_of(schema, config=config, what=f"ratings {file.uri}")
        if found:
            log.info("ratings: %s", names.words(found))
        return config.model_copy(update=found)
    return config


def write_frame(frame: pl.DataFrame, uri: str) -> None:
    """Write a frame as one Parquet file, streaming: its encoded form is never in memory whole."""
    with storage.explained(uri):
        frame.lazy().sink_parquet(
            uri,
            compression="zstd",
            statistics=True,
            mkdir=True,
            engine="streaming",
            storage_options=storage.options(uri),
        )


def read_table(uri: str, *, key: str, name: str) -> pl.DataFrame:
    """A movies or users table with all its columns; its key is renamed to `{name}_id`, its titles to `title`.

    Null and repeated keys are dropped (the first row of a key stays). Raises InputError as `id_table.read`,
    and for a movies table without rows: every list would lose its titles.
    """
    table = id_table.read(uri, what=f"{name}s", keys={f"{name}_column": key}, others=True)
    if name == "movie" and (titled := names.titled(table.columns)):
        log.info("movies: %s", names.words_of(titled))
        table = table.rename(titled)
    if table.is_empty() and name == "movie":
        raise InputError(f"movies {uri}: holds no rows; check the export, or leave movies out")
    if table.is_empty():
        log.warning("%ss %s: holds no rows; nobody but the users with ratings gets a list", name, uri)
    if name == "movie" and "title" not in table.columns:
        log.warning(
            "movies %s: has no column 'title' (got %s); lists will show ids alone",
            uri,
            ", ".join(table.columns),
        )
    column = f"{name}_id"
    if key != column and column in table.columns:
        raise InputError(
            f"{name}s {uri}: has both {key!r}, which {name}_column names, and {column!r}; leave one out on export"
        )
    if table.schema.get("title") == pl.Binary:  # text that an exporter did not mark as such
        table = table.with_columns(id_table.as_text(table["title"]))
    table = table.rename({key: column})
    return table.filter(pl.col(column).is_not_null()).unique(column, keep="first", maintain_order=True)


def with_rows_of(found: Ratings, *, users: pl.Series, movies: pl.DataFrame) -> Ratings:
    """The same ratings with the rows of an existing model.

    users: the model's user ids by row; movies: its movies by row. A user it does not know becomes a cold
    one; ratings of a movie it does not know are left out, since it can neither score nor list that movie.
    """
    movie_ids = movies["movie_id"]
    for known, tonight in ((users, found.users), (movie_ids, found.movies["movie_id"])):
        if known.dtype != tonight.dtype:
            raise InputError(
                f"ratings: {tonight.name} is {tonight.dtype}, but the model was trained on {known.dtype}; "
                "keep the type, or train again"
            )
    unknown = found.users.filter(~found.users.is_in(users.implode()))
    cold = pl.concat([unknown, found.cold_users]).unique().sort()
    cold = cold.filter(~cold.is_in(users.implode()))
    user_rows = rows_of(found.users, pl.concat([users, cold]))
    movie_rows = rows_of(found.movies["movie_id"], movie_ids)
    frame = found.frame.with_columns(
        pl.Series("user_idx", user_rows[found.column("user_idx")]),
        pl.Series("movie_idx", movie_rows[found.column("movie_idx")]),
    ).filter(pl.col("movie_idx") >= 0)
    return Ratings(frame.sort("user_idx", "timestamp", "movie_idx"), users, movies, cold)


def rows_of(ids: pl.Series, known: pl.Series) -> NDArray[np.int32]:
    """Row of each id among the known ones (unique), -1 for an id that is not known."""
    if known.dtype != ids.dtype:
        ids = id_table.as_ids(ids, known.dtype)
    numbered = pl.DataFrame({"id": known, "row": np.arange(known.len(), dtype=np.int32)})
    rows = pl.DataFrame({"id": ids}).join(numbered, on="id", how="left", maintain_order="left")["row"]
    return rows.fill_null(-1).to_numpy()


class _Intake:
    """Takes good rows into columns, their ids numbered."""

    def __init__(self, n_rows: int, ids: validate.IdTypes) -> None:
        self.columns = Columns.empty(n_rows)
        self.times = Times(self.columns.timestamp)
        self.users, self.movies = _id_encoding(ids.user), _id_encoding(ids.movie)
        self.n = 0

    def add(self, batch: pl.DataFrame) -> None:
        here = slice(self.n, self.n + batch.height)
        self.users.number(batch["user"], self.columns.user[here])
        self.movies.number(batch["movie"], self.columns.movie[here])
        self.columns.rating[here] = batch["rating"].to_numpy()
        self.times.append(batch["timestamp"].to_numpy())
        self.n += batch.height


def _id_encoding(dtype: pl.DataType) -> IntegerIds | TextIds:
    return IntegerIds() if dtype == pl.Int64 else TextIds()


def frame_of(columns: Columns) -> pl.DataFrame:
    """The columns as a frame on the same memory."""
    types: dict[str, tuple[NDArray[Any], pa.DataType]] = {
        "user_idx": (columns.user, pa.int32()),
        "movie_idx": (columns.movie, pa.int32()),
        "rating": (columns.rating, pa.float32()),
        "timestamp": (columns.timestamp, pa.timestamp("us")),
    }
    arrays = [  # not pa.array, which imports pandas first
        pa.Array.from_buffers(dtype, data.size, [None, pa.py_buffer(data)]) for data, dtype in types.values()
    ]
    frame = pl.from_arrow(pa.Table.from_arrays(arrays, names=list(types)))
    assert isinstance(frame, pl.DataFrame)
    return frame


def described(movie_ids: pl.Series, movies: pl.DataFrame | None) -> pl.DataFrame:
    """The catalogue: movies by row, with what the movies table says of each."""
    catalogue = movie_ids.to_frame()
    if movies is None:
        return catalogue
    described = movies.with_columns(id_table.as_ids(movies["movie_id"], movie_ids.dtype).alias("movie_id"))
    described = described.filter(pl.col("movie_id").is_not_null()).unique("movie_id", keep="first")
    return catalogue.join(described, on="movie_id", how="left", maintain_order="left")


def cold_users(user_ids: pl.Series, users: pl.DataFrame | None) -> pl.Series:
    """Users of the users table that have rated nothing, ascending."""
    if users is None:
        return user_ids.clear()
    listed = id_table.as_ids(users["user_id"], user_ids.dtype).drop_nulls().unique().sort()
    return listed.filter(~listed.is_in(user_ids.implode()))
