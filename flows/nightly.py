"""The story of the night, as Prefect runs it."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from typing import Literal

from prefect import flow
from prefect.client.schemas.objects import FlowRun
from prefect.deployments import run_deployment
from prefect.runtime import flow_run, task_run

from cfjobs import jobs, report
from cfjobs.config import Config
from cfjobs.errors import CfjobsError
from cfjobs.night import Night, Prepared, Published, Trained
from flows.observe import log_to_run, summary_artifact
from flows.shards import score_all
from flows.stages import stage
from flows.training import train

start = stage(name="start", task_run_name="check inputs, credentials and output")(jobs.start)
prepare = stage(name="prepare", task_run_name="read, clean and index")(jobs.prepare)
hold_out = stage(name="split", task_run_name="choose the holdout")(jobs.hold_out)
measure = stage(name="evaluate", task_run_name="measure on the holdout")(jobs.measure)
gate = stage(name="gate")(jobs.gate)
publish = stage(name="publish")(jobs.commit)


@stage(name="train elsewhere", task_run_name="train on {on} ratings by {deployment}")
def train_elsewhere(
    deployment: str, night: Night, prepared: Prepared, on: Literal["train", "all"], stop_share: float
) -> Trained:
    """Run the training deployment on its own worker and take the record it left in the work folder."""
    if done := jobs.trained_already(night, on=on):
        return done
    parameters = {
        "night": night.model_dump(mode="json"),
        "prepared": prepared.model_dump(mode="json"),
        "on": on,
        "stop_share": stop_share,
    }
    attempt = f"{task_run.id}-{task_run.run_count}-{flow_run.run_count}"
    run = run_deployment(deployment, parameters=parameters, idempotency_key=attempt)
    assert isinstance(run, FlowRun)  # called from a task that is not async: no coroutine
    trained = jobs.trained_already(night, on=on)
    if trained is None:
        raise TrainingLost(
            f"training by {deployment} ended as {run.state.name if run.state else 'unknown'} and left no model: {run.state.message if run.state else ''}"
        )
    return trained


class TrainingLost(CfjobsError):
    """The training run ended without a model, for instance because its worker was killed."""


@flow(name="nightly", flow_run_name="night of {run_date}")
def nightly(  # noqa: PLR0917  # Prefect passes parameters by name; its form shows them in this order
    ratings: str,
    output: str,
    movies: str | None = None,
    users: str | None = None,
    run_date: date | None = None,
    config: Config = Config(),
    train_deployment: str | None = None,
    allow: str | None = None,
    deny: str | None = None,
    exclude: str | None = None,
    score_deployment: str | None = None,
) -> Published:
    """Turn tonight's ratings into published top-N tables.

    Args:
        ratings: Rating files: a Parquet file or a prefix of them, local or s3://.
        output: Where tables and models are published.
        movies: Movies table, for titles.
        users: Users table: who else gets a list though they have rated nothing.
        run_date: Date of the night; today (UTC) by default.
        config: Every knob of the night.
        train_deployment: Deployment that trains, such as `train/gpu`; without it, training runs in this process.
        allow: Table of movie_id: only these movies are listed.
        deny: Table of movie_id: these movies are never listed.
        exclude: Table of user_id, movie_id: pairs left out beside the rated ones.
        score_deployment: Deployment that scores, such as `shards/gpu`; without it, as the configuration's runner says.
    """
    log_to_run()
    seconds: dict[str, float] = {}
    with _timed(seconds, "prepare"):
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
        prepared = prepare(night)
    with _timed(seconds, "split"):
        hold_out(night, prepared)
    with _timed(seconds, "train"):
        trained = _train(night, prepared, "train", 1.0, train_deployment)
    with _timed(seconds, "evaluate"):
        metrics = measure(night, prepared, trained)
    verdict = gate(night, metrics)
    final = trained
    if night.config.refit:
        with _timed(seconds, "refit"):
            final = _train(night, prepared, "all", trained.share, train_deployment)
    with _timed(seconds, "score"):
        scored = score_all(night, prepared, final, deployment=score_deployment)
    published: Published = publish(
        night, prepared, final, scored, metrics=metrics, verdict=verdict, seconds=seconds
    )
    summary_artifact(report.markdown(published, trained))
    return published


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
