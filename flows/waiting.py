"""Waiting for a run that another worker does; it does not outlive the one that waits."""

import logging
import time

import httpx
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun
from prefect.states import Cancelling

log = logging.getLogger("cfjobs.flows")

_SECONDS_BETWEEN_LOOKS = 2.0


def end_of(run: FlowRun) -> FlowRun:
    """The run once it is over. When this process is told to end before, it tells the run to end too."""
    try:
        while run.state is None or not run.state.is_final():
            time.sleep(_SECONDS_BETWEEN_LOOKS)
            run = _looked_up(run)
    except BaseException:
        with get_client(sync_client=True) as client:
            client.set_flow_run_state(run.id, Cancelling(message="the run that waits for it was ended"))
        raise
    return run


def _looked_up(run: FlowRun) -> FlowRun:
    try:
        with get_client(sync_client=True) as client:
            return client.read_flow_run(run.id)
    except httpx.HTTPError as error:  # the server restarts: the run goes on meanwhile
        log.warning("Prefect's server does not answer (%s); waiting for %s", error, run.name)
        return run
