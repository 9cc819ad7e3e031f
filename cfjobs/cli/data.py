"""The commands before a first night: sample, import, check, config, and the search for better settings:
tune, lr-find."""

import json
from pathlib import Path
from typing import Annotated

import typer

from cfjobs.cli.app import app, console, plain, progress_bars, show
from cfjobs.cli.options import (
    AsJson,
    ConfigFile,
    OutputUri,
    RunDate,
    Settings,
    TrainingOptions,
    as_date,
    with_options,
)


@app.command()
def sample(
    output: OutputUri,
    users: Annotated[int, typer.Option("--users", min=1, help="Users.")] = 1_000,
    movies: Annotated[int, typer.Option("--movies", min=1, help="Movies.")] = 2_000,
    ratings: Annotated[int, typer.Option("--ratings", min=1, help="Ratings.")] = 100_000,
    seed: Annotated[int, typer.Option("--seed", min=0, help="The same seed gives the same data.")] = 42,
    as_json: AsJson = False,
) -> None:
    """Write a generated, MovieLens-like data set with known tastes that a good model recovers."""
    from cfjobs import storage
    from cfjobs.datasets import synthetic
    from cfjobs.storage.parquet import parquet_bytes

    data = synthetic.generate(n_users=users, n_movies=movies, n_ratings=ratings, seed=seed)
    uris = {
        name: storage.join(storage.normal(output), name, f"{name}.parquet") for name in ("ratings", "movies")
    }
    for name, frame in (("ratings", data.ratings), ("movies", data.movies)):
        storage.write_bytes(uris[name], parquet_bytes(frame))
    show(
        {
            "ratings": uris["ratings"],
            "movies": uris["movies"],
            "n_ratings": data.ratings.height,
            "n_movies": data.movies.height,
        },
        as_json=as_json,
    )


@app.command(name="import")
def import_(
    source: Annotated[
        str,
        typer.Argument(
            help="What was downloaded: a file, a folder, or a .zip, .tar, .gz, .zst; local or s3://."
        ),
    ],
    output: OutputUri,
    columns: Annotated[
        str | None,
        typer.Option(
            "--columns",
            metavar="user=NAME,movie=NAME",
            help="For any other table: its columns, by name or number; also rating=, timestamp=, weight=.",
        ),
    ] = None,
    max_skipped: Annotated[
        float, typer.Option("--max-skipped", min=0, max=1, help="Largest share of rows that cannot be read.")
    ] = 0.05,
    as_json: AsJson = False,
) -> None:
    """Turn a download into the input tables: MovieLens, Netflix, Amazon, Goodbooks, Book-Crossing, Jester,
    Last.fm, MovieTweetings, Yelp, or any CSV.

    It is recognised by its content. Rows that cannot be read are skipped, and counted by reason.
    """
    from cfjobs.datasets import importing, table

    with progress_bars() as progress:
        done = importing.import_to(
            source,
            output,
            columns=table.parse(columns) if columns else None,
            max_skipped=max_skipped,
            progress=progress,
        )
    if as_json:
        show(dict(done), as_json=True)
        return
    counts = done["counts"]
    shown = {"read as": done["family"]}
    for name, count in counts.items():
        reasons = "".join(f"; {n:,} skipped: {words}" for words, n in count["skipped"].items())
        shown[name] = f"{done[name]}  {count['read']:,} read, {count['written']:,} written{reasons}"  # type: ignore[literal-required]
    show(shown | {"users who rated": f"{done['n_users']:,}"}, as_json=False)


@app.command()
@with_options
def check(options: TrainingOptions, run_date: RunDate = None, as_json: AsJson = False) -> None:
    """Say what a night would read of these tables, reject, train for and need, without one; writes nothing.

    Exit code 0 where a night would take them, 2 where it would not.
    """
    from cfjobs.errors import InputError
    from cfjobs.night import survey

    found = survey.survey(options.inputs(), config=options.loaded(), run_date=as_date(run_date))
    problems = found["problems"]
    if as_json:
        print(json.dumps(found | {"exit_code": 2 if problems else 0}, ensure_ascii=False))
        if problems:
            raise typer.Exit(InputError.exit_code)
        return
    for line in survey.words(found):
        console.print(plain(line), markup=False, highlight=False, soft_wrap=True)
    if problems:
        raise InputError("a night would refuse these: " + "; ".join(problems))


@app.command()
@with_options
def tune(
    options: TrainingOptions,
    output: OutputUri,
    objective: Annotated[
        str, typer.Option("--objective", help="rmse: of the predicted stars; ndcg: nDCG@10 of the lists.")
    ] = "ndcg",
    trials: Annotated[
        int, typer.Option("--trials", min=1, help="Trials in all, earlier ones included.")
    ] = 50,
    timeout: Annotated[
        float | None,
        typer.Option("--timeout", min=0, metavar="SECONDS", help="Start no trial after this many seconds."),
    ] = None,
    run_date: RunDate = None,
    as_json: AsJson = False,
) -> None:
    """Search for better settings on the training ratings; writes OUTPUT/tune/OBJECTIVE.toml for --config.

    The holdout is never used. The same command continues a search that was stopped.
    Needs Optuna: pip install 'cfjobs[tune]'.
    """
    from cfjobs.experiments.run import tuned

    with progress_bars() as progress:
        found = tuned(
            options.inputs(),
            output=output,
            objective=objective,
            trials=trials,
            timeout=timeout,
            run_date=as_date(run_date),
            config=options.loaded(),
            on_trial=lambda n, value, best: progress(
                "tune", (n + 1) / trials, f"trial {n + 1}: {value:.4f}, best {best:.4f}"
            ),
        )
    show(found, as_json=as_json)


@app.command(name="lr-find")
@with_options
def lr_find(
    options: TrainingOptions,
    svg: Annotated[Path, typer.Option("--svg", metavar="FILE.svg", help="Where to write the plot.")] = Path(
        "lr-find.svg"
    ),
    steps: Annotated[
        int, typer.Option("--steps", min=20, help="Steps from the lowest rate to the highest.")
    ] = 200,
    run_date: RunDate = None,
    as_json: AsJson = False,
) -> None:
    """Find a learning rate: the loss while the rate rises from step to step,
    as a plot and as two suggestions.

    Trains the rating network by batches for a few hundred steps on the ratings outside the holdout, then
    discards it. A rate found here is for batches: set it together with optimizer=adam.
    """
    from cfjobs.experiments.run import learning_rates_tried

    found = learning_rates_tried(
        options.inputs(), svg=svg, steps=steps, run_date=as_date(run_date), config=options.loaded()
    )
    if as_json:
        show(found, as_json=True)
    else:
        console.print(found["sketch"], markup=False, highlight=False)
        show(
            {name: value for name, value in found.items() if name not in {"points", "sketch"}}, as_json=False
        )


@app.command(name="config")
def config_(config: ConfigFile = None, set_: Settings = None, as_json: AsJson = False) -> None:
    """Print every configuration key with its value and meaning, as a TOML file."""
    from cfjobs.config import Config, as_toml, load_config

    found = load_config(config, set_ or ())
    if as_json:
        about = {
            name: {"value": getattr(found, name), "default": field.default, "meaning": field.description}
            for name, field in Config.model_fields.items()
        }
        show(about, as_json=True)
    else:
        print(as_toml(found))
