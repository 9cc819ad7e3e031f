"""A night with side features: unrated movies become rows, are listed where they are described,
and are counted."""

import json
from datetime import date
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from cfjobs import lists, model_store, storage
from cfjobs.config import Config
from cfjobs.errors import InputError
from cfjobs.night import story
from cfjobs.night.records import Inputs, Published
from cfjobs.query import lookup, new_user, predict

NIGHT = date(2026, 3, 1)
NEW, NOT_DESCRIBED = range(10_001, 10_031), range(20_001, 20_006)
QUICK = Config(epochs=2, top_n=20, n_factors=8, ranking_factors=8, ranking_steps=20)
DESCRIBED = QUICK.model_copy(update={"movie_features": ("genres",)})


@pytest.fixture(scope="module")
def data(data_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small data set with 30 new movies that have genres and 5 that have none;
    every user has a country."""
    folder = tmp_path_factory.mktemp("described")
    movies = pl.read_parquet(data_set / "movies.parquet").select("movie_id", "title", "genres")
    new = movies.head(30).with_columns(pl.Series("movie_id", NEW, dtype=movies["movie_id"].dtype))
    bare = movies.head(5).with_columns(
        pl.Series("movie_id", NOT_DESCRIBED, dtype=movies["movie_id"].dtype),
        pl.lit(None, movies["genres"].dtype).alias("genres"),
    )
    pl.concat([movies, new, bare]).write_parquet(folder / "movies.parquet")
    users = pl.read_parquet(data_set / "users.parquet")
    users.with_columns(pl.format("c{}", pl.col("user_id") % 3).alias("country")).write_parquet(
        folder / "users.parquet"
    )
    pl.read_parquet(data_set / "ratings.parquet").write_parquet(folder / "ratings.parquet")
    return folder


def run(data: Path, output: Path, config: Config, **more: Any) -> Published:
    return story.nightly(
        story.start(Inputs(ratings=str(data)), output=str(output), run_date=NIGHT, config=config, **more)
    )


def top_n(output: Path) -> pl.DataFrame:
    return pl.read_delta(storage.join(str(output), "top_n"))


@pytest.fixture(scope="module")
def night(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Published]:
    output = tmp_path_factory.mktemp("night")
    return output, run(data, output, DESCRIBED.model_copy(update={"user_features": ("country",)}))


def n_unrated(data: Path) -> int:
    movies, ratings = (pl.read_parquet(data / f"{name}.parquet") for name in ("movies", "ratings"))
    return movies.join(ratings, on="movie_id", how="anti").height


def test_unrated_movies_are_candidates_where_they_are_described_and_are_counted(
    night: tuple[Path, Published], data: Path
) -> None:
    _, published = night
    model = model_store.load_model(published.model_uri)
    assert model.movies.height == published.counts["movies"]
    may_be_listed = set(model.movies["movie_id"].filter(pl.Series(lists.candidates(model))))
    assert set(NEW) <= may_be_listed
    assert not set(NOT_DESCRIBED) & may_be_listed
    counts = published.counts
    assert counts["unrated_movies_left_out"] == len(NOT_DESCRIBED)
    assert counts["unrated_movies_listable"] + counts["unrated_movies_left_out"] == n_unrated(data)


def test_without_features_they_are_left_out_and_counted(data: Path, tmp_path: Path) -> None:
    published = run(data, tmp_path, QUICK)
    assert published.counts["unrated_movies_listable"] == 0
    assert published.counts["unrated_movies_left_out"] == n_unrated(data)
    assert not set(top_n(tmp_path)["movie_id"]) & {*NEW, *NOT_DESCRIBED}


def test_several_ratings_asked_for_leave_the_unrated_out(data: Path, tmp_path: Path) -> None:
    published = run(data, tmp_path, DESCRIBED.model_copy(update={"min_ratings": 2}))
    assert published.counts["unrated_movies_listable"] == 0
    assert not set(top_n(tmp_path)["movie_id"]) & set(NEW)


def test_users_without_ratings_keep_the_popularity_list_of_rated_movies(
    night: tuple[Path, Published],
) -> None:
    mine = top_n(night[0]).filter(pl.col("user_id") == 900_001)
    assert mine["source"].unique().to_list() == ["popular"]
    assert mine["score"].min() >= 1  # type: ignore[operator]  # a number


def test_an_unrated_movie_is_known_by_its_features(night: tuple[Path, Published], data: Path) -> None:
    model_uri = night[1].model_uri
    found = [predict.predict_one(model_uri, "1", str(movie)) for movie in (NEW[0], NEW[1], NOT_DESCRIBED[0])]
    assert [one["movie_known"] for one in found] == [True, True, False]
    assert found[0]["predicted_rating"] != found[2]["predicted_rating"]


def test_what_the_columns_held_is_kept_with_the_model(night: tuple[Path, Published]) -> None:
    description = json.loads(storage.read_bytes(storage.join(night[1].model_uri, "model.json")))
    (movies,), (users,) = (description["features"][what] for what in ("movies", "users"))
    assert (movies["name"], users["name"]) == ("genres", "country")
    assert users["categories"] == ["c0", "c1", "c2"]
    assert not any("|" in genre for genre in movies["categories"])


def test_a_published_user_comes_back_to_the_same_list(
    night: tuple[Path, Published], data: Path, tmp_path: Path
) -> None:
    theirs = pl.read_parquet(data / "ratings.parquet").filter(pl.col("user_id") == 17)
    theirs.write_parquet(tmp_path / "mine.parquet")
    folded = new_user.list_of(str(night[0]), str(tmp_path / "mine.parquet")).rows
    published = lookup.user_list(str(night[0]), "17").rows
    assert [row["movie_id"] for row in folded] == [row["movie_id"] for row in published]


def test_an_existing_model_with_features_scores_the_same_lists(
    night: tuple[Path, Published], data: Path, tmp_path: Path
) -> None:
    config = DESCRIBED.model_copy(update={"user_features": ("country",)})
    again = story.start(
        Inputs(ratings=str(data), model=night[1].model_uri),
        output=str(tmp_path),
        run_date=NIGHT,
        config=config,
    )
    story.nightly(again)
    assert top_n(tmp_path).sort("user_id", "rank").equals(top_n(night[0]).sort("user_id", "rank"))


def test_the_model_does_not_depend_on_the_order_of_the_movies_table(data: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for file in ("ratings", "movies"):
            frame = pl.read_parquet(data / f"{file}.parquet")
            if name == "b" and file == "movies":
                frame = frame.reverse()
            frame.write_parquet(tmp_path / name / f"{file}.parquet")
        run(tmp_path / name, tmp_path / f"out-{name}", DESCRIBED)
    first, second = (top_n(tmp_path / f"out-{name}").sort("user_id", "rank") for name in ("a", "b"))
    assert first.equals(second)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"movie_features": ("title",)}, "column 'title' has .* looks like an id or a title"),
        ({"movie_features": ("genre",)}, "the movies table has no column 'genre'"),
        ({"user_features": ("age",)}, "the users table has no column 'age'"),
        ({"movie_features": ("n_ratings",)}, "is a name of the job's own"),
    ],
)
def test_columns_that_will_not_do_are_refused_before_anything_is_written(
    data: Path, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        run(data, tmp_path / "out", QUICK.model_copy(update=change))
    assert not (tmp_path / "out").exists()


def test_features_of_a_table_that_is_not_given_are_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"needs the movies table.* give --movies"):
        run(data / "ratings.parquet", tmp_path / "out", DESCRIBED)
