"""An operator's installation, as `make serve` makes it: what is closed, who is told, what is survived."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from prefect.client.schemas.filters import LogFilter
from prefect.client.schemas.objects import StateType
from prefect.events import emit_event
from prefect.events.schemas.automations import AutomationCore, EventTrigger
from prefect.states import Cancelling, Running, Scheduled, Suspended

from deploy import serve
from deploy.automations import automations
from tests.installation import QUICK as WITH_REFIT
from tests.installation import (
    ROOT,
    Installation,
    environment_without_keys,
    processes,
    processes_named,
    until,
    webhook,
)

QUICK = WITH_REFIT | {"refit": False}
SLOW = QUICK | {"optimizer": "adam", "epochs": 400, "patience": 0}
LONG = SLOW | {"epochs": 5000}
ZOMBIES, SILENCE = "cfjobs: crash zombie runs", "cfjobs: no night was published"


def planned(run: Any) -> str:
    """What an alert calls a run that has not begun."""
    return f"nightly, planned for {run.expected_start_time:%Y-%m-%d %H:%M} UTC,"


def test_the_api_asks_for_the_password(installation: Installation) -> None:
    api = installation.environment["PREFECT_API_URL"]
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(f"{api}/admin/version")


def test_prefect_plans_the_next_night_and_the_deployment_says_when(installation: Installation) -> None:
    """The runs are asked for, not the schedule: Prefect's scheduler may be broken while all else is well."""
    coming = [
        run
        for run in installation.client.read_flow_runs(limit=200)
        if run.state_type == StateType.SCHEDULED and run.auto_scheduled
    ]
    assert coming
    due = min(run.expected_start_time for run in coming if run.expected_start_time)
    assert (
        f"next night: {due.astimezone(ZoneInfo('Europe/Berlin')):%a %d %b %H:%M} Europe/Berlin"
        in installation.told
    )
    assert "alerts go to: cfjobs-email, cfjobs-webhook" in installation.told


def test_no_deployment_knows_a_folder_and_each_is_in_a_pool_with_what_it_asks_for(
    installation: Installation,
) -> None:
    found = {d.entrypoint: d for d in installation.client.read_deployments()}
    assert {name: d.work_pool_name for name, d in found.items()} == {
        "flows.nightly.nightly": "cfjobs",
        "flows.nightly.score": "cfjobs",
        "flows.training.train": "cfjobs-gpu",
        "flows.shards.score_here": "cfjobs-gpu",
    }
    for deployment in found.values():
        assert str(ROOT) not in deployment.model_dump_json(exclude={"parameters"})
        assert not deployment.pull_steps


def test_pool_types_are_not_mixed(installation: Installation) -> None:
    command = [sys.executable, "-m", "deploy.apply", "--pool-type", "kubernetes"]
    done = subprocess.run(
        command, env=installation.environment, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "cfjobs" in done.stderr
    assert "process" in done.stderr
    assert installation.client.read_work_pool("cfjobs").base_job_template == json.loads(
        (ROOT / "deploy" / "pools" / "process.json").read_text()
    )


def test_the_server_has_a_ui_and_the_health_check_asks_for_it(installation: Installation) -> None:
    server = installation.environment["PREFECT_API_URL"].removesuffix("/api")
    command = [sys.executable, "-m", "deploy.health"]
    assert subprocess.run([*command, server], cwd=ROOT, check=False).returncode == 0
    with webhook([]) as url:  # a server that is not Prefect's
        assert subprocess.run([*command, url.rstrip("/")], cwd=ROOT, check=False).returncode == 1
    assert (installation.folder / "ui").is_dir()


def test_the_store_takes_nothing_without_a_password_and_the_folder_is_private(
    installation: Installation,
) -> None:
    assert oct(installation.folder.stat().st_mode)[-3:] == "700"
    command = installation.parts.running["s3"].command
    ports = {
        flag: flag.rpartition("=")[2] for flag in command if ".port=" in flag and not flag.endswith("=0")
    }
    assert any("filer" in flag for flag in ports)
    for port in ports.values():
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/buckets/{serve.BUCKET}/planted", data=b"planted", method="PUT"
        )
        with pytest.raises((urllib.error.HTTPError, OSError)):
            urllib.request.urlopen(request, timeout=5)


def test_a_uri_with_credentials_is_refused_once_and_not_shown(installation: Installation) -> None:
    """The parameter itself is the operator's; nothing that the job writes repeats it."""
    secret = "s3://plantedKEY:plantedSECRET@lake/ratings"
    run = installation.run("nightly/nightly", ratings=secret, run_date="2026-02-01", config=QUICK)
    assert run.state is not None
    assert run.state.is_failed()
    assert run.run_count == 1
    assert "has credentials in it" in str(run.state.message)
    assert "planted" not in str(run.state.message) + installation.log_of(run)
    alert = installation.alert(str(run.id))
    assert "planted" not in alert
    assert f"/runs/flow-run/{run.id}" in alert
    mail = until(
        lambda: next((m for m in installation.mails if "ended as Failed" in m), None), "the mail", seconds=90
    )
    assert "deploy/README.md" in mail


@contextmanager
def sooner(installation: Installation, name: str, *, of: UUID | None = None) -> Iterator[None]:
    """The automation once more, with a patience of 12 s; for one run alone where that is named."""
    deployed = installation.client.read_automations_by_name(name)[0]
    assert isinstance(deployed.trigger, EventTrigger)
    changes: dict[str, Any] = {"within": timedelta(seconds=12)}
    if of is not None:
        changes["match"] = deployed.trigger.match.model_copy(
            update={"root": {"prefect.resource.id": f"prefect.flow-run.{of}"}}
        )
    trigger = deployed.trigger.model_copy(update=changes)
    made = installation.client.create_automation(
        AutomationCore(name=f"{name}, sooner", description="", trigger=trigger, actions=deployed.actions)
    )
    time.sleep(6)  # the server loads new automations every few seconds
    try:
        yield
    finally:  # with so little patience it would crash the nights of the tests after this one
        installation.client.delete_automation(made)


def beat(run: UUID, *, tag: str) -> None:
    """A heartbeat of a run, by hand."""
    emit_event(
        "prefect.flow-run.heartbeat",
        resource={"prefect.resource.id": f"prefect.flow-run.{run}"},
        related=[{"prefect.resource.id": f"prefect.tag.{tag}", "prefect.resource.role": "tag"}],
    )


def soon(found: Callable[[], bool], *, seconds: float) -> bool:
    """Whether it comes true within this time."""
    end = time.monotonic() + seconds
    while not found() and time.monotonic() < end:
        time.sleep(0.5)
    return found()


def test_a_foreign_run_is_left_alone_and_silence_rings(installation: Installation) -> None:
    """No night of ours runs meanwhile: with so little patience it would be crashed too."""
    client = installation.client
    flow = client.create_flow_from_name("of another team")
    ours, foreign, suspended = (
        UUID(client.request("POST", "/flow_runs/", json={"flow_id": str(flow), "tags": tags}).json()["id"])
        for tags in (["cfjobs"], ["nightly"], ["cfjobs"])
    )
    with sooner(installation, ZOMBIES), sooner(installation, SILENCE):
        for run in (ours, foreign, suspended):
            client.set_flow_run_state(run, Running(), force=True)
        client.set_flow_run_state(suspended, Suspended(), force=True)

        def rings() -> bool:
            crashed = client.read_flow_run(ours).state_type == StateType.CRASHED
            return crashed and any("no night was published" in alert for alert in installation.alerts)

        for _ in range(5):  # an event from before the server had loaded the automation counts for nothing
            emit_event("cfjobs.deployed", resource={"prefect.resource.id": "cfjobs.installation"})
            beat(ours, tag="cfjobs")
            beat(foreign, tag="nightly")
            if soon(rings, seconds=40):
                break
        assert rings()
    assert client.read_flow_run(foreign).state_type == StateType.RUNNING
    assert client.read_flow_run(suspended).state_name == "Suspended"
    for run in (ours, foreign, suspended):
        client.delete_flow_run(run)


def test_a_night_survives_a_killed_training_and_a_server_that_restarts(installation: Installation) -> None:
    run = installation.start("nightly/nightly", run_date="2026-03-04", config=SLOW)
    training = installation.training_of("2026-03-04")
    second = installation.run("nightly/nightly", run_date="2026-03-05", config=QUICK)
    assert second.state_type == StateType.CANCELLED, "one night at a time"
    installation.alert(f"{planned(second)} was cancelled")
    for pid in processes(training.id):
        os.kill(pid, signal.SIGKILL)
    installation.training_of("2026-03-04", but=training.id)
    installation.parts.kill("server")
    serve.start_server(installation.parts, installation.environment)
    ended = installation.end_of(run)
    assert ended.state is not None
    assert ended.state.is_completed(), ended.state
    trainings = [r for r in installation.runs() if r.name.startswith("train 2026-03-04")]
    assert sorted(str(r.state_name) for r in trainings) == ["Completed", "Crashed"]
    assert installation.history()[-1]["run_date"] == "2026-03-04"


@pytest.mark.long
def test_a_vanished_training_is_replaced_and_a_night_can_be_cancelled(installation: Installation) -> None:
    """Worker and process of the training die at once, as with their machine; its last heartbeat is sent by
    hand, and the silence that counts is cut short."""
    client = installation.client
    run = installation.start("nightly/nightly", run_date="2026-03-05", config=LONG)
    training = installation.training_of("2026-03-05")
    installation.parts.kill("worker-cfjobs-gpu")
    for pid in processes(training.id):
        os.kill(pid, signal.SIGKILL)
    with sooner(installation, ZOMBIES, of=training.id):
        beat(training.id, tag="cfjobs")
        ended = installation.end_of(training)
    assert ended.state is not None
    assert ended.state.type == StateType.CRASHED
    assert "no heartbeat for" in str(ended.state.message)
    serve.start_worker(installation.parts, "cfjobs-gpu", installation.environment)
    again = installation.training_of("2026-03-05", but=training.id)

    client.set_flow_run_state(run.id, Cancelling())
    until(lambda: not processes(run.id) and not processes(again.id), "its processes to end", seconds=60)
    assert installation.end_of(run).state_type == StateType.CANCELLED


def test_a_run_that_no_worker_takes_is_late_and_told(installation: Installation) -> None:
    client = installation.client
    client.create_work_queue("closed", work_pool_name="cfjobs", is_paused=True)
    deployment = client.read_deployment_by_name("nightly/nightly")
    due = Scheduled(scheduled_time=datetime.now(UTC) - timedelta(hours=1))
    run = client.create_flow_run_from_deployment(deployment.id, state=due, work_queue_name="closed")
    installation.alert(f"{planned(run)} is late", seconds=120)
    found = client.read_flow_run(run.id)
    assert found.state is not None
    assert found.state.name == "Late"
    client.delete_flow_run(run.id)


def test_a_guard_ends_what_is_left_when_serve_is_killed(tmp_path: Path) -> None:
    parts = serve.Parts(serve.private_folder(tmp_path))
    parts.start("child", [sys.executable, "-c", "import time; time.sleep(600)"], dict(os.environ))
    guard = serve.guard(parts.mark)
    until(lambda: serve.marked(parts.mark), "the child", seconds=20)
    assert guard.stdin is not None
    guard.stdin.close()  # as the kernel does when the process that holds it is killed
    until(lambda: not serve.marked(parts.mark), "the end of it", seconds=60)
    assert guard.wait(20) == 0
    parts.running["child"].process.wait()


@pytest.mark.long
def test_serve_says_where_it_is_revives_its_workers_and_leaves_nothing_running(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "deploy.serve", "--folder", str(tmp_path), "--port=0", "--s3-port=0"]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment_without_keys(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    said = ""
    while (line := process.stdout.readline()) and "Ctrl-C stops" not in line:
        said += line
    assert "deployment run nightly/nightly --watch" in said, said
    assert "operator:PASSWORD" in said
    assert "next night: " in said
    assert "NOBODY WILL BE TOLD" in said
    assert oct((tmp_path / "keys.json").stat().st_mode)[-3:] == "600"
    done = subprocess.run(
        [tmp_path / "prefect", "deployment", "ls"], capture_output=True, text=True, check=False
    )
    assert "nightly/nightly" in done.stdout, done.stdout + done.stderr
    workers = processes_named(tmp_path, "worker")
    assert len(workers) == 2
    for pid in workers:
        os.kill(pid, signal.SIGKILL)
    until(
        lambda: len(set(processes_named(tmp_path, "worker")) - set(workers)) == 2,
        "the workers to be started again",
        seconds=90,
    )
    process.send_signal(signal.SIGINT)
    assert process.wait(90) == 0
    home = f"PREFECT_HOME={tmp_path / 'prefect-home'}"
    until(lambda: not serve.marked(home), "the end of all", seconds=30)


@pytest.mark.long
def test_everything_is_deployed_once_however_often(installation: Installation) -> None:
    before = {a.name: a.id for a in installation.client.read_automations()}
    assert set(before) == {automation.name for automation in automations({})}
    command = [sys.executable, "-m", "deploy.apply"]
    subprocess.run(command, env=installation.environment, cwd=ROOT, check=True, capture_output=True)
    assert {a.name: a.id for a in installation.client.read_automations()} == before
    nightly = installation.client.read_deployment_by_name("nightly/nightly")
    assert nightly.parameters["config"]["gate_beat_popularity"] is True


def test_no_secret_is_in_logs_artifacts_or_parameters(installation: Installation) -> None:
    keys = json.loads((installation.folder / "keys.json").read_text())
    planted = [*keys.values(), "planted-webhook-secret"]
    client = installation.client
    seen = [
        line.message
        for offset in range(0, 2000, 200)
        for line in client.read_logs(LogFilter(), limit=200, offset=offset)
    ]
    seen += [str(a.model_dump()) for a in installation.artifacts()]
    seen += [str(d.model_dump()) for d in client.read_deployments()]
    seen += [str(r.model_dump()) for r in installation.runs()]
    seen += [path.read_text(errors="replace") for path in (installation.folder / "logs").iterdir()]
    seen += [str(b.data) for b in client.read_block_documents(include_secrets=False)]
    assert len(seen) > 10
    assert not [text[:200] for text in seen if any(secret in text for secret in planted)]


@pytest.mark.long
@pytest.mark.timeout(900)
def test_every_command_of_the_runbook_runs(installation: Installation, tmp_path: Path) -> None:
    """On small nights: another file takes the place of deploy/production.toml."""
    quick = tmp_path / "quick.toml"
    quick.write_text("\n".join(f"{name} = {json.dumps(value)}" for name, value in QUICK.items()))
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / "deploy" / "README.md").read_text(encoding="utf-8"), re.S)
    commands = [line for block in blocks for line in block.splitlines() if line]
    assert len(commands) > 15
    commands = [
        command.replace("deploy/production.toml", str(quick)).replace(
            "deploy.apply", f"deploy.apply --config {quick}"
        )
        for command in commands
    ]
    environment = installation.environment | {
        "CFJOBS_OUTPUT": f"s3://{serve.BUCKET}/runbook",
        "COLUMNS": "200",
    }
    functions = f'prefect() {{ {sys.executable} -m prefect "$@"; }}; cfjobs() {{ {sys.executable} -m cfjobs "$@"; }}; python() {{ {sys.executable} "$@"; }}; '
    for command in commands:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", functions + command],
            env=environment,
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
        assert "finished in state" not in done.stdout or "'Completed'" in done.stdout, done.stdout[-2000:]
