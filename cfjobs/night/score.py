"""Scoring of a night's users, shard by shard, in bounded memory.

    a chunk of the shard's users: their ratings, pairs to exclude, rows of the model    (read ahead)
      -> their lists                                                                    (every core)
      -> rows of `top_n` -> Parquet parts of bounded size                               (a thread of its own)

Nothing grows with the shard, the ratings or the users: a chunk is as large as `memory_gb` allows beside the
movies.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, Self
from uuid import uuid4

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from cfjobs import lists, storage, tables
from cfjobs.config import Config
from cfjobs.device import resolve_device
from cfjobs.errors import InputError
from cfjobs.lists.build import Batch, Limits
from cfjobs.lists.writer import PartsWriter
from cfjobs.model_store.files import Model
from cfjobs.model_store.slices import ModelSlices
from cfjobs.night.records import Night, Prepared, Scored, Shard, Shards, Trained
from cfjobs.storage.parquet import SortedFile, TableFile
from cfjobs.storage.read_ahead import ahead
from cfjobs.tables.parts import Part, is_whole, part_path
from cfjobs.topn.packing import Kept
from cfjobs.topn.problem import Pairs

log = logging.getLogger(__name__)

Progress = Callable[[float, str], None]
"""Called with the share done, 0 to 1, and a few words."""

_GB = 2**30
_LIBRARIES = 0.7 * _GB  # Python, torch, Polars and pyarrow, compiled kernels
_PER_RATING = 96  # bytes of a chunk's rating: read, as history and as seen pair
_MACS_PER_SHARD = 1.2e13
"""Multiplications and additions of a shard: some four minutes of one core, half a minute of eight;
see docs/scale.md."""


# Shards ---------------------------------------------------------------------------------------------


def shards(night: Night, prepared: Prepared) -> list[Shard]:
    """The night's users in contiguous ranges, then the cold ones.
    A night that goes on keeps the ranges it had."""
    if done := night.load("shards", Shards):
        return done.shards
    size = night.config.shard_users or _shard_users(night.config, prepared)
    n, n_all = prepared.n_users, prepared.n_users + prepared.n_cold_users
    warm = [(start, min(start + size, n), False) for start in range(0, n, size)]
    cold = [(start, min(start + size, n_all), True) for start in range(n, n_all, size)]
    found = [
        Shard(number=number, start=start, stop=stop, cold=cold)
        for number, (start, stop, cold) in enumerate(warm + cold)
    ]
    return night.done("shards", Shards(shards=found)).shards


def scored_already(night: Night, prepared: Prepared) -> list[Scored] | None:
    """The records of all shards, scored perhaps on other workers; None when one is missing."""
    found = [night.load(_name(shard), Scored) for shard in shards(night, prepared)]
    done = [record for record in found if record is not None]
    whole = len(done) == len(found) and all(map(partial(_is_there, night), shards(night, prepared), done))
    return done if whole else None


def _is_there(night: Night, shard: Shard, done: Scored) -> bool:
    """Whether the parts of a finished shard are there:
    a retention or another engine's VACUUM may have taken them."""
    for part in done.parts:
        if not is_whole(night.output, tables.TOP_N, Part(**part)):
            log.warning("shard %d: %s is gone or cut off, so it is scored again", shard.number, part["path"])
            score_again(night, shard)
            return False
    return True


def score_again(night: Night, shard: Shard) -> None:
    """Forget that a shard is scored: the next run of the night scores it."""
    night.undone(_name(shard))


def _name(shard: Shard) -> str:
    return f"scored-{shard.number:05d}"


def _shard_users(config: Config, prepared: Prepared) -> int:
    """By the work alone, not by this machine, so that every machine cuts the same shards."""
    of_stars = config.n_factors * config.ensemble
    of = {"affinity": config.ranking_factors, "rating": of_stars, "blend": config.ranking_factors + of_stars}
    per_user = prepared.n_movies * of[config.rank_by] + config.top_n * _MACS_PER_ROW
    return max(1_000, int(_MACS_PER_SHARD / per_user))


_MACS_PER_ROW = 50_000
"""What a written row costs (its predicted rating, its place in a file), in multiplications of the screen."""


# One shard ------------------------------------------------------------------------------------------


def score(
    night: Night, prepared: Prepared, trained: Trained, shard: Shard, *, progress: Progress | None = None
) -> Scored:
    """Score the users of a shard against every movie and write their parts of `top_n`,
    which no commit names yet."""
    if (done := night.load(_name(shard), Scored)) and _is_there(night, shard, done):
        return done
    work = _Work.of(night, prepared, trained)
    attempt = uuid4().hex[:8]
    writer = PartsWriter(
        storage.join(night.output, tables.TOP_N.name),
        schema=work.schema,
        path=lambda n: part_path(night.run_date, f"{night.run_id}-{shard.number:05d}-{n:03d}-{attempt}"),
        part_rows=night.config.part_rows,
    )
    started = time.perf_counter()
    with writer, ThreadPoolExecutor(1, thread_name_prefix="parts") as thread:
        waiting: deque[Future[None]] = deque()
        for chunk, batch in work.batches(shard):
            waiting.append(thread.submit(work.write, writer, chunk, batch))
            if len(waiting) > 4:
                waiting.popleft().result()
            if progress:
                n_done = chunk.users.start + batch.first_user + len(batch.movie_idx) - shard.start
                _report(progress, n_done, shard, started)
        while waiting:
            waiting.popleft().result()
    parts = writer.parts
    log.info(
        "shard %d: %d users, %d lists, %d rows, %d bytes in %d files, %.1f s",
        shard.number,
        shard.stop - shard.start,
        writer.n_lists,
        sum(part.rows for part in parts),
        sum(part.size for part in parts),
        len(parts),
        time.perf_counter() - started,
    )
    return night.done(_name(shard), Scored(parts=[asdict(part) for part in parts], lists=writer.n_lists))


def _report(progress: Progress, n_done: int, shard: Shard, started: float) -> None:
    n = shard.stop - shard.start
    rate = n_done / (time.perf_counter() - started)
    progress(n_done / n, f"{n_done:,} of {n:,} users, {rate:,.0f} a second")


def top_n_schema(user_type: pl.DataType, movie_type: pl.DataType) -> pa.Schema:
    """The schema of `top_n` for ids of these types."""
    arrow = {True: pa.string(), False: pa.int64()}
    return tables.TOP_N.schema(
        user_type=arrow[user_type == pl.String], movie_type=arrow[movie_type == pl.String]
    )


def listable(night: Night, prepared: Prepared, model: Model) -> NDArray[np.bool_]:
    """Which movies the night may list [M], by all its rules: ratings, allow, deny and availability."""
    listed = lists.candidates(model, min_ratings=night.config.min_ratings)
    if prepared.limited:
        listed &= night.frame("listed")["listed"].to_numpy()
    return listed


@dataclass(frozen=True)
class Chunk:
    """Consecutive users with all that their lists take; row 0 is the first of them."""

    users: range
    user_ids: pl.Series
    request: lists.Request


@dataclass(frozen=True)
class _Work:
    """What every shard of a night reads from."""

    config: Config
    model: ModelSlices
    ratings: SortedFile
    excluded: SortedFile | None
    user_ids: TableFile
    limits: Limits
    schema: pa.Schema
    room: "_Room"
    reasons: lists.Reasons | None

    @classmethod
    def of(cls, night: Night, prepared: Prepared, trained: Trained) -> Self:
        def file(name: str) -> str:
            return storage.join(night.work, f"{name}.parquet")

        model = ModelSlices(trained.model_uri, device=resolve_device(night.config.device))
        known = model.without_users
        n_recent = None if night.config.popular_days is None else night.frame("recent")["n_recent"].to_numpy()
        listed = listable(night, prepared, known)
        pair = ["user_idx", "movie_idx"]
        rules = lists.rules.of(
            night.frame("movies"),
            night.config,
            n_ratings=known.movies["n_ratings"].to_numpy(),
            run_date=night.run_date,
        )
        user_ids = TableFile(file("users"), columns=["user_id"])
        schema = top_n_schema(user_ids.rows(0, 0)["user_id"].dtype, known.movies["movie_id"].dtype)
        return cls(
            config=night.config,
            model=model,
            ratings=SortedFile(night.files("ratings"), key="user_idx", columns=[*pair, "rating"]),
            excluded=SortedFile(file("excluded"), key="user_idx", columns=pair)
            if night.inputs.exclude
            else None,
            user_ids=user_ids,
            limits=Limits(listed=listed, min_score=night.config.min_score, n_recent=n_recent, rules=rules),
            schema=schema.remove(schema.get_field_index(tables.RUN_DATE)),
            room=_Room.of(night.config, known, beside=rules.bytes_per_user if rules else 0),
            reasons=lists.Reasons.of(known.ranking) if known.ranking else None,
        )

    def batches(self, shard: Shard) -> Iterator[tuple[Chunk, Batch]]:
        """The lists of a shard's users; the first user of a batch is counted from its chunk's first."""
        kept = Kept()
        for chunk in ahead(self._chunk(users, cold=shard.cold) for users in self._ranges(shard)):
            found = lists.best(
                chunk.request,
                n=self.config.top_n,
                threads=self.config.threads,
                memory_gb=self.room.engine / _GB,
                kept=kept,
            )
            for batch in found:
                yield chunk, batch

    def write(self, writer: PartsWriter, chunk: Chunk, batch: Batch) -> None:
        """Make rows of `top_n` of a batch and hand them to the writer."""
        because = None
        if self.reasons is not None and batch.by_model.any():
            because = self.reasons.because(batch, chunk.request.ratings, first_user=batch.first_user)
        rows = lists.rows(batch, chunk.request.model, chunk.user_ids, because=because)
        writer.write(rows.to_arrow().cast(self.schema))

    def _ranges(self, shard: Shard) -> Iterator[range]:
        room = {"keys": self.room.chunk_users, "rows": self.room.chunk_ratings}
        for users in self.ratings.ranges(shard.start, shard.stop, **room):
            if self.excluded is None:
                yield users
            else:
                yield from self.excluded.ranges(users.start, users.stop, **room)

    def _chunk(self, users: range, *, cold: bool) -> Chunk:
        def of_users(file: SortedFile) -> pl.DataFrame:
            found = file.between(users.start, users.stop)
            return found.with_columns((pl.col("user_idx") - users.start).cast(pl.Int32))

        limits = self.limits
        if self.excluded is not None:
            pairs = of_users(self.excluded)
            rows = (pairs[name].to_numpy() for name in ("user_idx", "movie_idx"))
            limits = replace(limits, excluded=Pairs.of(*rows, n_users=len(users)))
        model = self.model.without_users if cold else self.model.of_users(users)
        return Chunk(
            users=users,
            user_ids=self.user_ids.rows(users.start, users.stop)["user_id"],
            request=lists.request_of(model, of_users(self.ratings), users=range(len(users)), limits=limits),
        )


def requests_of(
    night: Night,
    prepared: Prepared,
    trained: Trained,
    *,
    shard: Shard | None = None,
    per_user: int | None = None,
) -> Iterator[tuple[Chunk, dict[str, Any]]]:
    """The users of a shard, or all whom the model knows, chunk after chunk as memory allows, with all that
    their scores take, and options of the engine. per_user: bytes that the caller keeps of each user of a
    chunk."""
    work = _Work.of(night, prepared, trained)
    if per_user is not None:
        work = replace(work, room=work.room.beside(per_user))
    engine = {
        "threads": night.config.threads,
        "memory_gb": work.room.engine / _GB,
        "min_score": night.config.min_score,
    }
    shard = shard or Shard(number=0, start=0, stop=prepared.n_users)
    for chunk in ahead(work._chunk(users, cold=shard.cold) for users in work._ranges(shard)):
        yield chunk, engine


@dataclass(frozen=True)
class _Room:
    """How `memory_gb` is spent beside the libraries and the movies: two chunks at a time, and the engine."""

    chunk_users: int
    chunk_ratings: int
    engine: float

    @classmethod
    def of(cls, config: Config, model: Model, *, beside: int = 0) -> Self:
        """beside: further bytes of each user of a chunk. Raises InputError when the movies alone do not
        fit."""
        network = sum(t.nbytes for t in model.stars.state_dict().values()) if model.stars else 0
        ranking = sum(t.nbytes for t in model.ranking.tensors().values()) if model.ranking else 0
        by_stars = not model.ranking or model.stars_weight > 0
        vectors = model.network.scores().movie.nbytes if by_stars else 0
        vectors += model.ranking.movie_vectors.nbytes if model.ranking else 0
        fixed = _LIBRARIES + network + ranking + 14 * vectors  # packing takes float64 copies
        free = config.memory_gb * _GB - fixed
        if free < 0.1 * _GB:
            raise InputError(
                f"configuration key memory_gb: got {config.memory_gb}, but scoring {model.movies.height:,} movies "
                f"takes {fixed / _GB + 0.1:.1f} at least; raise memory_gb, or lower ranking_factors"
            )
        factors = config.ranking_factors + config.n_factors * config.ensemble
        per_user = 4 * factors * 8 + 200 + beside
        return cls(
            chunk_users=max(256, min(1 << 17, int(free / 6 / 2 / per_user))),
            chunk_ratings=max(10_000, int(free / 2 / 2 / _PER_RATING)),
            engine=free / 4 + 4 * vectors,
        )

    def beside(self, per_user: int) -> Self:
        """The same room with half of the ratings' in use for so many bytes of each user of a chunk."""
        users = int(self.chunk_ratings * _PER_RATING / 2 / max(1, per_user))
        return replace(
            self,
            chunk_users=max(1, min(self.chunk_users, users)),
            chunk_ratings=max(10_000, self.chunk_ratings // 2),
        )
