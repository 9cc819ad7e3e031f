"""Explanations: the parts add up to the published score, and the histories are those of the night."""

from datetime import date, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from cfjobs import model_store
from cfjobs.config import Config
from cfjobs.errors import InputError
from cfjobs.night import story
from cfjobs.night.records import Inputs
from cfjobs.query.explain import Explanation, as_json, explain
from cfjobs.ratings.history import read_histories
from cfjobs.storage.files import list_files

NIGHT = date(2026, 3, 1)
NOW = datetime(2026, 3, 3)


def top_n(output: Path) -> pl.DataFrame:
    return pl.read_delta(str(output / "top_n")).filter(run_date=NIGHT, source="model")


def check_sum(found: Explanation, row: dict[str, Any]) -> None:
    assert found.rank == found.place == row["rank"]
    assert found.published_score == row["score"]
    assert found.parts.score == pytest.approx(row["score"], abs=1e-4)
    assert found.predicted_rating == pytest.approx(row["predicted_rating"], abs=1e-5)
    told = as_json(found)
    parts = (told[name] for name in ("bias", "embedding", "history", "stars"))
    assert sum(parts) == pytest.approx(told["score"])


def test_the_parts_add_up_to_the_published_score(two_nights: Path) -> None:
    for row in top_n(two_nights / "out").sample(8, seed=1).iter_rows(named=True):
        found = explain(str(two_nights / "out"), str(row["user_id"]), str(row["movie_id"]))
        check_sum(found, row)
        assert sum(found.frame["part"]) == pytest.approx(sum(found.parts.history))
        assert found.frame["part"].is_sorted(descending=True)
        assert found.frame["weight"].abs().sum() == pytest.approx(1, abs=1e-5)
        assert found.frame["title"].null_count() == 0


@pytest.mark.parametrize("model", ["dot_bias", "net"])
def test_lists_by_rating_are_explained_too(data_set: Path, tmp_path: Path, model: str) -> None:
    config = Config(
        epochs=1,
        top_n=10,
        n_factors=4,
        model=model,
        rank_by="rating",
        refit=False,
        gate_beat_popularity=False,
    )
    story.nightly(
        story.start(Inputs(ratings=str(data_set)), output=str(tmp_path), run_date=NIGHT, config=config)
    )
    for row in top_n(tmp_path).sample(4, seed=1).iter_rows(named=True):
        check_sum(explain(str(tmp_path), str(row["user_id"]), str(row["movie_id"])), row)


def test_a_movie_that_the_user_has_rated_says_so(two_nights: Path) -> None:
    ratings = pl.read_parquet(two_nights / "in" / "ratings.parquet").drop_nulls()
    row = ratings.row(0, named=True)
    found = explain(str(two_nights / "out"), str(row["user_id"]), str(row["movie_id"]))
    assert found.rank is None
    assert found.place is None
    assert found.rated is not None
    assert row["movie_id"] in found.frame["movie_id"].cast(pl.Int64).to_list()


def test_who_cannot_be_explained_is_told_why(two_nights: Path) -> None:
    output = str(two_nights / "out")
    with pytest.raises(InputError, match="gets the popularity list"):
        explain(output, "900001", str(top_n(two_nights / "out")["movie_id"][0]))
    with pytest.raises(InputError, match=r"movie .nonsense.: no id and no title"):
        explain(output, "1", "nonsense")
    with pytest.raises(InputError, match="no night of 2020-01-01"):
        explain(output, "1", "1", run_date=date(2020, 1, 1))


def test_ratings_that_moved_are_found_where_they_are_now(data_set: Path, tmp_path: Path) -> None:
    before, after = tmp_path / "before", tmp_path / "after"
    before.mkdir()
    pl.read_parquet(data_set / "ratings.parquet").write_parquet(before / "ratings.parquet")
    config = Config(
        epochs=1, top_n=10, n_factors=4, ranking_steps=20, refit=False, gate_beat_popularity=False
    )
    story.nightly(
        story.start(Inputs(ratings=str(before)), output=str(tmp_path / "out"), run_date=NIGHT, config=config)
    )
    before.rename(after)
    row = top_n(tmp_path / "out").row(0, named=True)
    request = (str(tmp_path / "out"), str(row["user_id"]), str(row["movie_id"]))
    with pytest.raises(InputError, match="--ratings"):
        explain(*request)
    check_sum(explain(*request, ratings_uri=str(after)), row)


def test_histories_are_the_clean_ratings_of_the_night(two_nights: Path) -> None:
    runs = pl.read_delta(str(two_nights / "out" / "runs")).filter(run_date=NIGHT)
    model = model_store.load_model(runs["model_uri"][0])
    files = list_files(str(two_nights / "in" / "ratings.parquet"))
    for user, n_ratings in model.users.sample(5, seed=0).iter_rows():
        assert read_histories(files, [user], config=Config(), run_date=NIGHT, now=NOW).height == n_ratings


def test_the_latest_rating_counts_whatever_the_form_of_the_files(tmp_path: Path) -> None:
    def write(name: str, **columns: Any) -> None:
        pl.DataFrame(columns).write_parquet(tmp_path / name)

    day = int(datetime(2026, 2, 1).timestamp())
    write("a.parquet", user_id=[1, 1, 2], movie_id=[7, 8, 7], rating=[1.0, 2.0, 3.0], timestamp=[day] * 3)
    write("b.parquet", user_id=["1"], movie_id=["7"], rating=[5], timestamp=[(day + 60) * 1000])
    write("c.parquet", user_id=[1], movie_id=[9], rating=[4.0], timestamp=[datetime(2026, 3, 2)])
    write("d.parquet", user_id=[1], movie_id=[10], rating=[float("nan")], timestamp=[datetime(2026, 1, 1)])
    found = read_histories(list_files(str(tmp_path)), [1], config=Config(), run_date=NIGHT, now=NOW)
    assert found.select("movie_id", "rating").rows() == [("8", 2.0), ("7", 5.0)]
