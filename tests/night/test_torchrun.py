"""Several processes: the model of one process at the same total batch, one voice, and nothing left behind.

Stated tolerance: every weight within 1e-3 of one process's, after tens of steps of Adam, whose division by
small moments magnifies the order of the sums; every loss within 1e-4. Processes agree with each other bit for
bit.
"""

import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from cfjobs.errors import TrainingDiverged
from cfjobs.night import story
from cfjobs.training.distributed import ALONE, Processes
from tests import rank
from tests.conftest import ROOT
from tests.night.test_story import QUICK, start

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def torchrun(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [*TORCHRUN, *map(str, arguments)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def test_two_processes_train_the_model_of_one(tmp_path: Path) -> None:
    done = torchrun("-m", "tests.rank", tmp_path)
    assert done.returncode == 0, done.stderr
    one, first, second = rank.trained(ALONE), *(load_file(tmp_path / f"{n}.safetensors") for n in (0, 1))
    for name, tensor in one.items():
        assert torch.equal(first[name], second[name]), name
        torch.testing.assert_close(
            first[name], tensor, rtol=0, atol=1e-4 if name.endswith("losses") else 1e-3, msg=name
        )


@pytest.mark.parametrize("size", [1, 2, 3, 7])
@pytest.mark.parametrize("n", [0, 1, 2, 10])
def test_the_slices_of_a_batch_are_the_batch(n: int, size: int) -> None:
    rows = list(range(n))
    slices = [rows[Processes(number, size).own(n)] for number in range(size)]
    assert list(itertools.chain.from_iterable(slices)) == rows
    assert max(map(len, slices)) - min(map(len, slices)) <= 1


@pytest.mark.long
def test_the_command_runs_under_torchrun_and_one_process_speaks(data_set: Path, tmp_path: Path) -> None:
    # What several processes train by; the weight of stars, which another training would choose, is given.
    config = QUICK.model_copy(update={"optimizer": "adam", "stars_weight": 1.0})
    settings = config.model_dump(exclude_defaults=True)
    command = [
        "-m",
        "cfjobs",
        "train",
        "--json",
        "--ratings",
        data_set,
        "--output",
        tmp_path,
        "--run-date",
        "2026-03-01",
    ]
    done = torchrun(
        *command, *(word for key, value in settings.items() for word in ("--set", f"{key}={value}"))
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    alone = story.train_alone(
        start(data_set, str(tmp_path / "alone"), config=config.model_copy(update={"refit": False}))
    )
    assert done.stderr.count("epoch 1 of") == 1
    for (_, *losses), (_, *of_one) in zip(found["losses"], alone.losses, strict=True):
        assert losses == pytest.approx(of_one, abs=1e-4)


def test_a_night_starts_its_processes_itself(data_set: Path, tmp_path: Path) -> None:
    config = QUICK.model_copy(update={"processes": 2, "refit": False})
    told: list[str] = []
    trained = story.train_alone(
        start(data_set, str(tmp_path), config=config),
        progress=lambda _stage, _done, words: told.append(words),
    )
    assert any(words.startswith("epoch 2") for words in told)
    assert trained.losses


@pytest.mark.long
def test_an_error_in_processes_is_the_error_of_the_night(data_set: Path, tmp_path: Path) -> None:
    config = QUICK.model_copy(update={"processes": 2, "refit": False})
    broken = config.model_copy(
        update={"optimizer": "sgd", "learning_rate": 1000.0, "model": "dot", "batch_size": 64, "epochs": 5}
    )
    with pytest.raises(TrainingDiverged, match="lower learning_rate"):
        story.train_alone(start(data_set, str(tmp_path), config=broken))


@pytest.mark.long
def test_processes_are_started_again_when_one_is_killed(
    data_set: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """By torch's agent; they go on from the last checkpoint, and the night does not notice."""
    settings = {"epochs": 300, "patience": 0, "checkpoint_seconds": 0.1, "processes": 2, "refit": False}
    killed: list[int] = []

    def kill() -> None:
        until = time.monotonic() + 90
        while not killed and time.monotonic() < until:
            time.sleep(0.1)
            ranks = [pid for pid in processes_naming(tmp_path) if b"\0rank\0" in command_line(pid)]
            if ranks and list(tmp_path.glob("_work/*/checkpoint-*")):
                os.kill(ranks[-1], signal.SIGKILL)
                killed.append(ranks[-1])

    thread = threading.Thread(target=kill)
    thread.start()
    with caplog.at_level("INFO", logger="cfjobs"):
        trained = story.train_alone(start(data_set, str(tmp_path), config=QUICK.model_copy(update=settings)))
    thread.join()
    assert killed
    assert "going on from the checkpoint" in caplog.text
    assert len(trained.losses) == 300


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="the kernel ends orphans on Linux only")
def test_no_process_outlives_a_night_that_is_killed(data_set: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "cfjobs", "-q", "nightly", "--ratings", data_set, "--output", tmp_path]
    command += ["--set", "processes=2", "--set", "epochs=5000", "--set", "patience=0", "--set", "top_n=10"]
    command += ["--set", "checkpoint_seconds=0.1"]
    night = subprocess.Popen(list(map(str, command)), start_new_session=True, cwd=ROOT)
    until = time.monotonic() + 90
    while not list(tmp_path.glob("_work/*/checkpoint-*")) and time.monotonic() < until:
        assert night.poll() is None
        time.sleep(0.1)
    assert len(processes_naming(tmp_path)) >= 4  # the night, torchrun, two ranks
    night.send_signal(signal.SIGKILL)
    night.wait()
    while processes_naming(tmp_path) and time.monotonic() < until:
        time.sleep(0.1)
    assert not processes_naming(tmp_path)


def processes_naming(folder: Path) -> list[int]:
    """Pids of the living processes whose command line names a folder."""
    pids = [int(entry.name) for entry in Path("/proc").glob("[0-9]*")]
    return [pid for pid in pids if str(folder).encode() in command_line(pid)]


def command_line(pid: int) -> bytes:
    """Its words, each ended by a zero; nothing of a process that is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
