"""What is deployed, as far as it can be checked without the engines: fields, bounds, loopback,
least privilege."""

import asyncio
import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from uuid import uuid4

import kubernetes_validate
import pytest
import yaml
from prefect import Flow
from prefect.blocks.notifications import SlackWebhook
from prefect.client.schemas.objects import FlowRun
from prefect.events.schemas.automations import EventTrigger
from prefect.workers.process import ProcessJobConfiguration
from prefect_kubernetes.worker import KubernetesWorkerJobConfiguration
from pydantic import SecretStr

from cfjobs.config import load_config
from cfjobs.errors import InputError
from deploy import automations
from tests.installation import ROOT, mail_server

DEPLOY = ROOT / "deploy"
POOLS = sorted((DEPLOY / "pools").glob("*.json"))


def loaded(name: str) -> Any:
    text = (DEPLOY / name).read_text(encoding="utf-8")
    return json.loads(text) if name.endswith(".json") else yaml.safe_load(text)


def test_the_production_configuration_is_valid_and_keeps_the_gate() -> None:
    config = load_config(DEPLOY / "production.toml")
    assert config.gate_beat_popularity
    assert not config.gate_override


def test_every_deployment_is_a_flow_in_a_module_and_the_automations_find_it() -> None:
    found = {d["name"]: d for d in loaded("prefect.yaml")["deployments"]}
    assert set(found) == {"nightly", "gpu", "score"}
    for deployment in found.values():
        module, _, function = deployment["entrypoint"].rpartition(".")
        assert isinstance(getattr(importlib.import_module(module), function), Flow)
        assert "cfjobs" in deployment["tags"], "the automations match this tag"
    assert found["nightly"]["schedules"][0]["timezone"]
    assert found["nightly"]["concurrency_limit"] == {"limit": 1, "collision_strategy": "CANCEL_NEW"}


@pytest.mark.parametrize("file", POOLS, ids=lambda path: path.stem)
def test_a_pool_template_uses_the_variables_it_declares(file: Path) -> None:
    template = json.loads(file.read_text(encoding="utf-8"))
    declared = set(template["variables"]["properties"])
    used = set(re.findall(r"{{ (\w+) }}", json.dumps(template["job_configuration"])))
    assert used == declared
    for name, variable in template["variables"]["properties"].items():
        assert variable.get("description"), name


async def filled(file: str) -> Any:
    """The job of a template with its defaults, filled in by the worker's own class."""
    template = json.loads((DEPLOY / "pools" / file).read_text(encoding="utf-8"))
    kind: Any = ProcessJobConfiguration if file.startswith("process") else KubernetesWorkerJobConfiguration
    return await kind.from_template_and_values(template, {"image": "cfjobs:1", "command": "run"})


async def _manifest(file: str) -> dict[str, Any]:
    job = await filled(file)
    job.prepare_for_flow_run(FlowRun(flow_id=uuid4(), name="night of 2026-03-01"))
    found: dict[str, Any] = job.job_manifest
    return found


def accepted_where_pods_are_restricted(pod: dict[str, Any]) -> bool:
    """What the pod security standard `restricted` asks for."""
    outside = pod["securityContext"]
    return (
        outside["runAsNonRoot"]
        and outside["seccompProfile"]["type"] == "RuntimeDefault"
        and all(
            inside["securityContext"]["allowPrivilegeEscalation"] is False
            and inside["securityContext"]["capabilities"]["drop"] == ["ALL"]
            for inside in pod["containers"]
        )
    )


def test_the_kubernetes_manifests_are_valid_restricted_and_take_the_password_from_the_secret() -> None:
    manifests = list(yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text(encoding="utf-8")))
    for manifest in manifests:
        kubernetes_validate.validate(manifest, "1.30", strict=True)
    workers = [m["spec"]["template"]["spec"] for m in manifests if m["kind"] == "Deployment"]
    assert {w["containers"][0]["args"][4] for w in workers} == {"cfjobs", "cfjobs-gpu"}
    for pod in workers:
        assert accepted_where_pods_are_restricted(pod)
        named = {v["name"]: v["value"] for v in pod["containers"][0]["env"] if "value" in v}
        program = "from prefect_kubernetes.settings import KubernetesSettings; w = KubernetesSettings().worker; print(w.api_auth_string_secret_name, w.api_auth_string_secret_key)"
        done = subprocess.run(
            [sys.executable, "-c", program],
            env={"PATH": os.environ["PATH"], **named},  # Prefect reads no settings where it sees pytest's
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.split() == ["cfjobs", "PREFECT_API_AUTH_STRING"]


def test_the_ray_cluster_s_pods_are_restricted_and_have_the_version_that_is_installed() -> None:
    (manifest,) = yaml.safe_load_all((DEPLOY / "kuberay.yaml").read_text(encoding="utf-8"))
    spec = manifest["spec"]
    pinned = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert f"ray=={spec['rayVersion']}" in pinned
    groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    for group in groups:
        pod = group["template"]["spec"]
        assert accepted_where_pods_are_restricted(pod)
        plain = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, "spec": pod}
        kubernetes_validate.validate(plain, "1.30", strict=True)
    assert groups[0]["rayStartParams"]["num-cpus"] == "0"


@pytest.mark.usefixtures("prefect_server")
def test_prefect_fills_the_kubernetes_templates_in() -> None:
    cpu, gpu = (asyncio.run(_manifest(name)) for name in ("kubernetes.json", "kubernetes-gpu.json"))
    for manifest, gpus in ((cpu, "0"), (gpu, "1")):
        kubernetes_validate.validate(manifest, "1.30", strict=True)
        assert accepted_where_pods_are_restricted(manifest["spec"]["template"]["spec"])
        pod = manifest["spec"]["template"]["spec"]
        container = pod["containers"][0]
        assert container["image"] == "cfjobs:1"
        assert container["resources"]["limits"]["nvidia.com/gpu"] == gpus
        assert container["resources"]["limits"]["memory"].endswith("Gi")
        assert container["securityContext"]["runAsNonRoot"] is True
        assert pod["restartPolicy"] == "Never"
        assert pod["nodeSelector"]["kubernetes.io/arch"] == "amd64"
    pod = gpu["spec"]["template"]["spec"]
    assert pod["nodeSelector"]["nvidia.com/gpu.present"] == "true"
    assert pod["tolerations"][0]["key"] == "nvidia.com/gpu"


@pytest.mark.usefixtures("prefect_server")
def test_prefect_fills_the_process_template_in() -> None:
    job = asyncio.run(filled("process.json"))
    assert job.env["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"] == "30"


def test_compose_publishes_on_loopback_only_and_asks_for_the_secrets() -> None:
    compose = loaded("compose.yaml")
    assert {"postgres", "server", "cpu-worker", "gpu-worker"} == set(compose["services"])
    for service in compose["services"].values():
        assert all(str(port).startswith("127.0.0.1:") for port in service.get("ports", []))
    server = compose["services"]["server"]["environment"]
    assert server["PREFECT_SERVER_DATABASE_CONNECTION_URL"].startswith("postgresql+asyncpg://")
    assert ":?" in server["PREFECT_SERVER_API_AUTH_STRING"], "no start without a password"
    gpu = compose["services"]["gpu-worker"]["deploy"]["resources"]["reservations"]["devices"][0]
    assert gpu["capabilities"] == ["gpu"]
    asked = set(re.findall(r"\$\{(\w+)", (DEPLOY / "compose.yaml").read_text(encoding="utf-8")))
    example = (DEPLOY / "compose.env.example").read_text(encoding="utf-8")
    assert asked == {line.partition("=")[0] for line in example.splitlines()}


def test_the_image_carries_no_state_and_no_secret() -> None:
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    assert {".git", ".venv", ".serve", ".demo", "deploy/compose.env"} <= set(ignored)
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert "USER 1000" in dockerfile
    assert not re.search(r"(?i)secret|password|AWS_", dockerfile)


def test_the_policy_allows_what_the_job_does_and_no_more() -> None:
    allowed = {
        statement["Sid"]: statement
        for statement in loaded("s3-policy.json")["Statement"]
        if statement["Effect"] == "Allow"
    }
    assert allowed["ReadRatings"]["Action"] == "s3:GetObject"
    actions = {
        action
        for s in allowed.values()
        for action in ([s["Action"]] if isinstance(s["Action"], str) else s["Action"])
    }
    assert actions == {
        "s3:ListBucket",
        "s3:GetObject",
        "s3:PutObject",
        "s3:DeleteObject",
        "s3:AbortMultipartUpload",
    }
    assert not any("*" in action for action in actions)
    assert allowed["ReadWriteRecommendations"]["Resource"].endswith("/recommendations/*")


def test_every_alert_names_its_part_of_the_runbook_and_speaks_through_the_blocks() -> None:
    runbook = (DEPLOY / "README.md").read_text(encoding="utf-8").lower()
    blocks = {automations.WEBHOOK: uuid4(), automations.EMAIL: uuid4()}
    found = automations.automations(blocks)
    for automation in found:
        heading = automation.description.rpartition(": ")[2].rstrip(".")
        assert f"### {heading}" in runbook, automation.name
    told = {automation.name: {action.type for action in automation.actions} for automation in found}
    assert told["cfjobs: the gate refused"] == {"call-webhook", "send-notification"}
    assert automations.automations({})[0].actions[0].type == "do-nothing"


def test_automations_touch_only_our_own_runs_and_give_a_run_three_heartbeats() -> None:
    for automation in automations.automations({}):
        trigger = automation.trigger
        assert isinstance(trigger, EventTrigger)
        if any(name.startswith("prefect.") for name in trigger.expect):
            assert "prefect.tag.cfjobs" in str(trigger.match_related), automation.name
    environments = [d["work_pool"]["job_variables"]["env"] for d in loaded("prefect.yaml")["deployments"]]
    environments += [json.loads(p.read_text())["variables"]["properties"]["env"]["default"] for p in POOLS]
    beats = {int(e["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"]) for e in environments}
    assert beats == {automations.HEARTBEAT_SECONDS}
    assert automations.ZOMBIE_AFTER.total_seconds() >= 3 * max(beats)


@pytest.mark.parametrize("name", ["Suspended", "Paused", "Skipped", "Cancelled", "Completed"])
def test_a_run_that_rests_or_has_ended_is_no_zombie(name: str) -> None:
    zombies = next(a for a in automations.automations({}) if "zombie" in a.name)
    assert isinstance(zombies.trigger, EventTrigger)
    assert f"prefect.flow-run.{name}" in zombies.trigger.expect


def test_a_mail_goes_to_the_server_that_the_environment_names() -> None:
    with mail_server() as (port, mails):
        url = automations.mail_url(
            f"smtp://127.0.0.1:{port}", sender="night@example.org", to="a@example.org,b@example.org"
        )
        SlackWebhook(url=SecretStr(url)).notify(subject="cfjobs: late", body="no worker")  # type: ignore[unused-coroutine]
    assert len(mails) == 2
    assert all("cfjobs: late" in mail and "From: " in mail for mail in mails)


def test_a_mail_server_without_a_scheme_is_wrong_input() -> None:
    with pytest.raises(InputError, match="smtps://") as refused:
        automations.mail_url("user:planted@mail.example.org", sender="a@b.c", to="a@b.c")
    assert "planted" not in str(refused.value)
