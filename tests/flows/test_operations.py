"""An operator's installation, as `make serve` makes it: alerts, refusals, stale runs, rescoring,
faults, secrets."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from aiosmtpd.controller import Controller
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import ArtifactFilter, LogFilter
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.events import emit_event
from prefect.events.schemas.automations import AutomationCore, EventTrigger
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings
from prefect.states import Cancelling, Running, Scheduled, Suspended

from deploy import serve
from deploy.automations import automations
from tests.conftest import ROOT, free_port

QUICK: dict[str, Any] = {
    "epochs": 2,
    "top_n": 20,
    "n_factors": 8,
    "ranking_factors": 8,
    "ranking_steps": 20,
    "gate_beat_popularity": False,
}
SLOW = QUICK | {"optimizer": "adam", "epochs": 400, "patience": 0, "refit": False}
LONG = SLOW | {"epochs": 3000}


@dataclass
class Installation:
    parts: serve.Parts
    environment: dict[str, str]
    client: SyncPrefectClient
    alerts: list[str]
    folder: Path
    told: str

    def start(self, name: str, **parameters: Any) -> FlowRun:
        deployment = self.client.read_deployment_by_name(name)
        return self.client.create_flow_run_from_deployment(deployment.id, parameters=parameters)

    def run(self, name: str, **parameters: Any) -> FlowRun:
        return self.end_of(self.start(name, **parameters))

    def end_of(self, run: FlowRun, *, seconds: float = 150) -> FlowRun:
        def over() -> FlowRun | None:
            found = self.client.read_flow_run(run.id)
            return found if found.state is not None and found.state.is_final() else None

        return until(over, f"{run.name} to end", seconds=seconds)

    def training_of(self, run_date: str, *, seconds: float = 90) -> FlowRun:
        """The training run of a date that is at work."""

        def at_work() -> FlowRun | None:
            runs = [
                r
                for r in self.client.read_flow_runs(limit=200)
                if r.name.startswith(f"train {run_date} on train")
            ]
            return next((r for r in runs if r.state_type == StateType.RUNNING and processes(r.id)), None)

        return until(at_work, f"training of {run_date} to start", seconds=seconds)

    def events(self, name: str) -> list[dict[str, Any]]:
        filter_ = {"filter": {"event": {"name": [name]}}, "limit": 50}
        found: list[dict[str, Any]] = self.client.request("POST", "/events/filter", json=filter_).json()[
            "events"
        ]
        return found

    def history(self) -> list[dict[str, Any]]:
        command = [sys.executable, "-m", "cfjobs", "history", "--json"]
        command += ["--output", self.environment["CFJOBS_OUTPUT"]]
        done = subprocess.run(
            command, env=self.environment, cwd=ROOT, capture_output=True, text=True, check=True
        )
        nights: list[dict[str, Any]] = json.loads(done.stdout)["nights"]
        return nights


def until(found: Callable[[], Any], what: str, *, seconds: float) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if result := found():
            return result
        time.sleep(0.3)
    pytest.fail(f"waited {seconds:.0f} s for {what}")


def processes(run: UUID) -> list[int]:
    """Processes that work on a flow run, by the id that Prefect puts into their environment."""
    return environments_with(f"PREFECT__FLOW_RUN_ID={run}")


def environments_with(words: str) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                if words.encode() in (entry / "environ").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


def processes_named(folder: Path, word: str) -> list[int]:
    """Processes of the installation in a folder with this word in their command."""
    return [
        pid
        for pid in environments_with(f"PREFECT_HOME={folder}")
        if word.encode() in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    ]


@contextmanager
def webhook(received: list[str]) -> Iterator[str]:
    """A loopback HTTP server that keeps what is posted to it."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append(self.rfile.read(int(self.headers["Content-Length"])).decode())
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            return None

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()


class Inbox:
    """What the mail server received."""

    def __init__(self) -> None:
        self.mails: list[str] = []

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:
        self.mails.append(envelope.content.decode())
        return "250 OK"


@pytest.fixture(scope="module")
def mail_server() -> Iterator[Controller]:
    server = Controller(Inbox(), hostname="127.0.0.1", port=free_port())
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def installation(
    tmp_path_factory: pytest.TempPathFactory, data_set: Path, mail_server: Controller
) -> Iterator[Installation]:
    folder = tmp_path_factory.mktemp("installation")
    parts, alerts = serve.Parts(serve.private_folder(folder)), list[str]()
    environment = serve.environment_of(folder, port=serve.free_port(0), s3_port=serve.free_port(0))
    with webhook(alerts) as url:
        environment |= {
            "CFJOBS_SMTP": f"smtp://127.0.0.1:{mail_server.port}",
            "CFJOBS_EMAIL_FROM": "night@example.org",
            "CFJOBS_EMAIL_TO": "operator@example.org",
            "CFJOBS_RATINGS": str(data_set),
            "CFJOBS_OUTPUT": f"s3://{serve.BUCKET}/recommendations",
            "CFJOBS_ALERT_WEBHOOK": f"{url}?token=planted-webhook-secret",
            "PREFECT_WORKER_QUERY_SECONDS": "1",
        }
        try:
            told = serve.install(parts, folder, environment)
            settings = {
                PREFECT_API_URL: environment["PREFECT_API_URL"],
                PREFECT_API_AUTH_STRING: environment["PREFECT_API_AUTH_STRING"],
            }
            with temporary_settings(settings), get_client(sync_client=True) as client:
                yield Installation(parts, environment, client, alerts, folder, told)
        finally:
            parts.end()


def test_the_api_asks_for_the_password(installation: Installation) -> None:
    api = installation.environment["PREFECT_API_URL"]
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(f"{api}/admin/version")


def test_prefect_plans_the_next_night_and_the_deployment_says_when(installation: Installation) -> None:
    """The runs are asked for, not the schedule: Prefect's scheduler may be broken while all else is well."""
    planned = [
        run
        for run in installation.client.read_flow_runs(limit=200)
        if run.state_type == StateType.SCHEDULED and run.auto_scheduled
    ]
    assert planned
    due = min(run.expected_start_time for run in planned if run.expected_start_time)
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


@pytest.mark.parametrize(
    "secret", ["s3://KEY:plantedSECRET@lake/ratings", "s3://plantedSECRET:x@lake/ratings"]
)
def test_a_uri_with_credentials_is_refused_once_and_not_shown(
    installation: Installation, secret: str
) -> None:
    """The parameter itself is the operator's; nothing that the job writes repeats it."""
    run = installation.run("nightly/nightly", ratings=secret, run_date="2026-02-01", config=QUICK)
    assert run.state is not None
    assert run.state.is_failed()
    assert run.run_count == 1
    assert "has credentials in it" in str(run.state.message)
    assert "planted" not in str(run.state.message)
    alert = until(
        lambda: next((a for a in installation.alerts if str(run.id) in a), None), "the alert", seconds=40
    )
    assert "planted" not in alert
    assert f"/runs/flow-run/{run.id}" in alert


def test_a_mail_is_sent_too(installation: Installation, mail_server: Controller) -> None:
    mails: list[str] = mail_server.handler.mails
    mail = until(lambda: next((m for m in mails if "ended as Failed" in m), None), "the mail", seconds=40)
    assert "deploy/README.md" in mail


def test_a_night_cancelled_by_the_limit_is_told(installation: Installation) -> None:
    first = installation.start("nightly/nightly", run_date="2026-02-02", config=LONG)
    installation.training_of("2026-02-02")
    second = installation.run("nightly/nightly", run_date="2026-02-03", config=QUICK)
    assert second.state_type == StateType.CANCELLED
    until(
        lambda: any(f"{second.name} was cancelled" in a for a in installation.alerts), "the alert", seconds=40
    )
    installation.client.set_flow_run_state(first.id, Cancelling())
    installation.end_of(first)


def test_a_foreign_run_is_left_alone_and_silence_rings(installation: Installation) -> None:
    """The same automations with a shorter patience; the heartbeats are sent by hand."""
    client, made = installation.client, []
    for name in ("cfjobs: crash zombie runs", "cfjobs: no night was published"):
        deployed = client.read_automations_by_name(name)[0]
        assert isinstance(deployed.trigger, EventTrigger)
        sooner = deployed.trigger.model_copy(update={"within": timedelta(seconds=12)})
        made.append(
            client.create_automation(
                AutomationCore(
                    name=f"{name}, sooner", description="", trigger=sooner, actions=deployed.actions
                )
            )
        )
    flow = client.create_flow_from_name("of another team")
    ours, foreign = (
        client.request("POST", "/flow_runs/", json={"flow_id": str(flow), "tags": tags}).json()["id"]
        for tags in (["cfjobs"], ["nightly"])
    )
    suspended = client.request("POST", "/flow_runs/", json={"flow_id": str(flow), "tags": ["cfjobs"]}).json()[
        "id"
    ]
    time.sleep(6)  # the server loads new automations every few seconds
    for run in (ours, foreign, suspended):
        client.set_flow_run_state(UUID(run), Running(), force=True)
    client.set_flow_run_state(UUID(suspended), Suspended(), force=True)
    emit_event("cfjobs.deployed", resource={"prefect.resource.id": "cfjobs.installation"})
    until(
        lambda: client.read_flow_run(UUID(ours)).state_type == StateType.CRASHED, "ours to crash", seconds=60
    )
    assert client.read_flow_run(UUID(foreign)).state_type == StateType.RUNNING
    assert client.read_flow_run(UUID(suspended)).state_name == "Suspended"
    until(lambda: any("no night was published" in a for a in installation.alerts), "the alert", seconds=60)
    for automation in made:
        client.delete_automation(automation)
    for run in (ours, foreign, suspended):
        client.delete_flow_run(UUID(run))


def test_a_night_shows_its_gate_its_loss_and_the_nights_before(installation: Installation) -> None:
    run = installation.run("nightly/nightly", run_date="2026-03-01", config=QUICK | {"gate_max_rmse": 9})
    assert run.state is not None
    assert run.state.is_completed(), run.state
    artifacts = {
        a.key: str(a.data) for a in installation.client.read_artifacts(artifact_filter=ArtifactFilter())
    }
    assert "rmse" in artifacts["gate"]
    assert "data:image/svg+xml;base64," in artifacts["night"]
    assert "| 2026-03-01 | passed |" in artifacts["night"]
    published = until(lambda: installation.events("cfjobs.published"), "the event", seconds=20)
    assert published[0]["resource"]["prefect.resource.id"] == "cfjobs.night.2026-03-01"
    log = "\n".join(line.message for line in installation.client.read_logs(LogFilter(), limit=200))
    assert "memory " in log


def test_a_run_that_comes_too_late_is_skipped_and_can_be_forced(installation: Installation) -> None:
    run = installation.run("nightly/nightly", run_date="2026-02-27", config=QUICK)
    assert run.state is not None
    assert (run.state.type, run.state.name) == (StateType.COMPLETED, "Skipped")
    assert "2026-03-01 is published already" in str(run.state.message)
    assert [night["run_date"] for night in installation.history()] == ["2026-03-01"]


def test_an_existing_model_scores_alone(installation: Installation) -> None:
    run = installation.run("score/score", run_date="2026-03-02", config=QUICK)
    assert run.state is not None
    assert run.state.is_completed(), run.state
    nights = installation.history()
    assert nights[-1]["gate"] == "existing model"
    assert nights[-1]["model_uri"] == nights[0]["model_uri"]


def test_a_refusal_is_a_failure_an_event_and_an_alert(installation: Installation) -> None:
    run = installation.run("nightly/nightly", run_date="2026-03-03", config=QUICK | {"gate_max_rmse": 0.01})
    assert run.state is not None
    assert run.state.is_failed()
    assert "the gate refused: rmse is" in str(run.state.message)
    assert until(lambda: installation.events("cfjobs.gate.refused"), "the event", seconds=20)
    alert = until(
        lambda: next((a for a in installation.alerts if "the gate refused" in a), None),
        "the alert",
        seconds=40,
    )
    assert "night of 2026-03-03" in json.loads(alert)["text"]
    assert installation.history()[-1]["run_date"] == "2026-03-02"


def test_a_killed_training_is_replaced(installation: Installation) -> None:
    run = installation.start("nightly/nightly", run_date="2026-03-04", config=SLOW)
    training = installation.training_of("2026-03-04")
    for pid in processes(training.id):
        os.kill(pid, signal.SIGKILL)
    ended = installation.end_of(run)
    assert ended.state is not None
    assert ended.state.is_completed(), ended.state
    runs = [r for r in installation.client.read_flow_runs(limit=200) if r.name.startswith("train 2026-03-04")]
    assert sorted(str(r.state_name) for r in runs) == ["Completed", "Crashed"]


def test_a_server_that_restarts_in_the_middle_is_waited_for(installation: Installation) -> None:
    run = installation.start("nightly/nightly", run_date="2026-03-05", config=SLOW)
    installation.training_of("2026-03-05")
    installation.parts.kill("server")
    serve.start_server(installation.parts, installation.environment)
    ended = installation.end_of(run)
    assert ended.state is not None
    assert ended.state.is_completed(), ended.state
    assert installation.history()[-1]["run_date"] == "2026-03-05"


def test_a_cancelled_run_stops_within_seconds_and_frees_its_slot(installation: Installation) -> None:
    run = installation.start("nightly/nightly", run_date="2026-03-06", config=LONG)
    training = installation.training_of("2026-03-06")
    began = time.monotonic()
    installation.client.set_flow_run_state(run.id, Cancelling())
    until(lambda: not processes(run.id) and not processes(training.id), "its processes to end", seconds=40)
    assert time.monotonic() - began < 20
    assert installation.end_of(run).state_type == StateType.CANCELLED
    again = installation.run("nightly/nightly", run_date="2026-03-06", config=QUICK | {"gate_override": True})
    assert again.state is not None
    assert again.state.is_completed(), again.state


def test_a_run_that_no_worker_takes_is_late_and_told(installation: Installation) -> None:
    client = installation.client
    deployment = client.read_deployment_by_name("nightly/nightly")
    due = Scheduled(scheduled_time=datetime.now(UTC) - timedelta(hours=1))
    run = client.create_flow_run_from_deployment(deployment.id, state=due, work_queue_name="nobody")
    until(
        lambda: any(f"{run.name} is late" in alert for alert in installation.alerts), "the alert", seconds=180
    )
    found = client.read_flow_run(run.id)
    assert found.state is not None
    assert found.state.name == "Late"
    client.delete_flow_run(run.id)


def test_a_run_whose_worker_vanished_is_crashed_and_replaced(installation: Installation) -> None:
    """Worker and process die at once, as with their machine; the silence that counts is cut short here."""
    client = installation.client
    deployed = next(a for a in automations({}) if "zombie" in a.name)
    assert isinstance(deployed.trigger, EventTrigger)
    sooner = deployed.trigger.model_copy(update={"within": timedelta(seconds=45)})
    test = client.create_automation(deployed.model_copy(update={"name": "test", "trigger": sooner}))
    try:
        run = installation.start("nightly/nightly", run_date="2026-03-07", config=LONG)
        training = installation.training_of("2026-03-07")
        of_run = f'"prefect.resource.id":"prefect.flow-run.{training.id}"'
        until(
            lambda: (
                of_run in json.dumps(installation.events("prefect.flow-run.heartbeat"), separators=(",", ":"))
            ),
            "a heartbeat",
            seconds=60,
        )
        installation.parts.kill("worker-cfjobs-gpu")
        for pid in processes(training.id):
            os.kill(pid, signal.SIGKILL)
        ended = installation.end_of(training, seconds=150)
        assert ended.state is not None
        assert (ended.state.type, "no heartbeat for" in str(ended.state.message)) == (StateType.CRASHED, True)
    finally:  # the tests after this one need the usual patience
        client.delete_automation(test)
    serve.start_worker(installation.parts, "cfjobs-gpu", installation.environment)
    again = installation.training_of("2026-03-07")
    assert again.id != training.id
    client.set_flow_run_state(run.id, Cancelling())
    assert installation.end_of(run).state_type == StateType.CANCELLED


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
    seen += [str(a.model_dump()) for a in client.read_artifacts(artifact_filter=ArtifactFilter())]
    seen += [str(d.model_dump()) for d in client.read_deployments()]
    seen += [str(r.model_dump()) for r in client.read_flow_runs(limit=200)]
    seen += [path.read_text(errors="replace") for path in (installation.folder / "logs").iterdir()]
    seen += [str(b.data) for b in client.read_block_documents(include_secrets=False)]
    assert len(seen) > 50
    assert not [text[:200] for text in seen if any(secret in text for secret in planted)]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_serve_says_where_it_is_revives_its_workers_and_leaves_nothing_running(
    tmp_path: Path, how: signal.Signals
) -> None:
    command = [
        sys.executable,
        "-m",
        "deploy.serve",
        "--folder",
        str(tmp_path),
        "--port",
        "0",
        "--s3-port",
        "0",
    ]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout is not None
    said = ""
    while (line := process.stdout.readline()) and "Ctrl-C stops" not in line:
        said += line
    assert "deployment run nightly/nightly --watch" in said, said
    assert "operator:PASSWORD" in said
    assert "next night: " in said
    assert "NOBODY WILL BE TOLD" in said
    assert environments_with(f"PREFECT_HOME={tmp_path}")
    assert oct((tmp_path / "keys.json").stat().st_mode)[-3:] == "600"
    done = subprocess.run(
        [tmp_path / "prefect", "deployment", "ls"], capture_output=True, text=True, check=False
    )
    assert "nightly/nightly" in done.stdout, done.stdout + done.stderr
    for pid in processes_named(tmp_path, "worker"):
        os.kill(pid, signal.SIGKILL)
    until(
        lambda: len(processes_named(tmp_path, "worker")) == 2, "the workers to be started again", seconds=60
    )
    if how == signal.SIGINT:
        process.send_signal(how)
        assert process.wait(60) == 0
    else:
        process.kill()
        process.wait(10)
    until(lambda: environments_with(f"PREFECT_HOME={tmp_path}") == [], "the end of all", seconds=20)


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
