"""A night whose process is stopped at a commit, in the object store,
and goes on after another has published its date."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from deltalake import DeltaTable

from cfjobs import storage
from tests import faults
from tests.faults import BEFORE, NIGHT, SETTINGS, address_of_store
from tests.faulty import FaultyProxy, Rule

LEASE_S = 2
PROGRAM = f"""
import sys
from cfjobs.storage import lease
lease.LEASE_S = {LEASE_S}
from cfjobs.cli import main
sys.argv[0] = "cfjobs"
main()
"""


def night(data: Path, output: str, *settings: str, **environment: str) -> subprocess.Popen[str]:
    """A night whose lease runs out after LEASE_S."""
    command = [sys.executable, "-c", PROGRAM, "nightly", "--ratings", str(data), "--output", output]
    command += ["--run-date", NIGHT.isoformat()]
    for setting in (*SETTINGS, *settings):
        command += ["--set", setting]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ | environment)


@pytest.mark.long
def test_a_paused_night_commits_nothing_more_after_another_took_its_place(
    data_set: Path, bucket: str, request: pytest.FixtureRequest
) -> None:
    table = "movie_embeddings"
    output = f"{bucket}/out"
    faults.publish(data_set, output, run_date=BEFORE)
    with FaultyProxy(address_of_store()) as proxy:
        commit = Rule(f"/{table}/_delta_log/00000000000000000001.json".encode(), "slow", seconds=0.5, times=1)
        proxy.rules.append(commit)
        paused = night(data_set, output, AWS_ENDPOINT_URL=proxy.endpoint)
        request.addfinalizer(paused.kill)
        assert commit.fired.wait(120), "the commit never came"
        paused.send_signal(signal.SIGSTOP)
        time.sleep(1)  # what was on its way has arrived
        other = night(data_set, output, "seed=7", "gate_override=true")
        assert other.wait(120) == 0, other.stderr and other.stderr.read()
        stands = told(output)
        paused.send_signal(signal.SIGCONT)
        _, log = paused.communicate(timeout=120)
    assert told(output) == stands, "the one that was paused changed nothing"
    assert paused.returncode == 1, log[-2000:]
    assert "another took its place" in log
    assert newest_files(output) == files_of(output, stands), "the newest tables are those that `runs` names"
    assert faults.rows(output).height > 0


def told(output: str) -> tuple[str, dict[str, int]]:
    """The run of the newest night, and the versions that it names."""
    table = DeltaTable(f"{output}/runs", storage_options=storage.options(output))
    row = table.to_pyarrow_table().sort_by("run_date").to_pylist()[-1]
    return row["run_id"], json.loads(row["table_versions"])


def files(output: str, name: str, version: int | None) -> list[str]:
    table = DeltaTable(f"{output}/{name}", version=version, storage_options=storage.options(output))
    return sorted(uri for uri in table.file_uris() if f"run_date={NIGHT}" in uri)


def newest_files(output: str) -> dict[str, list[str]]:
    return {name: files(output, name, None) for name in told(output)[1]}


def files_of(output: str, stands: tuple[str, dict[str, int]]) -> dict[str, list[str]]:
    return {name: files(output, name, version) for name, version in stands[1].items()}
