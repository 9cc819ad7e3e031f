"""Scoring alone, with an existing model: for backfills, and to score again what a model knows."""

import time
from datetime import date

from prefect import flow
from prefect.client.schemas.objects import State

from cfjobs.config import Config
from cfjobs.errors import InputError
from cfjobs.night import story
from cfjobs.night.records import Published
from cfjobs.tables import runs
from flows.observe import log_to_run
from flows.shards import score_all
from flows.stages import check, gate, prepare, publish, start
from flows.staleness import planned_date, skipped
from flows.summary import announce


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
    allow: str | None = None,
    deny: str | None = None,
    exclude: str | None = None,
    score_deployment: str | None = None,
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
        model=model or newest_model(output),
        run_date=run_date,
        config=config,
        allow=allow,
        deny=deny,
        exclude=exclude,
    )
    with story.claimed_night(night) as claim:
        night = story.resumed(night)
        prepared = prepare(night)
        verdict = gate(night, prepared, {})
        began = time.perf_counter()
        trained = story.existing(night)
        scored = score_all(night, prepared, trained, deployment=score_deployment)
        check(night, prepared, scored)
        claim.check()
        seconds = {"score": round(time.perf_counter() - began, 3)}
        published = publish(night, prepared, trained, scored, metrics={}, verdict=verdict, seconds=seconds)
    announce(night, published, trained)
    return published


def newest_model(output: str) -> str:
    """The model of the newest published night."""
    found = runs.published(output)
    if not found:
        raise InputError(f"output {output}: no night has been published there; name a model to score with")
    return found[-1].model_uri
