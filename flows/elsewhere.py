"""A stage on the worker of another deployment: started, waited for,
and its record taken from the night's work folder."""

import logging
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

import httpx
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun
from prefect.deployments import run_deployment
from prefect.runtime import flow_run, task_run
from prefect.states import Cancelling

from cfjobs.errors import CfjobsError
from cfjobs.record import Record
from flows.stages import WorkerLost, stage

log = logging.getLogger("cfjobs.flows")

_SECONDS_BETWEEN_LOOKS = 2.0
SERVER_AWAY_S = 600.0
"""How long a server that does not answer is waited for before a run is begun."""

Found = TypeVar("Found")


class RunFailed(CfjobsError):
    """The run failed or was cancelled, with its reason: it would fail again."""


@stage(name="elsewhere", task_run_name="{what} by {deployment}")
def run_elsewhere(
    deployment: str, what: str, parameters: Mapping[str, object], found: Callable[[], Found | None]
) -> Found:
    """Run a deployment on its own worker and return what it left.

    what: in words, for people. found: what the run leaves, None until all of it is there; when it is there
    already nothing is run. Raises WorkerLost, which is retried, for a run that was killed, and RunFailed for
    one that failed.
    """
    if (done := found()) is not None:
        return done
    plain = {name: _plain(value) for name, value in parameters.items()}
    run = end_of(_begun(deployment, what, plain))
    if (done := found()) is not None:
        return done
    name, message = (run.state.name, run.state.message or "") if run.state else ("unknown", "")
    words = f"{what} by {deployment}, run {run.name}, ended as {name} and left no record: {message}"
    raise WorkerLost(words) if run.state is None or run.state.is_crashed() else RunFailed(words)


def _begun(deployment: str, what: str, parameters: Mapping[str, object]) -> FlowRun:
    """The run, begun once however often it is asked for: a server that restarts meanwhile is waited for."""
    until = time.monotonic() + SERVER_AWAY_S
    while True:
        try:
            run = run_deployment(
                deployment,
                parameters=dict(parameters),
                idempotency_key=f"{task_run.id}-{task_run.run_count}-{flow_run.run_count}",
                timeout=0,
            )
        except httpx.TransportError as error:
            if time.monotonic() > until:
                raise RunFailed(
                    f"{what} by {deployment} was not begun: Prefect's server has not answered for "
                    f"{SERVER_AWAY_S / 60:.0f} minutes ({error}); start it, then run the night again"
                ) from error
            log.warning("Prefect's server does not answer (%s); waiting to begin %s", error, what)
            time.sleep(_SECONDS_BETWEEN_LOOKS)
        else:
            assert isinstance(run, FlowRun)  # called from a task that is not async: no coroutine
            return run


def _plain(value: object) -> object:
    return value.model_dump(mode="json") if isinstance(value, Record) else value


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
