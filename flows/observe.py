"""What an operator sees of a run in Prefect: the log of `cfjobs`, progress, tables, the summary, events."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import httpx
from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.events import emit_event
from prefect.logging.handlers import APILogHandler
from prefect.runtime import flow_run

from cfjobs import logs, resources
from cfjobs.night.records import Night

_SECONDS_BETWEEN_UPDATES = 2.0
_SECONDS_BETWEEN_LINES = 30.0

PUBLISHED = "cfjobs.published"
GATE_REFUSED = "cfjobs.gate.refused"

log = logging.getLogger("cfjobs.flows")


def log_to_run(night: Night | None = None) -> None:
    """Send what `cfjobs` logs to the log of the run that is under way (handlers are copied by no setting
    alone: the level has to be set too), and as JSON to standard error where CFJOBS_LOG asks for it.

    night: the one that this process works on, where that is known at its start.
    """
    logger = logging.getLogger("cfjobs")
    logger.setLevel(logging.INFO)
    if night is not None:
        logs.about(run_date=night.run_date, run_id=night.run_id)
    if any(isinstance(handler, APILogHandler) for handler in logger.handlers):
        return
    logger.addHandler(APILogHandler())
    if logs.as_json():
        logger.addHandler(logs.json_handler())
        logger.propagate = False  # Prefect's own handler would write each line once more


@contextmanager
def shown(what: str) -> Iterator[None]:
    """What people see of a run fails none: it is logged where Prefect's server does not answer."""
    try:
        yield
    except httpx.HTTPError as error:
        log.warning("%s: is not shown, for Prefect's server does not answer (%s)", what, error)


def progress_artifact(key: str, description: str) -> Callable[[float, str], None]:
    """A progress bar on the run's page; the result is called with the fraction done and a few words.

    The bar's text gets the time left; the log gets a line now and then, with memory and GPU.
    """
    artifact_id: UUID | None = None
    with shown(description):
        made = create_progress_artifact(progress=0.0, key=key, description=description)
        assert isinstance(made, UUID)  # called from a task that is not async: no coroutine
        artifact_id = made
    began = time.monotonic()
    last_update = last_line = 0.0

    def update(fraction: float, words: str) -> None:
        nonlocal last_update, last_line
        now = time.monotonic()
        text = f"{description}: {words}, {time_left(fraction, now - began)}"
        if artifact_id and (fraction >= 1 or now - last_update >= _SECONDS_BETWEEN_UPDATES):
            last_update = now
            with shown(description):
                update_progress_artifact(artifact_id, progress=round(fraction * 100, 1), description=text)
        if fraction >= 1 or now - last_line >= _SECONDS_BETWEEN_LINES:
            last_line = now
            log.info("%s; %s", text, resources.words())

    return update


def time_left(fraction: float, seconds: float) -> str:
    """Such as `2 min 5 s left`, from the fraction done in so many seconds."""
    if fraction >= 1:
        return f"done in {_span(seconds)}"
    return f"{_span(seconds / fraction - seconds)} left" if fraction > 0 else "starting"


def table_artifact(key: str, rows: list[dict[str, str]], description: str) -> None:
    """A table on the run's page."""
    with shown(description):
        create_table_artifact(rows, key=key, description=description)


def summary_artifact(markdown: str) -> None:
    """The night's summary, as a page of the run."""
    with shown("the summary"):
        create_markdown_artifact(markdown, key="night", description="Metrics, counts and tables of the night")


def event(name: str, *, output: str, run_date: str, payload: dict[str, Any]) -> None:
    """A custom event about a night of an output; automations trigger on it."""
    resource = {
        "prefect.resource.id": f"cfjobs.night.{run_date}",
        "prefect.resource.name": f"night of {run_date}",
        "cfjobs.output": output,
    }
    run = {"prefect.resource.id": f"prefect.flow-run.{flow_run.id}", "prefect.resource.role": "flow-run"}
    emit_event(name, resource=resource, related=[run] if flow_run.id else None, payload=payload)


def _span(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
