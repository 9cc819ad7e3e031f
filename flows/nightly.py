"""The story of the night, as Prefect runs it."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from typing import Literal

from prefect import flow
from prefect.client.schemas.objects import FlowRun, State
from prefect.deployments import run_deployment
from prefect.runtime import flow_run, task_run

from cfjobs import resources
from cfjobs.config import Config
from cfjobs.errors import CfjobsError
from cfjobs.night import story
from cfjobs.night.records import Night, Prepared, Published, Trained
from cfjobs.storage.lease import Claim
from cfjobs.tables import runs
from flows.observe import log_to_run
from flows.shards import score_all
from flows.stages import TrainingLost, check, gate, prepare, publish, stage, start
from flows.staleness import night_name, planned_date, skipped
from flows.summary import announce
from flows.training import train
from flows.waiting import end_of

log = logging.getLogger("cfjobs.flows")

hold_out = stage(name="split", task_run_name="choose the holdout")(story.hold_out)
measure = stage(name="evaluate", task_run_name="measure on the holdout")(story.measure)


@stage(name="train elsewhere", task_run_name="train on {on} ratings by {deployment}")
def train_elsewhere(
    deployment: str, night: Night, prepared: Prepared, on: Literal["train", "all"], stop_share: float
) -> Trained:
    """Run the training deployment on its own worker and take the record it left in the work folder."""
    if done := story.trained_already(night, on=on):
        return done
    parameters = {
        "night": night.model_dump(mode="json"),
        "prepared": prepared.model_dump(mode="json"),
        "on": on,
        "stop_share": stop_share,
    }
    attempt = f"{task_run.id}-{task_run.run_count}-{flow_run.run_count}"
    run = run_deployment(deployment, parameters=parameters, idempotency_key=attempt, timeout=0)
    assert isinstance(run, FlowRun)  # called from a task that is not async: no coroutine
    run = end_of(run)
    trained = story.trained_already(night, on=on)
    if trained is None:
        raise _why_lost(deployment, run)
    return trained


def _why_lost(deployment: str, run: FlowRun) -> CfjobsError:
    """A killed run is worth another try; one that failed said why, and would fail again."""
    name, message = (run.state.name, run.state.message or "") if run.state else ("unknown", "")
    words = f"training by {deployment}, run {run.name}, ended as {name} and left no model: {message}"
    return TrainingLost(words) if run.state is None or run.state.is_crashed() else TrainingFailed(words)


class TrainingFailed(CfjobsError):
    """The training run failed or was cancelled, with its reason."""


@flow(name="nightly", flow_run_name=night_name)
def nightly(  # noqa: PLR0917  # Prefect passes parameters by name; its form shows them in this order
    ratings: str,
    output: str,
    movies: str | None = None,
    users: str | None = None,
    run_date: date | None = None,
    config: Config = Config(),
    train_deployment: str | None = None,
    force: bool = False,
    allow: str | None = None,
    deny: str | None = None,
    exclude: str | None = None,
    score_deployment: str | None = None,
) -> Published | State:
    """Turn tonight's ratings into published top-N tables.

    Args:
        ratings: Rating files: a Parquet file or a prefix of them, local or s3://.
        output: Where tables and models are published.
        movies: Movies table, for titles.
        users: Users table: who else gets a list though they have rated nothing.
        run_date: Date of the night; the date this run was scheduled for (UTC) by default.
        config: Every knob of the night.
        train_deployment: Deployment that trains, such as `train/gpu`; without it, training runs in this process.
        force: Publish although a newer date is published already; without it such a run is skipped.
        allow: Table of movie_id: only these movies are listed.
        deny: Table of movie_id: these movies are never listed.
        exclude: Table of user_id, movie_id: pairs left out beside the rated ones.
        score_deployment: Deployment that scores, such as `shards/gpu`; without it, as the configuration's runner says.
    """
    log_to_run()
    run_date = run_date or planned_date()
    if not force and (reason := runs.stale(output, run_date)):
        return skipped(reason)
    night = start(
        ratings_uri=ratings,
        output=output,
        movies=movies,
        users=users,
        run_date=run_date,
        config=config,
        allow=allow,
        deny=deny,
        exclude=exclude,
    )
    with story.claimed_night(night) as claim:
        night = story.resumed(night)
        published, trained = _work(night, claim, train_deployment, score_deployment)
    announce(night, published, trained)
    return published


def _work(
    night: Night, claim: Claim, train_deployment: str | None, score_deployment: str | None
) -> tuple[Published, Trained]:
    """From the ratings to the published tables."""
    seconds: dict[str, float] = {}
    with _timed(seconds, "prepare"):
        prepared = prepare(night)
    with _timed(seconds, "split"):
        hold_out(night, prepared)
    with _timed(seconds, "train"):
        trained = _train(night, prepared, "train", 1.0, train_deployment)
    with _timed(seconds, "evaluate"):
        metrics = measure(night, prepared, trained)
    verdict = gate(night, prepared, metrics)
    final = trained
    if night.config.refit:
        with _timed(seconds, "refit"):
            final = _train(night, prepared, "all", trained.share, train_deployment)
    with _timed(seconds, "score"):
        scored = score_all(night, prepared, final, deployment=score_deployment)
    with _timed(seconds, "check"):
        check(night, prepared, scored)
    claim.check()
    published: Published = publish(
        night, prepared, final, scored, metrics=metrics, verdict=verdict, seconds=seconds
    )
    return published, trained


def _train(
    night: Night,
    prepared: Prepared,
    on: Literal["train", "all"],
    stop_share: float,
    deployment: str | None,
) -> Trained:
    trained: Trained
    if deployment:
        trained = train_elsewhere(deployment, night, prepared, on, stop_share)
    else:
        trained = train(night, prepared, on, stop_share)
    return trained


@contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    began = time.perf_counter()
    yield
    seconds[name] = round(time.perf_counter() - began, 3)
    log.info("%s took %.1f s; %s", name, seconds[name], resources.words())
