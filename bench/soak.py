"""An installation lived in: nights by the schedule, faults at random moments, and a judge at the end.

    make soak                                                   60 nights, a minute apart, 27 faults
    python -m bench.soak --nights 60 --every 60 --faults 27 --seed 1

From nothing: Prefect on Postgres, two workers, an object store, all on loopback. Each night is for a
simulated date, is started by a schedule of the deployment, and finds more ratings than the one before. A seed
chooses what happens, and when: a fault hits whichever night is at work at its moment. What died is started
again by the installation, as `make serve` does; nobody runs a night again. At the end `bench/judge.py`, which
has no code of ours, says what came of it.
"""

import argparse
import functools
import json
import os
import random
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import boto3
import httpx
import polars as pl
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from bench.postgres import command as postgres_command
from cfjobs.datasets import synthetic
from cfjobs.storage.parquet import parquet_bytes
from deploy import serve

FIRST = date(2026, 1, 5)
SETTINGS: dict[str, Any] = {
    "epochs": 2,
    "top_n": 20,
    "n_factors": 8,
    "ranking_factors": 8,
    "ranking_steps": 20,
    "shard_users": 100,
    "stars_weight": 1.0,
    "refit": False,
    "gate_beat_popularity": False,
    "gate_rating_tolerance": 0.5,
    "gate_ranking_tolerance": 0.9,
    "gate_max_churn": 1.0,
}
"""Small nights, whose metrics are noise; the gate's counts are those of any night."""
SHORT, LONG = 20.0, 150.0
"""Seconds of a freeze: less than the 90 s after which a run is taken for dead, and more."""
APART = 15.0
"""Seconds between two faults at least: each is to meet an installation that is at work."""
_PASSING = (httpx.HTTPError, BotoCoreError, ClientError, OSError)
"""What the store and the server answer while they are hit."""
_SECONDS_TO_PLAN = 90
"""Prefect's scheduler looks every minute."""


def main() -> int:
    """Soak; returns 1 when the judge finds a fault."""
    parser = argparse.ArgumentParser(prog="python -m bench.soak", description="Live in an installation.")
    parser.add_argument("--nights", type=int, default=60)
    parser.add_argument("--every", type=float, default=60, help="seconds between two nights")
    parser.add_argument("--faults", type=int, default=27)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--settle", type=float, default=1_000, help="seconds at most for the last alerts")
    parser.add_argument("--folder", default="", help="kept with its logs; without it, a temporary one")
    arguments = parser.parse_args()
    if not postgres_command("initdb"):
        print("soak: there is no Postgres here; install Debian's postgresql", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    folder = Path(arguments.folder or tempfile.mkdtemp(prefix="cfjobs-soak-")).absolute()
    plan = drawn(arguments.nights * arguments.every, arguments.faults, seed=arguments.seed)
    try:
        with installed(folder) as soak:
            live(soak, plan, nights=arguments.nights, every=arguments.every)
            settle(soak, seconds=arguments.settle)
            code = judge(soak)
            soak.parts.end()
            left = serve.marked(soak.parts.mark)
            print(f"\nprocesses that outlived the installation: {len(left)}")
            return code or int(bool(left))
    finally:
        if not arguments.folder:
            shutil.rmtree(folder, ignore_errors=True)


# The installation -----------------------------------------------------------------------------------


@dataclass
class Soak:
    """The installation, and what is known of it. runs: the scheduled run of each date."""

    parts: serve.Parts
    folder: Path
    environment: dict[str, str]
    alerts: list[dict[str, Any]]
    postgres: Path
    postgres_port: int = 0
    base: pl.DataFrame = field(default_factory=pl.DataFrame)
    dates: list[date] = field(default_factory=list)
    runs: dict[date, str] = field(default_factory=dict)
    caused: list[dict[str, Any]] = field(default_factory=list)
    samples: list[dict[str, Any]] = field(default_factory=list)

    def api(self, method: str, path: str, **body: Any) -> Any:
        """Ask Prefect's server. Raises httpx.HTTPError when it does not answer."""
        user, _, password = self.environment["PREFECT_API_AUTH_STRING"].partition(":")
        url = self.environment["PREFECT_API_URL"] + path
        answer = httpx.request(method, url, auth=(user, password), timeout=20, **body)
        answer.raise_for_status()
        return answer.json() if answer.content else None

    @functools.cached_property
    def store(self) -> Any:
        """The client of the object store."""
        return boto3.client(
            "s3",
            endpoint_url=self.environment["AWS_ENDPOINT_URL"],
            aws_access_key_id=self.environment["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=self.environment["AWS_SECRET_ACCESS_KEY"],
            region_name=self.environment["AWS_REGION"],
            config=Config(connect_timeout=3, read_timeout=5, retries={"max_attempts": 0}),
        )

    def put(self, name: str, frame: pl.DataFrame) -> None:
        self.store.put_object(Bucket=serve.BUCKET, Key=f"ratings/{name}", Body=parquet_bytes(frame))

    def remove(self, name: str) -> None:
        self.store.delete_object(Bucket=serve.BUCKET, Key=f"ratings/{name}")

    def night_at_work(self) -> date | None:
        """The date of a night that has processes."""
        runs = self.at_work()
        return next((of for of, run in self.runs.items() if run in runs), None)

    def at_work(self) -> dict[str, list[int]]:
        """Flow run -> its processes."""
        found: dict[str, list[int]] = {}
        for pid in serve.marked(self.parts.mark):
            with suppress(OSError):
                for variable in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                    if variable.startswith(b"PREFECT__FLOW_RUN_ID="):
                        found.setdefault(variable.partition(b"=")[2].decode(), []).append(pid)
        return found


@contextmanager
def installed(folder: Path, *, token: str = "", **environment: str) -> Iterator[Soak]:
    """A whole installation, ended with all of its processes. token: in the URL of the alerts' receiver.
    environment: what differs for all parts."""
    parts = serve.Parts(serve.private_folder(folder))
    (folder / "tmp").mkdir(exist_ok=True)
    data = Path(
        tempfile.mkdtemp(prefix="cfjobs-postgres-")
    )  # Postgres does not run as root, nor in its folder
    alerts: list[dict[str, Any]] = []
    with receiver(alerts) as url:
        ours = serve.environment_of(folder, port=serve.free_port(0), s3_port=serve.free_port(0)) | {
            "CFJOBS_RATINGS": f"s3://{serve.BUCKET}/ratings",
            "CFJOBS_OUTPUT": f"s3://{serve.BUCKET}/recommendations",
            "CFJOBS_ALERT_WEBHOOK": f"{url}?token={token}",
            "PREFECT_SERVER_SERVICES_SCHEDULER_MAX_RUNS": "10",
            "TMPDIR": str(folder / "tmp"),
            "OMP_NUM_THREADS": "1",
            "NUMBA_NUM_THREADS": "1",
            "POLARS_MAX_THREADS": "2",
            **environment,
        }
        soak = Soak(parts, folder, ours, alerts, data)
        try:
            start_postgres(soak)
            serve.start_store(parts, folder, ours)
            serve.make_bucket(soak.store)
            serve.start_server(parts, ours)
            quick = folder / "quick.toml"
            quick.write_text("\n".join(f"{name} = {json.dumps(value)}" for name, value in SETTINGS.items()))
            serve.run([sys.executable, "-m", "deploy.apply", "--config", str(quick)], ours)
            for pool in serve.POOLS:
                serve.start_worker(parts, pool, ours)
            yield soak
        finally:
            parts.end()
            shutil.rmtree(data, ignore_errors=True)


def start_postgres(soak: Soak) -> None:
    """A database of its own, on loopback, with a password; made where there is none."""
    data, as_owner = soak.postgres / "data", list[str]()
    if os.getuid() == 0:
        as_owner = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", "--"]
        shutil.chown(soak.postgres, "postgres", "postgres")
    if not soak.postgres_port:
        soak.postgres_port = serve.free_port(0)
        password = secrets.token_urlsafe(18)
        file = soak.postgres / "password"
        file.write_text(password)
        if as_owner:
            shutil.chown(file, "postgres", "postgres")
        initdb = [postgres_command("initdb"), "--pgdata", str(data), "--username=prefect", "--no-sync"]
        initdb += [f"--pwfile={file}", "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C.UTF-8"]
        serve.run([*as_owner, *initdb], soak.environment)
        url = f"postgresql+asyncpg://prefect:{password}@127.0.0.1:{soak.postgres_port}/postgres"
        soak.environment["PREFECT_SERVER_DATABASE_CONNECTION_URL"] = url
    port = str(soak.postgres_port)
    command = [postgres_command("postgres"), "-D", str(data), "-p", port, "-c", "listen_addresses=127.0.0.1"]
    command += ["-c", "unix_socket_directories=", "-c", "max_connections=200"]
    soak.parts.start("postgres", [*as_owner, *command], soak.environment)
    until = time.monotonic() + 60
    ready = [postgres_command("pg_isready"), "--host=127.0.0.1", f"--port={port}", "--quiet"]
    while subprocess.run(ready, check=False).returncode:
        if time.monotonic() > until:
            raise serve.Failed(f"postgres does not answer; see {soak.parts.logs / 'postgres.log'}")
        time.sleep(0.2)


@contextmanager
def receiver(alerts: list[dict[str, Any]]) -> Iterator[str]:
    """The URL of a loopback server that keeps what is posted to it."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            alerts.append({"at": time.time(), "text": json.loads(body)["text"]})
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            return None

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/alert"
    finally:
        server.shutdown()


# Nights ---------------------------------------------------------------------------------------------


def ratings(nights: int) -> tuple[pl.DataFrame, list[pl.DataFrame]]:
    """The ratings there are at first, and those of each night's day."""
    made = synthetic.generate(n_users=300, n_movies=300, n_ratings=12_000, seed=7).ratings
    made = made.sample(fraction=1, shuffle=True, seed=1)
    n_later = made.height // 5
    base, later = made.head(made.height - n_later).sort("user_id", "timestamp"), made.tail(n_later)
    days = []
    for night in range(nights):
        noon = datetime.combine(FIRST + timedelta(days=night), datetime.min.time()) + timedelta(hours=12)
        rows = later.gather_every(nights, offset=night)
        days.append(rows.with_columns(pl.lit(noon).cast(later.schema["timestamp"]).alias("timestamp")))
    return base, days


def undone(action: Callable[[], object]) -> bool:
    """Whether the action went through; it is tried again where the store was just hit."""
    with suppress(*_PASSING):
        action()
        return True
    return False


def schedule(soak: Soak, *, every: float, first: datetime) -> None:
    """In place of the deployment's schedule, one for each date, so many seconds apart;
    until Prefect has made the run of each."""
    deployment = soak.api("GET", "/deployments/name/nightly/nightly")
    for old in deployment["schedules"]:
        soak.api("DELETE", f"/deployments/{deployment['id']}/schedules/{old['id']}")
    planned = []
    for night, of in enumerate(map(str, soak.dates)):
        due = first + timedelta(seconds=night * every)
        rule = f"DTSTART:{due:%Y%m%dT%H%M%SZ}\nRRULE:FREQ=YEARLY;COUNT=1"
        planned.append({"schedule": {"rrule": rule, "timezone": "UTC"}, "active": True, "slug": of,
                        "parameters": {"run_date": of}})  # fmt: skip
    soak.api("POST", f"/deployments/{deployment['id']}/schedules", json=planned)
    while set(soak.dates) - set(find_runs(soak)):
        if datetime.now(UTC) > first:
            raise serve.Failed(f"Prefect planned {len(soak.runs)} of {len(soak.dates)} nights in time")
        time.sleep(1)


def find_runs(soak: Soak) -> dict[date, str]:
    """Which run Prefect's scheduler has made for which date."""
    for offset in range(0, 1_000, 200):
        found = soak.api("POST", "/flow_runs/filter", json={"limit": 200, "offset": offset})
        for run in found:
            if run["auto_scheduled"] and (of := run["parameters"].get("run_date")):
                soak.runs[date.fromisoformat(of)] = run["id"]
        if len(found) < 200:
            break
    return soak.runs


def live(soak: Soak, plan: Sequence["Hit"], *, nights: int, every: float) -> None:
    """Until the last night's time is over: ratings before each night, faults, what died started again."""
    soak.base, days = ratings(nights)
    soak.put("base.parquet", soak.base)
    soak.dates = [FIRST + timedelta(days=night) for night in range(nights)]
    first = (datetime.now(UTC) + timedelta(seconds=_SECONDS_TO_PLAN)).replace(microsecond=0)
    schedule(soak, every=every, first=first)
    began, coming, undo = first.timestamp(), list(plan), list[tuple[float, Callable[[], object]]]()
    delivered, sampled, hit_at = -1, 0.0, 0.0
    while (now := time.time()) < began + nights * every:
        soak.parts.revive()
        undo = [(at, action) for at, action in undo if at > now or not undone(action)]
        night = int((now - began + 8) // every)  # what a night reads is there 8 s before it
        with suppress(*_PASSING):
            if delivered < night < nights:
                soak.put(f"{soak.dates[night]}.parquet", days[night])
                delivered = night
            due = bool(coming) and now > max(began + coming[0].at, hit_at + APART)
            if due and (of := soak.night_at_work()):
                hit, hit_at = coming.pop(0), now
                print(f"{datetime.now():%H:%M:%S} {of}: {hit.kind}", file=sys.stderr, flush=True)
                soak.caused.append({"night": of.isoformat(), "kind": hit.kind, "at": now})
                if after := FAULTS[hit.kind](soak, of):
                    undo.append((time.time() + (after[0] or 2 * every), after[1]))
        if now - sampled > 10:
            sampled = now
            soak.samples.append(sample(soak, night))
        time.sleep(0.5)
    for _, action in undo:
        with suppress(*_PASSING):
            action()


def settle(soak: Soak, *, seconds: float) -> None:
    """Until every run has ended and every alert that is due has come, or for so many seconds."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        soak.parts.revive()
        write_facts(soak)
        if judged(soak, "--quiet") == 0 and not soak.at_work():
            return
        time.sleep(10)


def write_facts(soak: Soak) -> None:
    """What the judge is told: what was planned and caused, and what was measured."""
    facts = {
        "mark": soak.parts.mark,
        "temporary": str(soak.folder / "tmp"),
        "dates": [str(of) for of in soak.dates],
        "caused": soak.caused,
        "alerts": soak.alerts,
        "samples": soak.samples,
    }
    (soak.folder / "facts.json").write_text(json.dumps(facts))


def judge(soak: Soak) -> int:
    """Retention, as an operator runs it, then the judge; returns its exit code."""
    command = [sys.executable, "-m", "cfjobs", "-q", "retain", "--output", soak.environment["CFJOBS_OUTPUT"]]
    serve.run([*command, "--nights", "10000", "--min-age-hours", "0"], soak.environment)
    write_facts(soak)
    return judged(soak)


def judged(soak: Soak, *arguments: str) -> int:
    """The judge's exit code."""
    command = [sys.executable, str(Path(__file__).with_name("judge.py")), str(soak.folder / "facts.json")]
    return subprocess.run([*command, *arguments], env=soak.environment, check=False).returncode


def sample(soak: Soak, night: int) -> dict[str, Any]:
    """Memory of each part, in MB, and what is on disk, in MB."""
    memory = {}
    for name, part in soak.parts.running.items():
        with suppress(OSError, IndexError):
            pages = int(Path(f"/proc/{part.process.pid}/statm").read_text().split()[1])
            memory[name] = round(pages * os.sysconf("SC_PAGE_SIZE") / 1e6, 1)
    disk = {"store": size_of(soak.folder / "s3"), "postgres": size_of(soak.postgres)}
    return {"night": night, "memory": memory, "disk": disk}


def size_of(folder: Path) -> float:
    """MB of the files under a folder."""
    total = 0
    for path in folder.rglob("*"):
        with suppress(OSError):
            total += path.stat().st_blocks * 512 if path.is_file() else 0
    return round(total / 1e6, 1)


# Faults ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Hit:
    """A fault, so many seconds after the first night's time, or as soon after it as a night is at work."""

    at: float
    kind: str


def drawn(seconds: float, faults: int, *, seed: int) -> list[Hit]:
    """Which fault comes when: every kind about as often, none in the last tenth of the time."""
    rng = random.Random(seed)
    kinds = [kind for _ in range(faults // len(FAULTS) + 1) for kind in rng.sample(list(FAULTS), len(FAULTS))]
    moments = sorted(rng.uniform(0, 0.9 * seconds) for _ in range(faults))
    return [Hit(at, kind) for at, kind in zip(moments, kinds, strict=False)]


After = tuple[float, Callable[[], object]] | None
"""What ends a fault, and after how many seconds; 0: after two nights."""


def kill_part(name: str, soak: Soak, _of: date) -> After:
    os.killpg(soak.parts.running[name].process.pid, signal.SIGKILL)
    return None


def freeze_part(name: str, soak: Soak, _of: date) -> After:
    group = soak.parts.running[name].process.pid
    os.killpg(group, signal.SIGSTOP)
    return SHORT, lambda: os.killpg(group, signal.SIGCONT)


def kill_night(soak: Soak, of: date) -> After:
    send(signal.SIGKILL, soak.at_work().get(soak.runs[of], ()))
    return None


def kill_training(soak: Soak, of: date) -> After:
    nights = set(soak.runs.values())
    until = time.monotonic() + 20
    while not (pids := [pid for run, them in soak.at_work().items() if run not in nights for pid in them]):
        if time.monotonic() > until or soak.runs[of] not in soak.at_work():
            return None
        time.sleep(0.2)
    send(signal.SIGKILL, pids)
    return None


def kill_machine(soak: Soak, of: date) -> After:
    kill_part("worker-cfjobs", soak, of)
    return kill_night(soak, of)


def cut_power(soak: Soak, _of: date) -> After:
    """All at once; then a start in the usual order."""
    for name in list(soak.parts.running):
        with suppress(ProcessLookupError):
            os.killpg(soak.parts.running[name].process.pid, signal.SIGKILL)
    serve.end_marked(soak.parts.mark)
    for part in soak.parts.running.values():
        part.process.wait()
    soak.parts.running.clear()
    start_postgres(soak)
    serve.start_store(soak.parts, soak.folder, soak.environment)
    serve.start_server(soak.parts, soak.environment)
    serve.run([sys.executable, "-m", "deploy.leftovers"], soak.environment)
    for pool in serve.POOLS:
        serve.start_worker(soak.parts, pool, soak.environment)
    return None


def freeze_night(seconds: float, soak: Soak, of: date) -> After:
    pids = soak.at_work().get(soak.runs[of], [])
    send(signal.SIGSTOP, pids)
    return seconds, lambda: send(signal.SIGCONT, pids)


def send(number: signal.Signals, pids: Sequence[int]) -> None:
    for pid in pids:
        with suppress(OSError):
            os.kill(pid, number)


def cancel(soak: Soak, of: date) -> After:
    state = {"state": {"type": "CANCELLING"}}
    soak.api("POST", f"/flow_runs/{soak.runs[of]}/set_state", json=state)
    return None


def bad_ratings(soak: Soak, _of: date) -> After:
    soak.put("broken.parquet", soak.base.head(50).with_columns(pl.lit("many").alias("rating")))
    return 0, lambda: soak.remove("broken.parquet")


def half_the_ratings(soak: Soak, _of: date) -> After:
    soak.put("base.parquet", soak.base.head(soak.base.height // 2))
    return 0, lambda: soak.put("base.parquet", soak.base)


FAULTS: dict[str, Callable[[Soak, date], After]] = {
    "the night killed": kill_night,
    "the training killed": kill_training,
    "the worker killed": functools.partial(kill_part, "worker-cfjobs"),
    "the training's worker killed": functools.partial(kill_part, "worker-cfjobs-gpu"),
    "worker and night killed": kill_machine,
    "the server killed": functools.partial(kill_part, "server"),
    "the store killed": functools.partial(kill_part, "s3"),
    f"the store frozen for {SHORT:.0f} s": functools.partial(freeze_part, "s3"),
    f"the night frozen for {SHORT:.0f} s": functools.partial(freeze_night, SHORT),
    f"the night frozen for {LONG:.0f} s": functools.partial(freeze_night, LONG),
    "cancelled": cancel,
    "a file of broken ratings": bad_ratings,
    "half the ratings": half_the_ratings,
    "power cut": cut_power,
}


if __name__ == "__main__":
    sys.exit(main())
