"""What of a night runs all over a Ray cluster: each piece of work is a task of Prefect that is one of Ray's.

Pieces go from task to task through the night's work folder, so the cluster needs a storage that all of its
nodes reach, and none of them has to live: a task that was killed is done again by another process.
"""

import os
import time
from collections.abc import Callable, Sequence
from typing import Any

from prefect import flow

from cfjobs import storage
from cfjobs.config import Config
from cfjobs.errors import InputError
from cfjobs.night import pieces, story
from cfjobs.night.records import Night, Prepared
from flows.observe import log_to_run
from flows.stages import stage

_FOR_WORKERS = ("PREFECT_", "AWS_", "CFJOBS_")
"""Environment variables that the processes of a Ray cluster need and do not inherit."""
_GB = 2**30
SECONDS_FOR_A_NODE = 120.0
"""How long a cluster may take until a node is there that can take a task."""


def ray_cluster(config: Config) -> Any:
    """The task runner of the configured Ray cluster; InputError when the extra is not installed."""
    try:
        from prefect_ray import RayTaskRunner
    except ImportError as error:
        raise InputError("configuration key runner: got 'ray', but prefect-ray is not installed; pip install 'cfjobs[ray]'") from error  # fmt: skip
    environment = {name: value for name, value in os.environ.items() if name.startswith(_FOR_WORKERS)}
    environment["POLARS_MAX_THREADS"] = str(config.threads or 1)  # else as many as the node has processors
    return RayTaskRunner(
        address=config.ray_address,
        init_kwargs={"runtime_env": {"env_vars": environment}, "log_to_driver": False},
    )


def in_pieces(night: Night) -> bool:
    """Whether the ratings of a night are read and kept in pieces; for an existing model they are not."""
    return night.config.runner == "ray" and night.inputs.model is None


@flow(name="prepare on ray", flow_run_name="prepare {night.run_date} on Ray", persist_result=False)
def prepare_on_ray(night: Night) -> Prepared:
    """Read, clean and index the ratings by tasks of a Ray cluster, none of which holds all of them."""
    log_to_run(night)
    each = _each(night)
    try:
        return story.prepare(night, each=each)
    except InputError:  # what was read meanwhile is of no use
        storage.delete_under(night.work)
        raise


@flow(name="split on ray", flow_run_name="split {night.run_date} on Ray", persist_result=False)
def hold_out_on_ray(night: Night, prepared: Prepared) -> int:
    """Choose the holdout of each range of users by a task of its own."""
    log_to_run(night)
    return story.hold_out(night, prepared, each=_each(night))


@stage(name="piece", task_run_name="{words}")
def piece(night: Night, words: str, work: Callable[[Any], Any], order: Any) -> Any:
    log_to_run(night)  # this is a process of its own
    return work(order)


def _each(night: Night) -> pieces.Each:
    """The same work for many orders at a time, a task each, with `memory_gb` and the threads of one.
    InputError where no node has as much."""
    from prefect_ray.context import remote_options

    config = night.config
    _check_fits(config)
    needs = {"num_cpus": config.threads or 1, "memory": config.memory_gb * _GB}

    def each(work: Callable[[Any], Any], orders: Sequence[Any], *, words: str) -> list[Any]:
        submit = piece.submit  # type: ignore[attr-defined]  # a Prefect task
        with remote_options(**needs):
            running = [
                submit(night, f"{words}, {number} of {len(orders)}", work, order)
                for number, order in enumerate(orders, 1)
            ]
        return [task.result() for task in running]

    return each


def _check_fits(config: Config) -> None:
    """InputError for a task that no node of the cluster can take, for which Ray would wait for ever; a node
    that is about to come is waited for."""
    threads, until = config.threads or 1, time.monotonic() + SECONDS_FOR_A_NODE
    while True:
        lent = _lent()
        if any(memory >= config.memory_gb and cpus >= threads for memory, cpus in lent):
            return
        if time.monotonic() > until:
            break
        time.sleep(1.0)
    memory, cpus = max(lent, default=(0.0, 0.0))
    raise InputError(
        f"configuration keys memory_gb, threads: got {config.memory_gb} and {threads}, but the largest node of the Ray "
        f"cluster lends its tasks {memory:.1f} GB and {cpus:g} processors; lower the keys, or give the nodes more "
        "(ray start --memory, --num-cpus)"
    )


def _lent() -> list[tuple[float, float]]:
    """Memory in GB and processors that each living node lends to tasks; none from one without processors."""
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    return [(node.get("memory", 0.0) / _GB, node["CPU"]) for node in nodes if node.get("CPU")]
