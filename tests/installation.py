"""A whole installation for the tests, as `make serve` makes it, with receivers for its alerts."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from aiosmtpd.controller import Controller
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import ArtifactFilter, LogFilter, LogFilterFlowRunId
from prefect.client.schemas.objects import Artifact, FlowRun, StateType
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

from deploy import serve

ROOT = Path(__file__).parent.parent
QUICK: dict[str, Any] = {
    "epochs": 2,
    "top_n": 20,
    "n_factors": 8,
    "ranking_factors": 8,
    "ranking_steps": 20,
    "gate_beat_popularity": False,
}
"""Settings of a night of seconds."""


@dataclass
class Installation:
    """The installation, and what it told: `alerts` at the webhook, `mails` at the mail server."""

    parts: serve.Parts
    environment: dict[str, str]
    client: SyncPrefectClient
    alerts: list[str]
    mails: list[str]
    folder: Path
    told: str

    def start(self, name: str, **parameters: Any) -> FlowRun:
        """Start a run of a deployment."""
        deployment = self.client.read_deployment_by_name(name)
        return self.client.create_flow_run_from_deployment(deployment.id, parameters=parameters)

    def run(self, name: str, **parameters: Any) -> FlowRun:
        """Start a run of a deployment and wait for its end."""
        return self.end_of(self.start(name, **parameters))

    def end_of(self, run: FlowRun, *, seconds: float = 240) -> FlowRun:
        """The run once it is over."""

        def over() -> FlowRun | None:
            found = self.client.read_flow_run(run.id)
            return found if found.state is not None and found.state.is_final() else None

        ended: FlowRun = until(over, f"{run.name} to end", seconds=seconds)
        return ended

    def completed(self, name: str, **parameters: Any) -> FlowRun:
        """Start a run of a deployment, and wait until it has ended well."""
        run = self.run(name, **parameters)
        assert run.state is not None
        assert run.state.is_completed(), f"{run.state.message}\n{self.log_of(run)}"
        return run

    def training_of(self, run_date: str, *, but: UUID | None = None, seconds: float = 240) -> FlowRun:
        """The training run of a date that is at work."""

        def at_work() -> FlowRun | None:
            found = [r for r in self.runs() if r.name.startswith(f"train {run_date} on train")]
            return next(
                (r for r in found if r.id != but and r.state_type == StateType.RUNNING and processes(r.id)),
                None,
            )

        training: FlowRun = until(at_work, f"training of {run_date} to start", seconds=seconds)
        return training

    def runs(self) -> list[FlowRun]:
        """Every run that the server knows."""
        return self.client.read_flow_runs(limit=200)

    def artifacts(self) -> list[Artifact]:
        """Every artifact that the server knows."""
        return self.client.read_artifacts(artifact_filter=ArtifactFilter())

    def events(self, name: str) -> list[dict[str, Any]]:
        """The newest events of this name."""
        filter_ = {"filter": {"event": {"name": [name]}}, "limit": 50}
        found: list[dict[str, Any]] = self.client.request("POST", "/events/filter", json=filter_).json()[
            "events"
        ]
        return found

    def log_of(self, run: FlowRun, *, wait_for: str = "") -> str:
        """The log of a run, which arrives some seconds late: waits for these words, not for long."""
        for _ in range(20):
            lines = self.client.read_logs(LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run.id])))
            text = "\n".join(line.message for line in lines)
            if wait_for in text:
                break
            time.sleep(0.5)
        return text

    def alert(self, words: str, *, seconds: float = 90) -> str:
        """The alert that has these words in it, once it is there."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for alert in self.alerts:
                if words in alert:
                    return alert
            time.sleep(0.3)
        pytest.fail(f"waited {seconds:.0f} s for the alert with '{words}'; these came: {self.alerts}")

    def history(self) -> list[dict[str, Any]]:
        """The nights, as `cfjobs history` tells them."""
        command = ["cfjobs", "history", "--json", "--output", self.environment["CFJOBS_OUTPUT"]]
        nights: list[dict[str, Any]] = json.loads(self.command(*command).stdout)["nights"]
        return nights

    def command(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a module with the installation's environment."""
        return subprocess.run(
            [sys.executable, "-m", *command],
            env=self.environment,
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=check,
        )

    @property
    def settings(self) -> dict[Any, Any]:
        """Prefect's settings for whoever speaks to the server from this process."""
        return {
            PREFECT_API_URL: self.environment["PREFECT_API_URL"],
            PREFECT_API_AUTH_STRING: self.environment["PREFECT_API_AUTH_STRING"],
        }


@contextmanager
def installed(folder: Path, data_set: Path) -> Iterator[Installation]:
    """An installation in this folder with two workers, ended with everything that it started."""
    parts, alerts = serve.Parts(serve.private_folder(folder)), list[str]()
    environment = serve.environment_of(folder, port=serve.free_port(0), s3_port=serve.free_port(0))
    with webhook(alerts) as url, mail_server() as (mail_port, mails):
        environment |= {
            "CFJOBS_SMTP": f"smtp://127.0.0.1:{mail_port}",
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
                yield Installation(parts, environment, client, alerts, mails, folder, told)
        finally:
            serve.end_marked(parts.mark)  # nobody waits for a session's parts to end in order
            parts.end()


@contextmanager
def webhook(received: list[str]) -> Iterator[str]:
    """A loopback HTTP server that keeps what is posted to it; its URL."""

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
    """What a mail server received."""

    def __init__(self) -> None:
        self.mails: list[str] = []

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:
        self.mails.append(envelope.content.decode())
        return "250 OK"


@contextmanager
def mail_server() -> Iterator[tuple[int, list[str]]]:
    """A loopback SMTP server: its port, and the mails it receives."""
    inbox = Inbox()
    server = Controller(inbox, hostname="127.0.0.1", port=serve.free_port(0))
    server.start()
    yield server.port, inbox.mails
    server.stop()


def until(found: Callable[[], Any], what: str, *, seconds: float) -> Any:
    """Ask until there is an answer; the test fails without one."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if result := found():
            return result
        time.sleep(0.3)
    pytest.fail(f"waited {seconds:.0f} s for {what}")


def processes(run: UUID) -> list[int]:
    """Processes that work on a flow run, by the id that Prefect puts into their environment."""
    return serve.marked(f"PREFECT__FLOW_RUN_ID={run}")


def processes_named(folder: Path, word: str) -> list[int]:
    """Processes of the installation in a folder with this word in their command."""
    return [
        pid
        for pid in serve.marked(f"PREFECT_HOME={folder / 'prefect-home'}")
        if word.encode() in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    ]


def environment_without_keys() -> dict[str, str]:
    """This process's environment without the keys of the tests' own object store."""
    return {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
