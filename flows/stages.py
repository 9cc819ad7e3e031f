"""How a stage of the night runs as a Prefect task: retried when the storage or a worker failed, and only
then; and the stages that flows share."""

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from prefect import Task, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.tasks import exponential_backoff

from cfjobs.errors import CfjobsError, DamagedFile, GateRefused, StorageFault
from cfjobs.night import story
from cfjobs.night.records import Night, Prepared
from cfjobs.report.markdown import gate_table
from cfjobs.storage.lease import LeaseLost
from flows.observe import GATE_REFUSED, event, table_artifact

P = ParamSpec("P")
R = TypeVar("R")


class WorkerLost(CfjobsError):
    """A run on another worker ended without its record and without a reason: its worker was killed."""


def worth_retrying(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    """Whether a retry may help: the object store did not answer, or a worker died. A wrong input stays wrong;
    what is damaged is made again by the next run; and a lost lease is another run's."""
    result = state.result(raise_on_failure=False)
    passing = isinstance(result, (StorageFault, WorkerLost))
    return passing and not isinstance(result, (DamagedFile, LeaseLost))


def stage(
    *, name: str, task_run_name: str | None = None, retries: int = 3, seconds: float = 5
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """A task for a stage. Nothing is cached by Prefect: a stage leaves its own record and finds it again.

    retries: at most this many, after `seconds`, twice that, and so on.
    """
    wrap: Callable[[Callable[P, R]], Callable[P, R]] = task(
        name=name,
        task_run_name=task_run_name or name,
        retries=retries,
        retry_delay_seconds=exponential_backoff(backoff_factor=seconds),
        retry_jitter_factor=0.5,
        retry_condition_fn=worth_retrying,
        cache_policy=NO_CACHE,
        persist_result=False,
    )
    return wrap


start = stage(name="start", task_run_name="check inputs, credentials and output")(story.start)
prepare = stage(name="prepare", task_run_name="read, clean and index")(story.prepare)
hold_out = stage(name="split", task_run_name="choose the holdout")(story.hold_out)
measure = stage(name="evaluate", task_run_name="measure on the holdout")(story.measure)
check = stage(name="check", task_run_name="check the written lists")(story.check)
publish = stage(name="publish")(story.commit)


@stage(name="gate")
def gate(night: Night, prepared: Prepared, metrics: dict[str, float | None]) -> str:
    """The gate's verdict, with its reasoning as a table of the run; a refusal is an event too."""
    lines = story.compared(night, prepared, metrics)
    if lines:
        table_artifact("gate", gate_table(lines), "What the gate compared, and with what")
    try:
        return story.gate(night, metrics, lines)
    except GateRefused as refusal:
        event(
            GATE_REFUSED,
            output=night.output,
            run_date=night.run_date.isoformat(),
            payload={"run_id": night.run_id, "reason": str(refusal), "metrics": metrics},
        )
        raise
