"""Nights of ratings that have no values, or no times: every stage, to the tables and the look-ups."""

import json
import shutil
from datetime import date, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from cfjobs import model_store, report
from cfjobs.config import Config
from cfjobs.errors import GateRefused, InputError
from cfjobs.evaluation import OF_STARS
from cfjobs.night import doctor, story
from cfjobs.night.records import Inputs, Published
from cfjobs.query import explain, lookup, movies, new_user, predict
from cfjobs.tables.rules import list_faults
from cfjobs.tables.runs import published
from tests.night.test_story import QUICK, rows

ANY = QUICK.model_copy(update={"gate_beat_popularity": False})
FIRST, SECOND = date(2026, 3, 1), date(2026, 3, 2)


def night(
    data_set: Path,
    output: Path,
    *,
    lacks: tuple[str, ...] = (),
    run_date: date = FIRST,
    config: Config = ANY,
    model: str | None = None,
    **columns: Any,
) -> Published:
    """A night of the data set without these columns, or with others in their place."""
    folder = output.parent / f"in-{'-'.join(lacks)}-{len(columns)}"
    folder.mkdir(exist_ok=True)
    frame = pl.read_parquet(data_set / "ratings.parquet").drop(lacks).with_columns(**columns)
    frame.write_parquet(folder / "ratings.parquet")
    for name in ("movies", "users"):
        pl.read_parquet(data_set / f"{name}.parquet").write_parquet(folder / f"{name}.parquet")
    inputs = Inputs(ratings=str(folder), model=model)
    return story.nightly(story.start(inputs, output=str(output), run_date=run_date, config=config))


@pytest.fixture(scope="module")
def nights(data_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two nights without values, the second of which goes on from the first."""
    output = tmp_path_factory.mktemp("implicit") / "out"
    for day in (FIRST, SECOND):
        night(data_set, output, lacks=("rating",), run_date=day)
    return output


def config_of(output: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(rows(str(output), "runs")["config"][-1])
    return found


def test_implicit_lists_keep_every_rule_and_predict_no_rating(nights: Path, data_set: Path) -> None:
    seen = pl.read_parquet(data_set / "ratings.parquet").select("user_id", "movie_id")
    for lists in rows(str(nights)).partition_by("run_date"):
        assert lists["user_id"].n_unique() == 122
        assert list_faults(lists.drop("run_date"), seen=seen, top_n=20, y_range=None) == []
        assert lists["predicted_rating"].null_count() == lists.height
        by_star = list_faults(lists.drop("run_date"), seen=seen, top_n=20, y_range=(1, 5))
        assert by_star == [f"{lists.height:,} rows hold a null"]
    assert doctor.examine(str(nights)).sound


def test_what_has_no_stars_is_null_and_the_rest_is_measured(nights: Path) -> None:
    decided = config_of(nights)
    assert (decided["feedback"], decided["rank_by"], decided["question"]) == ("implicit", "affinity", "next")
    metrics = published(str(nights))[-1].metrics
    for name in (*OF_STARS, "scale_low", "scale_high"):
        assert metrics[name] is None
    for name in ("ndcg_at_10", "ndcg_at_10_popular", "ndcg_at_10_ease", "coverage_published"):
        assert isinstance(metrics[name], float)
    measured = rows(str(nights), "metrics")
    assert not set(OF_STARS) & set(measured["metric"])
    assert "ndcg_at_10" in set(measured["metric"])
    held_out = rows(str(nights), "holdout_predictions")
    assert held_out.height
    assert (
        held_out.select("rating", "predicted_rating", "residual").null_count().row(0)
        == (held_out.height,) * 3
    )
    assert held_out["rated_at"].null_count() == 0
    assert rows(str(nights), "movie_embeddings")["bias"].null_count() > 0
    assert rows(str(nights), "runs")["losses"].to_list() == ["[]", "[]"]


def test_an_implicit_night_goes_on_from_the_one_before(
    nights: Path, data_set: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = published(str(nights))[0]
    output = shutil.copytree(nights, tmp_path / "out")
    caplog.set_level("INFO", "cfjobs")
    night(data_set, output, lacks=("rating",), run_date=SECOND)
    assert f"the refit goes on from {first.model_uri}" in caplog.text
    assert rows(str(output)).equals(rows(str(nights)))  # the date again, by the same model: the same lists


def test_one_value_makes_the_lists_of_none(nights: Path, data_set: Path, tmp_path: Path) -> None:
    night(data_set, tmp_path / "out", rating=pl.lit(4.0))
    assert rows(str(tmp_path / "out")).equals(rows(str(nights)).filter(run_date=FIRST))


def test_look_ups_of_an_implicit_night(nights: Path, data_set: Path, tmp_path: Path) -> None:
    found = lookup.user_list(str(nights), "1")
    assert "predicted_rating" not in found.rows[0]
    movie = str(found.rows[0]["movie_id"])
    why = explain.explain(str(nights), "1", movie)
    assert why.predicted_rating is None
    assert why.place == why.rank == 1
    assert why.parts.score == pytest.approx(why.published_score, rel=1e-4)
    assert why.frame["rating"].null_count() == why.frame.height
    rated = pl.read_parquet(data_set / "ratings.parquet").filter(user_id=1)
    again = explain.explain(str(nights), "1", str(rated["movie_id"][0]))
    assert (again.seen, again.rated, again.place) == (True, None, None)
    rated.drop("rating").write_parquet(tmp_path / "mine.parquet")
    mine = new_user.list_of(str(nights), str(tmp_path / "mine.parquet"), user="1")
    assert [row["movie_id"] for row in mine.rows] == [row["movie_id"] for row in found.rows]
    assert movies.similar(str(nights), movie).rows
    assert "bias" not in movies.search(str(nights), movie)[0]
    with pytest.raises(InputError, match="predicts no ratings"):
        predict.predict_one(published(str(nights))[-1].model_uri, "1", movie)


def test_the_page_of_an_implicit_night_has_no_stars(nights: Path) -> None:
    page = Path(report.build(str(nights))).read_text()
    assert "implicit feedback" in page
    for words in ("RMSE)", "Most loved", "Predicted against true", "nan", "None"):
        assert words not in page.partition('<h2><a href="#run">')[0]


def test_an_existing_model_scores_its_own_kind_alone(nights: Path, data_set: Path, tmp_path: Path) -> None:
    model = published(str(nights))[-1].model_uri
    scored = night(data_set, tmp_path / "out", model=model)  # values are left aside
    assert scored.gate == "existing model"
    wanted = rows(str(nights)).filter(run_date=SECOND).drop("run_date")
    assert rows(str(tmp_path / "out")).drop("run_date").equals(wanted)
    of_stars = night(data_set, tmp_path / "stars").model_uri
    assert model_store.load_model(of_stars).config.feedback == "ratings"
    with pytest.raises(InputError, match="has no column 'rating'"):
        night(data_set, tmp_path / "out", lacks=("rating",), model=of_stars)
    with pytest.raises(InputError, match="every rating is 3"):
        night(data_set, tmp_path / "out", model=of_stars, rating=pl.lit(3.0))
    said = ANY.model_copy(update={"feedback": "ratings"})
    with pytest.raises(InputError, match="feedback is ratings, but the model was trained on implicit"):
        night(data_set, tmp_path / "out", model=model, config=said)


@pytest.mark.parametrize("lost", ["rating", "timestamp"])
def test_a_column_that_is_lost_overnight_is_refused_unless_it_is_said(
    lost: str, data_set: Path, tmp_path: Path
) -> None:
    night(data_set, tmp_path / "out")
    with pytest.raises(GateRefused, match="mend the export, or set"):
        night(data_set, tmp_path / "out", lacks=(lost,), run_date=SECOND)
    said = {"rating": {"feedback": "implicit"}, "timestamp": {"timestamp_column": None}}[lost]
    night(data_set, tmp_path / "out", lacks=(lost,), run_date=SECOND, config=ANY.model_copy(update=said))
    assert len(published(str(tmp_path / "out"))) == 2


def test_ratings_without_times_are_asked_for_the_profile_and_nothing_pretends_a_time(
    data_set: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    night(data_set, output, lacks=("timestamp",))
    night(data_set, tmp_path / "one", timestamp=pl.lit(datetime(2026, 1, 1)))
    assert rows(str(output)).equals(rows(str(tmp_path / "one")))
    decided = config_of(output)
    assert (decided["timestamp_column"], decided["question"], decided["feedback"]) == (None, "any", "ratings")
    held_out = rows(str(output), "holdout_predictions")
    assert held_out["rated_at"].null_count() == held_out.height
    assert held_out.drop("rated_at").equals(
        rows(str(tmp_path / "one"), "holdout_predictions").drop("rated_at")
    )
    metrics = published(str(output))[-1].metrics
    assert not [name for name in metrics if "days" in name or "slit" in name]
    page = Path(report.build(str(output))).read_text()
    assert "They have no times." in page
    assert "1970-01-01" not in page
    why = explain.explain(str(output), "1", str(lookup.user_list(str(output), "1").rows[0]["movie_id"]))
    assert why.frame["rated_at"].null_count() == why.frame.height
    assert why.parts.score == pytest.approx(why.published_score, rel=1e-4)
    for key, value in (("question", "next"), ("holdout", "temporal")):
        with pytest.raises(InputError, match=f"key {key}: got '{value}', but the ratings have no times"):
            night(data_set, output, lacks=("timestamp",), config=ANY.model_copy(update={key: value}))


def test_neither_values_nor_times_still_make_lists(data_set: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    for day in (FIRST, SECOND):
        night(data_set, output, lacks=("rating", "timestamp"), run_date=day)
    decided = config_of(output)
    assert (decided["timestamp_column"], decided["question"], decided["feedback"]) == (
        None,
        "any",
        "implicit",
    )
    assert doctor.examine(str(output)).sound
    assert Path(report.build(str(output))).read_text().count("They have no times.") == 1
