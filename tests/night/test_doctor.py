"""The doctor finds what is wrong with an installation, whatever it is, says what mends it,
and mends what it may."""

import json
import os
import shutil
import time
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

from cfjobs import tables
from cfjobs.cli import run as run_cli
from cfjobs.errors import InputError
from cfjobs.night import doctor
from cfjobs.storage.lease import leased
from cfjobs.tables import runs
from tests.night.test_fencing import ready

OLD = time.time() - 10 * 86_400


@pytest.fixture
def output(two_nights: Path, tmp_path: Path) -> Path:
    """A copy of an installation of two nights."""
    shutil.copytree(two_nights / "out", tmp_path / "out")
    for path in (tmp_path / "out" / "runs").rglob("*.parquet"):
        assert str(two_nights).encode() in path.read_bytes()
    return tmp_path / "out"


def newest_file(output: Path, name: str) -> Path:
    return Path(DeltaTable(output / name).file_uris()[0])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 0x55
    path.write_bytes(bytes(data))


def half_a_night(output: Path) -> None:
    """The first commit of a night that never came to its end."""
    table = DeltaTable(output / "metrics")
    write_deltalake(
        table, table.to_pyarrow_table().slice(0, 3), mode="overwrite", predicate="run_date = '2026-03-01'"
    )


def a_night_that_runs_does_not_know(output: Path) -> None:
    rows = ready(str(output), "A", date(2026, 3, 2))[1]
    path = output / "metrics" / rows.parts[0].path
    frame = pa.parquet.read_table(path, partitioning=None)
    dated = frame.append_column(tables.RUN_DATE, pa.array([date(2026, 3, 2)], pa.date32()))
    write_deltalake(output / "metrics", dated.select(rows.schema.names), mode="append")


def cut_log(output: Path) -> None:
    path = sorted((output / "top_n" / "_delta_log").glob("*.json"))[-1]
    path.write_bytes(path.read_bytes()[:50])


DAMAGES: dict[str, tuple[Callable[[Path], object], str, bool]] = {
    "a file of top_n is gone": (lambda out: newest_file(out, "top_n").unlink(), "top_n", False),
    "a file of top_n is flipped": (lambda out: flip(newest_file(out, "top_n")), "top_n", False),
    "a file of metrics is empty": (lambda out: newest_file(out, "metrics").write_bytes(b""), "metrics", False),
    "a log is cut": (cut_log, "top_n", False),
    "a table is gone": (lambda out: shutil.rmtree(out / "similar_movies"), "similar_movies", False),
    "half a night": (half_a_night, "metrics", True),
    "a night that runs does not know": (a_night_that_runs_does_not_know, "metrics", True),
    "the manifest is gone": (lambda out: (out / "latest.json").unlink(), "latest.json", True),
    "the manifest is half": (lambda out: (out / "latest.json").write_bytes(b'{"run'), "latest.json", True),
}  # fmt: skip


def test_a_sound_installation_is_told_so(output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = doctor.examine(str(output))
    assert found.sound, found
    assert not [one for one in found.findings if one.kind == "fault"]
    assert found.checked["nights"] == 2
    assert found.checked["files"] >= 2 * len(tables.PUBLISHED)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damage_is_found_and_its_remedy_named(damage: str, output: Path) -> None:
    cause, what, repairable = DAMAGES[damage]
    cause(output)
    found = doctor.examine(str(output))
    faults = [one for one in found.findings if one.kind == "fault"]
    assert what in {one.what for one in faults}, found
    assert all(one.remedy for one in faults)
    assert not found.sound
    repaired = doctor.examine(str(output), repair=True)
    assert repaired.sound == repairable, repaired
    assert doctor.examine(str(output)).sound == repairable


def test_a_model_that_is_gone_or_damaged_is_found(output: Path, two_nights: Path) -> None:
    uri = Path(runs.published(str(output))[-1].model_uri)
    whole = (uri / "network.safetensors").read_bytes()
    try:
        flip(uri / "network.safetensors")
        assert [one.what for one in doctor.examine(str(output)).findings if one.kind == "fault"] == ["models"]
    finally:
        (uri / "network.safetensors").write_bytes(whole)


def test_leftovers_of_killed_writers_are_named_and_go_with_repair_once_they_are_old(output: Path) -> None:
    parts = output / "top_n" / "run_date=2026-03-01"
    old, young, orphan = parts / "._a.part", parts / "._b.part", parts / "orphan.parquet"
    for path in (old, young, orphan):
        path.write_bytes(b"half")
    for path in (old, orphan):
        os.utime(path, (OLD, OLD))
    found = doctor.examine(str(output), repair=True)
    assert found.sound
    assert {one.what for one in found.findings} == {"leftovers"}
    assert not old.exists()
    assert not orphan.exists()
    assert young.exists()


def test_what_a_living_night_needs_stays(output: Path) -> None:
    mine = output / "top_n" / "run_date=2026-03-05" / "mine.parquet"
    mine.parent.mkdir()
    mine.write_bytes(b"a shard's")
    os.utime(mine, (OLD, OLD))
    with leased(str(output), "2026-03-05"):
        found = doctor.examine(str(output), repair=True)
        assert [one.what for one in found.findings] == ["leases"]
        assert mine.exists()
    doctor.examine(str(output), repair=True)
    assert not mine.exists()


def test_a_night_of_a_far_date_is_named_with_the_way_back(output: Path) -> None:
    now = datetime(2026, 2, 27, tzinfo=UTC)
    found = doctor.examine(str(output), now=now)
    assert any(
        "later than tomorrow" in one.words and "--to 2026-02-28" in one.remedy for one in found.findings
    )
    assert doctor.examine(str(output), now=now + timedelta(days=2)).sound


def test_the_command_tells_by_its_exit_code(
    output: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def code(*more: str) -> int:
        monkeypatch.setattr("sys.argv", ["cfjobs", "doctor", "--output", str(output), *more])
        return run_cli()

    assert code() == 0
    (output / "latest.json").unlink()
    capsys.readouterr()
    assert code("--json") == 1
    assert not json.loads(capsys.readouterr().out)["sound"]
    assert code("--repair") == 0
    assert code() == 0


def test_where_nothing_is_there_is_nothing_to_examine(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        doctor.examine(str(tmp_path / "nowhere"))
    assert doctor.examine(str(tmp_path)).sound
