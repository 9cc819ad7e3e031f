"""Deploy everything to the Prefect server of PREFECT_API_URL;
running it again changes nothing that is as it should be.

    CFJOBS_RATINGS=s3://lake/ratings CFJOBS_OUTPUT=s3://lake/recommendations python -m deploy.apply

It makes the work pools, the deployments of deploy/prefect.yaml, their configuration from
deploy/production.toml, the alert blocks and the automations; then it waits until Prefect has planned the next
night, and says when that is.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import DeploymentUpdate, WorkPoolCreate, WorkPoolUpdate
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterId,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import StateType
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.sorting import FlowRunSort
from prefect.exceptions import ObjectNotFound

from cfjobs.config import load_config
from cfjobs.errors import CfjobsError, InputError
from deploy import automations

HERE = Path(__file__).parent
POOLS = {
    "process": {"cfjobs": "process.json", "cfjobs-gpu": "process.json"},
    "kubernetes": {"cfjobs": "kubernetes.json", "cfjobs-gpu": "kubernetes-gpu.json"},
}
"""The two pools of each type, and their templates;
deploy/prefect.yaml says which deployment runs in which."""
NIGHTS = ("nightly/nightly", "score/score")
_REQUIRED = {
    "PREFECT_API_URL": "the server, such as http://127.0.0.1:4200/api",
    "CFJOBS_RATINGS": "the URI of the ratings, such as s3://lake/ratings",
    "CFJOBS_OUTPUT": "the URI of the tables, such as s3://lake/recommendations",
}


def main() -> int:
    """Deploy; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m deploy.apply", description="Deploy everything.")
    parser.add_argument("--pool-type", choices=tuple(POOLS), default="process")
    parser.add_argument("--config", default=str(HERE / "production.toml"), help="configuration of the nights")
    parser.add_argument(
        "--wait", type=float, default=120, metavar="SECONDS", help="for Prefect to plan the next night"
    )
    arguments = parser.parse_args()
    try:
        lines = apply(arguments.pool_type, arguments.config, wait=timedelta(seconds=arguments.wait))
    except CfjobsError as error:
        print(f"deploy: {error}", file=sys.stderr)
        return error.exit_code
    except httpx.HTTPError as error:
        print(f"deploy: {os.environ['PREFECT_API_URL']}: {error or type(error).__name__}", file=sys.stderr)
        return 1
    print("\n".join(lines))
    return 0


def apply(pool_type: str, config: str, *, wait: timedelta) -> list[str]:
    """Deploy everything; returns what to tell. Raises InputError and NotPlanned."""
    for name, meaning in _REQUIRED.items():
        if not os.environ.get(name):
            raise InputError(f"{name} is not set; export {meaning}")
    settings = load_config(config).model_dump(mode="json", exclude_unset=True)
    with get_client(sync_client=True) as client:
        make_pools(client, pool_type)
        deploy()
        for name in NIGHTS:
            configure(client, name, settings)
        alerts = automations.apply(client)
        automations.start_counting()
        return [
            f"pools: {', '.join(POOLS[pool_type])}",
            f"deployments: {', '.join(sorted(deployed(client)))}",
            f"automations: {', '.join(alerts.names)}",
            f"alerts go to: {', '.join(alerts.receivers) or automations.NOBODY}",
            next_night(client, client.read_deployment_by_name(NIGHTS[0]), wait=wait),
        ]


def make_pools(client: SyncPrefectClient, pool_type: str) -> None:
    """Create the work pools from their templates, or give them these templates.
    A pool of another type is refused."""
    found = {name: _pool_type(client, name) for name in POOLS[pool_type]}
    if other := {name: kind for name, kind in found.items() if kind not in {None, pool_type}}:
        raise InputError(
            f"work pool {', '.join(other)}: is of type {', '.join(map(str, set(other.values())))}, "
            f"--pool-type says {pool_type}; a pool keeps its type: delete it first with "
            f"`prefect work-pool delete NAME`, and stop its workers"
        )
    for name, file in POOLS[pool_type].items():
        template = json.loads((HERE / "pools" / file).read_text(encoding="utf-8"))
        if found[name] is None:
            client.create_work_pool(WorkPoolCreate(name=name, type=pool_type, base_job_template=template))
        else:
            client.update_work_pool(name, WorkPoolUpdate(base_job_template=template))


def _pool_type(client: SyncPrefectClient, name: str) -> str | None:
    try:
        return client.read_work_pool(name).type
    except ObjectNotFound:
        return None


def deploy() -> None:
    """Every deployment of prefect.yaml."""
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"]
    command += ["--prefect-file", str(HERE / "prefect.yaml")]
    done = subprocess.run(command, cwd=HERE.parent, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CfjobsError(f"`prefect deploy` failed:\n{done.stdout}{done.stderr}")


def configure(client: SyncPrefectClient, name: str, settings: dict[str, object]) -> None:
    """Make these settings the deployment's `config` parameter."""
    deployment = client.read_deployment_by_name(name)
    parameters = {**deployment.parameters, "config": settings}
    client.update_deployment(deployment.id, DeploymentUpdate(parameters=parameters))


def deployed(client: SyncPrefectClient) -> list[str]:
    """Our deployments, as flow/deployment."""
    return [
        f"{client.read_flow(found.flow_id).name}/{found.name}"
        for found in client.read_deployments()
        if automations.OURS in found.tags
    ]


class NotPlanned(CfjobsError):
    """Prefect's scheduler made no run for an active schedule."""


def next_night(client: SyncPrefectClient, deployment: DeploymentResponse, *, wait: timedelta) -> str:
    """When the next night starts, once the server has planned it. Raises NotPlanned when it does not."""
    active = [schedule for schedule in deployment.schedules if schedule.active]
    if deployment.paused or not active:
        return "next night: NONE, the schedule is paused; `prefect deployment schedule resume` starts it"
    planned = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.SCHEDULED])))
    only = DeploymentFilter(id=DeploymentFilterId(any_=[deployment.id]))
    until = time.monotonic() + wait.total_seconds()
    while True:
        runs = client.read_flow_runs(
            flow_run_filter=planned,
            deployment_filter=only,
            sort=FlowRunSort.EXPECTED_START_TIME_ASC,
        )
        if due := next((run.next_scheduled_start_time for run in runs if run.auto_scheduled), None):
            zone = getattr(active[0].schedule, "timezone", None) or "UTC"
            return f"next night: {due.astimezone(ZoneInfo(zone)):%a %d %b %H:%M} {zone}"
        if time.monotonic() > until:
            raise NotPlanned(
                f"the server planned no run of {deployment.name} within {wait.total_seconds():.0f} s, though its "
                "schedule is active: no night will start; look for errors of its scheduler in the server's log"
            )
        time.sleep(0.5)


if __name__ == "__main__":
    sys.exit(main())
