"""The commands that hand on what was published, and hold it against another: export, views, compare."""

import json
from typing import TYPE_CHECKING, Annotated

import typer

from cfjobs.cli.app import app, console, plain, progress_bars, show
from cfjobs.cli.options import AsJson, PublishedDate, PublishedOutput, as_date
from cfjobs.cli.query import print_rows

if TYPE_CHECKING:
    from cfjobs.report.compare import Compared


@app.command()
def export(
    output: PublishedOutput,
    to: Annotated[
        str,
        typer.Option(
            "--to",
            metavar="URI",
            envvar="CFJOBS_EXPORT_TO",
            help="A file that ends in .csv, .jsonl, .parquet or .sqlite, here or s3://..., or postgresql://host/database.",
        ),
    ],
    form: Annotated[
        str | None,
        typer.Option("--format", metavar="csv|jsonl|parquet|sqlite", help="Where the name does not say it."),
    ] = None,
    top: Annotated[
        int | None, typer.Option("--top", min=1, help="Places of each list; all by default.")
    ] = None,
    users: Annotated[
        str | None,
        typer.Option("--users", metavar="URI", help="Table of user_id: only the lists of these users."),
    ] = None,
    titles: Annotated[
        bool, typer.Option("--with-titles/--without-titles", help="With the title of each movie.")
    ] = True,
    table: Annotated[
        str | None,
        typer.Option("--table", metavar="NAME", help="Table of the database; top_n by default."),
    ] = None,
    in_place: Annotated[
        bool,
        typer.Option(
            "--in-place",
            help="Postgres: replace the rows of the table, not the table; slower, for readers with long snapshots.",
        ),
    ] = False,
    run_date: PublishedDate = None,
    as_json: AsJson = False,
) -> None:
    """Write the lists of a night for an app: CSV, JSON lines, Parquet, SQLite, or a table of Postgres.

    A reader has what was there before, or all of it.
    A password is never shown; leave it to PGPASSWORD or ~/.pgpass.
    Postgres needs the driver: pip install 'cfjobs\\[postgres]'.
    """
    from cfjobs.export import export

    with progress_bars() as progress:
        done = export(
            output,
            to,
            form=form,
            run_date=as_date(run_date),
            top=top,
            users=users,
            titles=titles,
            table=table,
            in_place=in_place,
            progress=progress,
        )
    found = done.model_dump(mode="json")
    show(
        found if as_json else {name: value for name, value in found.items() if value is not None},
        as_json=as_json,
    )


@app.command()
def compare(
    a: Annotated[str, typer.Option("--a", metavar="URI[@DATE]", help="An output; its latest night, or one.")],
    b: Annotated[
        str, typer.Option("--b", metavar="URI[@DATE]", help="The other, such as the same output@2026-03-01.")
    ],
    as_json: AsJson = False,
) -> None:
    """Compare two nights, of one output or of two: settings, metrics, and lists ten against ten."""
    from cfjobs.report import compare

    found = compare.compare(a, b)
    if as_json:
        show(found.model_dump(mode="json"), as_json=True)
    else:
        print_compared(found)


@app.command()
def views(
    engine: Annotated[
        str, typer.Option("--engine", metavar="duckdb|spark|athena|trino", help="Whose SQL to print.")
    ] = "duckdb",
    output: Annotated[
        str | None,
        typer.Option(
            "--output", metavar="URI", help="Declare its tables first; without it, the views alone."
        ),
    ] = None,
    database: Annotated[
        str | None,
        typer.Option(
            "--database", metavar="NAME", help="Where tables and views go; without it, where the file is run."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Print SQL views over the published tables, as a file to run: tonight, tonight_titled, movie_reach,
    changes and tonight_by_value."""
    from cfjobs.tables import views

    text = views.sql(engine, output, database=database)
    if as_json:
        show({"engine": engine, "sql": text}, as_json=True)
    else:
        print(text, end="")


def print_compared(found: "Compared") -> None:
    """Two nights side by side, as tables for people."""
    for name, label in (("a", found.a), ("b", found.b)):
        console.print(f"{name}  {plain(label)}", markup=False, highlight=False, soft_wrap=True)
    settings = [
        {"setting": name, "a": json.dumps(a), "b": json.dumps(b)} for name, (a, b) in found.settings.items()
    ]
    print_rows(settings, title="Settings that differ")
    rows = [
        {
            "metric": row.metric.replace("_published", ", published"),
            "a": _interval(row.a, row.a_low, row.a_high),
            "b": _interval(row.b, row.b_low, row.b_high),
            "difference": "" if row.difference is None else f"{row.difference:+.4f} {row.verdict}".rstrip(),
        }
        for row in found.metrics
        if "_against_" not in row.metric  # nDCG once more, for its baseline
    ]
    print_rows(rows, title="Metrics, with 95 % intervals")
    lists = found.lists
    facts = [
        f"{lists.users:,} users have a list in both; {lists.only_a:,} in a only, {lists.only_b:,} in b only"
    ]
    if lists.users and lists.overlap is not None:
        facts += [
            f"of a's first ten, {lists.overlap:.1f} are in b's on average",
            f"{lists.same:.1%} have the same ten in the same order, {lists.first_changed:.1%} another first movie",
            f"users by the number of their new movies, 0 to 10: {' '.join(f'{n:,}' for n in lists.users_by_new)}",
        ]
    for line in ("Lists, ten against ten", *(f"  {fact}" for fact in facts)):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    for title, moved in (("Gain places", found.gained), ("Lose places", found.lost)):
        titled = any(movie.title is not None for movie in moved)
        columns = ["movie_id", *(["title"] if titled else []), "a", "b"]
        print_rows([{name: getattr(movie, name) for name in columns} for movie in moved], title=title)


def _interval(value: float | None, low: float | None, high: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.4f}" + (f" [{low:.3f}, {high:.3f}]" if low is not None and high is not None else "")
