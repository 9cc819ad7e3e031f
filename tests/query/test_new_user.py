"""`--ratings-of`: a published user's own ratings give the published list; a new user's,
a list without training."""

from datetime import date
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from cfjobs.config import Config
from cfjobs.errors import InputError
from cfjobs.night import story
from cfjobs.night.records import Inputs
from cfjobs.query import lookup, new_user

NIGHT = date(2026, 3, 1)
QUICK = Config(epochs=2, top_n=20, n_factors=8, ranking_factors=8, ranking_steps=20)


@pytest.fixture(scope="module", params=["blend", "affinity", "rating"])
def published(
    request: pytest.FixtureRequest, data_set: Path, tmp_path_factory: pytest.TempPathFactory
) -> str:
    output = str(tmp_path_factory.mktemp(request.param))
    config = QUICK.model_copy(update={"rank_by": request.param})
    story.nightly(story.start(Inputs(ratings=str(data_set)), output=output, run_date=NIGHT, config=config))
    return output


def column(found: lookup.UserList, name: str) -> list[Any]:
    return [row[name] for row in found.rows]


def ratings_of(data_set: Path, user: int) -> pl.DataFrame:
    return pl.read_parquet(data_set / "ratings.parquet").filter(pl.col("user_id") == user)


def written(frame: pl.DataFrame, folder: Path, name: str = "mine.csv") -> str:
    frame.write_csv(folder / name) if name.endswith(".csv") else frame.write_parquet(folder / name)
    return str(folder / name)


@pytest.mark.parametrize("name", ["mine.csv", "mine.parquet"])
def test_with_exactly_their_ratings_a_user_gets_the_published_list(
    published: str, data_set: Path, tmp_path: Path, name: str
) -> None:
    for user in (1, 17, 100):
        file = written(ratings_of(data_set, user).sample(fraction=1, shuffle=True, seed=user), tmp_path, name)
        folded, own = new_user.list_of(published, file), lookup.user_list(published, str(user))
        assert folded.user_id == user
        assert len(folded.rows) == 20
        assert column(folded, "movie_id") == column(own, "movie_id")
        for value in ("score", "predicted_rating"):
            assert column(folded, value) == pytest.approx(column(own, value), abs=1e-5)


def test_without_times_the_order_of_the_rows_changes_nothing(
    published: str, data_set: Path, tmp_path: Path
) -> None:
    mine = ratings_of(data_set, 17).select("movie_id", "rating")
    found = [
        new_user.list_of(published, written(mine.sample(fraction=1, shuffle=True, seed=seed), tmp_path))
        for seed in range(3)
    ]
    assert column(found[0], "movie_id") == column(found[1], "movie_id") == column(found[2], "movie_id")


def test_one_more_rating_is_seen_and_changes_the_list(published: str, data_set: Path, tmp_path: Path) -> None:
    before = lookup.user_list(published, "17")
    first = before.rows[0]["movie_id"]
    more = ratings_of(data_set, 17).sort("timestamp").select("movie_id", "rating")
    latest = pl.DataFrame({"movie_id": [first], "rating": [5.0]})
    file = written(pl.concat([more, latest.cast(dict(more.schema))]), tmp_path)
    after = new_user.list_of(published, file, user="17")
    assert first not in column(after, "movie_id")
    assert column(after, "score") != column(before, "score")


def test_a_new_user_gets_a_list_and_hears_of_movies_that_the_model_lacks(
    published: str, data_set: Path, tmp_path: Path
) -> None:
    movies = ratings_of(data_set, 1)["movie_id"].head(5).to_list()
    frame = pl.DataFrame({"movie_id": [*map(str, movies), "nobody's"], "rating": [5, 4, 3, 2, 1, 5]})
    found = new_user.list_of(published, written(frame, tmp_path))
    assert (found.user_id, found.source, found.unknown_movies) == (None, "model", ("nobody's",))
    assert column(found, "rank") == list(range(1, 21))
    assert not set(movies) & set(column(found, "movie_id"))
    assert all(column(found, "title"))


def test_without_a_known_movie_it_is_the_popularity_list(published: str, tmp_path: Path) -> None:
    frame = pl.DataFrame({"movie_id": ["x"], "rating": [5.0]})
    assert new_user.list_of(published, written(frame, tmp_path)).source == "popular"


def test_of_a_movie_rated_twice_the_latest_stands(published: str, data_set: Path, tmp_path: Path) -> None:
    movies = ratings_of(data_set, 1)["movie_id"].head(3).to_list()
    once = pl.DataFrame({"movie_id": movies, "rating": [5.0, 4.0, 1.0]})
    twice = pl.DataFrame({"movie_id": [movies[2], *movies], "rating": [3.0, 5.0, 4.0, 1.0]})
    lists = [new_user.list_of(published, written(frame, tmp_path)) for frame in (once, twice)]
    assert lists[0].rows == lists[1].rows


def test_a_file_under_the_names_that_people_use_gives_the_same_list(
    published: str, data_set: Path, tmp_path: Path
) -> None:
    movies = ratings_of(data_set, 1)["movie_id"].head(3).to_list()
    plain = pl.DataFrame({"movie_id": movies, "rating": [5.0, 4.0, 1.0], "timestamp": [1, 2, 3]})
    other = plain.rename({"movie_id": "itemId", "rating": "Stars", "timestamp": "ts"})
    lists = [new_user.list_of(published, written(frame, tmp_path)) for frame in (plain, other)]
    assert lists[0].rows == lists[1].rows


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        ({"id": [1], "rating": [1.0]}, "has no column 'movie_id'"),
        ({"movie_id": [1], "rating": [99.0]}, "row 0 has movie '1', rating 99"),
        ({"movie_id": [1, None], "rating": [1.0, 2.0]}, "row 1 has movie None"),
        ({"movie_id": [1], "rating": ["good"]}, "expected an id, a number"),
        ({"movie_id": [1], "rating": [1.0], "timestamp": ["soon"]}, "'timestamp' is String"),
        ({"movie_id": [1, 2], "rating": [1.0, 2.0], "user_id": [1, 2]}, "holds those of 2 users"),
    ],
)
def test_what_is_not_the_ratings_of_one_user_is_refused(
    published: str, tmp_path: Path, frame: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        new_user.list_of(published, written(pl.DataFrame(frame), tmp_path))


def test_a_file_that_is_no_table_is_refused(published: str, tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"no Parquet")
    with pytest.raises(InputError, match="nor a Parquet file"):
        new_user.list_of(published, str(tmp_path / "a.parquet"))
