"""The stages of a night and its story: each joins I/O to computation, takes and returns small records, and can be run again.

    start, prepare, hold_out    preparing.py
    fit, twice with `refit`     training.py
    measure, gate               measuring.py
    score, a shard at a time    scoring.py
    check                       checking.py
    commit                      committing.py

A stage leaves its record in the night's work folder (`OUTPUT/_work/KEY`) when it is done. The key is made of
the inputs, the configuration and the date, so that a night that was killed is resumed by running it again:
stages and shards with a record are not computed twice. Publishing removes the folder.
"""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from cfjobs import resources, storage
from cfjobs.night.check import check
from cfjobs.night.evaluate import compared, gate, measure
from cfjobs.night.prepare import claimed_night, hold_out, prepare, resumed, start
from cfjobs.night.publish import commit
from cfjobs.night.records import Night, Published, Trained, trained_already
from cfjobs.night.score import score, scored_already, shards
from cfjobs.night.train import described, existing, fit, follow, lead
from cfjobs.training.fit import Progress

log = logging.getLogger(__name__)

__all__ = [
    "check",
    "claimed_night",
    "commit",
    "compared",
    "described",
    "existing",
    "fit",
    "follow",
    "gate",
    "hold_out",
    "lead",
    "measure",
    "prepare",
    "resumed",
    "score",
    "scored_already",
    "shards",
    "start",
    "trained_already",
]


def nightly(night: Night, *, progress: Callable[[str, float, str], None] | None = None) -> Published:
    """The whole night in this process, without Prefect; `flows/nightly.py` tells the same story with it."""
    _check_runner(night)
    seconds: dict[str, float] = {}

    def of(stage: str) -> Progress | None:
        return (lambda share, words: progress(stage, share, words)) if progress else None

    with claimed_night(night) as claim:
        night = resumed(night)
        with _timed(seconds, "prepare"):
            prepared = prepare(night)
        with _timed(seconds, "split"):
            hold_out(night, prepared)
        with _timed(seconds, "train"):
            trained = fit(night, prepared, on="train", progress=of("train"))
        with _timed(seconds, "evaluate"):
            metrics = measure(night, prepared, trained)
        verdict = gate(night, metrics, compared(night, prepared, metrics))
        if night.config.refit:
            with _timed(seconds, "refit"):
                trained = fit(night, prepared, on="all", stop_share=trained.share, progress=of("refit"))
        with _timed(seconds, "score"):
            scored = [
                score(night, prepared, trained, shard, progress=of("score"))
                for shard in shards(night, prepared)
            ]
        with _timed(seconds, "check"):
            check(night, prepared, scored)
        claim.check()
        with _timed(seconds, "publish"):
            return commit(night, prepared, trained, scored, metrics=metrics, verdict=verdict, seconds=seconds)


def _check_runner(night: Night) -> None:
    if night.config.runner != "here":
        log.warning("runner = %s is for the flow; without Prefect the shards run here", night.config.runner)


def train_alone(night: Night, *, progress: Progress | None = None) -> Trained:
    """Prepare, split and train; the model stays, nothing is published."""
    with claimed_night(night):
        night = resumed(night)
        prepared = prepare(night)
        hold_out(night, prepared)
        trained = fit(night, prepared, on="train", progress=progress)
        storage.delete_under(night.work)
        return trained


def evaluate_alone(night: Night) -> dict[str, float | None]:
    """Holdout metrics of the night's existing model."""
    with claimed_night(night):
        night = resumed(night)
        prepared = prepare(night)
        hold_out(night, prepared)
        metrics = measure(night, prepared, existing(night))
        storage.delete_under(night.work)
        return metrics


def score_alone(night: Night, *, progress: Progress | None = None) -> Published:
    """Score with the night's existing model and publish."""
    with claimed_night(night) as claim:
        night = resumed(night)
        prepared = prepare(night)
        verdict = gate(night, {}, compared(night, prepared, {}))
        trained = existing(night)
        seconds: dict[str, float] = {}
        with _timed(seconds, "score"):
            scored = [
                score(night, prepared, trained, shard, progress=progress) for shard in shards(night, prepared)
            ]
        with _timed(seconds, "check"):
            check(night, prepared, scored)
        claim.check()
        return commit(night, prepared, trained, scored, metrics={}, verdict=verdict, seconds=seconds)


@contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    seconds[stage] = round(time.perf_counter() - started, 3)
    log.info("%s took %.1f s; %s", stage, seconds[stage], resources.words())
