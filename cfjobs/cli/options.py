"""The options that several commands take: each with its name and help once, and those that go together as a
record."""

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from cfjobs.config import Config
    from cfjobs.night.records import Inputs

RatingsUri = Annotated[
    str,
    typer.Option(
        "--ratings",
        metavar="URI",
        help="Ratings: a Parquet file, a folder of them, or a Delta or Iceberg table (docs/input.md).",
    ),
]
OutputUri = Annotated[
    str, typer.Option("--output", metavar="URI", help="Where tables and models are published.")
]
PublishedOutput = Annotated[
    str,
    typer.Option("--output", metavar="URI", envvar="CFJOBS_OUTPUT", help="Where the tables were published."),
]
MoviesUri = Annotated[
    str | None,
    typer.Option("--movies", metavar="URI", help="Movies table: movie_id, title, any further columns."),
]
UsersUri = Annotated[
    str | None,
    typer.Option(
        "--users", metavar="URI", help="Users table: user_id; these users get a list even without ratings."
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
        "--exclude",
        metavar="URI",
        help="Table of user_id, movie_id: pairs left out in addition to the rated ones.",
    ),
]
ModelUri = Annotated[str, typer.Option("--model", metavar="URI", help="Folder of a model.")]
RunDate = Annotated[
    datetime | None,
    typer.Option(
        "--run-date",
        formats=["%Y-%m-%d"],
        help="The date that the night is published under, and the last day whose ratings it uses; today (UTC) by default.",
    ),
]
PublishedDate = Annotated[
    datetime | None,
    typer.Option(
        "--run-date",
        formats=["%Y-%m-%d"],
        help="Read the night that was published under this date, as it was then; the latest by default.",
    ),
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

Force = Annotated[bool, typer.Option("--force", help="Publish although a newer date is published already.")]

DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Report what would be done without changing anything.")
]


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """What a training reads, and its configuration."""

    ratings: RatingsUri
    movies: MoviesUri = None
    users: UsersUri = None
    config: ConfigFile = None
    set_: Settings = None

    def inputs(self, *, model: str | None = None) -> "Inputs":
        """What is read."""
        from cfjobs.night.records import Inputs

        return Inputs(ratings=self.ratings, movies=self.movies, users=self.users, model=model)

    def loaded(self, *more: str) -> "Config":
        """The configuration: of the file, the settings, and more of them."""
        from cfjobs.config import load_config

        return load_config(self.config, [*(self.set_ or ()), *more])


@dataclass(frozen=True, kw_only=True)
class NightOptions(TrainingOptions):
    """The same, and what may be listed."""

    allow: AllowUri = None
    deny: DenyUri = None
    exclude: ExcludeUri = None

    def inputs(self, *, model: str | None = None) -> "Inputs":
        limits = {"allow": self.allow, "deny": self.deny, "exclude": self.exclude}
        return super().inputs(model=model).model_copy(update=limits)


def with_options(function: Callable[..., None]) -> Callable[..., None]:
    """The command as Typer has to see it: a parameter that is a record of options becomes those options,
    the required ones first."""
    own = inspect.signature(function).parameters
    records: dict[str, Any] = {n: p.annotation for n, p in own.items() if is_dataclass(p.annotation)}
    shown: list[inspect.Parameter] = []
    for name, parameter in own.items():
        inner = inspect.signature(records[name]).parameters.values() if name in records else [parameter]
        shown += [option.replace(kind=inspect.Parameter.KEYWORD_ONLY) for option in inner]
    shown.sort(key=lambda option: option.default is not inspect.Parameter.empty)

    @functools.wraps(function)
    def run(**given: Any) -> None:
        for name, record in records.items():
            given[name] = record(**{field.name: given.pop(field.name) for field in fields(record)})
        function(**given)

    run.__signature__ = inspect.Signature(shown)  # type: ignore[attr-defined]  # Typer reads it
    run.__annotations__ = {option.name: option.annotation for option in shown}
    return run


def as_date(moment: datetime | None) -> date | None:
    """The date of an option."""
    return moment.date() if moment else None
