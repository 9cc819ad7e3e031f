"""The ratings of a night in pieces: read, cleaned and indexed by tasks, each on any machine, none of which
holds all of them.

    files -> their rows by range of users           a task for some files    (divide)
          -> the users of a range                   a task a range           (count)
          -> the ratings of a range, in order       a task a range           (arrange)

`ratings.parquet` is then a folder, whose files follow each other. Its rows, the ids, counts and rejected rows
are those of `ratings.read_ratings`, for any number of files, tasks and ranges. Rows go from task to task
through the work folder. A task leaves its record last: what was killed is done again, what was done is not.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, Protocol
from uuid import uuid4

import numpy as np
import polars as pl
from numpy.typing import NDArray

from cfjobs import ratings, storage
from cfjobs.config import Config
from cfjobs.lists.popularity import recent_ratings
from cfjobs.night.records import Night
from cfjobs.ratings import catalogue, ranges, scan, validate
from cfjobs.ratings.facts import Facts
from cfjobs.ratings.feedback import as_found, is_one_value
from cfjobs.ratings.read import cold_users, described, frame_of
from cfjobs.ratings.scan import Group
from cfjobs.ratings.sieve import Sieve, Tally, joined_rejected
from cfjobs.ratings.sort import Columns
from cfjobs.record import Record
from cfjobs.storage.parquet import parquet_bytes
from cfjobs.storage.uri import FileInfo

log = logging.getLogger(__name__)

_FOLDER = "by_range"
_SAMPLE = 200_000
"""User ids by which the ranges are cut: hundreds for each of a thousand ranges."""
_MOST_TASKS = 500
_GB = 2**30
_LIBRARIES = 0.6 * _GB
_PER_ROW = 100
"""Bytes of a range's row while it is put in order: 20 for its columns, the rest what one file brings, what is
written, and ranges that are larger than the others."""


class Each(Protocol):
    """Does the same work for each order and returns what came of them, in their order.

    words: what the work is, for people.
    """

    def __call__(self, work: Callable[[Any], Any], orders: Sequence[Any], *, words: str) -> list[Any]: ...


def in_turn(work: Callable[[Any], Any], orders: Sequence[Any], *, words: str) -> list[Any]:
    """One after the other, in this process."""
    return [work(order) for order in orders]


class Ends(Record):
    """How the users are divided: the first of each range but the first, as text."""

    cuts: tuple[str, ...]


class Divided(Record):
    """What came of some files. files: with their rows by range, and how many each has of each. low, high: of
    the good ratings, None without any."""

    tally: Tally
    files: tuple[tuple[str, tuple[int, ...]], ...]
    low: float | None = None
    high: float | None = None


class Users(Record):
    """How many users a range has."""

    n: int


class Arranged(Record):
    """What the ratings of a range are like."""

    facts: Facts


@dataclass(frozen=True)
class _Job:
    """What all tasks of a night know. name: of its folder among the work folder's. n_rows: in all files."""

    night: Night
    config: Config
    ids: validate.IdTypes
    until: datetime
    now: datetime
    n_rows: int
    cuts: pl.Series

    @property
    def name(self) -> str:
        return f"{_FOLDER}/{self.config.feedback}"

    def uri(self, name: str) -> str:
        return storage.join(self.night.work, self.name, name)


@dataclass(frozen=True)
class _Range:
    """One range of users: its files, how many rows they have of it, and the row of its first user."""

    number: int
    files: tuple[str, ...]
    n_rows: int
    first_user: int = 0


def range_rows(config: Config) -> int:
    """Rows of a range, so that the process that puts them in order takes no more than `memory_gb`."""
    return max(50_000, int((config.memory_gb * _GB - _LIBRARIES) / _PER_ROW))


def file_bytes(config: Config) -> int:
    """Bytes of rows that are divided at once and make a file, as many as `memory_gb` allows: a range reads a
    part of each file. They are there as they were read, in order, and as they are written."""
    return max(1 << 20, int((config.memory_gb * _GB - _LIBRARIES) / 4))


def read_in_pieces(
    night: Night,
    files: Sequence[FileInfo],
    *,
    config: Config,
    until: datetime,
    now: datetime,
    movies: pl.DataFrame | None = None,
    users: pl.DataFrame | None = None,
    each: Each = in_turn,
) -> ratings.Cleaned:
    """The same as `ratings.read_ratings`, with the ratings in pieces in the work folder of a night: the frame
    is empty, and `facts` are those of all.

    Raises InputError for what it raises it.
    """
    footers = scan.read_footers(files, columns=validate.columns_of(config), what="ratings")
    config = as_found(config, footers)
    groups = scan.group_files(footers, config=config)
    ids = validate.id_types(group.types for group in groups)
    n_rows = sum(group.n_rows for group in groups)
    job = _Job(night, config, ids, until, now, n_rows, pl.Series([], dtype=ids.user))
    some = list(enumerate(_some(groups, at_least=n_rows // _MOST_TASKS)))
    job = _cut(job, some, each)
    done: list[Divided] = each(partial(divide, job), some, words="ratings by range")
    scan.check_unchanged(files)
    tally = Tally.total(record.tally for record in done)
    tally.check(config)
    ends = [end for record in done for end in (record.low, record.high) if end is not None]
    if is_one_value(np.array(ends, np.float32), config) and not tally.rejected_by_rating:
        log.warning("ratings: every rating is %g, so they are implicit feedback", ends[0])
        config = config.model_copy(update={"feedback": "implicit"})
        return read_in_pieces(
            night, files, config=config, until=until, now=now, movies=movies, users=users, each=each
        )
    found = _ranges(done)
    counted: list[Users] = each(partial(count, job), found, words="users of a range")
    first = np.cumsum([0, *(record.n for record in counted)]).tolist()
    found = [
        _Range(own.number, own.files, own.n_rows, start) for own, start in zip(found, first[:-1], strict=True)
    ]
    user_ids = pl.concat([_read(job.uri(_users(own))).to_series() for own in found]).alias("user_id")
    movie_ids = _movie_ids(job, len(some))
    clean = ratings.Ratings(
        frame_of(Columns.empty(0)), user_ids, described(movie_ids, movies), cold_users(user_ids, users)
    )
    rows = catalogue.with_unrated(clean, movies) if config.movie_features and movies is not None else clean
    storage.write_bytes(job.uri("movies.parquet"), parquet_bytes(rows.movies.select("movie_id")))
    arranged: list[Arranged] = each(partial(arrange, job), found, words="ratings of a range in order")
    facts = Facts.total([record.facts for record in arranged], ends=config.gate_scale_rows + 1)
    return ratings.Cleaned(
        clean,
        joined_rejected(_read(job.uri(_rejected(number))) for number in range(len(some))),
        tally.counts(config) | {"kept": facts.rows, "superseded": tally.good - facts.rows},
        feedback="implicit" if config.feedback == "implicit" else "ratings",
        timed=config.timestamp_column is not None,
        facts=facts,
    )


def clear(night: Night) -> None:
    """Remove what the tasks have left for each other."""
    storage.delete_under(storage.join(night.work, _FOLDER))


# Tasks ------------------------------------------------------------------------------------------------


def sample(job: _Job, order: tuple[int, list[Group]]) -> pl.Series:
    """A few of the user ids of some files."""
    every = max(1, job.n_rows // _SAMPLE)
    found = [scan.sampled_users(group, ids=job.ids, config=job.config, every=every) for group in order[1]]
    return pl.concat(found)


def divide(job: _Job, order: tuple[int, list[Group]]) -> Divided:
    """Read, check and sort out the rows of some files, and write the good ones by range.

    They come in any order, so an attempt that was given up, and may still write, has files of its own.
    """
    number, groups = order
    name = f"{job.name}/divided-{number:05d}"
    if done := job.night.load(name, Divided):
        return done
    own, attempt = sum(group.n_rows for group in groups), uuid4().hex[:8]
    sieve = Sieve(own, config=job.config, until=job.until, of_rows=job.n_rows)
    files, ends, movies = [], list[float](), pl.Series("movie_id", [], job.ids.movie)
    rows = ranges.good_rows(
        groups, sieve, ids=job.ids, config=job.config, now=job.now, at_once=file_bytes(job.config)
    )
    for part, good in enumerate(rows):
        divided, counts = ranges.divided(good, job.cuts)
        uri = job.uri(f"rows-{number:05d}-{part:03d}-{attempt}.parquet")
        ranges.write_divided(divided, counts, uri)
        files.append((uri, tuple(counts.tolist())))
        ends += [float(good["rating"].min()), float(good["rating"].max())]  # type: ignore[arg-type]
        movies = pl.concat([movies, good["movie"].unique().alias("movie_id")]).unique()
    storage.write_bytes(job.uri(_movies(number)), parquet_bytes(movies.to_frame()))
    storage.write_bytes(job.uri(_rejected(number)), parquet_bytes(sieve.rejected()))
    low, high = (min(ends), max(ends)) if ends else (None, None)
    return job.night.done(name, Divided(tally=sieve.tally, files=tuple(files), low=low, high=high))


def count(job: _Job, own: _Range) -> Users:
    """Write the users of a range."""
    name = f"{job.name}/users-{own.number:05d}"
    if done := job.night.load(name, Users):
        return done
    users = ranges.users_of(own.files, own.number)
    storage.write_bytes(job.uri(_users(own)), parquet_bytes(users.to_frame()))
    return job.night.done(name, Users(n=users.len()))


def arrange(job: _Job, own: _Range) -> Arranged:
    """Put the ratings of a range in order and write them."""
    name = f"{job.name}/arranged-{own.number:05d}"
    if done := job.night.load(name, Arranged):
        return done
    frame = ranges.ratings_of(
        own.files,
        own.number,
        n_rows=own.n_rows,
        users=_read(job.uri(_users(own))).to_series(),
        movies=_read(job.uri("movies.parquet")).to_series(),
        first_user=own.first_user,
        added_up=job.config.feedback == "implicit",
    )
    uri = storage.join(job.night.work, "ratings.parquet", f"{own.number:05d}.parquet")
    with storage.new_file(uri) as path:  # whole or not at all: a task that was given up may still write
        ratings.write_frame(frame, str(path))
    return job.night.done(name, Arranged(facts=Facts.of(frame, ends=job.config.gate_scale_rows + 1)))


def recent(newest: int, days: int, n_movies: int, uri: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Movies with ratings of a window in a piece, and how many; see `recent_ratings`."""
    frame = _read(uri, columns=["movie_idx", "timestamp"])
    columns = frame["movie_idx"].to_numpy(), frame["timestamp"].to_physical().to_numpy()
    counted = recent_ratings(*columns, newest=newest, days=days, n_movies=n_movies)
    movies = np.flatnonzero(counted)
    return movies, counted[movies]


# ------------------------------------------------------------------------------------------------------


def _cut(job: _Job, some: Sequence[tuple[int, list[Group]]], each: Each) -> _Job:
    """The job with the cuts between its ranges: those of the run that began the night, where there is one."""
    name = f"{job.name}/cuts"
    if not (ends := job.night.load(name, Ends)):
        storage.delete_under(storage.join(job.night.work, "ratings.parquet"))
        n_ranges = -(-job.n_rows // range_rows(job.config))
        cuts = job.cuts
        if n_ranges > 1:
            cuts = ranges.cuts_of(
                pl.concat(each(partial(sample, job), some, words="a few user ids")), n_ranges
            )
        ends = job.night.done(name, Ends(cuts=tuple(cuts.cast(pl.String).to_list())))
    cuts = pl.Series(ends.cuts, dtype=pl.String).cast(job.ids.user)
    log.info(
        "ratings: %d rows of %d files' groups in %d ranges of users", job.n_rows, len(some), cuts.len() + 1
    )
    return _Job(job.night, job.config, job.ids, job.until, job.now, job.n_rows, cuts)


def _some(groups: Sequence[Group], *, at_least: int) -> Iterator[list[Group]]:
    """The groups, some for each task, with so many rows or more."""
    found: list[Group] = []
    for group in groups:
        found.append(group)
        if sum(one.n_rows for one in found) >= at_least:
            yield found
            found = []
    if found:
        yield found


def _ranges(done: Sequence[Divided]) -> list[_Range]:
    """The ranges that have rows, in order."""
    files = [file for record in done for file in record.files]
    counts = np.array([counts for _, counts in files], dtype=np.int64)
    return [
        _Range(number, tuple(uri for (uri, _), n in zip(files, of, strict=True) if n), int(of.sum()))
        for number, of in enumerate(counts.T)
        if of.sum()
    ]


def _movie_ids(job: _Job, n: int) -> pl.Series:
    """All movies that have a good row, ascending."""
    found = pl.Series("movie_id", [], job.ids.movie)
    for number in range(n):
        found = pl.concat([found, _read(job.uri(_movies(number))).to_series()]).unique()
    return found.sort()


def _read(uri: str, columns: list[str] | None = None) -> pl.DataFrame:
    with storage.explained(uri):
        return pl.read_parquet(uri, columns=columns, storage_options=storage.options(uri), glob=False)


def _users(own: _Range) -> str:
    return f"users-{own.number:05d}.parquet"


def _movies(number: int) -> str:
    return f"movies-{number:05d}.parquet"


def _rejected(number: int) -> str:
    return f"rejected-{number:05d}.parquet"
