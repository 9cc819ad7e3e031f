"""What an operator sees of a run in Prefect: the log of `cfjobs`, progress, the summary of the night."""

import logging
import time
from collections.abc import Callable
from uuid import UUID

from prefect.artifacts import create_markdown_artifact, create_progress_artifact, update_progress_artifact
from prefect.logging.handlers import APILogHandler

_SECONDS_BETWEEN_UPDATES = 2.0


def log_to_run() -> None:
    """Send what `cfjobs` logs to the log of the run that is under way (handlers are copied by no setting alone: the level has to be set too)."""
    logger = logging.getLogger("cfjobs")
    logger.setLevel(logging.INFO)
    if not any(isinstance(handler, APILogHandler) for handler in logger.handlers):
        logger.addHandler(APILogHandler())


def progress_artifact(key: str, description: str) -> Callable[[float, str], None]:
    """A progress bar on the run's page; the result is called with the share done and a few words."""
    artifact_id = create_progress_artifact(progress=0.0, key=key, description=description)
    assert isinstance(artifact_id, UUID)  # called from a task that is not async: no coroutine
    last = 0.0

    def update(share: float, words: str) -> None:
        nonlocal last
        now = time.monotonic()
        if share >= 1 or now - last >= _SECONDS_BETWEEN_UPDATES:
            last = now
            update_progress_artifact(
                artifact_id, progress=round(share * 100, 1), description=f"{description}: {words}"
            )

    return update


def summary_artifact(markdown: str) -> None:
    """The night's summary, as a page of the run."""
    create_markdown_artifact(markdown, key="night", description="Metrics, counts and tables of the night")
