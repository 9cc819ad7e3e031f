"""The night and scoring alone, as Prefect runs them:
the story of `cfjobs.night.story` with tasks for stages."""

from datetime import date
from functools import partial

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed

from cfjobs import storage
from cfjobs.config import Config
from cfjobs.errors import InputError, Stale
from cfjobs.night import story
from cfjobs.night.records import Inputs, Night, On, Prepared, Published, Trained
from cfjobs.night.story import Stages
from cfjobs.tables import runs
from flows.elsewhere import run_elsewhere
from flows.observe import log_to_run
from flows.on_ray import hold_out_on_ray, in_pieces, prepare_on_ray, ray_cluster
from flows.shards import score_all
from flows.stages import check, gate, hold_out, measure, prepare, publish, start
from flows.staleness import night_name, planned_date, scoring_name, skipped
from flows.summary import announce, headline
from flows.training import train


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
        config: Every setting of the night.
        train_deployment: Deployment that trains, such as `train/gpu`; without it, training runs in this
            process.
        force: Publish although a newer date is published already; without it such a run is skipped.
        allow: Table of movie_id: only these movies are listed.
        deny: Table of movie_id: these movies are never listed.
        exclude: Table of user_id, movie_id: pairs left out beside the rated ones.
        score_deployment: Deployment that scores, such as `shards/gpu`; without it, as the configuration's
            runner says.
    """
    inputs = Inputs(ratings=ratings, movies=movies, users=users, allow=allow, deny=deny, exclude=exclude)
    stages = stages_of(train_deployment=train_deployment, score_deployment=score_deployment)
    return run_night(inputs, stages, output=output, run_date=run_date, config=config, force=force)


@flow(name="score", flow_run_name=scoring_name, persist_result=False)
def score(  # noqa: PLR0917  # as above
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
        config: Every setting of the night.
        force: Publish although a newer date is published already, as for a backfill.
        allow: Table of movie_id: only these movies are listed.
        deny: Table of movie_id: these movies are never listed.
        exclude: Table of user_id, movie_id: pairs left out beside the rated ones.
        score_deployment: Deployment that scores, such as `shards/gpu`; without it, as the configuration's
            runner says.
    """
    inputs = Inputs(
        ratings=ratings,
        movies=movies,
        users=users,
        allow=allow,
        deny=deny,
        exclude=exclude,
        model=model or newest_model(output),
    )
    stages = stages_of(score_deployment=score_deployment)
    return run_night(inputs, stages, output=output, run_date=run_date, config=config, force=force)


def run_night(
    inputs: Inputs, stages: Stages, *, output: str, run_date: date | None, config: Config, force: bool
) -> State:
    """The night, from its inputs to its announcement: a state that says what was published, with the record
    as its result. A date that comes too late is skipped."""
    log_to_run()
    try:
        night = start(inputs, output=output, run_date=run_date or planned_date(), config=config, force=force)
    except Stale as reason:
        return skipped(str(reason))
    published, measured = story.story(night, stages)
    announce(night, published, measured)
    return Completed(message=headline(published), data=published)


def stages_of(*, train_deployment: str | None = None, score_deployment: str | None = None) -> Stages:
    """The stages as tasks, training and scoring on the workers of these deployments where they are named."""
    return Stages(
        prepare=prepare_where,
        hold_out=hold_out_where,
        fit=partial(train_elsewhere, train_deployment) if train_deployment else train,
        measure=measure,
        gate=gate,
        score=partial(score_all, deployment=score_deployment),
        check=check,
        commit=publish,
    )


def prepare_where(night: Night) -> Prepared:
    """The ratings read here, or in pieces all over a Ray cluster, as the configuration's runner says."""
    if in_pieces(night):
        return prepare_on_ray.with_options(task_runner=ray_cluster(night.config))(night)
    return prepare(night)


def hold_out_where(night: Night, prepared: Prepared) -> int:
    """The holdout chosen where the ratings were read."""
    if in_pieces(night):
        return hold_out_on_ray.with_options(task_runner=ray_cluster(night.config))(night, prepared)
    return hold_out(night, prepared)


def train_elsewhere(
    deployment: str, night: Night, prepared: Prepared, on: On, stop_fraction: float
) -> Trained:
    """A training on the worker of another deployment."""
    parameters = {"night": night, "prepared": prepared, "on": on, "stop_fraction": stop_fraction}
    found = partial(story.trained_already, night, on=on)
    trained: Trained = run_elsewhere(deployment, f"training on {on} ratings", parameters, found)
    return trained


def newest_model(output: str) -> str:
    """The model of the newest published night."""
    found = runs.published(storage.normal(output))
    if not found:
        raise InputError(f"output {output}: no night has been published there; name a model to score with")
    return found[-1].model_uri
