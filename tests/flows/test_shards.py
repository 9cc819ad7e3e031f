"""Where shards run: the same rows from a Ray cluster of several processes as from this one."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cfjobs.night import story
from flows.shards import score_all
from tests.night.test_story import QUICK, rows, run, start

SHARDS = QUICK.model_copy(update={"shard_users": 60, "runner": "ray", "refit": False})


@pytest.mark.long
def test_a_ray_cluster_makes_the_same_rows(
    data_set: Path, tmp_path: Path, ray_of_two: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = SHARDS.model_copy(update={"runner": "here"})
    run(data_set, str(tmp_path / "here"), config=here)
    night = start(
        data_set,
        str(tmp_path / "ray"),
        config=SHARDS.model_copy(update={"ray_address": ray_of_two, "gpus_per_shard": 0.5}),
    )
    prepared = story.prepare(night)
    story.hold_out(night, prepared)
    trained = story.fit(night, prepared, on="train")
    monkeypatch.setattr(story, "score", _not_here)
    with free_gpus() as left:
        scored = score_all(night, prepared, trained)
    story.check(night, prepared, scored)
    story.commit(night, prepared, trained, scored, metrics={}, verdict="no holdout", seconds={})
    assert len(scored) == 3
    assert min(left) in {0.0, 0.5}, "shards took their share of the GPU"
    assert rows(str(tmp_path / "ray")).equals(rows(str(tmp_path / "here")))


@contextmanager
def free_gpus() -> Iterator[list[float]]:
    """GPUs of the cluster that nobody had, looked at again and again meanwhile."""
    import ray

    stop, left = threading.Event(), list[float]()

    def look() -> None:
        while not stop.wait(0.05):
            left.append(ray.available_resources().get("GPU", 0.0))

    thread = threading.Thread(target=look)
    thread.start()
    yield left
    stop.set()
    thread.join()


def _not_here(*_: object, **__: object) -> None:
    raise AssertionError("a shard was scored in the flow's own process")
