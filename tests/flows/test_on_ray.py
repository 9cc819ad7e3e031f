"""A night whose ratings are read in pieces on a Ray cluster is the night of one process: work folder and
tables, whatever is killed meanwhile."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cfjobs.errors import InputError
from cfjobs.night import story
from cfjobs.night.records import Night
from flows import on_ray
from flows.nightly import hold_out_where, nightly, prepare_where
from tests.night import test_pieces
from tests.night.test_pieces import in_several_files, with_small_pieces
from tests.night.test_story import NIGHT, QUICK, rows, start
from tests.night.test_torchrun import command_line

TABLES = ("ratings", "holdout", "users", "movies", "rejected")


@pytest.fixture
def several_files(data_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The data set in files of 700 ratings, some of which cannot be; ranges of 1,000 rows."""
    with_small_pieces(monkeypatch)
    return in_several_files(data_set, tmp_path / "in")


def check_like_one_process(night: Night, folder: Path, output: str) -> None:
    """The work folder of a prepared night holds what that of a night `here` would."""
    here = start(folder, output, config=night.config.model_copy(update={"runner": "here"}))
    prepared = story.prepare(here)
    story.hold_out(here, prepared)
    assert night.load("prepared", type(prepared)) == prepared
    for name in TABLES:
        assert night.frame(name).equals(here.frame(name)), name
    assert len(night.files("ratings")) > 1


def test_ratings_are_prepared_and_split_in_pieces(
    several_files: Path,
    tmp_path: Path,
    prefect_server: str,
    ray_of_two: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = QUICK.model_copy(update={"runner": "ray", "ray_address": ray_of_two, "memory_gb": 1.0})
    night = start(several_files, str(tmp_path / "ray"), config=config)
    larger = night.model_copy(update={"config": config.model_copy(update={"memory_gb": 9_000.0})})
    monkeypatch.setattr(on_ray, "SECONDS_FOR_A_NODE", 0.0)
    with pytest.raises(InputError, match=r"got 9000\.0 and 1, but the largest node of the Ray cluster lends"):
        prepare_where(larger)
    hold_out_where(night, prepare_where(night))
    check_like_one_process(night, several_files, str(tmp_path / "here"))


@contextmanager
def nodes(monkeypatch: pytest.MonkeyPatch, n: int) -> Iterator[Any]:
    """A Ray cluster of a head that takes no task and n nodes of one processor each."""
    import ray
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    small = {"object_store_memory": 100 * 2**20}
    head = {"num_cpus": 0, "include_dashboard": False, **small}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    for _ in range(n):
        cluster.add_node(num_cpus=1, memory=2 * 2**30, **small)
    try:
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()


@contextmanager
def killing(cluster: Any, *, processes: int, a_node: bool) -> Iterator[list[int]]:
    """Kill -9 so many processes that run tasks, one every second, and then one node's raylet."""
    stop, killed = threading.Event(), list[int]()
    raylets = [node.all_processes["raylet"][0].process.pid for node in cluster.worker_nodes]

    def kill() -> None:
        while not stop.wait(1.0):
            busy = [pid for raylet in raylets for pid in children(raylet) if is_busy(pid)]
            if busy and len(killed) < processes:
                killed.append(busy[0])
            elif busy and a_node and len(killed) == processes:
                killed.append(raylets[0])
            else:
                continue
            os.kill(killed[-1], signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield killed
    finally:
        stop.set()
        thread.join()


def children(pid: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def is_busy(pid: int) -> bool:
    title = command_line(pid)
    return title.startswith(b"ray::") and b"IDLE" not in title


@pytest.mark.long
@pytest.mark.parametrize("n_nodes", [1, 2, 4])
def test_a_night_on_several_nodes_publishes_the_tables_of_one_process(
    n_nodes: int, several_files: Path, tmp_path: Path, prefect_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With kills on the way where there are several nodes, of four also of a whole node."""
    here, there = str(tmp_path / "here"), str(tmp_path / "ray")
    config = QUICK.model_copy(update={"memory_gb": 1.0, "shard_users": 60})
    story.nightly(start(several_files, here, config=config))
    n_killed = 0 if n_nodes == 1 else 2
    with (
        nodes(monkeypatch, n_nodes) as cluster,
        killing(cluster, processes=n_killed, a_node=n_nodes == 4) as killed,
    ):
        spread = config.model_copy(update={"runner": "ray", "ray_address": cluster.address})
        nightly(str(several_files), there, config=spread, run_date=NIGHT)
    assert len(killed) == n_killed + (n_nodes == 4)
    for table in test_pieces.TABLES:
        mine, theirs = (rows(output, table) for output in (there, here))
        assert mine.equals(theirs), table
