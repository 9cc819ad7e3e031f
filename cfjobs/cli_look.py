"""The commands that look around in what a night left: movies, similar, explain, report."""

import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from cfjobs.cli import AsJson, OutputUri, RunDate, _date, _show, app, console, plain

if TYPE_CHECKING:
    from polars import DataFrame

_MOVIES_SHOWN = 10


@app.command()
def movies(
    search: Annotated[str, typer.Argument(help="Words of the title, or an id.")],
    output: OutputUri,
    n: Annotated[int, typer.Option("-n", min=1, help="Rows to print.")] = 20,
    run_date: RunDate = None,
    as_json: AsJson = False,
) -> None:
    """Search the published movies by title; the most rated first."""
    from cfjobs import browse

    found = browse.search(output, search, run_date=_date(run_date), n=n)
    if as_json:
        _show({"movies": found.to_dicts()}, as_json=True)
    else:
        print_frame(found, title=f"Movies with “{search}”")


@app.command()
def similar(
    movie: Annotated[
        str,
        typer.Argument(metavar="TITLE-or-ID", help="Its id, its title, or words that only its title has."),
    ],
    output: OutputUri,
    n: Annotated[int, typer.Option("-n", min=1, max=50, help="Rows to print.")] = 10,
    run_date: RunDate = None,
    as_json: AsJson = False,
) -> None:
    """Print the movies that please the same people as one."""
    from cfjobs import browse

    found = browse.similar(output, movie, run_date=_date(run_date), n=n)
    if as_json:
        about = {"movie_id": found.movie_id, "title": found.title, "run_date": found.run_date.isoformat()}
        _show(about | {"movies": found.frame.to_dicts()}, as_json=True)
    else:
        print_frame(found.frame, title=f"Like {found.title or found.movie_id}, {found.run_date}")


@app.command()
def explain(
    user: Annotated[str, typer.Option("--user", metavar="ID", help="Whose list.")],
    movie: Annotated[str, typer.Option("--movie", metavar="ID", help="Which movie.")],
    output: OutputUri,
    ratings: Annotated[
        str | None,
        typer.Option(
            "--ratings", metavar="URI", help="Rating files, if they are not where the night read them."
        ),
    ] = None,
    run_date: RunDate = None,
    as_json: AsJson = False,
) -> None:
    """Say why a movie has its score for a user: which of the user's own ratings speak most for it."""
    import polars as pl

    from cfjobs import explain as explaining

    found = explaining.explain(output, user, movie, run_date=_date(run_date), ratings_uri=ratings)
    if as_json:
        _show(explaining.as_json(found), as_json=True)
        return
    parts = found.parts
    place = f"not in the list, place {found.place} of {found.n_candidates:,}"
    if found.rank:
        place = f"rank {found.rank} of {found.n_candidates:,} movies that could be listed"
    elif found.rated is not None:
        place = f"not listed, the user has rated it {found.rated:g}"
    elif found.place is None:
        place = "not listed, too few have rated it"
    name = plain(found.title or found.movie_id)
    lines = [
        f"{name} for user {plain(found.user_id)}, {found.run_date}: {place}, predicted rating {found.predicted_rating:.2f}",
        f"score {parts.score:+.3f} = bias {parts.bias:+.3f} + embedding {parts.embedding:+.3f} + history {sum(parts.history):+.3f}",
    ]
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    if parts.history:
        told = found.frame.drop("movie_id").with_columns(pl.col("rated_at").dt.date())
        print_frame(told.head(_MOVIES_SHOWN), title="Speak most for it")
        print_frame(told.tail(3).filter(pl.col("part") < 0), title="Speak most against it")


@app.command()
def report(
    output: OutputUri,
    run_date: RunDate = None,
    open_: Annotated[bool, typer.Option("--open", help="Show the page in the browser.")] = False,
    as_json: AsJson = False,
) -> None:
    """Build the page of a published night beside its tables, and say where it is.

    Opened from an object store, the page is first copied into the folder of temporary files.
    """
    from cfjobs import page, storage

    uri = page.build(storage.normal(output), run_date=_date(run_date))
    if open_:
        webbrowser.open(local_copy(uri).as_uri())
    _show({"report": uri}, as_json=as_json)


def local_copy(uri: str) -> Path:
    """The page as a file on this machine."""
    import tempfile

    from cfjobs import storage

    if not storage.is_s3(uri):
        return Path(uri)
    copy = Path(tempfile.mkdtemp(prefix="cfjobs-")) / "index.html"
    copy.write_bytes(storage.read_bytes(uri))
    return copy


def print_frame(frame: "DataFrame", *, title: str) -> None:
    """A frame as a table for people: numbers to the right, text that cannot steer the terminal."""
    if frame.is_empty():
        return
    table = Table(title=Text(plain(title)), title_justify="left", box=None)
    for name, dtype in frame.schema.items():
        table.add_column(name, justify="right" if dtype.is_numeric() else "left")
    for row in frame.iter_rows():
        table.add_row(
            *(
                Text(f"{value:.3f}" if isinstance(value, float) else "" if value is None else plain(value))
                for value in row
            )
        )
    console.print(table)
