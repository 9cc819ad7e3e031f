"""Ratings in pieces are the ratings read at once: the same rows in the same order, ids, counts and rejected
rows, for any files, any ranges of users, and any number of tasks."""

from collections.abc import Callable, Sequence
from dataclasses import astuple
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cfjobs import ratings
from cfjobs.config import Config
from cfjobs.errors import InputError
from cfjobs.evaluation.gate import Scale
from cfjobs.night import pieces
from cfjobs.night.records import Inputs, Night
from cfjobs.ratings.facts import Facts
from cfjobs.ratings.ranges import cuts_of
from cfjobs.ratings.read import Cleaned
from tests.ratings.test_read import FORMS, NOW, ROWS, UNTIL, clean, file_of

SETTINGS = Config(max_rejected=0.9, gate_scale_rows=3)


def night_of(folder: Path, config: Config = SETTINGS) -> Night:
    return Night(
        inputs=Inputs(ratings=str(folder)),
        output=str(folder / "out"),
        run_date=date(2026, 11, 1),
        config=config,
        run_id="run",
        work=str(folder / "_work"),
        started_at=datetime.now(UTC),
    )


def backwards(work: Callable[[Any], Any], orders: Sequence[Any], *, words: str) -> list[Any]:
    """The last order first: tasks may end in any order."""
    return [work(order) for order in reversed(orders)][::-1]


def in_pieces(
    folder: Path, config: Config, *, until: datetime = UNTIL, each: pieces.Each = backwards, **tables: Any
) -> Cleaned:
    """As `clean` reads a folder, by tasks."""
    files = ratings.list_parquet(str(folder), what="ratings")
    night = night_of(folder, config)
    found = pieces.read_in_pieces(
        night,
        files,
        config=config,
        until=UNTIL,
        now=NOW,
        each=each,
        **({"movies": None, "users": None} | tables),
    )
    assert found.ratings.frame.is_empty()
    frame = night.frame("ratings")
    return Cleaned(
        ratings.Ratings(frame, found.ratings.users, found.ratings.movies, found.ratings.cold_users),
        found.rejected,
        found.counts,
        feedback=found.feedback,
        timed=found.timed,
        facts=found.facts,
    )


def check_equal(found: Cleaned, wanted: Cleaned) -> None:
    assert found.ratings.frame.equals(wanted.ratings.frame)
    assert found.ratings.frame.schema == wanted.ratings.frame.schema
    assert found.ratings.users.equals(wanted.ratings.users, check_names=True, check_dtypes=True)
    assert found.ratings.movies.equals(wanted.ratings.movies)
    assert found.ratings.cold_users.equals(wanted.ratings.cold_users)
    assert found.rejected.equals(wanted.rejected)
    assert (found.counts, found.feedback, found.timed) == (wanted.counts, wanted.feedback, wanted.timed)
    assert found.facts == Facts.of(wanted.ratings.frame, ends=SETTINGS.gate_scale_rows + 1)


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(ROWS, FORMS), min_size=1, max_size=4),
    st.sampled_from([1, 2, 5, 1_000]),
    st.sampled_from([1, 200, 10_000]),
    st.sampled_from(["auto", "implicit"]),
)
def test_any_files_and_ranges_give_the_ratings_of_one_process(
    tmp_path_factory: pytest.TempPathFactory,
    files: list[tuple[list[tuple[Any, ...]], str]],
    range_rows: int,
    at_once: int,
    feedback: str,
) -> None:
    folder = tmp_path_factory.mktemp("files")
    for number, (rows, form) in enumerate(files):
        file_of(folder / f"{number}.parquet", rows, form)
    config = SETTINGS.model_copy(update={"feedback": feedback})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pieces, "range_rows", lambda _config: range_rows)
        patch.setattr(pieces, "file_bytes", lambda _config: at_once)
        patch.setattr(pieces.scan, "_GROUP_ROWS", 10)
        wanted, found = (_or_refused(read, folder, config) for read in (clean, in_pieces))
    if isinstance(wanted, str) or isinstance(found, str):
        assert found == wanted
    else:
        check_equal(found, wanted)


def _or_refused(read: Callable[..., Cleaned], folder: Path, config: Config) -> Cleaned | str:
    try:
        return read(folder, config, until=UNTIL)
    except InputError as error:
        return str(error)


def test_tasks_that_are_done_are_not_done_again(data_set: Path, tmp_path: Path, monkeypatch: Any) -> None:
    """A run that dies after any number of tasks is gone on with, also with other memory."""
    frame = pl.read_parquet(data_set / "ratings.parquet")
    for number, part in enumerate(frame.sample(fraction=1, shuffle=True, seed=1).iter_slices(1_000)):
        part.write_parquet(tmp_path / f"{number}.parquet")
    monkeypatch.setattr(pieces, "range_rows", lambda _config: 900)
    monkeypatch.setattr(pieces.scan, "_GROUP_ROWS", 500)
    done: list[Any] = []

    class Killed(Exception):
        pass

    def dying(after: int) -> pieces.Each:
        def each(work: Callable[[Any], Any], orders: Sequence[Any], *, words: str) -> list[Any]:
            found = []
            for order in orders:
                if len(done) == after:
                    raise Killed
                found.append(work(order))
                done.append(order)
            return found

        return each

    for after in (7, 9, 16, 10**9):
        done.clear()
        try:
            found = in_pieces(tmp_path, SETTINGS, each=dying(after))
        except Killed:
            monkeypatch.setattr(pieces, "range_rows", lambda _config: 10**6)
    check_equal(found, clean(tmp_path, SETTINGS, until=UNTIL))
    assert len(night_of(tmp_path).files("ratings")) == 5


@given(st.lists(st.integers(0, 30), min_size=1, max_size=200), st.integers(1, 20))
def test_cuts_part_the_users_about_evenly(users: list[int], n_ranges: int) -> None:
    cuts = cuts_of(pl.Series(users, dtype=pl.Int64), n_ranges)
    assert cuts.is_sorted()
    assert cuts.len() < n_ranges
    rows = np.bincount(
        cuts.search_sorted(pl.Series(users), side="right").to_numpy(), minlength=cuts.len() + 1
    )
    most = max(users.count(user) for user in users)
    assert rows.max() <= len(users) / n_ranges + 1 + 2 * most


@given(
    st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=8), min_size=1, max_size=6), st.integers(0, 5)
)
def test_facts_of_parts_are_those_of_the_whole(users: list[list[int]], few: int) -> None:
    frames = [
        pl.DataFrame(
            {
                "user_idx": pl.Series([user] * len(values), dtype=pl.Int32),
                "rating": pl.Series(values, dtype=pl.Float32) / 2,
                "timestamp": [datetime(2026, 1, 1 + i // 2) for i in range(len(values))],
            }
        )
        for user, values in enumerate(users)
    ]
    ends, whole = few + 1, pl.concat(frames)
    facts = Facts.of(whole, ends=ends)
    assert Facts.total([Facts.of(frame, ends=ends) for frame in frames], ends=ends) == facts
    assert facts.scale(few) == astuple(Scale.of(whole["rating"], rows=few))
