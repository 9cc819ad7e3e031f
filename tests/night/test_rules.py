"""A night under the rules of a shop: its lists, whatever the shards, and all that looks at them after it."""

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from cfjobs.cli.query import print_list
from cfjobs.errors import InputError
from cfjobs.night import doctor, prepare, story, survey
from cfjobs.night.records import Inputs
from cfjobs.query import explain, lookup, new_user, reasons
from cfjobs.report import facts, page
from cfjobs.tables.rules import ShopRules, list_faults
from tests.night.test_story import NIGHT, QUICK, rows, run, start

RULED = QUICK.model_copy(
    update={"max_per": {"genres": 2}, "new_places": 2, "new_max_ratings": 5, "rule_places": 8}
)


@pytest.fixture(scope="module")
def movies(data_set: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A movies table with boosts and pins, two of them at one place and one of a movie without ratings."""
    path = tmp_path_factory.mktemp("shop") / "movies.parquet"
    rng, table = np.random.default_rng(5), pl.read_parquet(data_set / "movies.parquet")
    rated = pl.read_parquet(data_set / "ratings.parquet")["movie_id"].value_counts()
    some = rated.sort("count", "movie_id")["movie_id"].gather([3, 50, 120]).to_list()
    unrated = table.filter(~pl.col("movie_id").is_in(rated["movie_id"].implode()))["movie_id"][0]
    place = pl.col("movie_id").replace_strict({some[0]: 2, some[1]: 2, some[2]: 6, unrated: 1}, default=None)
    boost = pl.Series(
        np.where(rng.random(table.height) < 0.1, rng.normal(size=table.height), np.nan)
    ).fill_nan(None)
    table.with_columns(place.cast(pl.Float64).alias("pinned_rank"), boost.alias("boost")).write_parquet(path)
    return str(path)


@pytest.fixture(scope="module")
def ruled(data_set: Path, movies: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The output of a night of all rules."""
    output = str(tmp_path_factory.mktemp("ruled"))
    run(data_set, output, movies=movies, config=RULED)
    return output


def pinned(movies: str) -> pl.DataFrame:
    return pl.read_parquet(movies).drop_nulls("pinned_rank").sort("pinned_rank", "movie_id")


def test_the_lists_keep_the_rules_whatever_the_shards(
    data_set: Path, movies: str, ruled: str, tmp_path: Path
) -> None:
    found = rows(ruled)
    by_score = found.filter(pl.col("rule").is_null())
    assert (
        by_score.group_by("user_id", maintain_order=True)
        .agg(pl.col("score").diff().max().fill_null(0) <= 0)["score"]
        .all()
    )
    seen = pl.read_parquet(data_set / "ratings.parquet")
    pins = pinned(movies).tail(3)["movie_id"].to_list()
    who = found.select("user_id").unique()
    may = who.join(pl.DataFrame({"movie_id": pins}), how="cross").join(
        seen, on=["user_id", "movie_id"], how="anti"
    )
    there = found.filter(rule="pinned")
    assert there.select("user_id", "movie_id").sort(pl.all()).equals(may.sort(pl.all()))
    mine = there.filter(user_id=900_001)
    assert dict(mine.select("rank", "movie_id").iter_rows()) == {2: pins[0], 3: pins[1], 6: pins[2]}
    first = found.filter(pl.col("rank") <= 8, pl.col("rule").ne_missing("held_back"))
    genres = pl.read_parquet(movies).select("movie_id", pl.col("genres").str.split("|")).explode("genres")
    over = first.join(genres, on="movie_id").filter(pl.len().over("user_id", "genres") > 2)
    assert over.filter(pl.col("rule").ne_missing("pinned")).is_empty()
    new = found.filter(rule="new")
    assert new.height
    assert set(new["source"]) == {"model"}
    few = seen["movie_id"].value_counts().filter(pl.col("count") <= 5)["movie_id"]
    assert new["movie_id"].is_in(few.implode()).all()
    assert set(found["rule"]) == {None, "pinned", "new", "held_back"}
    config = RULED.model_copy(update={"shard_users": 17})
    run(data_set, str(tmp_path), movies=movies, config=config)
    assert rows(str(tmp_path)).equals(found)
    assert doctor.examine(ruled).sound, doctor.as_text(doctor.examine(ruled))


def test_rules_that_bind_nowhere_change_nothing_and_none_of_them_is_measured(
    data_set: Path, movies: str, ruled: str, tmp_path: Path
) -> None:
    run(data_set, str(tmp_path / "plain"))
    loose = QUICK.model_copy(update={"max_per": {"genres": 1000}})
    run(data_set, str(tmp_path / "loose"), config=loose)
    plain = rows(str(tmp_path / "plain"))
    assert plain["rule"].null_count() == plain.height
    assert rows(str(tmp_path / "loose")).equals(plain)
    measured = pl.col("metric").str.ends_with("_published").not_()
    metrics = [rows(output, "metrics").filter(measured) for output in (ruled, str(tmp_path / "plain"))]
    assert metrics[0].equals(metrics[1])


def test_lists_made_after_the_night_keep_its_rules(data_set: Path, ruled: str, tmp_path: Path) -> None:
    ratings = pl.read_parquet(data_set / "ratings.parquet")
    for user in (1, 17, 100):
        ratings.filter(user_id=user).write_parquet(tmp_path / "mine.parquet")
        mine, own = (
            new_user.list_of(ruled, str(tmp_path / "mine.parquet")),
            lookup.user_list(ruled, str(user)),
        )
        for name in ("movie_id", "rule"):
            assert [row[name] for row in mine.rows] == [row[name] for row in own.rows]
        assert [r["score"] for r in mine.rows] == pytest.approx([r["score"] for r in own.rows], abs=1e-5)


def test_an_explanation_adds_up_and_names_the_rule(ruled: str, movies: str) -> None:
    boosted = pl.read_parquet(movies).drop_nulls("boost")["movie_id"]
    found = rows(ruled).filter(source="model")
    some = [found.filter(pl.col("movie_id").is_in(boosted.implode()), pl.col("rule").is_null())]
    some += [found.filter(rule=rule) for rule in ("pinned", "new", "held_back")]
    for frame in some:
        row = frame.row(0, named=True)
        told = explain.explain(ruled, str(row["user_id"]), str(row["movie_id"]))
        assert told.parts.score == pytest.approx(row["score"], abs=1e-4)
        assert (told.rank, told.rule) == (row["rank"], row["rule"])
        assert (told.parts.boost != 0) == (row["movie_id"] in set(boosted))
        assert ("the shop's boost" in reasons.of(told).end[-1]) == (told.parts.boost != 0)
    assert "held back by max_per" in reasons.of(told).begin[0]


def test_people_see_the_rules(ruled: str, capsys: pytest.CaptureFixture[str]) -> None:
    print_list(lookup.user_list(ruled, "900001"), n=3)
    shown = capsys.readouterr().out
    assert shown.count("pinned") == 2
    text = page.document(facts.gather(ruled))
    assert "Rules of the shop: " in text
    assert (
        "3 pinned; at most 2 with one value of genres among the first 8 places; 2 of the first 8 places"
        in text
    )
    assert ">pinned</td>" in text
    counts = json.loads(rows(ruled, "runs")["counts"][0])
    assert counts["pinned_movies"] == 3, "of those that the night knows"


def test_an_existing_model_goes_by_tonights_rules(
    data_set: Path, ruled: str, movies: str, tmp_path: Path
) -> None:
    model = rows(ruled, "runs")["model_uri"][0]
    other = pl.read_parquet(movies).with_columns(pl.col("boost") * 0, pl.col("pinned_rank") + 1)
    other.write_parquet(tmp_path / "movies.parquet")
    ratings = pl.read_parquet(data_set / "ratings.parquet").filter(user_id=17)
    ratings.write_parquet(tmp_path / "mine.parquet")
    later, found = NIGHT + timedelta(days=1), []
    for table in (movies, None, str(tmp_path / "movies.parquet")):
        story.nightly(start(data_set, ruled, model=model, movies=table, run_date=later, config=RULED))
        found.append(rows(ruled).filter(run_date=later))
        mine = new_user.list_of(ruled, str(tmp_path / "mine.parquet"), run_date=later)
        assert [row["movie_id"] for row in mine.rows] == found[-1].filter(user_id=17)["movie_id"].to_list()
    assert found[0].equals(found[1]), "the model knows the movies table that it was trained with"
    assert found[2].filter(rule="pinned", user_id=900_001)["rank"].to_list() == [3, 4, 7]
    assert "boosted_movies" not in json.loads(rows(ruled, "runs")["counts"][1])


BAD = [
    ({"boost": ["much"]}, {}, r"column 'boost' is String, expected numbers"),
    ({"boost": [float("nan")]}, {}, r"column 'boost' of movie 1 is nan, expected a number"),
    ({"boost": [float("inf")]}, {}, r"column 'boost' of movie 1 is inf, expected a number"),
    ({"pinned_rank": ["first"]}, {}, r"column 'pinned_rank' is String, expected places"),
    (
        {"pinned_rank": [0]},
        {},
        r"'pinned_rank' of movie 1 is 0, expected a place of a list, from 1 to top_n = 20",
    ),
    ({"pinned_rank": [1.5]}, {}, r"'pinned_rank' of movie 1 is 1.5, expected a place"),
    ({"pinned_rank": [21]}, {}, r"'pinned_rank' of movie 1 is 21, expected a place"),
    ({}, {"boost_column": "push"}, r"boost_column: got 'push', but the movies table has no such column"),
    ({}, {"max_per": {"kind": 1}}, r"max_per: got 'kind', but the movies table has no such column"),
    ({}, {"max_per": {"movie_id": 1}}, r"max_per: 'movie_id' is a name of the job's own"),
    ({"box": [{"a": 1}]}, {"max_per": {"box": 1}}, r"max_per: column 'box' of the movies table is Struct"),
    ({"boost": [1.0]}, {"rank_by": "rating", "model": "net"}, r"scores are no dot product cannot be"),
]


@pytest.mark.parametrize(("columns", "settings", "words"), BAD, ids=[words[:24] for *_, words in BAD])
def test_rules_that_cannot_be_end_the_night_before_the_ratings_are_read(
    data_set: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    columns: dict[str, Any],
    settings: dict[str, Any],
    words: str,
) -> None:
    pl.DataFrame({"movie_id": [1], **columns}).write_parquet(tmp_path / "movies.parquet")
    config, given = QUICK.model_copy(update=settings), str(tmp_path / "movies.parquet")
    inputs = Inputs(ratings=str(data_set / "ratings.parquet"), movies=given)
    told = survey.survey(inputs, config=config)["problems"]
    assert len(told) == 1
    monkeypatch.setattr("cfjobs.ratings.read_ratings", lambda *_, **__: pytest.fail("read"))
    with pytest.raises(InputError, match=words) as error:
        prepare.prepare(start(data_set, str(tmp_path / "out"), movies=given, config=config))
    assert str(error.value) == told[0]


def test_the_survey_says_which_rules_there_are(data_set: Path, movies: str) -> None:
    told = survey.survey(Inputs(ratings=str(data_set / "ratings.parquet"), movies=movies), config=RULED)
    assert told["problems"] == []
    (line,) = [line for line in survey.words(told) if line.startswith("rules")]
    assert (
        "movies boosted; 3 pinned; at most 2 with one value of genres among the first 8 places; 2 of" in line
    )


FAULTS: list[tuple[str, pl.Expr, str]] = [
    ("rule", pl.lit(None, pl.String), "are pinned, and stand by another rule"),
    ("rank", pl.when(user_id=1).then(pl.col("rank") + 1).otherwise("rank"), "to which they are pinned"),
    ("rule", pl.when(rule="held_back").then(None).otherwise("rule"), "higher score than the rank before"),
    ("rule", pl.lit("bought"), "have an unknown rule"),
    ("rule", pl.lit("new"), "are new movies beyond the first 8 places"),
    ("rule", pl.lit("new"), "are new movies beyond new_places"),
]


@pytest.mark.parametrize(("column", "value", "words"), FAULTS, ids=[words for *_, words in FAULTS])
def test_lists_that_break_a_rule_are_found(
    ruled: str, movies: str, column: str, value: pl.Expr, words: str
) -> None:
    good = rows(ruled).filter(run_date=NIGHT).drop("run_date")
    faults = [faults_of(frame, movies) for frame in (good, good.with_columns(value.alias(column)))]
    assert faults[0] == []
    assert any(words in fault for fault in faults[1]), faults[1]


def test_more_of_a_kind_than_may_be_are_found(ruled: str, movies: str) -> None:
    good = rows(ruled).filter(run_date=NIGHT).drop("run_date")
    (fault,) = faults_of(good, movies, most=1)
    assert "are more of a kind than max_per allows in the first 8 places" in fault


def faults_of(frame: pl.DataFrame, movies: str, *, most: int = 2) -> list[str]:
    table = pl.read_parquet(movies)
    genres = table.select("movie_id", value=pl.col("genres").str.split("|"), most=most).explode("value")
    pins = pinned(movies).select("movie_id", wanted=pl.col("pinned_rank").cast(pl.Int32))
    promised = ShopRules(places=8, new_places=2, pinned=pins, values=genres)
    seen = frame.select("user_id", "movie_id").clear()
    return list_faults(frame, seen=seen, top_n=20, y_range=(0.5, 5.0), rules=promised)
