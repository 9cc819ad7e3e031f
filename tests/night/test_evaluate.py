"""What a night measures on a sample of its users."""

from pathlib import Path

import polars as pl
import pytest

from cfjobs.night import evaluate
from tests.night.test_story import QUICK, run


def test_the_same_users_are_measured_every_night(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate, "MEASURED_USERS", 30)
    tonight, tomorrow = pl.Series(range(100)), pl.Series(range(50, 150))
    first, second = (set(ids[evaluate.sampled(ids, seed=0)].to_list()) for ids in (tonight, tomorrow))
    assert len(first) == len(second) == 30
    latest = max(tomorrow.hash(0).sort().head(30))
    assert {i for i in second if i < 100} == {
        i for i in first if i >= 50 and pl.Series([i]).hash(0)[0] <= latest
    }


def test_lists_of_a_sample_are_measured_and_ratings_of_all(
    data_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = QUICK.model_copy(update={"gate_beat_popularity": False, "refit": False})
    whole = run(data_set, str(tmp_path / "whole"), config=config).metrics
    monkeypatch.setattr(evaluate, "MEASURED_USERS", 20)
    some = run(data_set, str(tmp_path / "some"), config=config).metrics
    assert 0 < (some["users_measured"] or 0) <= 20 < (whole["users_measured"] or 0)
    assert some["rmse"] == whole["rmse"]
    assert some["rmse_bias_only"] == whole["rmse_bias_only"]
    assert 0 <= (some["ndcg_at_10"] or 0) <= 1
