"""Look-ups as people use them: by title, from the environment, in a narrow pipe."""

import json
import re
from datetime import date
from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner

from cfjobs.cli import app
from cfjobs.cli.query import print_rows
from cfjobs.errors import InputError
from cfjobs.query import reasons
from cfjobs.query.explain import Explanation, Parts

LOOK_UPS = ("recs", "movies", "similar", "explain", "report", "history", "export")


@pytest.fixture
def asked(two_nights: Path, monkeypatch: pytest.MonkeyPatch) -> CliRunner:
    monkeypatch.setenv("CFJOBS_OUTPUT", str(two_nights / "out"))
    return CliRunner()


def test_the_output_comes_from_the_environment(asked: CliRunner) -> None:
    assert asked.invoke(app, ["-q", "recs", "--user", "1", "-n", "1"]).stdout.startswith("User 1, 2026-03-01")
    for command in LOOK_UPS:
        assert "CFJOBS_OUTPUT" in asked.invoke(app, [command, "--help"], env={"COLUMNS": "200"}).stdout


def test_the_help_groups_the_commands(asked: CliRunner) -> None:
    printed = asked.invoke(app, ["--help"]).stdout
    assert re.findall(r"╭─ ([A-Z][^─]*?) ─", printed)[1:] == [
        "Make a night",
        "Look at what was published",
        "Keep the nights in order",
        "Hand it on, and compare",
        "Data and settings",
    ]


def test_a_title_does_where_an_id_is_asked_for(asked: CliRunner, two_nights: Path) -> None:
    top = pl.read_delta(str(two_nights / "out" / "top_n")).filter(pl.col("source") == "model")
    row = top.filter(run_date=date(2026, 3, 1)).row(0, named=True)
    runs = pl.read_delta(str(two_nights / "out" / "runs")).sort("run_date")
    movies = pl.read_parquet(two_nights / "in" / "movies.parquet")
    title = movies.filter(movie_id=row["movie_id"])["title"][0]
    user = str(row["user_id"])
    explained = asked.invoke(app, ["-q", "explain", "--user", user, "--movie", title, "--json"])
    assert json.loads(explained.stdout)["movie_id"] == row["movie_id"]
    model = ["--model", runs["model_uri"][-1], "--user", user]
    predicted = asked.invoke(app, ["-q", "predict", *model, "--movie", title, "--json"])
    assert json.loads(predicted.stdout)["movie_id"] == str(row["movie_id"])
    with pytest.raises(Exception, match=r"fits \d+ movies"):
        asked.invoke(app, ["-q", "explain", "--user", user, "--movie", "the"], catch_exceptions=False)


def test_genres_are_shown_where_the_tables_have_them(two_nights: Path) -> None:
    printed = (
        CliRunner().invoke(app, ["-q", "recs", "--user", "1", "--output", str(two_nights / "out")]).stdout
    )
    known = pl.read_parquet(two_nights / "in" / "movies.parquet")["genres"].str.split("|").explode().unique()
    assert "genres" in printed
    assert any(genre in printed for genre in known)


def test_the_lists_per_genre_are_shown_and_what_is_not_there_is_one_line(
    asked: CliRunner, two_nights: Path
) -> None:
    def shown(*words: str) -> str:
        return asked.invoke(app, ["-q", "recs", *words], catch_exceptions=False).stdout

    table = pl.read_delta(str(two_nights / "out" / "top_n_by_value"))
    mine = table.filter(run_date=date(2026, 3, 1), user_id=1).sort("value", "rank")
    per = ["--user", "1", "--per", "genres"]
    told = json.loads(shown(*per, "--json"))
    found = [
        (one["value"], movie["movie_id"], movie["score"]) for one in told["lists"] for movie in one["movies"]
    ]
    assert found == mine.select("value", "movie_id", "score").rows()
    text = shown(*per)
    assert all(f"User 1, 2026-03-01, model, genres: {value}" in text for value in mine["value"])
    assert shown(*per, "--value", "comedy", "-n", "1").count("\n   1 ") <= 1
    assert "genres: Comedy" in shown(*per, "--value", "comedy")
    assert "genres: Drama" not in shown(*per, "--value", "comedy")
    for words, line in (
        ([*per, "--value", "Nonsense"], "user 1 has no list of it; there are Action"),
        (["--user", "1", "--per", "director"], "the night of 2026-03-01 has lists per genres"),
        (["--user", "77777", "--per", "genres"], "user 77777: has no list"),
    ):
        with pytest.raises(InputError, match=line):
            shown(*words)
    assert asked.invoke(app, ["recs", "--per", "genres"]).exit_code == 2


def test_ids_are_whole_in_a_narrow_pipe(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    long = "0123456789abcdef" * 5
    rows = [{"rank": 1, "movie_id": long, "title": "A Very Long Title " * 8, "score": -1.5}]
    print_rows(rows, title="Movies")
    printed = capsys.readouterr().out
    assert long in printed
    assert "…" not in printed
    assert re.sub(r"\s+", "", printed).count("LongTitle") + printed.count("Long") >= 8


def explained(**more: object) -> Explanation:
    frame = pl.DataFrame(
        {
            "movie_id": range(6),
            "title": list("abcdef"),
            "rating": [5.0, 1.0, 4.0, 3.0, 2.0, 5.0],
            "rated_at": [date(2026, 1, 1)] * 6,
            "weight": [1 / 6] * 6,
            "part": [0.5, 0.4, 0.3, 0.0001, -0.1, -0.2],
        }
    ).with_columns(pl.col("rated_at").cast(pl.Datetime))
    values: dict[str, object] = {
        "user_id": 1,
        "movie_id": 2,
        "title": "x",
        "run_date": date(2026, 3, 1),
        "parts": Parts(0.25, 0.0, tuple(frame["part"]), 0.0),
        "predicted_rating": 4.06,
        "stars_weight": 0.0,
        "rank": 2,
        "published_score": 1.15,
        "rated": None,
        "seen": False,
        "withheld": False,
        "place": 2,
        "n_candidates": 1200,
        "frame": frame,
    }
    return Explanation(**(values | more))  # type: ignore[arg-type]


def test_reasons_begin_with_what_the_user_liked() -> None:
    told = reasons.of(explained())
    assert told.begin == [
        "x for user 1, 2026-03-01: rank 2 of 1,200 movies that could be listed, 4.1 stars predicted"
    ]
    assert [(heading, [row["title"] for row in rows]) for heading, rows in told.groups] == [
        ("Because the user liked", ["a", "c"]),
        ("Though rated low", ["b"]),
        ("Against it", ["f", "e"]),
    ]
    assert told.groups[0][1][0]["rating"] == "5"
    assert list(told.end) == ["score +1.150 = the user's ratings +0.900; the movie itself (bias) +0.250"]


def test_reasons_stand_a_night_without_stars() -> None:
    frame = explained().frame.with_columns(pl.lit(None, pl.Float64).alias("rating"))
    told = reasons.of(explained(frame=frame, predicted_rating=None))
    assert told.begin[0].endswith("that could be listed")
    assert [heading for heading, _ in told.groups] == ["Because the user chose", "Against it"]
    assert "rating" not in told.groups[0][1][0]
    many = pl.concat([explained().frame] * 5).sort("part", descending=True)
    assert "other ratings together" in reasons.of(explained(frame=many)).end[0]
