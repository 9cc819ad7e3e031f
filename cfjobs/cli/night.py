"""The commands that make a night, or a stage of it: nightly, train, evaluate, score."""

from datetime import date

from cfjobs.cli.app import app, progress_bars, show
from cfjobs.cli.options import (
    AsJson,
    Force,
    ModelUri,
    NightOptions,
    OutputUri,
    RunDate,
    TrainingOptions,
    as_date,
    with_options,
)


@app.command()
@with_options
def nightly(
    options: NightOptions,
    output: OutputUri,
    run_date: RunDate = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """The whole night: validate the ratings, train, evaluate, gate, refit, score, publish.

    The same command resumes a night that was killed; finished stages are not computed again.
    """
    _publish(options, output, model=None, run_date=as_date(run_date), force=force, as_json=as_json)


@app.command()
@with_options
def train(
    options: TrainingOptions, output: OutputUri, run_date: RunDate = None, as_json: AsJson = False
) -> None:
    """Train on the ratings outside the holdout and save the model under OUTPUT/models; publishes nothing.

    With --set holdout=none it trains on all ratings.
    """
    from cfjobs.night import story

    config = options.loaded("refit=false")
    night = story.start(options.inputs(), output=output, run_date=as_date(run_date), config=config)
    with progress_bars() as progress:
        trained = story.train_alone(night, progress=progress)
    show(trained.model_dump(mode="json"), as_json=as_json)


@app.command()
@with_options
def evaluate(
    options: TrainingOptions,
    output: OutputUri,
    model: ModelUri,
    run_date: RunDate = None,
    as_json: AsJson = False,
) -> None:
    """Measure a model on the holdout of these ratings; publishes nothing.

    The metrics are unbiased only for a model that `cfjobs train` made from the same ratings and holdout
    settings.
    """
    from cfjobs.night import story

    inputs = options.inputs(model=model)
    night = story.start(inputs, output=output, run_date=as_date(run_date), config=options.loaded())
    show({"model_uri": night.inputs.model, "metrics": story.evaluate_alone(night)}, as_json=as_json)


@app.command()
@with_options
def score(
    options: NightOptions,
    output: OutputUri,
    model: ModelUri,
    run_date: RunDate = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Score every user with an existing model and publish the lists.

    Users unknown to the model get the popularity list.
    """
    _publish(options, output, model=model, run_date=as_date(run_date), force=force, as_json=as_json)


def _publish(
    options: NightOptions,
    output: str,
    *,
    model: str | None,
    run_date: date | None,
    force: bool,
    as_json: bool,
) -> None:
    """Run a night, with an existing model or training its own, and show what it published."""
    from cfjobs.night import story

    inputs, config = options.inputs(model=model), options.loaded()
    night = story.start(inputs, output=output, run_date=run_date, config=config, force=force)
    with progress_bars() as progress:
        published = story.nightly(night, progress=progress)
    show(published.model_dump(mode="json"), as_json=as_json)
