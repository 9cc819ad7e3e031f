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
from flows.nightly import hold_out_where, nightly, prepare_where
from tests.night import test_pieces
from tests.night.test_pieces import in_several_files, with_small_pieces
from tests.night.test_story import NIGHT, QUICK, rows, start

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
    several_files: Path, tmp_path: Path, prefect_server: str, ray_of_two: str
) -> None:
    config = QUICK.model_copy(update={"runner": "ray", "ray_address": ray_of_two, "memory_gb": 1.0})
    night = start(several_files, str(tmp_path / "ray"), config=config)
    larger = night.model_copy(update={"config": config.model_copy(update={"memory_gb": 9_000.0})})
    with pytest.raises(
        InputError, match=r"memory_gb: got 9000\.0, but the largest node of the Ray cluster lends"
    ):
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
def killing(cluster: Any, *, kills: int) -> Iterator[list[int]]:
    """Kill -9 processes that run tasks, one every second; in the end, a whole node."""
    stop, killed = threading.Event(), list[int]()

    def kill() -> None:
        while not stop.wait(1.0):
            for raylet in [node.all_processes["raylet"][0].process.pid for node in cluster.worker_nodes]:
                for pid in map(int, Path(f"/proc/{raylet}/task/{raylet}/children").read_text().split()):
                    title = Path(f"/proc/{pid}/cmdline").read_bytes()
                    if title.startswith(b"ray::") and b"IDLE" not in title and len(killed) < kills:
                        os.kill(pid, signal.SIGKILL)
                        killed.append(pid)
                        break

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield killed
    finally:
        stop.set()
        thread.join()


@pytest.mark.long
@pytest.mark.parametrize("n_nodes", [1, 2, 4])
def test_a_night_on_several_nodes_publishes_the_tables_of_one_process(
    n_nodes: int, several_files: Path, tmp_path: Path, prefect_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With kills on the way where there are several nodes, and a node that goes and does not come back."""
    here, there = str(tmp_path / "here"), str(tmp_path / "ray")
    settings = {"memory_gb": 1.0, "shard_users": 60}
    nightly(str(several_files), here, config=QUICK.model_copy(update=settings), run_date=NIGHT)
    with nodes(monkeypatch, n_nodes) as cluster, killing(cluster, kills=2 if n_nodes > 1 else 0) as killed:
        on_ray = QUICK.model_copy(update=settings | {"runner": "ray", "ray_address": cluster.address})
        night = start(several_files, there, config=on_ray)
        hold_out_where(night, prepare_where(night))
        check_like_one_process(night, several_files, str(tmp_path / "once more"))
        if n_nodes == 4:
            cluster.remove_node(next(iter(cluster.worker_nodes)))
        nightly(str(several_files), there, config=on_ray, run_date=NIGHT)
    assert len(killed) == (2 if n_nodes > 1 else 0)
    for table in test_pieces.TABLES:
        mine, theirs = (rows(output, table).drop("run_date") for output in (there, here))
        assert mine.equals(theirs), table
