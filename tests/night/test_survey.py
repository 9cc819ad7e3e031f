"""What a night would read, told without one: the same counts, the same question, the same refusals."""

import json
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from cfjobs.config import Config
from cfjobs.errors import InputError
from cfjobs.night import prepare, story, survey
from cfjobs.night.records import Inputs
from cfjobs.query import explain

NOW = datetime(2026, 3, 2, tzinfo=UTC)
FEW = Config(top_n=3)


def ratings(n_users: int = 8, n_movies: int = 12, *, step: int = 3600) -> pl.DataFrame:
    """Every user rates every movie, an hour apart."""
    user, movie = np.divmod(np.arange(n_users * n_movies), n_movies)
    at = [datetime(2020, 1, 1) + timedelta(seconds=step * int(n)) for n in range(user.size)]
    rating = (user + movie) % 5 + 1.0
    return pl.DataFrame({"userId": user, "movieId": movie, "rating": rating, "timestamp": at})


def found(frame: pl.DataFrame, folder: Path, *, config: Config = FEW, **more: Any) -> dict[str, Any]:
    folder.mkdir(exist_ok=True)
    frame.write_parquet(folder / "ratings.parquet")
    told = survey.survey(Inputs(ratings=str(folder), **more), config=config, now=NOW)
    assert json.loads(json.dumps(told)) == told
    assert all("\n" not in line for line in survey.words(told))
    return told


def test_it_tells_what_a_night_then_reads(tmp_path: Path) -> None:
    frame = ratings()
    frame = pl.concat([frame, frame.head(2), frame.head(3).with_columns(rating=pl.lit(None, pl.Float64))])
    told = found(frame, tmp_path / "in")
    night = prepare.start(
        Inputs(ratings=str(tmp_path / "in")),
        output=str(tmp_path / "out"),
        config=FEW,
        run_date=date(2026, 3, 2),
        now=NOW,
    )
    prepared = prepare.prepare(night)
    assert told["problems"] == []
    assert told["counts"].items() <= prepared.counts.items()
    assert told["question"]["question"] == prepared.question
    assert (told["users"]["n"], told["movies"]["n"]) == (prepared.n_users, prepared.n_movies)
    assert [(line["reason"], line["rows"]) for line in told["rejected"]] == [("rating is missing", 3)]
    assert told["rejected"][0]["examples"][0]["row"] == 98
    assert told["columns"]["user"] == {"column": "userId", "types": ["Int64"], "recognised": True}
    assert (told["scale"]["low"], told["scale"]["high"]) == prepared.y_range


@pytest.mark.parametrize(
    ("change", "config", "line"),
    [
        (pl.col("rating"), Config(top_n=50), "add --set top_n=12"),
        (
            pl.when(pl.int_range(pl.len()) < 9).then(pl.lit(None)).otherwise(pl.col("rating")),
            FEW,
            "rows are rejected",
        ),
        (
            pl.when(pl.int_range(pl.len()) == 0).then(100.0).otherwise(pl.col("rating")),
            FEW,
            "the gate: the highest rating, 100",
        ),
        (pl.col("rating").cast(pl.String), FEW, "'rating' is string, expected a number"),
    ],
)
def test_what_a_night_would_refuse_is_a_problem(
    change: pl.Expr, config: Config, line: str, tmp_path: Path
) -> None:
    told = found(ratings().with_columns(change.alias("rating")), tmp_path / "in", config=config)
    assert any(line in problem for problem in told["problems"])


def test_reasons_are_told_also_where_they_are_too_many(tmp_path: Path) -> None:
    frame = ratings().with_columns(pl.when(pl.col("movieId") < 6).then(pl.col("rating")).alias("rating"))
    told = found(frame, tmp_path / "in")
    assert told["counts"] == {"read": 96, "rejected": 48}
    (line,) = told["rejected"]
    assert (line["reason"], line["rows"], len(line["examples"])) == ("rating is missing", 48, 3)


@pytest.mark.parametrize(
    ("step", "real", "question", "why"),
    [
        (3600, True, "next", "follow each other"),
        (0, False, "any", "one for all"),
        (86_400, True, "next", "dates without a time of day"),
    ],
)
def test_times_are_judged(step: int, real: bool, question: str, why: str, tmp_path: Path) -> None:
    told = found(ratings(step=step), tmp_path / "in")
    assert told["times"]["real"] is real
    assert why in told["times"]["why"]
    assert told["question"]["question"] == question


def test_a_bulk_load_among_real_times_and_gaps_are_seen(tmp_path: Path) -> None:
    frame = ratings()
    moment = datetime(2021, 6, 1, 12)
    frame = frame.with_columns(
        pl.when(pl.int_range(pl.len()) % 3 == 0)
        .then(moment)
        .otherwise(pl.col("timestamp"))
        .alias("timestamp")
    )
    times = found(frame, tmp_path / "in")["times"]
    assert times["real"] is False
    assert times["largest_at_once"] == 32
    assert times["gaps"][0]["to"] == "2021-06-01"


def test_movies_and_users_beside_the_ratings_are_counted(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    pl.DataFrame({"movieId": range(6), "name": [str(n) for n in range(6)]}).write_parquet(
        tmp_path / "in" / "movies.parquet"
    )
    pl.DataFrame({"user": [1, 77]}).write_parquet(tmp_path / "in" / "users.parquet")
    told = found(ratings(), tmp_path / "in")
    assert (told["movies"]["in_movies_table"], told["movies"]["rated_and_described"]) == (6, 6)
    assert told["movies"]["titles"]
    assert told["users"]["without_ratings"] == 1


def test_a_night_of_other_names_is_told_and_explained_by_them(tmp_path: Path) -> None:
    ratings().filter((pl.col("userId") + pl.col("movieId")) % 2 == 0).write_parquet(tmp_path / "a.parquet")
    few = {"n_factors": 4, "ranking_factors": 4, "ranking_steps": 5, "epochs": 1}
    config = Config(top_n=3, holdout="none", **few)
    night = story.start(
        Inputs(ratings=str(tmp_path / "a.parquet")), output=str(tmp_path / "out"), config=config
    )
    story.nightly(night)
    (row,) = pl.read_delta(str(tmp_path / "out" / "runs")).to_dicts()
    taken = json.loads(row["config"])
    assert (taken["user_column"], taken["movie_column"], taken["rating_column"]) == (
        "userId",
        "movieId",
        "rating",
    )
    assert explain.explain(str(tmp_path / "out"), "1", "2").frame.height == 6


def test_a_doubt_about_the_columns_is_one_line(tmp_path: Path) -> None:
    frame = ratings().with_columns(customer_id=pl.col("userId"))
    with pytest.raises(InputError, match="add --set user_column=userId, or the column that is meant"):
        found(frame, tmp_path / "in")
