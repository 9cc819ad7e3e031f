"""A night that is killed in mid-scoring, at random moments, publishes what an unkilled one does."""

from pathlib import Path

import pytest

from bench.kill import kill_and_compare


@pytest.mark.parametrize(
    "flow", [pytest.param(False, id="alone"), pytest.param(True, id="prefect", marks=pytest.mark.long)]
)
def test_killed_nights_publish_the_same_bytes_and_no_reader_sees_a_part(
    data_set: Path, tmp_path: Path, flow: bool
) -> None:
    kills = 1
    found = kill_and_compare(str(data_set), tmp_path, kills=kills, seed=0, flow=flow)
    assert found.equal_files
    assert found.kept >= kills
    assert found.redone == 0
    assert found.foreign == 0
    assert found.seen > 5
