"""The table `top_n_by_value`: brute force over the scores of all movies, its checks, and what is refused."""

import functools
import re
from dataclasses import replace
from datetime import date, datetime
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import polars as pl
import pytest
from deltalake import DeltaTable

from cfjobs import ratings
from cfjobs.config import Config, load_config
from cfjobs.errors import GateRefused, InputError
from cfjobs.lists import by_value
from cfjobs.lists.writer import PartsWriter
from cfjobs.night import publish, score, story, survey
from cfjobs.night.records import Inputs
from cfjobs.ratings import catalogue
from cfjobs.tables import recipes
from cfjobs.tables.rules import by_value_faults

NIGHT = date(2026, 3, 1)
PLACES = 4
QUICK = Config(
    epochs=1,
    n_factors=4,
    ranking_factors=4,
    ranking_steps=5,
    gate_beat_popularity=False,
    refit=False,
    holdout_fraction=0.1,
    lists_per={"genres": PLACES},
)
BOTH = {"kind": 300, "genres": PLACES}
KEYS = ["user_id", "column", "value"]


@pytest.fixture(scope="module")
def folder(data_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data set with a column that is the same for all movies, and tables of what must not be listed."""
    found = tmp_path_factory.mktemp("by value")
    movies = pl.read_parquet(data_set / "movies.parquet").with_columns(pl.lit("film").alias("kind"))
    movies.write_parquet(found / "movies.parquet")
    ids = pl.read_parquet(data_set / "ratings.parquet")["movie_id"].unique().sort()
    pl.DataFrame({"movie_id": ids[:20]}).write_parquet(found / "deny.parquet")
    pairs = [(user, movie) for user in (1, 2, 900_001) for movie in ids[20:60]]
    pl.DataFrame(pairs, schema=["user_id", "movie_id"], orient="row").write_parquet(found / "exclude.parquet")
    return found


def night(data_set: Path, folder: Path, output: Path, *, config: Config, **more: Any) -> pl.DataFrame:
    """The rows of a night, in the order of its files."""
    inputs = {"movies": str(folder / "movies.parquet"), "users": str(data_set / "users.parquet")} | more
    inputs |= {name: str(folder / f"{name}.parquet") for name in ("deny", "exclude")}
    started = story.start(
        Inputs(ratings=str(data_set / "ratings.parquet"), **inputs),
        output=str(output),
        run_date=NIGHT,
        config=config,
    )
    published = story.nightly(started)
    found = pl.concat(
        pl.read_parquet(path) for path in sorted((output / "top_n_by_value" / f"run_date={NIGHT}").iterdir())
    )
    assert published.counts["rows_by_value"] == found.height
    assert published.counts["lists_by_value"] == found.select(KEYS).n_unique()
    return found


@pytest.mark.parametrize(("rank_by", "model"), [("blend", "dot_raters"), ("rating", "net")])
def test_the_lists_are_those_of_brute_force(
    data_set: Path, folder: Path, tmp_path: Path, rank_by: str, model: str
) -> None:
    n_movies = pl.read_parquet(data_set / "ratings.parquet")["movie_id"].n_unique()
    config = QUICK.model_copy(
        update={"top_n": n_movies, "rank_by": rank_by, "model": model, "min_ratings": 2, "lists_per": BOTH}
    )
    found = night(data_set, folder, tmp_path / "a", config=config)
    of_all = pl.read_delta(str(tmp_path / "a" / "top_n")).drop("run_date")  # every movie that may be listed
    genres = pl.read_parquet(folder / "movies.parquet").select(
        "movie_id", pl.col("genres").str.split("|").alias("value")
    )
    wanted = (
        of_all.join(genres.explode("value"), on="movie_id")
        .sort("user_id", "value", "score", "movie_id", descending=[False, False, True, False])
        .with_columns((pl.int_range(pl.len()).over("user_id", "value") + 1).cast(pl.Int16).alias("rank"))
        .filter(pl.col("rank") <= PLACES)
        .with_columns(pl.lit("genres").alias("column"))
    )
    assert wanted.group_by("source").agg(pl.col("user_id").n_unique()).height == 2
    of_genres = found.filter(column="genres")
    assert of_genres.equals(wanted.select(of_genres.columns))
    of_kind = found.filter(column="kind")
    assert of_kind["value"].unique().to_list() == ["film"]
    shared = ["user_id", "rank", "movie_id", "score", "predicted_rating", "source"]
    assert of_kind.select(shared).equals(of_all.sort("user_id", "rank").select(shared))


def test_batches_shards_and_parts_change_no_row_and_a_least_score_shortens_lists(
    data_set: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = QUICK.model_copy(update={"top_n": 5, "lists_per": {"kind": 20, "genres": PLACES}})
    found = night(data_set, folder, tmp_path / "a", config=config)
    least = float(found.filter(source="model")["score"].median())  # type: ignore[arg-type]
    wanted = found.filter((pl.col("score") >= least) | (pl.col("source") == "popular"))
    small = score._Room(chunk_users=29, chunk_ratings=1_000, engine=1e7)
    monkeypatch.setattr(score._Room, "of", classmethod(lambda *_, **__: small))
    monkeypatch.setattr("cfjobs.night.by_value._block_rows", lambda _: 1_000)
    writer = functools.partial(PartsWriter, group_rows=500)
    monkeypatch.setattr("cfjobs.night.by_value.PartsWriter", writer)
    again = config.model_copy(update={"shard_users": 47, "part_rows": 1_000, "min_score": least})
    assert night(data_set, folder, tmp_path / "b", config=again).equals(wanted)
    paths = DeltaTable(str(tmp_path / "b" / "top_n_by_value")).file_uris()
    users = [set(pl.read_parquet(path)["user_id"]) for path in paths]
    assert len(paths) > 4
    assert sum(map(len, users)) == len(set().union(*users)), "no user is in two files"


def test_a_model_of_before_gives_the_same_lists_by_its_own_columns_or_new_ones(
    data_set: Path, folder: Path, tmp_path: Path
) -> None:
    config = QUICK.model_copy(update={"top_n": 5, "gate_override": True})
    found = night(data_set, folder, tmp_path, config=config)
    (model,) = pl.read_delta(str(tmp_path / "runs"))["model_uri"]
    for movies in (None, str(folder / "movies.parquet")):
        again = night(
            data_set, folder, tmp_path / f"of-{movies is None}", config=config, model=model, movies=movies
        )
        assert again.equals(found)


def test_a_night_that_ends_between_the_lists_and_the_commit_goes_on(
    data_set: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    config = QUICK.model_copy(update={"top_n": 5})
    with monkeypatch.context() as patched:
        patched.setattr(publish, "make_visible", stopped)
        with pytest.raises(KeyboardInterrupt):
            night(data_set, folder, tmp_path, config=config)
    monkeypatch.setattr(by_value, "best", stopped)
    assert night(data_set, folder, tmp_path, config=config).height > 0


def test_broken_lists_are_never_published(
    data_set: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = by_value.best

    def blind(request: Any, *more: Any, **engine: Any) -> Any:
        nothing = request.seen._replace(
            indptr=np.zeros_like(request.seen.indptr), indices=request.seen.indices[:0]
        )
        return real(replace(request, seen=nothing), *more, **engine)

    monkeypatch.setattr(by_value, "best", blind)
    with pytest.raises(GateRefused, match="rows show a movie that the user has rated"):
        night(data_set, folder, tmp_path, config=QUICK.model_copy(update={"top_n": 5}))
    assert not (tmp_path / "runs").exists()


ROWS = pl.DataFrame(
    {
        "user_id": [1, 1, 1, 1, 2],
        "column": ["genres"] * 5,
        "value": ["Comedy", "Comedy", "Drama", "Drama", "Drama"],
        "rank": pl.Series([1, 2, 1, 2, 1], dtype=pl.Int16),
        "movie_id": [10, 11, 11, 12, 11],
        "score": pl.Series([2.0, 1.0, 1.0, 0.5, 0.1], dtype=pl.Float32),
        "predicted_rating": pl.Series([4.0] * 5, dtype=pl.Float32),
        "source": ["model"] * 5,
    }
)
HAVING = pl.DataFrame(
    {"column": ["genres"] * 4, "value": ["Comedy", "Comedy", "Drama", "Drama"], "movie_id": [10, 11, 11, 12]}
)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({}, None),
        ({"rank": [1, 3, 1, 2, 1]}, "break the ranks"),
        ({"score": [2.0, 3.0, 1.0, 0.5, 0.1]}, "a higher score than the rank before"),
        ({"movie_id": [10, 12, 11, 12, 11]}, "show a movie without the value"),
        ({"movie_id": [10, 10, 11, 12, 11]}, "repeat a movie"),
        ({"value": ["Drama", "Drama", "Comedy", "Comedy", "Drama"]}, "not in order of column and value"),
        ({"column": ["year"] * 5}, "beyond the places of their column"),
        ({"movie_id": [10, 11, 11, 12, 13]}, "that the user has rated"),
        ({"user_id": [1, 1, 1, 1, 1]}, "a second list"),
        ({"value": ["Comedy", None, "Drama", "Drama", "Drama"]}, "hold a null"),
    ],
)
def test_every_rule_is_looked_at(change: dict[str, list[Any]], fault: str | None) -> None:
    rows = ROWS.with_columns(pl.Series(name, of, ROWS.schema[name]) for name, of in change.items())
    seen = pl.DataFrame({"user_id": [2], "movie_id": [13]})
    found = by_value_faults(rows, seen=seen, lists_per={"genres": 2}, having=HAVING, y_range=(1, 5))
    assert (found == []) if fault is None else any(fault in words for words in found)


@pytest.mark.parametrize(
    ("cells", "values"),
    [
        (pl.Series(["a|b", " b | ", None, "", "a|a"]), {"a": [0, 4], "b": [0, 1]}),
        (
            pl.Series([["a", "b|c"], [], None, ["a", None], ["\x1b[31m"]]),
            {"a": [0, 3], "b|c": [0], "\x1b[31m": [4]},
        ),
        (pl.Series([1999, None, 2001, 1999, 7]), {"1999": [0, 3], "2001": [2], "7": [4]}),
        (pl.Series([0.5, float("nan"), None, 0.5, 2.0]), {"0.5": [0, 3], "2.0": [4]}),
        (pl.Series([True, None, False, True, True]), {"true": [0, 3, 4], "false": [2]}),
        (pl.Series([date(2026, 3, 1), None, None, None, None]), {"2026-03-01": [0]}),
    ],
    ids=["text", "lists", "integers", "numbers", "truth values", "dates"],
)
def test_values_are_text_whatever_the_column_holds(cells: pl.Series, values: dict[str, list[int]]) -> None:
    movies = pl.DataFrame({"movie_id": range(5), "c": cells})
    config = Config(lists_per={"c": 1})
    catalogue.check_values(movies, config)
    found = catalogue.values_of(pl.concat([movies, movies.head(1)]), config)
    assert found.rows() == [("c", value, movie) for value in sorted(values) for movie in values[value]]


@pytest.mark.parametrize(
    ("lists_per", "said"),
    [
        (
            {"genre": 3},
            r"lists_per: got 'genre', but the movies table has no such column \(got movie_id, title, genres, kind",
        ),
        ({"title": 3}, "'title' has 300 values, and at most 200 give lists"),
        ({"none": 3}, "'none' of the movies table is empty"),
        ({"made": 3}, "'made' of the movies table is Struct"),
        ({"movie_id": 3}, "'movie_id' is a name of the job's own"),
    ],
)
def test_a_column_that_will_not_do_ends_the_night_before_the_ratings_are_read(
    data_set: Path,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    lists_per: dict[str, int],
    said: str,
) -> None:
    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("the ratings were read")

    monkeypatch.setattr(catalogue, "MOST_VALUES", 200)
    movies = pl.read_parquet(folder / "movies.parquet")
    at = pl.lit(datetime(2026, 1, 1)).alias("at")
    movies = movies.with_columns(pl.lit(None).alias("none"), pl.struct(at).alias("made"))
    movies.write_parquet(tmp_path / "movies.parquet")
    inputs = Inputs(ratings=str(data_set / "ratings.parquet"), movies=str(tmp_path / "movies.parquet"))
    config = QUICK.model_copy(update={"lists_per": lists_per})
    monkeypatch.setattr(ratings, "read_ratings", never)
    with pytest.raises(InputError, match=said) as refused:
        story.nightly(story.start(inputs, output=str(tmp_path / "out"), run_date=NIGHT, config=config))
    if "movie_id" not in lists_per:
        assert survey.survey(inputs, config=config)["problems"] == [str(refused.value)]


def test_lists_per_needs_a_movies_table_and_a_place(data_set: Path, tmp_path: Path) -> None:
    inputs = Inputs(ratings=str(data_set / "ratings.parquet"))
    with pytest.raises(InputError, match="lists_per: needs the movies table"):
        story.start(inputs, output=str(tmp_path), run_date=NIGHT, config=QUICK)
    assert load_config(settings=["lists_per={genres = 20}"]).lists_per == {"genres": 20}
    with pytest.raises(
        InputError, match=r"lists_per: got \{'genres': 0\}; input should be greater than or equal to 1"
    ):
        load_config(settings=["lists_per={genres = 0}"])


def test_the_recipe_is_right(two_nights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(two_nights)
    section = recipes.RECIPES.partition("### Lists per genre")[2].partition("\n### ")[0]
    ((python,), (sql,)) = (
        re.findall(rf"```{of}\n(.*?)```", section, flags=re.DOTALL) for of in ("python", "sql")
    )
    before = re.findall(r"```python\n(.*?)```", recipes.RECIPES, flags=re.DOTALL)[:2]
    names: dict[str, Any] = {}
    for block in (*before, python):
        exec(compile(block, "docs/tables.md: lists per genre", "exec"), names)
    mine = pl.read_delta("out/top_n_by_value").filter(run_date=NIGHT, user_id=1)
    shelves = names["shelves"]
    assert set(shelves["movie_id"]) == set(mine["movie_id"])
    assert shelves["movie_id"].is_unique().all()
    assert shelves["title"].null_count() == 0
    database = duckdb.connect()
    for name in ("top_n_by_value", "movie_embeddings", "runs"):
        database.register(name, DeltaTable(f"out/{name}").to_pyarrow_dataset())
    comedies = database.sql(sql).pl()
    assert (
        comedies["movie_id"].to_list() == mine.filter(value="Comedy").sort("rank")["movie_id"].to_list() != []
    )


def test_check_says_how_many_lists_there_would_be(data_set: Path, folder: Path) -> None:
    inputs = Inputs(
        ratings=str(data_set / "ratings.parquet"),
        movies=str(folder / "movies.parquet"),
        users=str(data_set / "users.parquet"),
    )
    told = survey.survey(inputs, config=QUICK.model_copy(update={"top_n": 20, "lists_per": BOTH}))
    movies = pl.read_parquet(folder / "movies.parquet")
    rated = movies.join(pl.read_parquet(data_set / "ratings.parquet"), on="movie_id", how="semi")
    n = rated["genres"].str.split("|").explode().n_unique()
    genres, kind = told["lists_per"]
    assert (genres["column"], genres["values"], genres["lists"]) == ("genres", n, n * 122)
    assert (kind["lists"], kind["places"], kind["rows"]) == (122, 300, 122 * rated.height)
    assert any(
        f"genres: {n} values x 122 users, at most {n * 122:,} lists of 4" in line
        for line in survey.words(told)
    )
