"""The commands that hand on what was published: export."""

from typing import Annotated

import typer

from cfjobs.cli.app import app, progress_bars, show
from cfjobs.cli.options import AsJson, PublishedDate, PublishedOutput, as_date


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

    A reader has what was there before, or all of it. A password is best left to PGPASSWORD or ~/.pgpass; it
    is never shown. Postgres needs the driver: pip install 'cfjobs\\[postgres]'.
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
    show(done.model_dump(mode="json"), as_json=as_json)
