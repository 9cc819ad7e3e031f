"""What a process may use: the least of its affinity and the quotas of its cgroup and those above."""

import os
from pathlib import Path

import pytest

from cfjobs import resources


def cgroup(root: Path, quotas: dict[str, str], *, path: str) -> Path:
    for folder, quota in quotas.items():
        (root / folder).mkdir(parents=True, exist_ok=True)
        (root / folder / "cpu.max").write_text(quota)
    membership = root / "membership"
    membership.write_text(f"0::{path}\n")
    return membership


@pytest.mark.parametrize(
    ("quotas", "granted"),
    [
        ({}, float("inf")),
        ({"a/b": "max 100000"}, float("inf")),
        ({"a/b": "150000 100000"}, 1.5),
        ({"a": "50000 100000", "a/b": "300000 100000"}, 0.5),
        ({"": "200000 100000"}, 2.0),
    ],
)
def test_the_least_quota_above_a_process_holds(
    tmp_path: Path, quotas: dict[str, str], granted: float
) -> None:
    assert resources._quota(cgroup(tmp_path, quotas, path="/a/b"), tmp_path) == granted


def test_quotas_of_the_first_version_hold_too(tmp_path: Path) -> None:
    (tmp_path / "cpu" / "job").mkdir(parents=True)
    (tmp_path / "cpu" / "job" / "cpu.cfs_quota_us").write_text("250000\n")
    (tmp_path / "cpu" / "job" / "cpu.cfs_period_us").write_text("100000\n")
    (tmp_path / "membership").write_text("4:memory:/job\n3:cpu,cpuacct:/job\n")
    assert resources._quota(tmp_path / "membership", tmp_path) == 2.5


def test_affinity_counts_and_one_processor_is_always_there(monkeypatch: pytest.MonkeyPatch) -> None:
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert resources.processors() == 1
    finally:
        os.sched_setaffinity(0, allowed)
    monkeypatch.setattr(resources, "_quota", lambda *_: 0.1)
    assert resources.processors() == 1


def test_the_least_limit_of_memory_holds_and_the_page_cache_is_free(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    for folder, limit, used in (("a", "1000", "600"), ("a/b", "max", "500")):
        (tmp_path / folder / "memory.max").write_text(limit)
        (tmp_path / folder / "memory.current").write_text(used)
        (tmp_path / folder / "memory.stat").write_text("anon 1\ninactive_file 50\n")
    (tmp_path / "membership").write_text("0::/a/b\n")
    assert resources._group_left(tmp_path / "membership", tmp_path) == 450
    assert 0 < resources.memory_left() < 1e15
