"""The commands that read what a night published: recs, predict, movies, similar, explain, report."""

import webbrowser
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from cfjobs.cli.app import app, console, plain, show
from cfjobs.cli.options import AsJson, ModelUri, PublishedDate, PublishedOutput, as_date
from cfjobs.tables import rule_words

if TYPE_CHECKING:
    from cfjobs.query.lookup import UserList


@app.command()
def recs(
    output: PublishedOutput,
    user: Annotated[str | None, typer.Option("--user", metavar="ID", help="Whose list.")] = None,
    ratings_of: Annotated[
        str | None,
        typer.Option(
            "--ratings-of",
            metavar="FILE",
            help="CSV or Parquet of one user's ratings (movie_id, rating, timestamp if there is one): their list, made now.",
        ),
    ] = None,
    per: Annotated[
        str | None,
        typer.Option(
            "--per",
            metavar="COLUMN",
            help="The user's lists of each value of it, such as genres (lists_per).",
        ),
    ] = None,
    value: Annotated[
        str | None, typer.Option("--value", metavar="VALUE", help="With --per: the list of this value alone.")
    ] = None,
    n: Annotated[int, typer.Option("-n", min=1, help="Rows to print, of each list.")] = 10,
    run_date: PublishedDate = None,
    as_json: AsJson = False,
) -> None:
    """Print a user's list with titles: the published one,
    or with --ratings-of the one for these ratings, untrained.

    --ratings-of is for a user who arrived today, or rated more since the night; --user says who it is,
    if known. --per genres prints the published lists of each genre, where the night made them.
    """
    if per is not None or value is not None:
        if user is None or per is None or ratings_of is not None:
            raise typer.BadParameter("--per goes with --user alone, and --value with --per")
        print_lists_per(output, user, per, value=value, n=n, run_date=as_date(run_date), as_json=as_json)
        return
    if ratings_of is not None:
        from cfjobs.query import new_user

        found = new_user.list_of(output, ratings_of, user=user, run_date=as_date(run_date))
    elif user is not None:
        from cfjobs.query import lookup

        found = lookup.user_list(output, user, run_date=as_date(run_date))
    else:
        raise typer.BadParameter("give --user, --ratings-of, or both")
    if as_json:
        show(
            {
                "user_id": found.user_id,
                "run_date": found.run_date.isoformat(),
                "source": found.source,
                "movies": found.rows[:n],
                "unknown_movies": found.unknown_movies,
            },
            as_json=True,
        )
    else:
        print_list(found, n=n)


@app.command()
def predict(
    model: ModelUri,
    pairs: Annotated[
        str | None, typer.Option("--pairs", metavar="PARQUET", help="Parquet with user_id, movie_id.")
    ] = None,
    out: Annotated[
        str | None,
        typer.Option("--out", metavar="PARQUET", help="Where to write the pairs with predicted_rating."),
    ] = None,
    user: Annotated[str | None, typer.Option("--user", metavar="ID", help="One user ...")] = None,
    movie: Annotated[
        str | None, typer.Option("--movie", metavar="TITLE|ID", help="... and one movie.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Predict ratings: --pairs and --out for a file, --user and --movie for one pair."""
    from cfjobs.query import predict as predictions

    if pairs and out and not user and not movie:
        n_rows = predictions.predict_pairs(model, pairs, out)
        show({"rows": n_rows, "out": out}, as_json=as_json)
    elif user and movie and not pairs and not out:
        found = predictions.predict_one(model, user, movie)
        if as_json:
            show(found, as_json=True)
        else:
            notes = [
                f"{what} {found[f'{what}_id']} is unknown to the model; an average one is assumed"
                for what in ("user", "movie")
                if not found[f"{what}_known"]
            ]
            console.print(f"{found['predicted_rating']:.2f}", *notes, sep="\n", highlight=False, markup=False)
    else:
        raise typer.BadParameter("give --pairs and --out, or --user and --movie")


@app.command()
def movies(
    search: Annotated[str, typer.Argument(help="Words of the title, or an id.")],
    output: PublishedOutput,
    n: Annotated[int, typer.Option("-n", min=1, help="Rows to print.")] = 20,
    run_date: PublishedDate = None,
    as_json: AsJson = False,
) -> None:
    """Search the published movies by title; the most rated first."""
    from cfjobs.query import movies

    found = movies.search(output, search, run_date=as_date(run_date), n=n)
    if as_json:
        show({"movies": found}, as_json=True)
    else:
        print_rows(found, title=f"Movies with “{search}”")


@app.command()
def similar(
    movie: Annotated[
        str,
        typer.Argument(metavar="TITLE|ID", help="Its id, its title, or words found in no other title."),
    ],
    output: PublishedOutput,
    listable: Annotated[
        bool, typer.Option("--listable", help="Without movies that could not be listed that night.")
    ] = False,
    n: Annotated[int, typer.Option("-n", min=1, max=50, help="Rows to print.")] = 10,
    run_date: PublishedDate = None,
    as_json: AsJson = False,
) -> None:
    """Print the movies most similar to one: those that please the same people, whether or not they could be
    listed that night."""
    from cfjobs.query import movies

    found = movies.similar(output, movie, run_date=as_date(run_date), n=n, listable=listable)
    if as_json:
        about = {"movie_id": found.movie_id, "title": found.title, "run_date": found.run_date.isoformat()}
        show(about | {"movies": found.rows}, as_json=True)
    else:
        withheld = sum(row["listable"] is False for row in found.rows)
        rows = [
            {name: value for name, value in row.items() if name != "listable"}
            | ({"listable": {True: "yes", False: "no"}.get(row["listable"])} if withheld else {})
            for row in found.rows
        ]
        print_rows(
            rows,
            title=f"Like {found.title or found.movie_id}, {found.run_date}",
            caption=f"{withheld} of {len(rows)} could not be listed that night; --listable leaves such movies out"
            if withheld
            else None,
        )


@app.command()
def explain(
    user: Annotated[str, typer.Option("--user", metavar="ID", help="Whose list.")],
    movie: Annotated[
        str,
        typer.Option(
            "--movie", metavar="TITLE|ID", help="Its id, its title, or words found in no other title."
        ),
    ],
    output: PublishedOutput,
    ratings: Annotated[
        str | None,
        typer.Option("--ratings", metavar="URI", help="Rating files, if they have moved since the night."),
    ] = None,
    run_date: PublishedDate = None,
    as_json: AsJson = False,
) -> None:
    """Explain why a user has, or has not, a movie in their list: what they liked, and the rest."""
    from cfjobs.query import explain, reasons

    found = explain.explain(output, user, movie, run_date=as_date(run_date), ratings_uri=ratings)
    if as_json:
        show(explain.as_json(found), as_json=True)
        return
    told = reasons.of(found)
    for line in told.begin:
        console.print(plain(line), markup=False, highlight=False, soft_wrap=True)
    for title, rows in told.groups:
        print_rows(rows, title=title)
    for line in told.end:
        console.print(plain(line), markup=False, highlight=False, soft_wrap=True)


@app.command()
def report(
    output: PublishedOutput,
    run_date: PublishedDate = None,
    open_: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
    as_json: AsJson = False,
) -> None:
    """Build the page of a published night next to its tables and print its URI.

    With --open, a page in an object store is first copied to a temporary folder.
    """
    from cfjobs import report, storage

    uri = report.build(storage.normal(output), run_date=as_date(run_date))
    if open_:
        webbrowser.open(local_copy(uri).as_uri())
    show({"report": uri}, as_json=as_json)


def local_copy(uri: str) -> Path:
    """The page as a file on this machine."""
    import tempfile

    from cfjobs import storage

    if not storage.is_s3(uri):
        return Path(uri)
    copy = Path(tempfile.mkdtemp(prefix="cfjobs-")) / "index.html"
    copy.write_bytes(storage.read_bytes(uri))
    return copy


_CAPTION = "stars: the predicted rating; score: what orders this list, comparable within it only"


def print_lists_per(
    output: str,
    user: str,
    column: str,
    *,
    value: str | None,
    n: int,
    run_date: date | None,
    as_json: bool,
) -> None:
    """A user's lists of the values of a column, one table after another."""
    from cfjobs.query import lookup

    found = lookup.lists_per(output, user, column, value=value, run_date=run_date)
    if as_json:
        about = {"user_id": found.user_id, "run_date": found.run_date.isoformat(), "column": found.column}
        lists = [
            {"value": name, "source": of.source, "movies": of.rows[:n]} for name, of in found.lists.items()
        ]
        show(about | {"lists": lists}, as_json=True)
        return
    for name, of in found.lists.items():
        print_rows(
            _rows_of(of, n=n), title=f"User {found.user_id}, {found.run_date}, {of.source}, {column}: {name}"
        )
    caption = "stars: the predicted rating; score: what orders the lists, comparable within this user's only"
    console.print(caption, markup=False, highlight=False, soft_wrap=True)


def print_list(found: "UserList", *, n: int) -> None:
    """A user's list as a table for people."""
    who = "A user without an id" if found.user_id is None else f"User {found.user_id}"
    print_rows(_rows_of(found, n=n), title=f"{who}, {found.run_date}, {found.source}", caption=_CAPTION)
    if found.unknown_movies:
        named = ", ".join(plain(movie) for movie in found.unknown_movies)
        console.print(f"left out, unknown to the model: {named}", markup=False, highlight=False)


def _rows_of(found: "UserList", *, n: int) -> list[dict[str, Any]]:
    """The first rows of a list as people look at them."""
    rows = [
        {name: row[name] for name in ("rank", "movie_id", "title", "genres") if name in row}
        | {"stars": _stars(row["predicted_rating"]), "score": row["score"], "rule": _rule(row)}
        for row in found.rows[:n]
    ]
    empty = [name for name in ("stars", "rule") if all(row[name] is None for row in rows)]
    return [{name: value for name, value in row.items() if name not in empty} for row in rows]


def _stars(value: float | None) -> str | None:
    return None if value is None else f"{value:.1f}"


def _rule(row: Mapping[str, Any]) -> str | None:
    """What put a movie in its place, in words; None where it stands by its score."""
    rule = row.get("rule")
    return None if rule is None else rule_words.OF_PLACE.get(rule, rule)


_TEXT = ("title", "genres", "metric")
"""Columns that may be broken into lines; all others stand whole."""


def print_rows(rows: Sequence[Mapping[str, Any]], *, title: str, caption: str | None = None) -> None:
    """Rows as a table for people: numbers and ids to the right, text that cannot steer the terminal.

    Where the width does not do, titles are broken into lines, and ids and numbers stand out over it.
    """
    if not rows:
        return
    table = Table(title=Text(plain(title)), title_justify="left", box=None)
    for name in rows[0]:
        text = name in (*_TEXT, "rule") or any(isinstance(row[name], date) for row in rows)
        whole = name not in _TEXT
        table.add_column(name, justify="left" if text else "right", no_wrap=whole, overflow="fold")
    for row in rows:
        table.add_row(*(Text(_cell(value)) for value in row.values()))
    least = sum(_width(rows, name) + 2 for name in rows[0])
    if least > console.width:
        table.width = least
    console.print(table, crop=False, overflow="ignore")
    if caption:
        console.print(caption, markup=False, highlight=False, soft_wrap=True)


def _width(rows: Sequence[Mapping[str, Any]], name: str) -> int:
    """The least width of a column: of whole cells, or a little of a text."""
    longest = max(len(name), *(len(_cell(row[name])) for row in rows))
    return min(longest, 16) if name in _TEXT else longest


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    if isinstance(value, (list, tuple)):
        return ", ".join(plain(part) for part in value)
    return "" if value is None else plain(value)
