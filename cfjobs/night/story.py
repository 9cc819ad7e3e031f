"""The story of a night, and of its stages alone.
A stage joins I/O to computation and takes and returns small records.

    start, prepare              prepare.py, and pieces.py where no process may hold all ratings
    hold_out                    split.py
    fit, twice with `refit`     train.py
    measure, gate               evaluate.py
    score, a shard at a time    score.py
    check                       check.py
    commit                      publish.py

A stage leaves its record in the night's work folder (`OUTPUT/_work/KEY`) when it is done. The key is made of
the inputs, the configuration and the date, so that a night that was killed is resumed by running it again:
stages and shards with a record are not computed twice. Publishing removes the folder.
"""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from cfjobs import resources, storage
from cfjobs.night import lineage
from cfjobs.night.check import check
from cfjobs.night.evaluate import compared, gate, gated, measure
from cfjobs.night.prepare import leased_night, prepare, resumed, start
from cfjobs.night.publish import commit
from cfjobs.night.records import Metrics, Night, On, Prepared, Published, Scored, Trained, trained_already
from cfjobs.night.score import score, scored_already, shards
from cfjobs.night.split import hold_out
from cfjobs.night.train import described, existing, fit, follow, lead

log = logging.getLogger(__name__)

__all__ = [
    "Stages",
    "check",
    "leased_night",
    "commit",
    "compared",
    "described",
    "evaluate_alone",
    "existing",
    "fit",
    "follow",
    "gate",
    "here",
    "hold_out",
    "gated",
    "lead",
    "measure",
    "nightly",
    "prepare",
    "resumed",
    "score",
    "scored_already",
    "shards",
    "start",
    "story",
    "train_alone",
    "trained_already",
]

Progress = Callable[[str, float, str], None]
"""Called with the stage, the fraction of it that is done, 0 to 1, and a few words."""


@dataclass(frozen=True, kw_only=True)
class Stages:
    """How each stage is run: by the functions of this package, or by the same ones as tasks of a scheduler.

    fit takes the night, its prepared ratings, "train" or "all", and the fraction of the epochs to stop after;
    score takes care of all shards.
    """

    prepare: Callable[[Night], Prepared] = prepare
    hold_out: Callable[[Night, Prepared], Any] = hold_out
    fit: Callable[[Night, Prepared, On, float], Trained]
    measure: Callable[[Night, Prepared, Trained], Metrics] = measure
    gate: Callable[[Night, Prepared, Metrics], str] = gated
    score: Callable[[Night, Prepared, Trained], list[Scored]]
    check: Callable[[Night, Prepared, list[Scored]], Any] = check
    commit: Callable[..., Published] = commit


def story(night: Night, stages: Stages) -> tuple[Published, Trained]:
    """From the ratings to the published tables; scoring alone is the story of a night that has a model.

    Returns what was published, and the training that the holdout measured.
    """
    seconds: dict[str, float] = {}
    with leased_night(night) as lease, lineage.reported(night := resumed(night)) as published_as:
        with _timed(seconds, "prepare"):
            prepared = stages.prepare(night)
        if night.inputs.model:
            measured = final = existing(night)
            metrics: Metrics = {}
            verdict = stages.gate(night, prepared, metrics)
        else:
            with _timed(seconds, "split"):
                stages.hold_out(night, prepared)
            with _timed(seconds, "train"):
                measured = final = stages.fit(night, prepared, "train", 1.0)
            with _timed(seconds, "evaluate"):
                metrics = stages.measure(night, prepared, measured)
            verdict = stages.gate(night, prepared, metrics)
            if night.config.refit:
                with _timed(seconds, "refit"):
                    final = stages.fit(night, prepared, "all", measured.fraction)
        with _timed(seconds, "score"):
            scored = stages.score(night, prepared, final)
        with _timed(seconds, "check"):
            stages.check(night, prepared, scored)
        lease.check()
        published = stages.commit(
            night,
            prepared,
            final,
            scored,
            metrics=metrics,
            verdict=verdict,
            seconds=seconds,
            night_lease=lease,
        )
        published_as(published)
        return published, measured


def here(progress: Progress | None = None) -> Stages:
    """The stages in this process."""

    def of(stage: str) -> Callable[[float, str], None] | None:
        return (lambda done, words: progress(stage, done, words)) if progress else None

    def train(night: Night, prepared: Prepared, on: On, stop_fraction: float) -> Trained:
        stage = "train" if on == "train" else "refit"
        return fit(night, prepared, on=on, stop_fraction=stop_fraction, progress=of(stage))

    def every_shard(night: Night, prepared: Prepared, trained: Trained) -> list[Scored]:
        if night.config.runner != "here":
            log.warning(
                "runner = %s is for the flow; without Prefect the shards run here", night.config.runner
            )
        return [
            score(night, prepared, trained, shard, progress=of("score")) for shard in shards(night, prepared)
        ]

    return Stages(fit=train, score=every_shard)


def nightly(night: Night, *, progress: Progress | None = None) -> Published:
    """The night in this process, without Prefect; with a model among its inputs, scoring alone."""
    published, _ = story(night, here(progress))
    return published


def train_alone(night: Night, *, progress: Progress | None = None) -> Trained:
    """Prepare, split and train; the model stays, nothing is published."""
    stages = here(progress)
    with _prepared(night) as (resumed_night, prepared):
        return stages.fit(resumed_night, prepared, "train", 1.0)


def evaluate_alone(night: Night) -> Metrics:
    """Holdout metrics of the night's existing model."""
    with _prepared(night) as (resumed_night, prepared):
        return measure(resumed_night, prepared, existing(resumed_night))


@contextmanager
def _prepared(night: Night) -> Iterator[tuple[Night, Prepared]]:
    """A night that is not published: prepared and split, and its work folder gone when all is well."""
    with leased_night(night):
        night = resumed(night)
        prepared = prepare(night)
        hold_out(night, prepared)
        yield night, prepared
        storage.delete_under(night.work)


@contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    started, worked = time.perf_counter(), time.process_time()
    yield
    resources.give_back()
    seconds[stage], worked = round(time.perf_counter() - started, 3), time.process_time() - worked
    log.info("%s took %.1f s, %.1f of processor; %s", stage, seconds[stage], worked, resources.words())
