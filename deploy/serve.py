"""A working installation on this machine, on loopback: object store, Prefect server, workers, sample ratings.

    python -m deploy.serve [--folder .serve] [--port 4200] [--s3-port 8333]

Runs until Ctrl-C, which ends every process it started, by its id. State stays in the folder, so the next start goes
on where this one ended; FOLDER/prefect and FOLDER/cfjobs are the two commands with the right environment.
"""

import argparse
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

ROOT = Path(__file__).parent.parent
BUCKET = "lake"
USER = "operator"


class Failed(Exception):
    """A part did not start, or ended by itself."""


class Stopped(BaseException):
    """Ctrl-C or SIGTERM."""


@dataclass
class Parts:
    """The processes of the installation, in the order in which they were started."""

    logs: Path
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self, name: str, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """Start a part in a process group of its own: Ctrl-C reaches us, and we end it in order."""
        with (self.logs / f"{name}.log").open("ab") as log:
            self.running[name] = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=log, stderr=log, start_new_session=True
            )

    def wait_for(self, name: str, url: str, *, seconds: float = 120) -> None:
        """Until the URL of a part answers anything."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self.check()
            try:
                urllib.request.urlopen(url, timeout=2)
                return
            except urllib.error.HTTPError:
                return
            except OSError:
                time.sleep(0.2)
        raise Failed(f"{name} does not answer at {url} after {seconds:.0f} s; see {self.logs / name}.log")

    def check(self) -> None:
        """Raises Failed when a part has ended by itself."""
        for name, process in self.running.items():
            if process.poll() is not None:
                raise Failed(
                    f"{name} ended with exit code {process.returncode}; its log is {self.logs / name}.log"
                )

    def end(self) -> None:
        """End every part, the last started first: asked, waited for, then insisted on with its whole group."""
        for process in reversed(self.running.values()):
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                process.wait(15)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def main() -> int:
    """Serve until Ctrl-C; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m deploy.serve", description="A whole installation, here.")
    parser.add_argument("--folder", default=".serve", help="where all state goes")
    parser.add_argument("--port", type=int, default=4200, help="of Prefect's UI and API; 0 takes a free one")
    parser.add_argument("--s3-port", type=int, default=8333, help="of the object store; 0 takes a free one")
    arguments = parser.parse_args()
    folder = Path(arguments.folder).absolute()
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, _stop)
    (folder / "logs").mkdir(parents=True, exist_ok=True)
    parts = Parts(folder / "logs")
    try:
        serve(parts, folder, port=free_port(arguments.port), s3_port=free_port(arguments.s3_port))
    except Failed as error:
        print(f"serve: {error}", file=sys.stderr)
        return 1
    except Stopped:
        print("\nserve: stopping", file=sys.stderr)
        return 0
    finally:
        parts.end()
        print("serve: stopped", file=sys.stderr)
    return 0


def serve(parts: Parts, folder: Path, *, port: int, s3_port: int) -> None:
    """Start everything, say where it is, and watch it."""
    print("starting the object store and Prefect, some 30 seconds", file=sys.stderr)
    environment = environment_of(folder, port=port, s3_port=s3_port)
    install(parts, folder, environment)
    write_commands(folder, environment)
    print(welcome(folder, environment, port=port, s3_port=s3_port), flush=True)
    while True:
        parts.check()
        time.sleep(1)


def install(parts: Parts, folder: Path, environment: Mapping[str, str]) -> None:
    """Store, server, sample ratings, deployments, workers, in this order."""
    start_store(parts, folder, environment)
    start_server(parts, environment)
    seed(environment)
    _run([sys.executable, "-m", "deploy.apply"], environment)
    _run([sys.executable, "-m", "deploy.leftovers"], environment)
    for queue in ("default", "gpu"):
        start_worker(parts, queue, environment)


def start_worker(parts: Parts, queue: str, environment: Mapping[str, str]) -> None:
    """A worker that takes the runs of one queue."""
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", "cfjobs", "--work-queue", queue]
    parts.start(f"worker-{queue}", command, environment)


def start_server(parts: Parts, environment: Mapping[str, str]) -> None:
    """Prefect's server, with the password."""
    api = environment["PREFECT_API_URL"]
    port = api.removesuffix("/api").rpartition(":")[2]
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", port]
    password = {"PREFECT_SERVER_API_AUTH_STRING": environment["PREFECT_API_AUTH_STRING"]}
    parts.start("server", command, {**environment, **password})
    parts.wait_for("server", f"{api}/health")


def environment_of(folder: Path, *, port: int, s3_port: int) -> dict[str, str]:
    """The environment of every part. Keys are made once and kept in the folder, readable by its owner only."""
    file = folder / "keys.json"
    if not file.exists():
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
            json.dump({"password": secrets.token_urlsafe(18), "s3_secret": secrets.token_urlsafe(30)}, out)
    keys = json.loads(file.read_text(encoding="utf-8"))
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))),
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_SERVER_UI_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_API_AUTH_STRING": f"{USER}:{keys['password']}",
        "PREFECT_HOME": str(folder / "prefect-home"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        "PREFECT_WORKER_QUERY_SECONDS": "3",
        "PREFECT_RUNNER_POLL_FREQUENCY": "3",
        "PREFECT_SERVER_SERVICES_CANCELLATION_CLEANUP_LOOP_SECONDS": "5",
        "DO_NOT_TRACK": "1",
        "AWS_ACCESS_KEY_ID": "cfjobs",
        "AWS_SECRET_ACCESS_KEY": keys["s3_secret"],
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{s3_port}",
        "CFJOBS_RATINGS": os.environ.get("CFJOBS_RATINGS", f"s3://{BUCKET}/sample"),
        "CFJOBS_OUTPUT": os.environ.get("CFJOBS_OUTPUT", f"s3://{BUCKET}/recommendations"),
    }


def start_store(parts: Parts, folder: Path, environment: Mapping[str, str]) -> None:
    """SeaweedFS, bound to loopback."""
    endpoint = environment["AWS_ENDPOINT_URL"]
    weed = shutil.which("weed", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    if weed is None:
        raise Failed("there is no `weed`: install the development packages, as `make serve` does")
    (folder / "s3").mkdir(exist_ok=True)
    command = [weed, "mini", f"-dir={folder / 's3'}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"]
    command += [
        f"-s3.port={endpoint.rpartition(':')[2]}",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        "-master.telemetry=false",
    ]
    for name in ("master", "volume", "filer", "admin", "webdav"):
        command.append(f"-{name}.port={free_port(0)}")
    parts.start("s3", command, environment)
    parts.wait_for("s3", endpoint)


def seed(environment: Mapping[str, str]) -> None:
    """The bucket, and sample ratings where there are none."""
    import boto3

    store = boto3.client(
        "s3",
        endpoint_url=environment["AWS_ENDPOINT_URL"],
        aws_access_key_id=environment["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
        region_name=environment["AWS_REGION"],
    )
    make_bucket(store)
    if store.list_objects_v2(Bucket=BUCKET, Prefix="sample/", MaxKeys=1)["KeyCount"] == 0:
        command = [sys.executable, "-m", "cfjobs", "-q", "sample", "--output", f"s3://{BUCKET}/sample"]
        _run(command, environment)


def make_bucket(store: "S3Client") -> None:
    """The bucket, where there is none; a store answers before its volumes are ready, so with patience."""
    for _ in range(100):
        try:
            store.create_bucket(Bucket=BUCKET)
            return
        except (store.exceptions.BucketAlreadyExists, store.exceptions.BucketAlreadyOwnedByYou):
            return
        except store.exceptions.ClientError:
            time.sleep(0.2)


def write_commands(folder: Path, environment: Mapping[str, str]) -> None:
    """FOLDER/prefect and FOLDER/cfjobs: the commands with this installation's environment."""
    ours = {name: value for name, value in environment.items() if os.environ.get(name) != value}
    exports = "".join(f"export {name}={_quoted(value)}\n" for name, value in sorted(ours.items()))
    for name in ("prefect", "cfjobs"):
        file = folder / name
        file.unlink(missing_ok=True)
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o700), "w") as out:
            out.write(f'#!/bin/sh\n{exports}exec {_quoted(sys.executable)} -m {name} "$@"\n')


def welcome(folder: Path, environment: Mapping[str, str], *, port: int, s3_port: int) -> str:
    """What a user needs to know first."""
    here = os.path.relpath(folder)
    return f"""
Prefect   http://127.0.0.1:{port}    user {USER}, password in {here}/keys.json
S3        http://127.0.0.1:{s3_port}    ratings in {environment["CFJOBS_RATINGS"]}, tables in {environment["CFJOBS_OUTPUT"]}
Logs      {here}/logs

First run    {here}/prefect deployment run nightly/nightly --watch
then         {here}/cfjobs history --output {environment["CFJOBS_OUTPUT"]}
             {here}/cfjobs recs --output {environment["CFJOBS_OUTPUT"]} --user 1

Ctrl-C stops everything."""


def _run(command: Sequence[str], environment: Mapping[str, str]) -> None:
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        start_new_session=True,
    )
    if done.returncode:
        raise Failed(f"{' '.join(command[1:])} failed:\n{done.stdout}{done.stderr}")


def free_port(wanted: int) -> int:
    """A port that is free, as its neighbour 10,000 above is, which SeaweedFS takes too. Raises Failed for a wanted one that is taken."""
    while True:
        with socket.socket() as probe, socket.socket() as neighbour:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", wanted))
                port = int(probe.getsockname()[1])
                if wanted == 0:
                    neighbour.bind(("127.0.0.1", port + 10_000))
                return port
            except (OSError, OverflowError) as error:
                if wanted:
                    raise Failed(f"port {wanted} is taken; choose another") from error


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def _stop(_signal: int, _frame: FrameType | None) -> None:
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, signal.SIG_IGN)
    raise Stopped


if __name__ == "__main__":
    sys.exit(main())
