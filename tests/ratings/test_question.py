"""The question that ratings can be asked is found in their times."""

import json
from datetime import date, datetime
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cfjobs.night import story
from cfjobs.night.records import Inputs
from cfjobs.ratings.question import ordered_share, question_of
from tests.night.test_story import QUICK, check_contract, rows, run


@settings(deadline=None)  # the first call compiles
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3)), max_size=40))
def test_the_share_is_that_of_a_loop_over_neighbours(pairs: list[tuple[int, int]]) -> None:
    pairs = sorted(pairs)
    user, time = (np.array([pair[side] for pair in pairs], np.int64) for side in (0, 1))
    neighbours = [(a, b) for a, b in pairwise(pairs) if a[0] == b[0]]
    wanted = np.mean([a != b for a, b in neighbours]) if neighbours else 0.0
    assert ordered_share(user.astype(np.int32), time) == pytest.approx(wanted)


def test_times_of_a_bulk_load_are_no_order() -> None:
    user = np.repeat(np.arange(50, dtype=np.int32), 40)
    true = np.tile(np.arange(40), 50) * 60_000_000
    assert question_of(user, true) == "next"
    assert question_of(user, np.zeros_like(true)) == "any"
    assert question_of(user, true // true.max()) == "any"  # two loads


@pytest.mark.parametrize(
    ("times", "question", "kind"), [("true", "next", "temporal"), ("one", "any", "random")]
)
def test_a_night_asks_what_its_times_allow_and_holds_out_to_match(
    times: str, question: str, kind: str, data_set: Path, tmp_path: Path
) -> None:
    ratings = pl.read_parquet(data_set / "ratings.parquet")
    if times == "one":
        ratings = ratings.with_columns(pl.lit(datetime(2026, 1, 1)).alias("timestamp"))
    ratings.write_parquet(tmp_path / "ratings.parquet")
    output = tmp_path / "out"
    for day in (1, 2):  # the second goes on from the first
        run(tmp_path, str(output), run_date=date(2026, 3, day), movies=None, users=None)
    check_contract(rows(str(output)), ratings, n=QUICK.top_n)
    assert json.loads(rows(str(output), "runs")["config"][0])["question"] == question
    held_out = rows(str(output), "holdout_predictions").filter(run_date=date(2026, 3, 1))
    n_held_out = held_out.group_by("user_id").len()
    n_rated = ratings.group_by("user_id").agg(pl.len().alias("n"))
    exact = n_held_out.join(n_rated, on="user_id").select(
        (pl.col("len") == (pl.col("n") * QUICK.holdout_fraction - 1e-9).ceil()).all()
    )
    assert exact.item() == (kind == "temporal")


def test_the_configured_question_goes_before_the_times(data_set: Path, tmp_path: Path) -> None:
    run(data_set, str(tmp_path), config=QUICK.model_copy(update={"question": "any", "holdout": "temporal"}))
    config = json.loads(rows(str(tmp_path), "runs")["config"][0])
    assert (config["question"], config["holdout"]) == ("any", "temporal")


@pytest.mark.parametrize(("holdout", "question"), [("random", "any"), ("temporal", "next"), ("none", "next")])
def test_a_random_holdout_asks_for_the_profile_whatever_the_times(
    holdout: str, question: str, data_set: Path, tmp_path: Path
) -> None:
    night = story.start(
        Inputs(ratings=str(data_set / "ratings.parquet")),
        output=str(tmp_path),
        config=QUICK.model_copy(update={"holdout": holdout}),
    )
    assert story.prepare(night).question == question
