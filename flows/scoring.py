"""Scoring alone, with an existing model: for backfills, and to score again what a model knows."""

import time
from datetime import date

from prefect import flow
from prefect.client.schemas.objects import State

from cfjobs import jobs, nights
from cfjobs.config import Config
from cfjobs.errors import InputError
from cfjobs.night import Night, Prepared, Published, Scored, Shard, Trained
from flows.observe import log_to_run, progress_artifact
from flows.stages import check, gate, prepare, publish, stage, start
from flows.staleness import planned_date, skipped
from flows.summary import announce


@stage(name="score", task_run_name="score users {shard.start} to {shard.stop}")
def score_shard(night: Night, prepared: Prepared, trained: Trained, shard: Shard) -> Scored:
    bar = progress_artifact(f"scoring-{shard.number}", f"Scoring users {shard.start:,} to {shard.stop:,}")
    return jobs.score(night, prepared, trained, shard, progress=bar)


@flow(name="score", flow_run_name="score {run_date}", persist_result=False)
def score(  # noqa: PLR0917  # Prefect passes parameters by name; its form shows them in this order
    ratings: str,
    output: str,
    model: str | None = None,
    movies: str | None = None,
    users: str | None = None,
    run_date: date | None = None,
    config: Config = Config(),
    force: bool = False,
) -> Published | State:
    """Score every user with an existing model and publish the lists.

    Args:
        ratings: Rating files: a Parquet file or a prefix of them, local or s3://.
        output: Where tables and models are published.
        model: Folder of the model; without it, the one of the newest published night.
        movies: Movies table, for titles.
        users: Users table: who else gets a list though they have rated nothing.
        run_date: Date of the night; the date this run was scheduled for (UTC) by default.
        config: Every knob of the night.
        force: Publish although a newer date is published already, as for a backfill.
    """
    log_to_run()
    run_date = run_date or planned_date()
    if not force and (reason := nights.stale(output, run_date)):
        return skipped(reason)
    night = start(
        ratings_uri=ratings,
        output=output,
        movies=movies,
        users=users,
        model=model or newest_model(output),
        run_date=run_date,
        config=config,
    )
    with jobs.claimed_night(night) as claim:
        night = jobs.resumed(night)
        prepared = prepare(night)
        verdict = gate(night, prepared, {})
        began = time.perf_counter()
        trained = jobs.existing(night)
        scored = [score_shard(night, prepared, trained, shard) for shard in jobs.shards(night, prepared)]
        check(night, prepared, scored)
        claim.check()
        seconds = {"score": round(time.perf_counter() - began, 3)}
        published = publish(night, prepared, trained, scored, metrics={}, verdict=verdict, seconds=seconds)
    announce(night, published, trained)
    return published


def newest_model(output: str) -> str:
    """The model of the newest published night."""
    found = nights.published(output)
    if not found:
        raise InputError(f"output {output}: no night has been published there; name a model to score with")
    return found[-1].model_uri
