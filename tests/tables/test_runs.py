"""Published nights, on a disk and in a real object store: history, rollback, retention, backfill, leases."""

import io
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest

from cfjobs import storage
from cfjobs.config import Config
from cfjobs.errors import CfjobsError, DamagedFile, GateRefused, InputError, StorageFault
from cfjobs.lists.writer import PartsWriter
from cfjobs.night import backfill, story
from cfjobs.night.records import Inputs
from cfjobs.storage.lease import Busy, leased
from cfjobs.storage.parquet import parquet_bytes
from cfjobs.tables import delta, retention, rollback, runs
from tests.night.test_story import QUICK, rows, run, start

DAYS = [date(2026, 3, day) for day in (1, 2, 3, 4)]
NOW = datetime.now(UTC) + timedelta(days=10)
LOOSE = QUICK.model_copy(update={"gate_beat_popularity": False})


@pytest.fixture(params=["disk", pytest.param("store", marks=pytest.mark.long)])
def output(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "disk":
        return str(tmp_path / "out")
    return f"{request.getfixturevalue('bucket')}/out"


ON_BOTH = pytest.mark.parametrize("output", ["disk", "store"], indirect=True)
"""Always on both: what differs between them. `make laws` tries the other laws on the store too."""


def publish_days(data_set: Path, output: str, days: list[date]) -> None:
    for number, day in enumerate(days):
        run(data_set, output, run_date=day, config=LOOSE.model_copy(update={"seed": number}))


def version(output: str, name: str) -> int:
    table = delta.open_table(output, name)
    assert table is not None
    return table.version()


def test_history_names_nights_versions_and_metrics(data_set: Path, output: str) -> None:
    assert runs.published(output) == []
    assert runs.newest(output) is None
    publish_days(data_set, output, DAYS[:2])
    found = runs.published(output)
    assert [night.run_date for night in found] == DAYS[:2]
    assert [night.version for night in found] == [0, 1]
    assert [night.training for night in found] == ["blocked_sgd", "blocked_sgd"]
    assert all(night.metrics["rmse"] and night.counts["lists"] == 122 for night in found)
    assert runs.stale(output, DAYS[0]) == (
        f"the night of {DAYS[0]} is stale: {DAYS[1]} is published already; force, or `cfjobs backfill`, publishes it all the same"
    )
    assert runs.stale(output, DAYS[1]) is None


@ON_BOTH
def test_a_rollback_brings_all_tables_back_and_says_who_and_why(data_set: Path, output: str) -> None:
    publish_days(data_set, output, DAYS[:1])
    names = ("top_n", "metrics", "rejected_ratings", "runs")
    before = {name: rows(output, name) for name in names}
    publish_days(data_set, output, DAYS[1:3])
    after = {name: rows(output, name) for name in names}

    tried = rollback.rollback(output, to="2026-03-01", who="ada", why="look", dry_run=True)
    assert (tried.nights_gone, tried.nights_back) == (DAYS[1:3], [])
    assert all(rows(output, name).equals(after[name]) for name in names)

    rollback.rollback(output, to="2026-03-01", who="ada", why="wrong ratings")
    assert all(rows(output, name).equals(before[name]) for name in names)
    recorded = rows(output, "rollbacks").row(0, named=True)
    assert (recorded["who"], recorded["why"], recorded["run_date"]) == ("ada", "wrong ratings", DAYS[0])
    table = delta.open_table(output, "runs")
    assert table is not None
    assert (table.history()[0]["who"], table.history()[0]["why"]) == ("ada", "wrong ratings")

    rollback.rollback(output, to="2", who="ada", why="it was right")  # a version that is later than now
    assert all(rows(output, name).equals(after[name]) for name in names)
    run(data_set, output, run_date=DAYS[3], config=LOOSE)
    assert [night.run_date for night in runs.published(output)] == DAYS


@pytest.mark.parametrize("to", ["2026-04-01", "17", "yesterday"])
def test_a_rollback_to_no_night_changes_nothing(data_set: Path, tmp_path: Path, to: str) -> None:
    output = str(tmp_path)
    with pytest.raises(InputError, match="no night has been published"):
        rollback.rollback(output, to=to, who="ada", why="")
    publish_days(data_set, output, DAYS[:1])
    with pytest.raises(InputError, match="cfjobs history"):
        rollback.rollback(output, to=to, who="ada", why="")
    assert version(output, "top_n") == 0


def test_retention_keeps_what_readers_of_kept_versions_need(data_set: Path, output: str) -> None:
    publish_days(data_set, output, DAYS)
    abandoned = storage.join(output, "top_n", f"run_date={DAYS[3]}", "abandoned.parquet")
    storage.write_bytes(abandoned, b"of a killed run")
    storage.write_bytes(storage.join(output, "_work", "2026-03-01-abc", "ratings.parquet"), b"stale")
    kept = runs.published(output)[-2:]
    read_before = {night.run_date: at_version(output, night.table_versions["top_n"]) for night in kept}

    tried = retention.retain(output, nights=2, min_age=timedelta(hours=48), dry_run=True, now=NOW)
    assert (tried.kept, tried.removed_nights) == (DAYS[2:], DAYS[:2])
    assert storage.exists(abandoned)

    young = retention.retain(output, nights=2, min_age=timedelta(hours=48))
    assert (young.files, young.models, young.pages, young.work_folders) == (0, [], [], []), (
        "all files are young"
    )

    done = retention.retain(output, nights=2, min_age=timedelta(hours=48), now=NOW)
    assert not storage.exists(abandoned)
    assert len(done.models) == 2
    assert [page.rpartition("run_date=")[2] for page in done.pages] == [str(day) for day in DAYS[:2]]
    pages = storage.list_files(storage.join(output, "reports"), suffix=".html")
    assert len([page for page in pages if "run_date=" in page.uri]) == 2
    assert len(done.work_folders) == 1
    assert sorted(rows(output)["run_date"].unique()) == DAYS[2:]
    for night in kept:
        assert at_version(output, night.table_versions["top_n"]).equals(read_before[night.run_date])
        assert storage.exists(storage.join(night.model_uri, "model.json"))
    done_back = rollback.rollback(output, to=str(DAYS[2]), who="ada", why="kept nights can be gone back to")
    assert done_back.nights_left_out == DAYS[:2], "their models are gone"
    for name in ("top_n", "metrics", "runs"):
        assert rows(output, name)["run_date"].unique().to_list() == DAYS[2:3]
    with pytest.raises(InputError, match=r"the night of 2026-03-02 cannot come back, .* is gone"):
        rollback.rollback(output, to=str(DAYS[1]), who="ada", why="")
    with pytest.raises(InputError, match="cannot come back"):
        rollback.rollback(output, to=str(DAYS[1]), who="ada", why="", dry_run=True)


def test_files_of_old_nights_go_once_no_kept_version_holds_them(data_set: Path, tmp_path: Path) -> None:
    output = str(tmp_path)
    publish_days(data_set, output, DAYS[:2])
    retention.retain(output, nights=1, min_age=timedelta(0), now=NOW)
    publish_days(data_set, output, DAYS[2:3])
    retention.retain(output, nights=1, min_age=timedelta(0), now=NOW)
    left = {path.parent.name for path in (tmp_path / "top_n").rglob("*.parquet")}
    assert left == {"run_date=2026-03-02", "run_date=2026-03-03"}, "the kept night's version still lists 2"
    publish_days(data_set, output, DAYS[3:4])
    retention.retain(output, nights=1, min_age=timedelta(0), now=NOW)
    assert not (tmp_path / "top_n" / "run_date=2026-03-02").exists() or not any(
        (tmp_path / "top_n" / "run_date=2026-03-02").iterdir()
    )


def at_version(output: str, number: int) -> pl.DataFrame:
    uri = storage.join(output, "top_n")
    return pl.read_delta(uri, version=number, storage_options=storage.options(uri)).sort(
        "run_date", "user_id", "rank"
    )


def test_a_backfill_uses_each_dates_ratings_and_goes_on_where_it_stopped(
    data_set: Path, tmp_path: Path
) -> None:
    output = str(tmp_path / "out")
    ratings = pl.read_parquet(data_set / "ratings.parquet")
    last_day = ratings["timestamp"].max().date()  # type: ignore[union-attr]  # a datetime
    first_day = last_day - timedelta(days=2)

    withdrawn = ratings["movie_id"].mode()[:1]
    withdrawn.to_frame().write_parquet(tmp_path / "deny.parquet")

    def fill(**more: bool) -> list[backfill.Filled]:
        return backfill.backfill(
            Inputs(ratings=str(data_set / "ratings.parquet"), deny=str(tmp_path / "deny.parquet")),
            output=output,
            first=first_day,
            last=last_day,
            config=LOOSE,
            **more,
        )

    assert [night.outcome for night in fill()] == ["published"] * 3
    assert withdrawn.item() not in rows(output)["movie_id"]
    for night in runs.published(output):
        until = datetime.combine(night.run_date + timedelta(days=1), datetime.min.time())
        assert night.counts["kept"] == ratings.filter(pl.col("timestamp") < until).height
    at = {name: version(output, name) for name in ("top_n", "runs")}
    assert [night.outcome for night in fill()] == ["skipped"] * 3
    assert at == {name: version(output, name) for name in ("top_n", "runs")}
    assert [night.outcome for night in fill(force=True)] == ["published"] * 3


def test_a_backfill_stops_at_the_date_that_is_refused(data_set: Path, tmp_path: Path) -> None:
    strict = QUICK.model_copy(update={"gate_max_rmse": 0.01})
    with pytest.raises(backfill.BackfillStopped, match=r"stopped at 2026-03-01 .* gate_max_rmse") as stopped:
        backfill.backfill(
            Inputs(ratings=str(data_set)), output=str(tmp_path), first=DAYS[0], last=DAYS[1], config=strict
        )
    assert stopped.value.exit_code == 3
    with pytest.raises(InputError, match="earlier date first"):
        backfill.backfill(Inputs(ratings=str(data_set)), output=str(tmp_path), first=DAYS[1], last=DAYS[0])


# The gate, against the last night -------------------------------------------------------------------


def test_a_night_worse_than_the_last_is_refused_and_the_last_stays(data_set: Path, output: str) -> None:
    run(data_set, output, config=LOOSE)
    before = rows(output)
    ratings = pl.read_parquet(data_set / "ratings.parquet")
    few = ratings.filter(pl.col("user_id") <= 60)
    few_uri = f"{output}-few/ratings.parquet"
    storage.write_bytes(few_uri, parquet(few))
    for config, reason in (
        (LOOSE, "fewer than gate_max_shrink"),
        (LOOSE.model_copy(update={"gate_max_shrink": None, "gate_rating_tolerance": 0.0}), "worse than"),
    ):
        night = story.start(Inputs(ratings=few_uri), output=output, run_date=DAYS[1], config=config)
        with pytest.raises(GateRefused, match=reason):
            story.nightly(night)
        assert rows(output).equals(before)
    forced = LOOSE.model_copy(update={"gate_override": True})
    night = story.start(Inputs(ratings=few_uri), output=output, run_date=DAYS[1], config=forced)
    assert "fewer than gate_max_shrink" in story.nightly(night).gate
    assert runs.published(output)[-1].gate.startswith("overridden: ")


def test_lists_that_became_few_are_refused_after_the_scoring_and_an_override_is_recorded(
    data_set: Path, tmp_path: Path
) -> None:
    output = str(tmp_path / "out")
    run(data_set, output, config=LOOSE)
    before = rows(output)
    strict = LOOSE.model_copy(update={"min_score": 1e9, "gate_max_lists_shrink": 0.0})
    with pytest.raises(GateRefused, match="122 on 2026-03-01: fewer than gate_max_lists_shrink"):
        run(data_set, output, run_date=DAYS[1], config=strict)
    with pytest.raises(GateRefused, match="not one list was written"):
        run(
            data_set,
            output,
            run_date=DAYS[1],
            config=strict.model_copy(update={"gate_override": True}),
            users=None,
        )
    assert rows(output).equals(before)
    forced = strict.model_copy(update={"gate_override": True})
    assert "2 lists were written" in run(data_set, output, run_date=DAYS[1], config=forced).gate
    found = runs.published(output)[-1]
    assert found.gate.startswith("overridden: 2 lists were written")
    assert (found.metrics["scale_low"], found.metrics["scale_high"]) == (0.5, 5.0)


def test_broken_lists_are_never_published(
    data_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = str(tmp_path)
    run(data_set, output, config=LOOSE)
    before = rows(output)
    write = PartsWriter.write

    def damages(writer: PartsWriter, lists: pa.Table) -> None:
        write(writer, pl.from_arrow(lists).with_columns(pl.col("rank") + 1).to_arrow().cast(lists.schema))

    monkeypatch.setattr(PartsWriter, "write", damages)
    forced = LOOSE.model_copy(update={"gate_override": True})
    with pytest.raises(GateRefused, match=r"broken lists: .* break the ranks"):
        run(data_set, output, run_date=DAYS[1], config=forced)
    assert rows(output).equals(before)


def changed(rows_: Callable[[pl.DataFrame], pl.DataFrame]) -> Callable[[bytes], bytes]:
    """A Parquet file with other rows."""
    return lambda stored: parquet(rows_(pl.read_parquet(io.BytesIO(stored))))


@pytest.mark.parametrize(
    ("damage", "fault"),
    [
        (changed(lambda frame: frame.head(-1)), r"GateRefused: .* 1 rows fewer than were written"),
        (
            changed(lambda frame: frame.with_columns(pl.col("movie_id").shift(-1).over("user_id"))),
            "GateRefused: .* null",
        ),
        (changed(lambda frame: pl.concat([frame, frame.tail(1)])), "GateRefused: .* repeat a movie"),
        (lambda stored: stored[:-100], "DamagedFile: .* run the night again to score shard 0 anew"),
        (
            lambda stored: stored[:500] + b"damage" + stored[506:],
            "DamagedFile: .* run the night again to score",
        ),
    ],
)
def test_a_part_that_the_store_damaged_is_never_published(
    data_set: Path, output: str, damage: Callable[[bytes], bytes], fault: str
) -> None:
    night = start(data_set, output, config=LOOSE.model_copy(update={"refit": False}))
    prepared = story.prepare(night)
    story.hold_out(night, prepared)
    trained = story.fit(night, prepared, on="train")
    scored = [story.score(night, prepared, trained, shard) for shard in story.shards(night, prepared)]
    assert story.check(night, prepared, scored) > 0
    part = storage.join(night.output, "top_n", scored[0].parts[0]["path"])
    storage.write_bytes(part, damage(storage.read_bytes(part)))
    with pytest.raises(CfjobsError) as refused:
        story.check(night, prepared, scored)
    assert re.search(fault, f"{type(refused.value).__name__}: {refused.value}")
    if isinstance(refused.value, DamagedFile):
        story.nightly(night)
        assert rows(output).height == sum(record["rows"] for part in scored for record in part.parts)


def test_a_damaged_work_folder_is_named_and_no_shard_is_scored_anew_for_it(
    data_set: Path, tmp_path: Path
) -> None:
    night = start(data_set, str(tmp_path), config=LOOSE.model_copy(update={"refit": False}))
    prepared = story.prepare(night)
    story.hold_out(night, prepared)
    trained = story.fit(night, prepared, on="train")
    scored = [story.score(night, prepared, trained, shard) for shard in story.shards(night, prepared)]
    night.write("ratings.parquet", b"PAR1 no more")
    with pytest.raises(DamagedFile, match=r"ratings.parquet: is gone or damaged .* run the night again"):
        story.check(night, prepared, scored)
    assert story.scored_already(night, prepared) == scored
    story.nightly(night)
    assert rows(night.output).height == sum(part["rows"] for record in scored for part in record.parts)


def parquet(frame: pl.DataFrame) -> bytes:
    return parquet_bytes(frame)


# Leases ---------------------------------------------------------------------------------------------


@ON_BOTH
def test_a_second_run_of_a_date_ends_with_the_name_of_the_first(data_set: Path, output: str) -> None:
    night = start(data_set, output, run_date=DAYS[0], config=LOOSE)
    with leased(output, DAYS[0].isoformat()), pytest.raises(Busy, match=rf"process {os.getpid()} on"):
        story.nightly(night)
    story.nightly(night)
    assert [night.run_date for night in runs.published(output)] == DAYS[:1]


def test_a_lease_of_a_process_that_was_killed_is_taken_over(output: str, tmp_path: Path) -> None:
    words = "import sys, time; from cfjobs.storage.lease import leased\nwith leased(sys.argv[1], 'x'): print('held', flush=True); time.sleep(99)"
    holder = subprocess.Popen([sys.executable, "-c", words, output], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    holder.kill()
    holder.wait()
    began = time.monotonic()
    with leased(output, "x", wait_s=5) as ours:
        ours.check()
    assert time.monotonic() - began < 5


def test_a_lease_that_is_not_renewed_passes_on_and_its_owner_learns_it(bucket: str) -> None:
    uri = f"{bucket}/_work/claim-x.json"
    other = {"host": "elsewhere", "pid": 1, "at": "then", "token": "t"}
    storage.write_bytes(uri, json.dumps(other).encode())
    with leased(bucket, "x", lease_s=1) as ours:
        storage.write_bytes(uri, json.dumps(other).encode())  # as if we had been frozen, and were replaced
        time.sleep(1)
        with pytest.raises(StorageFault, match="another took its place"):
            ours.check()
    assert storage.exists(uri), "what another holds is not removed"


def test_a_config_with_the_same_night_resumes_whatever_the_gate(data_set: Path, tmp_path: Path) -> None:
    one = start(data_set, str(tmp_path), config=Config(gate_max_shrink=0.5))
    assert one.work == start(data_set, str(tmp_path), config=Config(gate_max_shrink=None)).work


@pytest.fixture(scope="module")
def whole(data_set: Path, tmp_path_factory: pytest.TempPathFactory) -> pl.DataFrame:
    """The lists of a night that nothing disturbed."""
    output = str(tmp_path_factory.mktemp("whole"))
    run(data_set, output, config=LOOSE)
    return rows(output)


@pytest.mark.parametrize("record", ["prepared", "trained-train", "shards", "scored-00000"])
def test_half_a_record_is_none_and_its_stage_runs_again(
    data_set: Path, tmp_path: Path, whole: pl.DataFrame, record: str
) -> None:
    """A store may keep the beginning of a write whose client was cut off."""
    broken = start(data_set, str(tmp_path), config=LOOSE)
    prepared = story.prepare(broken)
    story.hold_out(broken, prepared)
    fraction = story.fit(broken, prepared, on="train").fraction
    trained = story.fit(broken, prepared, on="all", stop_fraction=fraction)
    story.score(broken, prepared, trained, story.shards(broken, prepared)[0])
    half = Path(broken.work) / f"{record}.json"
    half.write_bytes(half.read_bytes()[:20])
    story.nightly(broken)
    assert rows(broken.output).equals(whole)


def test_half_a_lease_is_one_that_nobody_renews(bucket: str) -> None:
    storage.write_bytes(f"{bucket}/_work/claim-x.json", b'{"host": "else')
    with leased(bucket, "x", lease_s=1) as ours:
        ours.check()
