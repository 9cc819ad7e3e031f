"""The commands that make a night, or a stage of it: nightly, train, evaluate, score."""

from cfjobs.cli.app import (
    AllowUri,
    AsJson,
    ConfigFile,
    DenyUri,
    ExcludeUri,
    Force,
    ModelUri,
    MoviesUri,
    OutputUri,
    RatingsUri,
    RunDate,
    Settings,
    UsersUri,
    app,
    as_date,
    progress_bars,
    show,
)


@app.command()
def nightly(
    ratings: RatingsUri,
    output: OutputUri,
    movies: MoviesUri = None,
    users: UsersUri = None,
    allow: AllowUri = None,
    deny: DenyUri = None,
    exclude: ExcludeUri = None,
    run_date: RunDate = None,
    config: ConfigFile = None,
    set_: Settings = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """The whole night: validate the ratings, train, evaluate, gate, refit, score, publish.

    The same command resumes a night that was killed; finished stages are not computed again.
    """
    from cfjobs.config import load_config
    from cfjobs.night import story
    from cfjobs.night.records import Inputs

    night = story.start(
        Inputs(ratings=ratings, movies=movies, users=users, allow=allow, deny=deny, exclude=exclude),
        output=output,
        run_date=as_date(run_date),
        config=load_config(config, set_ or ()),
        force=force,
    )
    with progress_bars() as progress:
        published = story.nightly(night, progress=progress)
    show(published.model_dump(mode="json"), as_json=as_json)


@app.command()
def train(
    ratings: RatingsUri,
    output: OutputUri,
    movies: MoviesUri = None,
    users: UsersUri = None,
    run_date: RunDate = None,
    config: ConfigFile = None,
    set_: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Train on the ratings outside the holdout and save the model under OUTPUT/models; publishes nothing.

    With --set holdout=none it trains on all ratings.
    """
    from cfjobs.config import load_config
    from cfjobs.night import story
    from cfjobs.night.records import Inputs

    night = story.start(
        Inputs(ratings=ratings, movies=movies, users=users),
        output=output,
        run_date=as_date(run_date),
        config=load_config(config, [*(set_ or ()), "refit=false"]),
    )
    with progress_bars() as progress:
        trained = story.train_alone(night, progress=progress)
    show(trained.model_dump(mode="json"), as_json=as_json)


@app.command()
def evaluate(
    ratings: RatingsUri,
    output: OutputUri,
    model: ModelUri,
    movies: MoviesUri = None,
    users: UsersUri = None,
    run_date: RunDate = None,
    config: ConfigFile = None,
    set_: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Measure a model on the holdout of these ratings; publishes nothing.

    The metrics are unbiased only for a model that `cfjobs train` made from the same ratings and holdout
    settings.
    """
    from cfjobs.config import load_config
    from cfjobs.night import story
    from cfjobs.night.records import Inputs

    night = story.start(
        Inputs(ratings=ratings, movies=movies, users=users, model=model),
        output=output,
        run_date=as_date(run_date),
        config=load_config(config, set_ or ()),
    )
    show({"model_uri": night.inputs.model, "metrics": story.evaluate_alone(night)}, as_json=as_json)


@app.command()
def score(
    ratings: RatingsUri,
    output: OutputUri,
    model: ModelUri,
    movies: MoviesUri = None,
    users: UsersUri = None,
    allow: AllowUri = None,
    deny: DenyUri = None,
    exclude: ExcludeUri = None,
    run_date: RunDate = None,
    config: ConfigFile = None,
    set_: Settings = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Score every user with an existing model and publish the lists.

    Users unknown to the model get the popularity list.
    """
    from cfjobs.config import load_config
    from cfjobs.night import story
    from cfjobs.night.records import Inputs

    limits = {"allow": allow, "deny": deny, "exclude": exclude}
    night = story.start(
        Inputs(ratings=ratings, movies=movies, users=users, model=model, **limits),
        output=output,
        run_date=as_date(run_date),
        config=load_config(config, set_ or ()),
        force=force,
    )
    with progress_bars() as progress:
        published = story.nightly(night, progress=progress)
    show(published.model_dump(mode="json"), as_json=as_json)
