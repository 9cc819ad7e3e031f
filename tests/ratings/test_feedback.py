"""Implicit feedback and ratings without times, as they are read."""

from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cfjobs import ratings
from cfjobs.config import Config, as_toml, load_config, validated
from cfjobs.errors import InputError
from cfjobs.ratings.sort import Columns, sort_and_deduplicate

NOW = datetime(2026, 3, 1)
SHOP = Config(event_column="event", event_weights={"view": 1, "cart": 3, "login": 0}, max_rejected=1)


def read(folder: Path, frame: pl.DataFrame, config: Config = Config()) -> ratings.Cleaned:
    frame.write_parquet(folder / "part.parquet")
    files = ratings.list_parquet(str(folder), what="ratings")
    return ratings.read_ratings(files, config=config, until=NOW, now=NOW)


def events(**columns: Any) -> pl.DataFrame:
    rows = {"user_id": [1, 1, 1, 2, 2, 3], "movie_id": [7, 7, 8, 7, 9, 8]}
    return pl.DataFrame(rows | columns)


@settings(deadline=None, max_examples=60)  # the first call compiles
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3), st.integers(1, 9), st.integers(0, 4))))
def test_a_pair_is_added_up_and_as_late_as_its_latest(rows: list[tuple[int, int, int, int]]) -> None:
    user, movie, weight, time = (
        np.array(column) for column in (zip(*rows, strict=True) if rows else [()] * 4)
    )
    columns = Columns(
        user.astype(np.int32), movie.astype(np.int32), weight.astype(np.float32), time.astype(np.int64)
    )
    found = sort_and_deduplicate(columns, n_users=3, n_movies=4, added_up=True)
    total: dict[tuple[int, int], list[int]] = {}
    for u, m, w, t in rows:
        before = total.setdefault((u, m), [0, 0])
        before[0], before[1] = before[0] + w, max(before[1], t)
    wanted = sorted((u, t, m, float(w)) for (u, m), (w, t) in total.items())
    assert (
        list(
            zip(*(c.tolist() for c in (found.user, found.timestamp, found.movie, found.rating)), strict=True)
        )
        == wanted
    )


def test_rows_count_by_event_and_add_up_to_the_rows_of_the_files(tmp_path: Path) -> None:
    found = read(tmp_path, events(event=["view", "cart", "login", "zap", None, "cart"]), SHOP)
    counts = found.counts
    assert (found.feedback, found.timed) == ("implicit", False)
    assert found.ratings.frame["rating"].to_list() == [4.0, 3.0]
    assert counts["read"] == counts["kept"] + counts["superseded"] + counts["rejected"]
    assert counts["read"] + counts["left_out"] + counts["later"] == 6
    assert (counts["left_out"], counts["superseded"]) == (1, 1)
    assert found.rejected.select("row", "reason", "rating").rows() == [
        (3, "event is not in event_weights", "zap"),
        (4, "event is missing", None),
    ]


def test_weights_multiply_events_and_bad_ones_are_set_aside(tmp_path: Path) -> None:
    weights = [2.0, 0.5, 1.0, None, -1.0, float("nan")]
    shop = events(event=["view", "cart", "view", "view", "cart", "view"], n=weights)
    found = read(tmp_path, shop, SHOP.model_copy(update={"weight_column": "n"}))
    assert found.ratings.frame["rating"].to_list() == [3.5, 1.0]
    reasons = ["weight is missing", "weight is negative", "weight is not a finite number"]
    assert found.rejected["reason"].to_list() == reasons


def test_one_value_is_as_good_as_none(tmp_path: Path) -> None:
    without = read(tmp_path, events())
    with_one = read(tmp_path, events(rating=[3.5] * 6))
    assert without.feedback == with_one.feedback == "implicit"
    assert without.ratings.frame.equals(with_one.ratings.frame)
    assert without.counts == with_one.counts
    scale = Config(y_range=(1, 5))
    assert read(tmp_path, events(rating=[3.5] * 6), scale).feedback == "ratings"
    shown = read(tmp_path, events(rating=[1.0, None, 1.0, 1.0, None, 1.0]), Config(max_rejected=1))
    assert (shown.feedback, shown.counts["rejected"]) == (
        "ratings",
        2,
    )  # a null may be a movie that was shown


def test_missing_times_are_as_good_as_one_time_for_all(tmp_path: Path) -> None:
    rating = [1.0, 4.0, 2.0, 5.0, 3.0, 3.0]
    without = read(tmp_path, events(rating=rating))
    with_one = read(tmp_path, events(rating=rating, timestamp=[1_000_000_000] * 6))
    assert (without.timed, with_one.timed) == (False, True)
    rows = ["user_idx", "movie_idx", "rating"]
    assert without.ratings.frame.select(rows).equals(with_one.ratings.frame.select(rows))
    assert without.ratings.frame["rating"].to_list() == [4.0, 2.0, 5.0, 3.0, 3.0]  # the highest of a pair


@pytest.mark.parametrize("column", ["rating", "timestamp"])
def test_files_that_differ_are_refused(column: str, tmp_path: Path) -> None:
    whole = events(rating=[1.0, 4.0, 2.0, 5.0, 3.0, 3.0], timestamp=[1_000_000_000] * 6)
    whole.drop(column).write_parquet(tmp_path / "other.parquet")
    with pytest.raises(InputError, match=f"other.parquet: has no column '{column}'"):
        read(tmp_path, whole)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"feedback": "ratings", "weight_column": "n"}, "weight_column is set, but feedback is ratings"),
        ({"event_column": "event"}, "event_column is set without event_weights"),
        ({"event_weights": {"view": 1}}, "event_weights is set without event_column"),
        ({"event_column": "event", "event_weights": {"view": 0}}, "leave every event out"),
        ({"event_column": "event", "event_weights": {"view": -1}}, "event_weights: got"),
        ({"feedback": "implicit", "rank_by": "rating"}, "rank_by is rating"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        validated(values)


def test_event_weights_are_a_table_of_the_configuration_file(tmp_path: Path) -> None:
    (tmp_path / "night.toml").write_text(as_toml(SHOP))
    assert load_config(tmp_path / "night.toml") == SHOP
    given = ("event_column=what", "event_weights={view = 1, buy = 5}")
    assert load_config(None, given).event_weights == {"view": 1, "buy": 5}
