"""The search over the settings: it never looks at the holdout, goes on where it stopped,
and its result is a configuration."""

import builtins
from datetime import date
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from cfjobs.config import Config, load_config
from cfjobs.errors import InputError
from cfjobs.experiments import run, tune
from cfjobs.night.records import Inputs

QUICK = Config(epochs=1, n_factors=16, ranking_factors=32, ranking_steps=200, top_n=10)
NIGHT = date(2026, 3, 1)


def searched(
    data_set: Path, output: str, *, trials: int, objective: str = "rmse", **more: Any
) -> dict[str, Any]:
    return run.tuned(
        Inputs(ratings=str(data_set / "ratings.parquet")),
        output=output,
        objective=objective,
        trials=trials,
        timeout=None,
        run_date=NIGHT,
        config=QUICK,
        **more,
    )


def test_the_result_is_a_configuration_that_is_no_worse(data_set: Path, tmp_path: Path) -> None:
    found = searched(data_set, str(tmp_path), trials=4)
    assert found["trials"] == 4
    assert found["best"] <= found["first"]
    config = load_config(found["config"])
    assert {name: getattr(config, name) for name in found["settings"]} == pytest.approx(found["settings"])
    assert config.seed == QUICK.seed
    assert not (tmp_path / "_work").exists()


def test_a_search_goes_on_and_ends_as_the_one_that_was_not_stopped(
    data_set: Path, tmp_path: Path, bucket: str
) -> None:
    whole = searched(data_set, str(tmp_path / "whole"), trials=5)
    seen: list[int] = []
    searched(data_set, f"{bucket}/parts", trials=2)
    parts = searched(
        data_set, f"{bucket}/parts", trials=5, on_trial=lambda number, _value, _best: seen.append(number)
    )
    assert seen == [2, 3, 4]
    assert (parts["best"], parts["settings"]) == (whole["best"], whole["settings"])
    assert (
        searched(data_set, f"{bucket}/parts", trials=5, on_trial=lambda *_: pytest.fail("no trial is left"))[
            "best"
        ]
        == whole["best"]
    )


def test_the_holdout_changes_nothing(data_set: Path, tmp_path: Path) -> None:
    """The same trials, whatever the held-out ratings say."""
    ratings = pl.read_parquet(data_set / "ratings.parquet").sort("user_id", "timestamp", "movie_id")
    place = pl.int_range(pl.len()).over("user_id") - pl.len().over("user_id")
    latest = place >= -(pl.len().over("user_id") * 0.2 - 1e-9).ceil()
    lied = ratings.with_columns(
        pl.when(latest).then(0.5).otherwise(pl.col("rating")).cast(ratings["rating"].dtype).alias("rating")
    )
    figures = []
    for name, frame in (("true", ratings), ("lied", lied)):
        (tmp_path / name).mkdir()
        frame.write_parquet(tmp_path / name / "ratings.parquet")
        for objective in ("rmse", "ndcg"):
            config = QUICK.model_copy(update={"y_range": (0.5, 5.0), "ranking_steps": 200})
            found = run.tuned(
                Inputs(ratings=str(tmp_path / name)),
                output=str(tmp_path / name),
                objective=objective,
                trials=1,
                timeout=None,
                run_date=NIGHT,
                config=config,
            )
            figures.append(found["first"])
    assert figures[:2] == figures[2:]


@pytest.mark.parametrize(("objective", "rank_by"), [("ndcg", "blend"), ("ndcg", "rating"), ("rmse", "blend")])
def test_every_objective_has_knobs_that_the_configuration_takes(objective: Any, rank_by: Any) -> None:
    config = tune.spelled_out(Config(rank_by=rank_by), n_ratings=100_000)
    settings = tune.own_settings(config, objective)
    assert settings.keys() == tune.space(config, objective).keys()
    changed = tune.with_settings(config, settings)
    assert {name: getattr(changed, name) for name in settings} == settings


def test_a_timeout_ends_the_search(data_set: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no trial was completed"):
        run.tuned(
            Inputs(ratings=str(data_set / "ratings.parquet")),
            output=str(tmp_path),
            objective="rmse",
            trials=5,
            timeout=0,
            run_date=NIGHT,
            config=QUICK,
        )


def test_without_optuna_the_error_names_the_extra(
    data_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name == "optuna":
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InputError, match=r"cfjobs\[tune\]"):
        searched(data_set, str(tmp_path), trials=1)
