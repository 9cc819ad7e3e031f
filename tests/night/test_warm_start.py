"""Warm start: rows move by outside id, the measured model has not seen the holdout,
and what does not fit starts cold."""

import json
import logging
from datetime import date
from pathlib import Path

import polars as pl
import pytest
import torch

from cfjobs import models, storage, training
from cfjobs.config import Config
from cfjobs.models.predict import predict
from cfjobs.night import story, warm_start
from cfjobs.night.records import Inputs, Night, Trained
from cfjobs.training.warm_start import carry_over
from tests.night.test_story import QUICK, check_contract, rows, run
from tests.training.test_rating import M, U, checkerboard, network

WARM = QUICK.model_copy(update={"warm_start": True})
SECOND = date(2026, 3, 2)


@pytest.mark.parametrize("model", models.names())
def test_the_earlier_model_goes_on_with_its_rows_in_another_order(model: str) -> None:
    """Before its first step the warm network predicts what the earlier one did,
    whatever the order of the rows."""
    config = Config(model=model, n_factors=8, epochs=2, batch_size=256, ensemble=2)
    earlier = network(config)
    learn = checkerboard()
    training.fit_rating(earlier, learn, config=config)
    user_rows, movie_rows = torch.randperm(U), torch.randperm(M)
    moved = training.Examples(
        torch.argsort(user_rows)[learn.user_idx], torch.argsort(movie_rows)[learn.movie_idx], learn.rating
    )
    tonight = network(config)
    tonight.setup(moved.user_idx, moved.movie_idx, moved.rating)
    parameters = earlier.state_dict() | earlier.unfinished
    carry_over(tonight, parameters, user_rows=user_rows, movie_rows=movie_rows, keep=1.0)
    tonight.fold()
    torch.testing.assert_close(
        predict(tonight, moved.user_idx, moved.movie_idx),
        predict(earlier, learn.user_idx, learn.movie_idx),
        rtol=1e-5,
        atol=1e-5,
    )


@pytest.mark.parametrize("model", models.names())
def test_a_new_row_is_an_initial_one_and_a_vanished_one_is_gone(model: str) -> None:
    config = Config(model=model, n_factors=8, epochs=1, batch_size=256)
    earlier, tonight, cold = network(config), network(config), network(config)
    training.fit_rating(earlier, checkerboard(), config=config)
    for one in (tonight, cold):
        torch.manual_seed(0)
        one.setup(checkerboard().user_idx, checkerboard().movie_idx, checkerboard().rating)
    user_rows = torch.cat([torch.tensor([-1]), torch.arange(2, U), torch.tensor([-1])])  # 0 and 1 are gone
    parameters = earlier.state_dict() | earlier.unfinished
    carry_over(tonight, parameters, user_rows=user_rows, movie_rows=torch.arange(M), keep=1.0)
    found, initial = tonight.state_dict()["user.weight"], cold.state_dict()["user.weight"]
    assert torch.equal(found[[0, U - 1]], initial[[0, U - 1]])
    assert torch.equal(found[1 : U - 1], parameters["user.weight"][2:U])


def test_parameters_of_another_network_are_refused() -> None:
    dot, net = network(Config(model="dot_bias")), network(Config(model="net"))
    with pytest.raises(ValueError, match="expected"):
        carry_over(net, dot.state_dict(), user_rows=torch.arange(U), movie_rows=torch.arange(M))


@pytest.fixture(scope="module")
def nights(data_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the output of a first night, and ratings/second with a new user, a new movie,
    and neither user 1 nor a movie."""
    folder = tmp_path_factory.mktemp("warm")
    run(data_set, str(folder / "output"), config=WARM)
    ratings = pl.read_parquet(data_set / "ratings.parquet")
    gone_user, gone_movie = ratings["user_id"].min(), ratings["movie_id"].min()
    left = ratings.filter((pl.col("user_id") != gone_user) & (pl.col("movie_id") != gone_movie))
    latest = pl.lit(ratings["timestamp"].max()).alias("timestamp")
    new_user = left.head(8).with_columns(pl.lit(777_777, ratings["user_id"].dtype).alias("user_id"), latest)
    new_movie = (
        left.unique("user_id", maintain_order=True)
        .head(5)
        .with_columns(pl.lit(888_888, ratings["movie_id"].dtype).alias("movie_id"), latest)
    )
    pl.concat([left, new_user, new_movie]).write_parquet(folder / "second.parquet")
    return folder


def begun(nights: Path, config: Config = WARM, *, output: str = "output") -> tuple[Night, Trained]:
    """The second night up to its first training."""
    night = story.start(
        Inputs(ratings=str(nights / "second.parquet")),
        output=str(nights / output),
        run_date=SECOND,
        config=config,
    )
    prepared = story.prepare(night)
    story.hold_out(night, prepared)
    return night, story.fit(night, prepared, on="train")


def test_the_second_night_goes_on_from_the_first(nights: Path) -> None:
    first = rows(str(nights / "output"), "runs")["model_uri"][0]
    night, measured = begun(nights)
    assert measured.warm_from == f"{first}/measured"
    published = story.nightly(night)
    ratings = pl.read_parquet(nights / "second.parquet")
    lists = rows(str(nights / "output")).filter(pl.col("run_date") == SECOND)
    check_contract(lists, ratings, n=20)
    assert set(lists["user_id"]) == set(ratings["user_id"])
    assert published.model_uri != first
    assert len(measured.losses) < QUICK.epochs * 2  # type: ignore[operator]
    story.nightly(
        story.start(
            Inputs(ratings=str(nights / "second.parquet")),
            output=str(nights / "output"),
            run_date=date(2026, 3, 3),
            config=WARM,
        )
    )


def test_the_measured_model_has_not_seen_the_holdout(nights: Path) -> None:
    """The published model, fitted on all ratings, is the start of the refit only,
    of one that does not go on from tonight's."""
    night, _ = begun(nights, WARM.model_copy(update={"warm_refit": False}))
    prepared = story.prepare(night)
    frame, held_out = night.frame("ratings"), night.frame("holdout")["held_out"]
    valid = frame.filter(held_out)
    for on, ends in (("train", "/measured"), ("all", "")):
        uri = warm_start.start_of(night, prepared, on=on, valid=valid).model_uri  # type: ignore[arg-type]
        assert uri
        assert uri.endswith(ends)
        assert uri.endswith("/measured") == (on == "train")
    until = pl.read_parquet(
        f"{warm_start.start_of(night, prepared, on='train', valid=valid).model_uri}/trained_until.parquet"
    )
    seen = (
        warm_start._with_ids(night, valid)
        .join(until, on="user_id")
        .filter(pl.col("timestamp") < pl.col("timestamp_right"))
    )
    assert seen.height <= 0.01 * valid.height


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"model": "dot_bias"}, "is a dot_raters"),
        ({"n_factors": 4}, "n_factors"),
        ({"y_range": (0.0, 6.0)}, "y_range"),
        ({"ranking_factors": 4}, "ranking_factors"),
        ({"holdout": "random"}, "may have seen"),
    ],
)
def test_what_does_not_fit_starts_cold_and_says_why(
    nights: Path, settings: dict[str, object], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "cfjobs"):
        _, measured = begun(nights, WARM.model_copy(update=settings))
    assert measured.warm_from is None
    assert reason in caplog.text


def test_a_first_night_and_an_unreadable_model_start_cold(
    nights: Path, data_set: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    output = str(tmp_path)
    uri = run(data_set, output, config=WARM).model_uri
    assert "no published night" in caplog.text
    for name, data, reason in (
        ("measured/network.safetensors", b"broken", "cold start"),
        ("measured/model.json", json.dumps({"format": 99}).encode(), "format 99"),
    ):
        storage.write_bytes(storage.join(uri, name), data)
        caplog.clear()
        run(data_set, output, config=WARM.model_copy(update={"seed": len(name)}))
        assert reason in caplog.text
        uri = rows(output, "runs")["model_uri"][-1]


def test_the_refit_goes_on_from_the_last_published_model_that_has_seen_enough(
    data_set: Path, tmp_path: Path
) -> None:
    """Of an earlier date, so that a date run again does not go on from itself;
    else from tonight's measured model."""
    first = run(data_set, str(tmp_path), config=QUICK)

    def refit_from(run_date: date, config: Config, *, ratings: Path | None = None) -> str | None:
        night = story.start(
            Inputs(ratings=str(ratings or data_set / "ratings.parquet")),
            output=str(tmp_path),
            run_date=run_date,
            config=config,
        )
        prepared = story.prepare(night)
        story.hold_out(night, prepared)
        story.fit(night, prepared, on="train")
        start = warm_start.start_of(night, prepared, on="all", valid=night.frame("ratings").clear())
        assert start.ranking is not None
        return start.model_uri

    assert refit_from(date(2026, 3, 2), QUICK) == first.model_uri
    assert refit_from(date(2026, 3, 1), QUICK) is None
    assert refit_from(date(2026, 3, 2), QUICK.model_copy(update={"steady": False})) is None
    ratings = pl.read_parquet(data_set / "ratings.parquet")
    half = ratings.with_columns(pl.col("user_id") + 1_000_000)
    pl.concat([ratings, half]).write_parquet(tmp_path / "twice.parquet")
    assert refit_from(date(2026, 3, 2), QUICK, ratings=tmp_path / "twice.parquet") is None


def test_a_night_without_warm_start_keeps_nothing_more(
    data_set: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cold = run(data_set, str(tmp_path), config=QUICK.model_copy(update={"steady": False}))
    names = {path.name for path in Path(cold.model_uri).iterdir()}
    assert names == {
        "network.safetensors",
        "profile.safetensors",
        "ranking.safetensors",
        "model.json",
        "users.parquet",
        "movies.parquet",
    }
    run(data_set, str(tmp_path), config=WARM, run_date=SECOND)
    assert "nights with warm_start do" in caplog.text
