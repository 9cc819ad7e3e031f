"""The command line `cfjobs`: every stage of the night without Prefect.

Results go to standard output, as text or with --json as one object; logs and progress to standard error.
Exit codes: 0 done, 2 wrong input or configuration, 3 the gate refused, 1 anything else.
"""

import getpass
import json
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from cfjobs import __version__, usage
from cfjobs.config import Config, as_toml, load_config
from cfjobs.errors import CfjobsError

if TYPE_CHECKING:
    from cfjobs.lookups import UserList
    from cfjobs.nights import PublishedNight

app = typer.Typer(
    name="cfjobs",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="""A nightly batch recommendation job: rating Parquet in, top-N Delta tables out.

    A first night, on generated data:

        cfjobs sample --output data
        cfjobs nightly --ratings data/ratings --movies data/movies --output out
        cfjobs recs --output out --user 1

    Every URI is a local path or s3://bucket/prefix; AWS credentials come from the standard chain.
    Exit codes: 0 done, 2 wrong input or configuration, 3 the gate refused, 1 anything else.
    """,
)

RatingsUri = Annotated[
    str, typer.Option("--ratings", metavar="URI", help="Rating files: a Parquet file or a prefix of them.")
]
OutputUri = Annotated[
    str, typer.Option("--output", metavar="URI", help="Where tables and models are published.")
]
MoviesUri = Annotated[
    str | None,
    typer.Option("--movies", metavar="URI", help="Movies table: movie_id, title, any further columns."),
]
UsersUri = Annotated[
    str | None,
    typer.Option(
        "--users", metavar="URI", help="Users table: who else gets a list though they have rated nothing."
    ),
]
AllowUri = Annotated[
    str | None,
    typer.Option("--allow", metavar="URI", help="Table of movie_id: only these movies are listed."),
]
DenyUri = Annotated[
    str | None,
    typer.Option("--deny", metavar="URI", help="Table of movie_id: these movies are never listed."),
]
ExcludeUri = Annotated[
    str | None,
    typer.Option(
        "--exclude", metavar="URI", help="Table of user_id, movie_id: pairs left out beside the rated ones."
    ),
]
ModelUri = Annotated[str, typer.Option("--model", metavar="URI", help="Folder of a model.")]
RunDate = Annotated[
    datetime | None,
    typer.Option("--run-date", formats=["%Y-%m-%d"], help="Date of the night; today (UTC) by default."),
]
ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE.toml", help="Configuration file; `cfjobs config` prints one."),
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="One configuration key; may be repeated."),
]
AsJson = Annotated[
    bool, typer.Option("--json", help="Print the result as one JSON object on standard output.")
]

DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and change nothing.")]

console = Console()
errors = Console(stderr=True)


def _print_version(wanted: bool) -> None:
    if wanted:
        console.print(f"cfjobs {__version__}", highlight=False)
        raise typer.Exit()


@app.callback()
def _root(
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Log what each stage does, in detail.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Log warnings only.")] = False,
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True),
    ] = False,
) -> None:
    log_to_stderr(logging.DEBUG if verbose else logging.WARNING if quiet else logging.INFO)


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
    as_json: AsJson = False,
) -> None:
    """The whole night: clean, train, evaluate, gate, refit, score, publish.

    A night that was killed is resumed by the same command: finished stages are not computed again.
    """
    from cfjobs import jobs

    night = jobs.start(
        ratings_uri=ratings,
        output=output,
        movies=movies,
        users=users,
        allow=allow,
        deny=deny,
        exclude=exclude,
        run_date=_date(run_date),
        config=load_config(config, set_ or ()),
    )
    with _progress() as progress:
        published = jobs.nightly(night, progress=progress)
    _show(published.model_dump(mode="json"), as_json=as_json)


@app.command()
def train(
    ratings: RatingsUri,
    output: OutputUri,
    movies: MoviesUri = None,
    run_date: RunDate = None,
    config: ConfigFile = None,
    set_: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Train on the ratings outside the holdout and save the model under OUTPUT/models; publishes nothing.

    With --set holdout=none it trains on all ratings.
    """
    from cfjobs import jobs

    settings = load_config(config, [*(set_ or ()), "refit=false"])
    night = jobs.start(
        ratings_uri=ratings, output=output, movies=movies, run_date=_date(run_date), config=settings
    )
    with _progress() as progress:
        trained = jobs.train_alone(night, progress=lambda share, words: progress("train", share, words))
    _show(trained.model_dump(mode="json"), as_json=as_json)


@app.command()
def evaluate(
    ratings: RatingsUri,
    output: OutputUri,
    model: ModelUri,
    run_date: RunDate = None,
    config: ConfigFile = None,
    set_: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Measure a model on the holdout of these ratings; publishes nothing.

    The figures are honest for a model that `cfjobs train` made from the same ratings and holdout settings.
    """
    from cfjobs import jobs

    night = jobs.start(
        ratings_uri=ratings,
        output=output,
        model=model,
        run_date=_date(run_date),
        config=load_config(config, set_ or ()),
    )
    _show({"model_uri": night.model, "metrics": jobs.evaluate_alone(night)}, as_json=as_json)


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
    as_json: AsJson = False,
) -> None:
    """Score every user with an existing model and publish the lists.

    Users that the model does not know get the popularity list.
    """
    from cfjobs import jobs

    night = jobs.start(
        ratings_uri=ratings,
        output=output,
        movies=movies,
        users=users,
        allow=allow,
        deny=deny,
        exclude=exclude,
        model=model,
        run_date=_date(run_date),
        config=load_config(config, set_ or ()),
    )
    with _progress() as progress:
        published = jobs.score_alone(night, progress=lambda share, words: progress("score", share, words))
    _show(published.model_dump(mode="json"), as_json=as_json)


@app.command()
def predict(
    model: ModelUri,
    pairs: Annotated[
        str | None, typer.Option("--pairs", metavar="PARQUET", help="Parquet with user_id, movie_id.")
    ] = None,
    out: Annotated[
        str | None,
        typer.Option("--out", metavar="PARQUET", help="Where the pairs go, with predicted_rating."),
    ] = None,
    user: Annotated[str | None, typer.Option("--user", metavar="ID", help="One user ...")] = None,
    movie: Annotated[str | None, typer.Option("--movie", metavar="ID", help="... and one movie.")] = None,
    as_json: AsJson = False,
) -> None:
    """Predict ratings: --pairs and --out for a file, --user and --movie for one pair."""
    from cfjobs import lookups

    if pairs and out and not user and not movie:
        n_rows = lookups.predict_pairs(model, pairs, out)
        _show({"rows": n_rows, "out": out}, as_json=as_json)
    elif user and movie and not pairs and not out:
        found = lookups.predict_one(model, user, movie)
        if as_json:
            _show(found, as_json=True)
        else:
            notes = [
                f"{what} {found[f'{what}_id']} is unknown to the model, taken as a typical one"
                for what in ("user", "movie")
                if not found[f"{what}_known"]
            ]
            console.print(f"{found['predicted_rating']:.2f}", *notes, sep="\n", highlight=False, markup=False)
    else:
        raise typer.BadParameter("give --pairs and --out, or --user and --movie")


@app.command()
def recs(
    output: OutputUri,
    user: Annotated[str | None, typer.Option("--user", metavar="ID", help="Whose list.")] = None,
    ratings_of: Annotated[
        str | None,
        typer.Option(
            "--ratings-of",
            metavar="FILE",
            help="CSV or Parquet of one user's ratings (movie_id, rating, timestamp if there is one): their list, made now.",
        ),
    ] = None,
    n: Annotated[int, typer.Option("-n", min=1, help="Rows to print.")] = 10,
    run_date: RunDate = None,
    as_json: AsJson = False,
) -> None:
    """Print a user's list with titles: the published one, or with --ratings-of the one for these ratings, untrained.

    --ratings-of is for a user who arrived today, or rated more since the night; --user says who it is, if known.
    """
    from cfjobs import lookups

    if ratings_of is not None:
        found = lookups.fold_in(output, ratings_of, user=user, run_date=_date(run_date))
    elif user is not None:
        found = lookups.user_list(output, user, run_date=_date(run_date))
    else:
        raise typer.BadParameter("give --user, --ratings-of, or both")
    if as_json:
        rows = found.frame.head(n).to_dicts()
        _show(
            {
                "user_id": found.user_id,
                "run_date": found.run_date.isoformat(),
                "source": found.source,
                "movies": rows,
                "unknown_movies": found.unknown_movies,
            },
            as_json=True,
        )
    else:
        print_list(found, n=n)


@app.command()
def history(output: OutputUri, as_json: AsJson = False) -> None:
    """List the published nights: date, version for `cfjobs rollback`, run, gate, metrics and counts."""
    from cfjobs import nights, storage

    found = nights.published(storage.normal(output))
    if as_json:
        _show({"nights": [night.model_dump(mode="json") for night in found]}, as_json=True)
    else:
        print_history(found)


@app.command()
def rollback(
    output: OutputUri,
    to: Annotated[
        str,
        typer.Option(
            "--to", metavar="RUN_DATE|VERSION", help="The night to go back to, as `cfjobs history` lists it."
        ),
    ],
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; it is recorded.")] = "",
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Bring all tables back to the state in which a night had just been published.

    Nights published after it disappear. Who asked and why is recorded in each table's log and in `rollbacks`.
    """
    from cfjobs import nights

    done = nights.rollback(output, to=to, who=_who(), why=reason, dry_run=dry_run)
    _show(done.model_dump(mode="json"), as_json=as_json)


@app.command()
def retain(
    output: OutputUri,
    nights: Annotated[int, typer.Option("--nights", min=1, help="How many of the newest nights stay.")],
    min_age_hours: Annotated[
        float,
        typer.Option(
            "--min-age-hours",
            min=0,
            help="Files younger than this stay, whatever they are: longer than the longest night and the longest read.",
        ),
    ] = 48,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Remove old nights, files that no kept night needs, old models and the work of abandoned runs."""
    from cfjobs import nights as published

    done = published.retain(output, nights=nights, min_age=timedelta(hours=min_age_hours), dry_run=dry_run)
    _show(done.model_dump(mode="json"), as_json=as_json)


@app.command()
def backfill(
    ratings: RatingsUri,
    output: OutputUri,
    first: Annotated[datetime, typer.Option("--from", formats=["%Y-%m-%d"], help="First date.")],
    last: Annotated[datetime, typer.Option("--to", formats=["%Y-%m-%d"], help="Last date, itself included.")],
    movies: MoviesUri = None,
    users: UsersUri = None,
    config: ConfigFile = None,
    set_: Settings = None,
    force: Annotated[bool, typer.Option("--force", help="Publish dates again that are published.")] = False,
    as_json: AsJson = False,
) -> None:
    """Publish a range of dates, each from the ratings up to that date only.

    Dates that are published already are skipped, so the same command goes on where it stopped.
    """
    from cfjobs import backfill as range_of_nights

    with _progress() as progress:
        filled = range_of_nights.backfill(
            ratings_uri=ratings,
            output=output,
            first=first.date(),
            last=last.date(),
            movies=movies,
            users=users,
            config=load_config(config, set_ or ()),
            force=force,
            progress=progress,
        )
    if as_json:
        _show({"nights": [night.model_dump(mode="json") for night in filled]}, as_json=True)
    else:
        for night in filled:
            console.print(
                f"{night.run_date}: {night.outcome}, {plain(night.detail)}", highlight=False, markup=False
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
    """Write a generated, MovieLens-like data set whose planted tastes a good model finds."""
    from cfjobs import sample as generated
    from cfjobs import storage
    from cfjobs.saved import parquet_bytes

    data = generated.generate(n_users=users, n_movies=movies, n_ratings=ratings, seed=seed)
    uris = {
        name: storage.join(storage.normal(output), name, f"{name}.parquet") for name in ("ratings", "movies")
    }
    for name, frame in (("ratings", data.ratings), ("movies", data.movies)):
        storage.write_bytes(uris[name], parquet_bytes(frame))
    _show(
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
    source: Annotated[str, typer.Argument(help="GroupLens .zip or folder.")],
    output: OutputUri,
    as_json: AsJson = False,
) -> None:
    """Turn a GroupLens download (ratings.csv, ratings.dat or u.data) into the input tables."""
    from cfjobs import grouplens

    _show(dict(grouplens.import_to(source, output)), as_json=as_json)


@app.command()
def tune(
    ratings: RatingsUri,
    output: OutputUri,
    movies: MoviesUri = None,
    users: UsersUri = None,
    objective: Annotated[
        str, typer.Option("--objective", help="rmse: of the predicted stars; ndcg: nDCG@10 of the lists.")
    ] = "ndcg",
    trials: Annotated[
        int, typer.Option("--trials", min=1, help="Trials in all, earlier ones included.")
    ] = 50,
    timeout: Annotated[
        float | None, typer.Option("--timeout", min=0, metavar="SECONDS", help="Begin no trial after this.")
    ] = None,
    run_date: RunDate = None,
    config: ConfigFile = None,
    set_: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Search for better knobs on the training ratings; writes OUTPUT/tune/OBJECTIVE.toml for --config.

    The holdout is never looked at. A search that was stopped goes on by the same command.
    Needs Optuna: pip install 'cfjobs[tune]'.
    """
    from cfjobs.explore import tuned

    with _progress() as progress:
        found = tuned(
            ratings,
            output=output,
            objective=objective,
            trials=trials,
            timeout=timeout,
            run_date=_date(run_date),
            config=load_config(config, set_ or ()),
            movies=movies,
            users=users,
            on_trial=lambda n, value, best: progress(
                "tune", (n + 1) / trials, f"trial {n + 1}: {value:.4f}, best {best:.4f}"
            ),
        )
    _show(found, as_json=as_json)


@app.command(name="lr-find")
def lr_find(
    ratings: RatingsUri,
    movies: MoviesUri = None,
    users: UsersUri = None,
    svg: Annotated[Path, typer.Option("--svg", metavar="FILE.svg", help="Where the plot goes.")] = Path(
        "lr-find.svg"
    ),
    steps: Annotated[
        int, typer.Option("--steps", min=20, help="Steps from the lowest rate to the highest.")
    ] = 200,
    run_date: RunDate = None,
    config: ConfigFile = None,
    set_: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Find a learning rate: the loss while the rate rises from step to step, as a plot and as two suggestions.

    Trains the rating network by batches for a few hundred steps on the ratings outside the holdout, and forgets it.
    A rate found here is for batches: set it together with optimizer=adam.
    """
    from cfjobs.explore import learning_rates_tried

    found = learning_rates_tried(
        ratings,
        svg=svg,
        steps=steps,
        run_date=_date(run_date),
        config=load_config(config, set_ or ()),
        movies=movies,
        users=users,
    )
    if as_json:
        _show(found, as_json=True)
    else:
        console.print(found["sketch"], markup=False, highlight=False)
        _show(
            {name: value for name, value in found.items() if name not in {"points", "sketch"}}, as_json=False
        )


@app.command(name="config")
def config_(config: ConfigFile = None, set_: Settings = None, as_json: AsJson = False) -> None:
    """Print every configuration key with its value and meaning, as a TOML file."""
    found = load_config(config, set_ or ())
    if as_json:
        about = {
            name: {"value": getattr(found, name), "default": field.default, "meaning": field.description}
            for name, field in Config.model_fields.items()
        }
        _show(about, as_json=True)
    else:
        print(as_toml(found))


_NO_MEMORY = ("memory", "failed to map segment", "can't start new thread")
"""What libraries say, other than MemoryError, when there is none left."""


def main() -> NoReturn:
    """Run the command line and end at once: the threads of native libraries were seen to abort an interpreter that
    takes itself apart under them."""
    code = run()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:  # whoever read it has gone
        code = code or 1
    os._exit(code)


def run() -> int:
    """Run the command line; every explained end is one line and an exit code."""
    code: str | int | None = 0
    try:
        if "TORCHELASTIC_RUN_ID" in os.environ:
            _among_processes()
        else:
            app()
    except SystemExit as ended:
        code = ended.code
    except CfjobsError as error:
        code = _explain(error)
    except (MemoryError, RuntimeError, ImportError) as error:
        if not isinstance(error, MemoryError) and not any(sign in str(error) for sign in _NO_MEMORY):
            raise
        print(
            f"cfjobs: out of memory ({usage.words()}): {plain(error)[:200]}; finished work is kept: rerun with more memory, or a lower shard_users or batch_size",
            file=sys.stderr,
        )
        code = 1
    return code if isinstance(code, int) else int(bool(code))


def _among_processes() -> NoReturn:
    """Run the command as rank 0 of torchrun, or follow its trainings."""
    from cfjobs import jobs, torchrun

    code: str | int | None = 0
    try:
        with torchrun.session(jobs.follow) as leads:
            if leads:
                app()
    except SystemExit as ended:
        code = ended.code
    except CfjobsError as error:
        code = _explain(error)
    torchrun.leave(code if isinstance(code, int) else 0)


def _explain(error: CfjobsError) -> int:
    """Print an explained end as one line; returns its exit code."""
    print(f"cfjobs: {plain(error)}", file=sys.stderr)
    if "--json" in sys.argv:
        print(json.dumps({"error": str(error), "exit_code": error.exit_code}))
    return error.exit_code


def log_to_stderr(level: int = logging.INFO) -> None:
    """Show what `cfjobs` logs: plain lines, or beside the progress bars on a terminal."""
    handler: logging.Handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", datefmt="%H:%M:%S"))
    if errors.is_terminal:
        handler = RichHandler(
            console=errors, show_path=False, show_level=False, markup=False, log_time_format="%H:%M:%S"
        )
    logger = logging.getLogger("cfjobs")
    logger.handlers, logger.propagate = [handler], False
    logger.setLevel(level)


def print_list(found: "UserList", *, n: int) -> None:
    """A user's list as a table for people."""
    who = "A user without an id" if found.user_id is None else f"User {plain(found.user_id)}"
    table = Table(
        title=Text(f"{who}, {found.run_date}, {found.source}"),
        title_justify="left",
        box=None,
    )
    for name in found.frame.columns:
        table.add_column(name, justify="left" if name == "title" else "right")
    for row in found.frame.head(n).iter_rows():
        table.add_row(*(Text(f"{value:.3f}" if isinstance(value, float) else plain(value)) for value in row))
    console.print(table)
    if found.unknown_movies:
        named = ", ".join(plain(movie) for movie in found.unknown_movies)
        console.print(f"left out, unknown to the model: {named}", markup=False, highlight=False)


def print_history(nights: "Sequence[PublishedNight]") -> None:
    """The published nights as a table for people, and under it what an override had overridden."""
    metrics = {"rmse": "rmse", "ndcg_at_10": "ndcg", "recall_at_10": "recall"}
    table = Table(box=None)
    for name in ("night", "version", *metrics.values(), "users", "lists", "gate"):
        table.add_column(name, justify="left" if name in {"night", "gate"} else "right", no_wrap=True)
    for night in nights:
        values = [night.metrics.get(name) for name in metrics]
        table.add_row(
            str(night.run_date),
            str(night.version),
            *("" if value is None else f"{value:.4f}" for value in values),
            *(f"{night.counts.get(name, 0):,}" for name in ("users", "lists")),
            plain(night.gate.partition(":")[0]),
        )
    console.print(table)
    for night in nights:
        if ":" in night.gate:
            console.print(f"{night.run_date}: {plain(night.gate)}", markup=False, highlight=False)


def _who() -> str:
    """Who asks: CFJOBS_USER where an operator's tool sets it, else the system's user."""
    try:
        return os.environ.get("CFJOBS_USER") or getpass.getuser()
    except (OSError, KeyError):
        return f"uid {os.getuid()}"


def plain(value: object) -> str:
    """Text that is safe to print: control characters, such as escape sequences in a title, become '?'."""
    return "".join(c if c.isprintable() else "?" for c in str(value))


def _date(moment: datetime | None) -> date | None:
    return moment.date() if moment else None


def _show(result: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(result, ensure_ascii=False))
        return
    for name, value in result.items():
        if isinstance(value, dict):
            console.print(f"{name}:", markup=False, highlight=False)
            for key, inner in value.items():
                console.print(f"  {key:<20} {_text(inner)}", markup=False, highlight=False, soft_wrap=True)
        else:
            console.print(f"{name}: {_text(value)}", markup=False, highlight=False, soft_wrap=True)


def _text(value: object) -> str:
    return f"{value:.4f}" if isinstance(value, float) else plain(value)


@contextmanager
def _progress() -> Iterator[Callable[[str, float, str], None]]:
    """A bar for each stage on a terminal; nothing elsewhere, where the log tells."""
    bars = Progress(
        TextColumn("{task.fields[stage]:>8}"),
        BarColumn(),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
        console=errors,
        disable=not errors.is_terminal,
    )
    tasks: dict[str, Any] = {}
    with bars:

        def update(stage: str, share: float, words: str) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task("", total=1.0, stage=stage)
            bars.update(tasks[stage], completed=share, description=plain(words))

        yield update


import cfjobs.cli_look  # noqa: E402, F401  # its commands join this application

if __name__ == "__main__":
    main()
