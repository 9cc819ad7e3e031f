"""Deploy everything to the Prefect server of PREFECT_API_URL; running it again changes nothing that is as it should be.

    CFJOBS_RATINGS=s3://lake/ratings CFJOBS_OUTPUT=s3://lake/recommendations python -m deploy.apply

It makes the work pool, the deployments of deploy/prefect.yaml, their configuration from deploy/production.toml, the
alert blocks and the automations.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import DeploymentUpdate, WorkPoolCreate, WorkPoolUpdate
from prefect.exceptions import ObjectAlreadyExists

from cfjobs.config import load_config
from cfjobs.errors import CfjobsError
from deploy import automations

HERE = Path(__file__).parent
POOL = "cfjobs"
GPU_POOL = "cfjobs-gpu"


def main() -> int:
    """Deploy; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m deploy.apply", description="Deploy everything.")
    parser.add_argument("--pool-type", choices=("process", "kubernetes"), default="process")
    parser.add_argument("--config", default=str(HERE / "production.toml"), help="configuration of the nights")
    arguments = parser.parse_args()
    missing = [name for name in ("CFJOBS_RATINGS", "CFJOBS_OUTPUT") if not os.environ.get(name)]
    if missing:
        print(f"deploy: {missing[0]} is not set; export the URI, such as s3://lake/ratings", file=sys.stderr)
        return 2
    try:
        settings = load_config(arguments.config).model_dump(mode="json", exclude_unset=True)
    except CfjobsError as error:
        print(f"deploy: {error}", file=sys.stderr)
        return error.exit_code
    with get_client(sync_client=True) as client:
        pools = make_pools(client, arguments.pool_type)
        deploy()
        for name in ("nightly/nightly", "score/score"):
            configure(client, name, settings)
        if GPU_POOL in pools:
            gpu = client.read_deployment_by_name("train/gpu")
            client.update_deployment(gpu.id, DeploymentUpdate(work_pool_name=GPU_POOL))
        alerts = automations.apply(client)
    print(f"pools: {', '.join(pools)}\ndeployments: nightly/nightly, train/gpu, score/score")
    print(f"automations: {', '.join(alerts)}")
    return 0


def make_pools(client: SyncPrefectClient, kind: str) -> list[str]:
    """Create the work pools from their templates, or give them these templates."""
    templates = {POOL: f"{kind}.json"} | ({GPU_POOL: "kubernetes-gpu.json"} if kind == "kubernetes" else {})
    for name, file in templates.items():
        template = json.loads((HERE / "pools" / file).read_text(encoding="utf-8"))
        try:
            client.create_work_pool(WorkPoolCreate(name=name, type=kind, base_job_template=template))
        except ObjectAlreadyExists:
            client.update_work_pool(name, WorkPoolUpdate(base_job_template=template))
    return list(templates)


def deploy() -> None:
    """Every deployment of prefect.yaml."""
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"]
    command += ["--prefect-file", str(HERE / "prefect.yaml")]
    done = subprocess.run(command, cwd=HERE.parent, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"deploy: `prefect deploy` failed:\n{done.stdout}{done.stderr}")


def configure(client: SyncPrefectClient, name: str, settings: dict[str, object]) -> None:
    """Make these settings the deployment's `config` parameter."""
    deployment = client.read_deployment_by_name(name)
    parameters = {**deployment.parameters, "config": settings}
    client.update_deployment(deployment.id, DeploymentUpdate(parameters=parameters))


if __name__ == "__main__":
    sys.exit(main())
