"""The commands for the nights that were published: history, rollback, retain, doctor, backfill."""

import getpass
import os
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from cfjobs.cli.app import app, console, plain, progress_bars, show
from cfjobs.cli.options import AsJson, DryRun, NightOptions, OutputUri, PublishedOutput, with_options
from cfjobs.errors import InputError

if TYPE_CHECKING:
    from cfjobs.tables.runs import PublishedNight


@app.command()
def history(
    output: PublishedOutput,
    max_age: Annotated[
        str | None,
        typer.Option(
            "--max-age",
            metavar="HOURS|26h|2d",
            help="Exit with code 4 when no night was published within this time: for cron, or a probe.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the published nights: date, version for `cfjobs rollback`, run, gate, metrics and counts."""
    from cfjobs import storage
    from cfjobs.tables import runs

    longest = None if max_age is None else span(max_age)
    found = runs.published(storage.normal(output))
    if as_json:
        show({"nights": [night.model_dump(mode="json") for night in found]}, as_json=True)
    else:
        print_history(found)
    if longest is not None:
        runs.check_age(found, output, longest, now=datetime.now(UTC))


def span(text: str) -> timedelta:
    """A time such as 26h, 2d or 90m; a bare number is hours. InputError for anything else."""
    unit = {"m": "minutes", "h": "hours", "d": "days"}.get(text[-1:], "hours")
    try:
        number = float(text.rstrip("mhd") if text[-1:] in "mhd" else text)
        if not 0 < number < 1e6:
            raise ValueError(number)
    except ValueError:
        raise InputError(f"--max-age: got {text!r}, expected a time such as 26h, 2d or 90m") from None
    return timedelta(**{unit: number})


@app.command()
def rollback(
    output: OutputUri,
    to: Annotated[
        str,
        typer.Option(
            "--to", metavar="RUN_DATE|VERSION", help="The night to return to, as listed by `cfjobs history`."
        ),
    ],
    reason: Annotated[
        str, typer.Option("--reason", metavar="TEXT", help="The reason, which is recorded.")
    ] = "",
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Restore all tables to their state right after a night was published.

    Nights published after it are no longer visible.
    User and reason are recorded in each table's log and in `rollbacks`.
    """
    from cfjobs import report
    from cfjobs.tables import rollback

    done = rollback.rollback(output, to=to, who=_who(), why=reason, dry_run=dry_run)
    if not dry_run:
        report.build_nights(output)
    show(done.model_dump(mode="json"), as_json=as_json)


@app.command()
def retain(
    output: OutputUri,
    nights: Annotated[int, typer.Option("--nights", min=1, help="How many of the newest nights to keep.")],
    min_age_hours: Annotated[
        float,
        typer.Option(
            "--min-age-hours",
            min=0,
            help="Files younger than this are kept: choose more than the longest night and the longest read.",
        ),
    ] = 48,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Remove old nights, files that no remaining night needs, old models and the work of abandoned runs."""
    from cfjobs import report
    from cfjobs.tables import retention

    done = retention.retain(output, nights=nights, min_age=timedelta(hours=min_age_hours), dry_run=dry_run)
    if done.removed_nights and not dry_run:
        report.build_nights(output)
    show(done.model_dump(mode="json"), as_json=as_json)


@app.command()
def doctor(
    output: OutputUri,
    repair: Annotated[
        bool,
        typer.Option(
            "--repair",
            help="Bring half a night back to the one that `runs` names, write latest.json, remove old leftovers.",
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Look at an installation: tables against their logs and guarantees, versions in `runs`, models,
    leases, leftovers, clock.

    Says what is wrong and what would mend it. Exit code 0 when it is sound, 1 when a fault is left.
    """
    from cfjobs.night import doctor

    found = doctor.examine(output, repair=repair)
    if as_json:
        show(doctor.as_json(found), as_json=True)
    else:
        for line in doctor.as_text(found):
            console.print(plain(line), markup=False, highlight=False, soft_wrap=True)
    if not found.sound:
        raise typer.Exit(1)


@app.command()
@with_options
def backfill(
    options: NightOptions,
    output: OutputUri,
    first: Annotated[datetime, typer.Option("--from", formats=["%Y-%m-%d"], help="First date.")],
    last: Annotated[datetime, typer.Option("--to", formats=["%Y-%m-%d"], help="Last date, inclusive.")],
    force: Annotated[
        bool, typer.Option("--force", help="Publish dates again that are already published.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Publish a range of dates, each from the ratings up to that date only.

    Dates that are already published are skipped, so the same command continues where it stopped.
    """
    from cfjobs.night import backfill

    with progress_bars() as progress:
        filled = backfill.backfill(
            options.inputs(),
            output=output,
            first=first.date(),
            last=last.date(),
            config=options.loaded(),
            force=force,
            progress=progress,
        )
    if as_json:
        show({"nights": [night.model_dump(mode="json") for night in filled]}, as_json=True)
    else:
        for night in filled:
            console.print(
                f"{night.run_date}: {night.outcome}, {plain(night.detail)}", highlight=False, markup=False
            )


def print_history(nights: "Sequence[PublishedNight]") -> None:
    """The published nights as a table for people, followed by what each override of the gate overrode."""
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
    """The user to record: CFJOBS_USER where an operator's tool sets it, else the system's user."""
    try:
        return os.environ.get("CFJOBS_USER") or getpass.getuser()
    except (OSError, KeyError):
        return f"uid {os.getuid()}"
