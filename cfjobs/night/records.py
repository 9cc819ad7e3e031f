"""A night and what its stages pass on: small records, and the work folder that holds them between stages.

The folder is `OUTPUT/_work/DATE-KEY`. A stage that is done leaves its record there as `NAME.json`, last, so
that a record means that all the stage's files are whole.
"""

import io
import logging
import math
from datetime import date, datetime
from typing import Any, Literal

import polars as pl
from pydantic import Field, ValidationError

from cfjobs import storage
from cfjobs.config import Config
from cfjobs.errors import DamagedFile, InputError
from cfjobs.lists.blend import Blend
from cfjobs.models import Training
from cfjobs.ratings.feedback import Feedback
from cfjobs.ratings.question import Question
from cfjobs.record import AnyRecord, Record
from cfjobs.storage.faults import first_line
from cfjobs.training.checkpoint import Checkpoints

log = logging.getLogger(__name__)


class Inputs(Record):
    """What a night reads, by URI.

    users: who else gets a list though they have rated nothing. allow, deny: tables of movie_id, the movies
    that may be listed alone and those that must not. exclude: table of user_id, movie_id, pairs to leave out
    beside the rated ones. model: an existing model to score or evaluate instead of training one.
    """

    ratings: str
    movies: str | None = None
    users: str | None = None
    allow: str | None = None
    deny: str | None = None
    exclude: str | None = None
    model: str | None = None

    @property
    def limits(self) -> dict[str, str | None]:
        """The tables that say what may be listed, by what they are."""
        return {"allow": self.allow, "deny": self.deny, "exclude": self.exclude}


class Night(Record):
    """One night: what it reads and where it writes, for which date, and how."""

    inputs: Inputs
    output: str
    run_date: date
    config: Config
    run_id: str
    work: str
    started_at: datetime

    def write(self, name: str, data: bytes) -> None:
        """Write one file of the work folder."""
        storage.write_bytes(storage.join(self.work, name), data)

    def done(self, name: str, record: AnyRecord) -> AnyRecord:
        """Leave a stage's record: from now on the stage is not computed again."""
        self.write(f"{name}.json", record.model_dump_json().encode())
        return record

    def undone(self, name: str) -> None:
        """Take a stage's record away, so that it is computed again."""
        storage.delete(storage.join(self.work, f"{name}.json"))

    def load(self, name: str, kind: type[AnyRecord]) -> AnyRecord | None:
        """The record that a stage left, or None when it has to run.

        A store may keep the beginning of a write whose client was cut off: half a record is none.
        """
        uri = storage.join(self.work, f"{name}.json")
        if not storage.exists(uri):
            return None
        try:
            return kind.model_validate_json(storage.read_bytes(uri))
        except ValidationError:
            log.warning("%s: is not a whole record, so this stage runs again", uri)
            return None

    def files(self, name: str) -> list[str]:
        """The files of a table of the work folder, whose rows follow each other: `NAME.parquet`, or those in
        a folder of that name, which several machines wrote."""
        uri = storage.join(self.work, f"{name}.parquet")
        return [file.uri for file in storage.walk(uri) if file.uri.endswith(".parquet")] or [uri]

    def beside(self, file: str, name: str) -> str:
        """The file of another table, in the work folder, whose rows are those of a file of the ratings."""
        return f"{name}{file.removeprefix(storage.join(self.work, 'ratings'))}"

    def has(self, name: str) -> bool:
        """Whether the work folder has this table."""
        return bool(storage.walk(storage.join(self.work, f"{name}.parquet")))

    def frame(self, name: str, columns: list[str] | None = None) -> pl.DataFrame:
        """A table of the work folder. Raises DamagedFile for one that is gone or damaged;
        the next run makes it again."""
        frames = []
        for uri in self.files(name):
            try:
                frames.append(pl.read_parquet(io.BytesIO(storage.read_bytes(uri)), columns=columns))
            except (InputError, pl.exceptions.PolarsError) as error:
                raise self.damaged(uri, error) from error
        return pl.concat(frames, rechunk=True) if len(frames) > 1 else frames[0]

    def damaged(self, uri: str, error: Exception) -> DamagedFile:
        """What to say of a file of the work folder that is gone or damaged;
        `prepare` makes it again next time."""
        self.undone("prepared")
        return DamagedFile(
            f"{uri}: is gone or damaged ({first_line(error)}); nothing was published, run the night again to prepare it anew"
        )

    def checkpoints(self, name: str, *, write: bool = True) -> Checkpoints:
        """The checkpoints of one of the night's trainings;
        without `write` for a process that only goes on from them."""
        uri = storage.join(self.work, f"checkpoint-{name}.safetensors")
        seconds = self.config.checkpoint_seconds
        return Checkpoints(
            read=lambda: storage.read_bytes(uri) if storage.exists(uri) else None,
            write=lambda data: storage.write_bytes(uri, data),
            seconds=seconds if write or not seconds else math.inf,
        )


class Prepared(Record):
    """The clean ratings of a night, in its work folder.

    User rows 0..n_users - 1 are the model's, those up to n_users + n_cold_users get the popularity list:
    users without a rating and, when an existing model scores, users that it does not know. y_range: of the
    ratings, or of the weights of implicit feedback, which is no scale. scale: the fields of
    `evaluation.gate.Scale`. timed: whether the ratings have times. limited: whether the work folder says
    which movies may be listed.
    """

    counts: dict[str, int]
    n_users: int
    n_movies: int
    n_cold_users: int
    y_range: tuple[float, float]
    scale: tuple[float, float, float, float] | None = None
    question: Question = "next"
    feedback: Feedback = "ratings"
    timed: bool = True
    limited: bool = False

    @property
    def implicit(self) -> bool:
        """Whether nobody gave a value: no stars are predicted, and lists go by affinity alone."""
        return self.feedback == "implicit"


def as_decided(night: Night, prepared: Prepared) -> Config:
    """The night's configuration with what its ratings decided: the question that they were asked, whether
    they have values, and times."""
    decided: dict[str, Any] = {"question": prepared.question, "feedback": prepared.feedback}
    if not prepared.timed:
        decided["timestamp_column"] = None
    if prepared.implicit:
        decided["rank_by"] = "affinity"
    return night.config.model_copy(update=decided)


On = Literal["train", "all"]
"""The ratings that a training learns from: those outside the holdout, or all."""

Metrics = dict[str, float | None]
"""Metrics of a night by name; None for one that could not be measured."""


class Trained(Record):
    """A model in storage, with the record of its training.

    fraction: of the planned epochs, up to the best one. training: how the rating network was trained, None
    for an existing model. warm_from: the model that it went on from. blend: how much its lists go by
    predicted stars.
    """

    model_uri: str
    fraction: float
    losses: list[tuple[int, float, float | None]]
    training: Training | None = None
    warm_from: str | None = None
    blend: Blend = Blend(weight=0.0)


class Shard(Record):
    """A contiguous range of users that is scored as one task; cold ones get the popularity list."""

    number: int
    start: int
    stop: int
    cold: bool = False


class Shards(Record):
    """All shards of a night, as they were cut when its scoring began."""

    shards: list[Shard]


class Scored(Record):
    """The parts of `top_n` that a shard wrote, in order of user."""

    parts: list[dict[str, Any]]
    lists: int


class Described(Record):
    """What the published lists are like: the figures of `evaluation.metrics.OF_LISTS`,
    over the users with ratings.

    churn: since the last night, where it could be told. churns: rows of `metrics` about it. overridden:
    what the gate had said of the lists. users: the parts of the table `users`, which wait for their commit.
    """

    figures: dict[str, float] = Field(default_factory=dict)
    churn: float | None = None
    churns: list[dict[str, Any]] = Field(default_factory=list)
    users: list[dict[str, Any]] | None = None
    overridden: list[str] = Field(default_factory=list)


class Written(Record):
    """The parts of the tables beside `top_n`, by table, which wait for their commits."""

    tables: dict[str, list[dict[str, Any]]]


class Published(Record):
    """A night that readers can see."""

    run_id: str
    run_date: date
    model_uri: str
    tables: dict[str, str]
    table_versions: dict[str, int]
    metrics: dict[str, float | None]
    counts: dict[str, int]
    seconds: dict[str, float]
    gate: str
    report: str | None = None


LEARNT = ["user_idx", "movie_idx", "rating"]


def trained_already(night: Night, *, on: Literal["train", "all"]) -> Trained | None:
    """The record that a training left, perhaps on another worker; None when there is none."""
    return night.load(f"trained-{on}", Trained)
