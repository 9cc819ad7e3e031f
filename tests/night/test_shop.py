"""Two rules of a shop: movies are listed on their days alone, and popularity may be that of a window."""

from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from cfjobs.cli import app
from cfjobs.errors import InputError
from cfjobs.night import prepare, story
from cfjobs.query import explain, new_user, reasons
from cfjobs.query import movies as look
from tests.night.test_score import movie_ids, table_of
from tests.night.test_story import NIGHT, QUICK, rows, run, start

EVERY = QUICK.model_copy(update={"rank_by": "rating", "top_n": 294})
"""Lists of every movie, by one score: what any rule leaves of them is theirs, filtered."""
FEW = EVERY.model_copy(update={"top_n": 20, "gate_override": True})
LATER = NIGHT + timedelta(days=20)


def cut(lists: pl.DataFrame, movies: pl.Series, *, n: int) -> pl.DataFrame:
    """The lists without other movies than these, their first n places."""
    kept = lists.filter(pl.col("movie_id").is_in(movies.implode()))
    rank = pl.int_range(1, pl.len() + 1, dtype=pl.Int16).over("run_date", "user_id").alias("rank")
    return kept.with_columns(rank).filter(pl.col("rank") <= n)


@pytest.fixture(scope="module")
def shop(data_set: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A movies table with days, and what it withholds on two dates."""
    folder, rng = tmp_path_factory.mktemp("shop"), np.random.default_rng(3)
    movies = pl.read_parquet(data_set / "movies.parquet")
    first, length = rng.integers(-40, 30, movies.height), rng.integers(0, 60, movies.height)
    starts = [NIGHT + timedelta(days=int(n)) for n in first]
    ends = [NIGHT + timedelta(days=int(n + m)) for n, m in zip(first, length, strict=True)]
    open_ = pl.Series(rng.random(movies.height) < 0.3)
    table = movies.with_columns(pl.Series("available_from", starts), pl.Series("available_until", ends))
    table = table.with_columns(pl.when(~open_).then(pl.col("available_from", "available_until")))
    table.write_parquet(folder / "movies.parquet")
    rated = movie_ids(data_set)

    def available(on: date) -> pl.Series:
        held = (table["available_from"] > on) | (table["available_until"] < on)
        return rated.filter(~rated.is_in(table["movie_id"].filter(held).implode()))

    return {"movies": str(folder / "movies.parquet"), "available": available, "folder": folder}


@pytest.fixture(scope="module")
def sold(data_set: Path, shop: dict[str, Any]) -> tuple[str, str]:
    """The output of a night with days, and the model that made it."""
    output = str(shop["folder"] / "out")
    return output, run(data_set, output, movies=shop["movies"], config=FEW).model_uri


def test_lists_are_those_of_the_available_movies_whatever_the_shards(
    data_set: Path, tmp_path: Path, shop: dict[str, Any], sold: tuple[str, str]
) -> None:
    run(data_set, str(tmp_path / "all"), config=EVERY)
    wanted = cut(rows(str(tmp_path / "all")), shop["available"](NIGHT), n=20)
    assert rows(sold[0]).equals(wanted)
    config = FEW.model_copy(update={"shard_users": 17})
    run(data_set, str(tmp_path / "more"), movies=shop["movies"], config=config)
    assert rows(str(tmp_path / "more")).equals(wanted)
    movies = rows(sold[0], "movies")
    assert movies.filter("listable")["movie_id"].sort().equals(shop["available"](NIGHT))
    assert movies["listable"].null_count() == 0
    assert (movies["n_ratings"] > 0).all(), "trained on all the same"


def test_an_existing_model_goes_by_its_own_date_and_movies(
    data_set: Path, shop: dict[str, Any], sold: tuple[str, str]
) -> None:
    output, model = sold
    found = []
    for movies in (shop["movies"], None):
        night = start(data_set, output, model=model, movies=movies, run_date=LATER, config=FEW)
        story.nightly(night)
        found.append(rows(output).filter(run_date=LATER))
    assert found[0].equals(found[1]), "the model knows the days of its movies"
    may = shop["available"](LATER)
    assert set(found[0]["movie_id"]) <= set(may)
    assert set(found[0]["movie_id"]) - set(shop["available"](NIGHT))
    assert rows(output, "movies").filter("listable", run_date=LATER)["movie_id"].sort().equals(may)


def test_what_is_like_a_movie_is_told_with_whether_it_could_be_listed(
    shop: dict[str, Any], sold: tuple[str, str]
) -> None:
    may = set(shop["available"](NIGHT))
    movie = str(rows(sold[0], "similar_movies")["movie_id"][0])
    every = look.similar(sold[0], movie, run_date=NIGHT, n=50).rows
    assert [row["listable"] for row in every] == [row["movie_id"] in may for row in every]
    assert 0 < sum(row["listable"] for row in every) < len(every), (
        "it tells what is alike, not what can be had"
    )
    kept = [row for row in every if row["listable"]][:10]
    assert look.similar(sold[0], movie, run_date=NIGHT, listable=True).rows == kept
    command = ["-q", "similar", movie, "--output", sold[0], "--run-date", NIGHT.isoformat(), "-n", "50"]
    n = len(every) - sum(row["listable"] for row in every)
    assert f"{n} of {len(every)} could not be listed that night" in CliRunner().invoke(app, command).stdout
    assert "listable" not in CliRunner().invoke(app, [*command, "--listable"]).stdout


def test_lists_made_after_the_night_keep_its_days(
    data_set: Path, shop: dict[str, Any], sold: tuple[str, str], tmp_path: Path
) -> None:
    ratings = pl.read_parquet(data_set / "ratings.parquet").filter(user_id=17)
    ratings.write_parquet(tmp_path / "mine.parquet")
    mine = new_user.list_of(sold[0], str(tmp_path / "mine.parquet"), run_date=NIGHT)
    published = rows(sold[0]).filter(run_date=NIGHT, user_id=17)
    assert [row["movie_id"] for row in mine.rows] == published["movie_id"].to_list()
    held = set(movie_ids(data_set)) - set(shop["available"](NIGHT)) - set(ratings["movie_id"])
    told = explain.explain(sold[0], "17", str(min(held)), run_date=NIGHT)
    assert (told.place, told.withheld, told.seen) == (None, True, False)
    assert "withheld that night" in reasons.of(told).begin[0]


@pytest.mark.parametrize("column", ["available_from", "available_until"])
def test_days_of_a_wrong_type_end_the_night_before_the_ratings_are_read(
    data_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, column: str
) -> None:
    movies = table_of(tmp_path, "movies", movie_id=[1], **{column: ["2026-03-01"]})
    monkeypatch.setattr("cfjobs.ratings.read_ratings", lambda *_, **__: pytest.fail("read"))
    with pytest.raises(InputError, match=f"'{column}' is String, expected a date"):
        prepare.prepare(start(data_set, str(tmp_path / "out"), movies=movies))


def test_days_that_leave_nothing_are_refused(data_set: Path, tmp_path: Path) -> None:
    ids = movie_ids(data_set)
    gone = table_of(tmp_path, "movies", movie_id=ids, available_until=[NIGHT - timedelta(days=1)] * ids.len())
    with pytest.raises(InputError, match="candidates: days of availability leave none of 294 movies"):
        prepare.prepare(start(data_set, str(tmp_path / "out"), movies=gone))
    prepare.prepare(start(data_set, str(tmp_path / "out"), movies=gone, run_date=NIGHT - timedelta(days=1)))


def test_what_popularity_lists_go_by(data_set: Path, tmp_path: Path) -> None:
    at, row = pl.col("timestamp"), pl.int_range(pl.len())
    ratings = pl.read_parquet(data_set / "ratings.parquet").with_columns(
        pl.when(row % 600 == 0).then(at.max() + timedelta(days=30)).otherwise(at).alias("timestamp")
    )
    ratings.write_parquet(tmp_path / "ratings.parquet")
    more = {name: str(data_set / f"{name}.parquet") for name in ("movies", "users")}
    span = ratings.select((at.max() - at.min()).dt.total_days()).item() + 1
    late = ratings.filter(at > at.max() - timedelta(days=7))["movie_id"].value_counts()
    every = ratings.group_by("movie_id").len().join(late, on="movie_id", how="left")
    every = every.with_columns(pl.col("count").fill_null(0))
    filled = pl.when(pl.col("count") > 0).then(0).otherwise("len")
    order = every.sort("count", filled, "movie_id", descending=[True, True, False])
    found = {}
    for name, window in (("all", None), ("span", span), ("late", 7)):
        config = QUICK.model_copy(update={"popular_days": window, "shard_users": 50 if window else None})
        run(tmp_path, str(tmp_path / name), config=config, **more)
        found[name] = rows(str(tmp_path / name))
    assert found["span"].equals(found["all"])
    cold = pl.col("source") == "popular"
    assert found["late"].filter(~cold).equals(found["all"].filter(~cold))
    mine = found["late"].filter(user_id=900_002)
    assert mine["movie_id"].to_list() == order["movie_id"].head(20).to_list()
    assert mine["score"].to_list() == order["count"].head(20).to_list()
    assert 0 < (mine["score"] > 0).sum() < 20, "some of the window, the rest of all time"


def test_a_window_needs_times(data_set: Path, tmp_path: Path) -> None:
    config = QUICK.model_copy(update={"popular_days": 7, "timestamp_column": None})
    with pytest.raises(InputError, match="popular_days: got 7, but the ratings have no times"):
        prepare.prepare(start(data_set, str(tmp_path), config=config))
