"""Which date a run is for, and the end of a run that comes too late."""

import logging
from datetime import UTC, date, datetime

from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed

log = logging.getLogger("cfjobs.flows")


def planned_date() -> date:
    """The date (UTC) that this run was scheduled for, however late it starts; today without a schedule."""
    planned = flow_run.scheduled_start_time
    return (planned or datetime.now(UTC)).astimezone(UTC).date()


def night_name() -> str:
    """Name of a run: the night it is for."""
    return f"night of {flow_run.parameters.get('run_date') or planned_date()}"


def scoring_name() -> str:
    """Name of a run that scores alone."""
    return f"scoring for the {night_name()}"


def skipped(reason: str) -> State:
    """The end of a run that has nothing to do: completed, named Skipped, with the reason."""
    log.warning("skipped: %s", reason)
    state: State = Completed(name="Skipped", message=f"Skipped: {reason}")
    return state
