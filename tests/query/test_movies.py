"""A look around: searching, likeness, and the commands that print them."""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from typer.testing import CliRunner

from cfjobs.cli import app
from cfjobs.errors import InputError
from cfjobs.query import movies

TITLES = {1: "Toy Story (1995)", 2: "Toy Story 2 (1999)", 3: "Matrix, The (1999)", 1995: None}
MOVIES = [{"movie_id": movie_id, "title": title} for movie_id, title in TITLES.items()]


@pytest.mark.parametrize(
    ("text", "movie_id"),
    [("1", 1), ("toy story", 1), ("Toy Story 2 (1999)", 2), ("the matrix", 3), ("matr", 3), ("1995", 1995)],
)
def test_a_movie_is_named_by_id_title_or_words(text: str, movie_id: int) -> None:
    assert movies.one_movie(MOVIES, text)["movie_id"] == movie_id


@pytest.mark.parametrize(
    ("text", "message"), [("toy", "fits 2 movies"), ("xyz", "no title is like it"), ("", "no id")]
)
def test_several_or_none_are_told(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        movies.one_movie(MOVIES, text)


def run(*arguments: str) -> str:
    done = CliRunner().invoke(app, ["-q", *arguments])
    assert done.exit_code == 0, done.output
    return done.stdout


def test_search_and_similar_print_for_people_and_programs(two_nights: Path) -> None:
    output = str(two_nights / "out")
    found: dict[str, Any] = json.loads(run("movies", "the", "--output", output, "-n", "5", "--json"))
    ratings = [movie["n_ratings"] for movie in found["movies"]]
    assert ratings == sorted(ratings, reverse=True)
    assert len(ratings) == 5
    one = str(found["movies"][0]["movie_id"])
    like = json.loads(run("similar", one, "--output", output, "--json"))
    assert [movie["rank"] for movie in like["movies"]] == list(range(1, 11))
    assert str(like["movie_id"]) == one
    printed = run("similar", one, "--output", output)
    assert printed.count("\n") >= 12
    assert "\x1b" not in run("movies", "quoted", "--output", output)


def test_explain_prints_a_sum_and_the_ratings_that_speak_most(two_nights: Path) -> None:
    output = str(two_nights / "out")
    row = pl.read_delta(str(two_nights / "out" / "top_n")).filter(source="model").row(0, named=True)
    asked = ["explain", "--user", str(row["user_id"]), "--movie", str(row["movie_id"]), "--output", output]
    asked += ["--run-date", str(row["run_date"])]
    told = json.loads(run(*asked, "--json"))
    assert told["rank"] == row["rank"]
    assert told["ratings"][0]["part"] >= told["ratings"][-1]["part"]
    printed = run(*asked)
    assert f"rank {row['rank']}" in printed
    assert "score " in printed
