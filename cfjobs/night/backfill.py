"""A range of nights, each from the ratings up to its date:
the same command again goes on where it stopped."""

import logging
from collections.abc import Callable
from datetime import date, timedelta
from typing import Literal

from cfjobs.config import Config
from cfjobs.errors import CfjobsError, InputError
from cfjobs.night import story
from cfjobs.night.records import Inputs
from cfjobs.record import Record
from cfjobs.tables import runs

log = logging.getLogger(__name__)


class Filled(Record):
    """What became of one date of a backfill. detail: the run, or why there is none."""

    run_date: date
    outcome: Literal["published", "skipped"]
    detail: str


class BackfillStopped(CfjobsError):
    """A date could not be published; those before it are."""


def backfill(
    inputs: Inputs,
    *,
    output: str,
    first: date,
    last: date,
    config: Config | None = None,
    force: bool = False,
    progress: Callable[[str, float, str], None] | None = None,
) -> list[Filled]:
    """Publish each date from first to last, oldest first; a date that is published stays, unless forced.

    Raises BackfillStopped, with the exit code of the cause, at the first date that cannot be published.
    """
    if first > last:
        raise InputError(f"backfill: --from {first} is after --to {last}; give the earlier date first")
    there = {night.run_date: night.run_id for night in runs.published(output)}
    filled: list[Filled] = []
    for run_date in (first + timedelta(days=day) for day in range((last - first).days + 1)):
        if run_date in there and not force:
            log.info("%s is published already, by run %s", run_date, there[run_date])
            filled.append(
                Filled(run_date=run_date, outcome="skipped", detail=f"published by {there[run_date]}")
            )
            continue
        try:
            night = story.start(inputs, output=output, run_date=run_date, config=config)
            published = story.nightly(night, progress=progress)
        except CfjobsError as error:
            stopped = BackfillStopped(
                f"backfill: stopped at {run_date} after {len(filled)} dates: {error}; the same command goes on there"
            )
            stopped.exit_code = error.exit_code
            raise stopped from error
        filled.append(Filled(run_date=run_date, outcome="published", detail=published.run_id))
    return filled
