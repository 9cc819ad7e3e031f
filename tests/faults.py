"""What can go wrong on a night, each fault caused on real parts: used by test_faults.py and bench/faults.py.

A fault is caused while a reader polls the published tables. Then the same night is run again without it, and
its rows are compared with those of a night that nothing disturbed.
"""

import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from urllib.parse import urlparse

import polars as pl

from cfjobs import storage
from cfjobs.config import load_config
from cfjobs.night import story
from cfjobs.night.records import Inputs
from cfjobs.tables import delta
from tests.faulty import FaultyProxy, Rule

BEFORE, NIGHT = date(2026, 3, 1), date(2026, 3, 2)
SETTINGS = [
    "epochs=3",
    "optimizer=adam",  # slow enough to be hit in training
    "top_n=20",
    "n_factors=8",
    "ranking_factors=8",
    "ranking_steps=20",
    "shard_users=40",
    "gate_beat_popularity=false",
]


@dataclass
class Outcome:
    """What came of a fault. message: the last line of the disturbed run, or why there was none."""

    name: str
    survived: bool
    seconds: float
    rows_lost: int
    partial_reads: int
    reads: int
    message: str


@dataclass
class Run:
    """A night as a process of the command line, whose log can be waited on."""

    process: subprocess.Popen[str]
    lines: list[str] = field(default_factory=list)

    def wait_for(self, words: str, *, seconds: float = 120) -> None:
        """Until the log has these words; AssertionError when the run ends before."""
        assert self.process.stderr is not None
        until = time.monotonic() + seconds
        while time.monotonic() < until and (line := self.process.stderr.readline()):
            self.lines.append(line.rstrip())
            if words in line:
                return
        raise AssertionError(f"the log never said {words!r}:\n" + "\n".join(self.lines[-20:]))

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.end()

    def end(self, *, seconds: float = 180) -> int:
        """Wait for the end; returns the exit code."""
        _, rest = self.process.communicate(timeout=seconds)
        self.lines += rest.splitlines()
        return self.process.returncode

    @property
    def message(self) -> str:
        """The one line with which the command ended."""
        said = [line for line in self.lines if line.startswith("cfjobs:")]
        return said[-1] if said else f"exit code {self.process.returncode}: {''.join(self.lines[-1:])}"


def publish(data: Path, output: str, *, run_date: date) -> None:
    """Publish the same night in this process, undisturbed."""
    inputs = Inputs(ratings=str(data))
    story.nightly(
        story.start(inputs, output=output, run_date=run_date, config=load_config(settings=SETTINGS))
    )


def start(
    data: Path,
    output: str,
    *settings: str,
    run_date: date = NIGHT,
    limits: Callable[[], None] | None = None,
    **environment: str,
) -> Run:
    """Start a night. limits: called in the child before it runs."""
    command = [sys.executable, "-m", "cfjobs", "nightly", "--ratings", str(data), "--output", output]
    command += ["--run-date", run_date.isoformat()]
    for setting in (*SETTINGS, *settings):
        command += ["--set", setting]
    process = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | environment,
        preexec_fn=limits,  # noqa: PLW1509  # sets a limit, takes no lock
    )
    return Run(process)


def rows(output: str, run_date: date = NIGHT) -> pl.DataFrame:
    """The published lists of a night, sorted; empty when there are none."""
    uri = storage.join(output, "top_n")
    if delta.open_table(output, "top_n") is None:
        return pl.DataFrame({"user_id": []})
    frame = pl.read_delta(uri, storage_options=storage.options(uri))
    return frame.filter(pl.col("run_date") == run_date).sort("user_id", "rank")


class Reader:
    """Polls the published tables as a reader does, and counts the reads that were not whole nights."""

    def __init__(self, output: str) -> None:
        self.output, self.reads, self.partial = output, 0, 0
        self.faults: list[str] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._poll, daemon=True)

    def __enter__(self) -> "Reader":
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._stop.set()
        self._thread.join(60)

    def _poll(self) -> None:
        while not self._stop.wait(0.05):
            fault = self._read()
            self.reads += 1
            if fault:
                self.partial += 1
                self.faults.append(fault)

    def _read(self) -> str | None:
        """What is wrong with the latest tables, or None."""
        runs = delta.open_table(self.output, "runs")
        if runs is None:
            return None
        nights = runs.to_pyarrow_table().sort_by("run_date").to_pylist()
        if not nights:
            return "runs is empty"
        night = nights[-1]
        wanted = json.loads(night["counts"])
        version = json.loads(night["table_versions"])["top_n"]
        for at in (version, None):  # as `runs` says, and simply the latest
            table = delta.open_table(self.output, "top_n", version=at)
            assert table is not None
            lists = pl.from_arrow(table.to_pyarrow_table(columns=["run_date", "user_id", "rank"]))
            assert isinstance(lists, pl.DataFrame)
            for day, found in lists.group_by("run_date"):
                if day[0] == night["run_date"] and found.height != wanted["rows"]:
                    return f"{found.height} rows of {day[0]} at version {at}, {wanted['rows']} published"
                if found["user_id"].n_unique() != wanted["lists"]:
                    return f"{found['user_id'].n_unique()} lists of {day[0]}, {wanted['lists']} published"
        return None


def disturbed(
    name: str, fault: Callable[[], str], *, data: Path, output: str, undisturbed: pl.DataFrame
) -> Outcome:
    """Cause a fault while a reader polls, run the night again, and compare."""
    with Reader(output) as reader:
        message = fault()
        began = time.monotonic()
        again = start(data, output)
        code = again.end()
        seconds = time.monotonic() - began
    found = rows(output)
    lost = undisturbed.height - found.height
    survived = code == 0 and found.equals(undisturbed)
    said = message if code == 0 else f"the rerun failed: {again.message} (before it: {message})"
    return Outcome(name, survived, seconds, lost, reader.partial, reader.reads, said)


# Faults ---------------------------------------------------------------------------------------------


def killed_at(words: str, data: Path, output: str) -> Callable[[], str]:
    """kill -9 as soon as the log says this."""

    def fault() -> str:
        run = start(data, output)
        run.wait_for(words)
        run.kill()
        return f"killed at {words!r}"

    return fault


def killed_in_commit(table: str, data: Path, output: str) -> Callable[[], str]:
    """kill -9 while the commit of this table is on its way: the tables before it are committed,
    those after are not."""

    def fault() -> str:
        with FaultyProxy(address_of_store()) as proxy:
            commit = Rule(f"/{table}/_delta_log/00000000000000000001.json".encode(), "hold")
            proxy.rules.append(commit)
            run = start(data, output, AWS_ENDPOINT_URL=proxy.endpoint)
            run.wait_for("checked")
            assert commit.fired.wait(60), "the commit never came"
            run.kill()
        return f"killed in the commit of {table}"

    return fault


def store_fails(rule: Rule, data: Path, output: str, *, from_words: str = "") -> Callable[[], str]:
    """A store that fails by a rule, from the start or from when the log says this;
    the run ends or goes through."""

    def fault() -> str:
        with FaultyProxy(address_of_store()) as proxy:
            run = start(data, output, AWS_ENDPOINT_URL=proxy.endpoint)
            if from_words:
                run.wait_for(from_words)
            proxy.rules.append(rule)
            if rule.action in {"refuse", "cut"}:
                proxy.drop()
            code = run.end()
            assert rule.fired.is_set(), "the fault never came"
        return run.message if code else "went through"

    return fault


FAILURES: dict[str, tuple[Callable[[], Rule], str, str]] = {
    "refuses": (lambda: Rule(b"", "refuse"), "training ", "did not answer"),
    "dies in a write": (lambda: Rule(b"PUT ", "cut"), "shard 0:", "did not answer"),
    "answers 503 twice": (lambda: Rule(b"", "unavailable", times=2), "training ", "went through"),
    "answers 503": (lambda: Rule(b"PUT ", "unavailable"), "training ", "ServiceUnavailable"),
    "is slow": (lambda: Rule(b"", "slow", seconds=0.02), "", "went through"),
}
"""Rule, the words of the log from which it acts, and what the run's end says."""


def two_at_once(data: Path, output: str) -> Callable[[], str]:
    """Two runs of one date: one of them ends with the name of the other,
    or waits a few seconds for its end."""

    def fault() -> str:
        runs = [start(data, output), start(data, output)]
        codes = [run.end() for run in runs]
        assert sorted(codes) in ([0, 0], [0, 1]), [run.message for run in runs]
        return runs[codes.index(1)].message if 1 in codes else "one after the other"

    return fault


def disk_full(data: Path, output: str, *, kilobytes: int = 8) -> Callable[[], str]:
    """No file may grow beyond this: what a full disk does to a write, without filling one."""

    def limits() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (kilobytes * 1024, kilobytes * 1024))

    def fault() -> str:
        run = start(data, output, limits=limits)
        assert run.end() == 2, run.message  # no retry frees a disk
        return run.message

    return fault


def out_of_memory(data: Path, output: str) -> Callable[[], str]:
    """No more memory from the training on."""

    def fault() -> str:
        run = start(data, output)
        run.wait_for("epoch 1")
        used = int(Path(f"/proc/{run.process.pid}/statm").read_text(encoding="ascii").split()[0])
        limit = used * resource.getpagesize() + 8_000_000
        resource.prlimit(run.process.pid, resource.RLIMIT_AS, (limit, limit))
        assert run.end() != 0
        return run.message

    return fault


def address_of_store() -> tuple[str, int]:
    address = urlparse(os.environ["AWS_ENDPOINT_URL"])
    assert address.hostname
    assert address.port
    return address.hostname, address.port
