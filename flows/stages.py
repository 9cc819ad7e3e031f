"""How a stage of the night runs as a Prefect task: retried when the storage failed, and only then."""

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from prefect import Task, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.tasks import exponential_backoff

from cfjobs.errors import StorageFault

P = ParamSpec("P")
R = TypeVar("R")


def storage_failed(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    """Whether a retry may help: the object store did not answer. A wrong input stays wrong."""
    return isinstance(state.result(raise_on_failure=False), StorageFault)


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
        retry_condition_fn=storage_failed,
        cache_policy=NO_CACHE,
        persist_result=False,
    )
    return wrap
