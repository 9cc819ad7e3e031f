"""The tables beside the lists: their contracts,
and the recipes of the data dictionary run as they are printed."""

import json
import re
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import polars as pl
import pytest
from deltalake import DeltaTable

from bench import alike
from cfjobs import model_store, tables
from cfjobs.config import Config
from cfjobs.evaluation import churn, interpret
from cfjobs.evaluation.metrics import BASELINES, NAMES
from cfjobs.night import story
from cfjobs.night.records import Inputs
from cfjobs.tables import recipes

QUICK = Config(
    epochs=2,
    top_n=20,
    n_factors=8,
    ranking_factors=8,
    ranking_steps=20,
    shard_users=50,
    gate_beat_popularity=False,
)
NIGHT = date(2026, 3, 1)


@pytest.fixture
def published(two_nights: Path) -> Path:
    return two_nights


def tonight(folder: Path, name: str) -> pl.DataFrame:
    return pl.read_delta(str(folder / "out" / name)).filter(pl.col("run_date") == NIGHT)


@pytest.mark.parametrize("table", tables.PUBLISHED, ids=lambda table: table.name)
def test_every_table_has_the_columns_of_the_dictionary(published: Path, table: tables.Table) -> None:
    frame = tonight(published, table.name)
    described = ["genres"] if table.described else []
    assert frame.columns == [*(column.name for column in table.columns), *described]
    assert frame.height > 0
    for column in table.columns:
        assert column.nullable or frame[column.name].null_count() == 0


def test_embeddings_have_titles_counts_and_components(published: Path) -> None:
    frame = tonight(published, "movie_embeddings")
    ratings = pl.read_parquet(published / "in" / "ratings.parquet").drop_nulls()
    counts = dict(ratings.group_by("movie_id").len().iter_rows())
    assert dict(frame.select("movie_id", "n_ratings").iter_rows()) == counts
    assert frame["title"].null_count() == 0
    assert frame["vector"].list.len().unique().to_list() == [8]
    assert frame["pc1"].var() >= frame["pc2"].var() * 0.5  # type: ignore[operator]


def test_components_are_those_of_the_covariance(rng: np.random.Generator) -> None:
    vectors = (rng.normal(size=(500, 6)) @ np.diag([9, 5, 1, 1, 1, 1])).astype(np.float32)
    places = interpret.principal_components(vectors, weight=np.ones(500))
    for axis in range(2):
        correlation = np.corrcoef(places[:, axis], vectors[:, axis])[0, 1]
        assert abs(correlation) > 0.95
    assert np.abs(places.mean(axis=0)).max() < 1e-3
    doubled = interpret.principal_components(np.concatenate([vectors, vectors[:100]]), weight=np.ones(600))
    weighted = interpret.principal_components(vectors, weight=np.where(np.arange(500) < 100, 2.0, 1.0))
    assert np.allclose(doubled[:500], weighted, atol=1e-3)
    assert not interpret.principal_components(vectors[:, :1], weight=np.ones(500))[:, 1].any()


def test_similar_movies_are_those_of_brute_force(published: Path) -> None:
    frame = tonight(published, "similar_movies")
    movies = tonight(published, "movie_embeddings").sort("movie_id")
    unit = np.stack(movies["vector"].to_list()).astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    cosine = unit @ unit.T
    allowed = movies["n_ratings"].to_numpy() >= QUICK.similar_min_ratings
    cosine[:, ~allowed] = -np.inf
    np.fill_diagonal(cosine, -np.inf)
    ids = movies["movie_id"].to_list()
    assert set(frame["movie_id"]) == set(movies["movie_id"].filter(pl.Series(allowed)))
    for row in np.flatnonzero(allowed)[[0, 7, -1]]:
        mine = frame.filter(pl.col("movie_id") == ids[row]).sort("rank")
        best = np.sort(cosine[row])[::-1][: mine.height]
        assert mine["rank"].to_list() == list(range(1, min(50, allowed.sum() - allowed[row]) + 1))
        assert mine["cosine"].to_numpy() == pytest.approx(best, abs=1e-5)
        assert ids[row] not in mine["similar_movie_id"].to_list()


def test_predictions_add_up_to_the_metrics(published: Path) -> None:
    frame, metrics = tonight(published, "holdout_predictions"), tonight(published, "metrics")
    residual = frame["residual"].cast(pl.Float64)
    assert (frame["rating"] - frame["predicted_rating"] - frame["residual"]).abs().max() == 0
    rmse = metrics.filter(metric="rmse", band="all").row(0, named=True)
    assert float((residual**2).mean()) ** 0.5 == pytest.approx(rmse["value"], abs=1e-6)  # type: ignore[arg-type]
    heavy = metrics.filter(metric="rmse", band="heavy").row(0, named=True)
    of_heavy = frame.filter(pl.col("user_ratings").is_between(heavy["min_ratings"], heavy["max_ratings"]))
    assert float((of_heavy["residual"].cast(pl.Float64) ** 2).mean()) ** 0.5 == pytest.approx(  # type: ignore[arg-type]
        heavy["value"], abs=1e-6
    )


def test_a_run_says_all_that_is_needed_to_reproduce_it(published: Path) -> None:
    row = tonight(published, "runs").row(0, named=True)
    assert {*NAMES, *BASELINES.values()} <= json.loads(row["metrics"]).keys()
    counts = json.loads(row["counts"])
    assert counts["read"] == counts["kept"] + counts["superseded"] + counts["rejected"]
    assert counts["rejected"] == tonight(published, "rejected_ratings").height == 3
    assert [epoch for epoch, _, _ in json.loads(row["losses"])] == [1, 2]
    file, *others = json.loads(row["inputs"])
    assert [file["what"], *(other["what"] for other in others)] == ["ratings", "movies", "users"]
    assert file["size"] == (published / "in" / "ratings.parquet").stat().st_size
    versions = json.loads(row["table_versions"])
    assert versions.keys() == {table.name for table in tables.PUBLISHED}
    for name, version in versions.items():
        at_version = pl.read_delta(str(published / "out" / name), version=version)
        assert at_version.filter(pl.col("run_date") == NIGHT).equals(tonight(published, name))


def test_a_date_that_is_run_again_replaces_every_table(data_set: Path, tmp_path: Path) -> None:
    for config in (QUICK, QUICK.model_copy(update={"holdout": "none"})):
        story.nightly(
            story.start(Inputs(ratings=str(data_set)), output=str(tmp_path), run_date=NIGHT, config=config)
        )
    assert pl.read_delta(str(tmp_path / "holdout_predictions")).is_empty()
    assert pl.read_delta(str(tmp_path / "metrics")).is_empty()
    assert pl.read_delta(str(tmp_path / "movie_embeddings")).height > 250
    assert pl.read_delta(str(tmp_path / "runs")).height == 1


def test_long_tables_are_written_in_parts(
    data_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cfjobs.night import side_tables as beside

    monkeypatch.setattr(beside, "PART_ROWS", 300)
    story.nightly(
        story.start(Inputs(ratings=str(data_set)), output=str(tmp_path), run_date=NIGHT, config=QUICK)
    )
    parts = list((tmp_path / "holdout_predictions" / f"run_date={NIGHT}").glob("*.parquet"))
    assert len(parts) > 2
    assert all(0 < pl.read_parquet(part).height <= 300 for part in parts)
    frame = pl.read_delta(str(tmp_path / "holdout_predictions"))
    assert frame.select("user_id", "movie_id").is_unique().all()


def test_the_saved_model_and_the_table_agree(published: Path) -> None:
    row = tonight(published, "runs").row(0, named=True)
    model = model_store.load_model(row["model_uri"])
    assert (
        model.movies.filter(pl.col("n_ratings") > 0).height == tonight(published, "movie_embeddings").height
    )


def blocks(tool: str) -> list[str]:
    """The Python blocks of one tool's recipes."""
    return re.findall(r"```python\n(.*?)```", section(tool), flags=re.DOTALL)


def section(tool: str) -> str:
    """The recipes of one tool."""
    return recipes.RECIPES.partition(f"### {tool}\n")[2].partition("\n### ")[0]


@pytest.mark.parametrize("tool", ["Polars", "DuckDB", "pandas"])
def test_recipes_run_as_printed(published: Path, tool: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(published)
    names: dict[str, Any] = {}
    for block in blocks(tool):
        exec(compile(block, f"docs/tables.md: {tool}", "exec"), names)
    lists = tonight(published, "top_n")
    of_one = lists.filter(user_id=1).sort("rank")["movie_id"].to_list()
    before = pl.read_delta(str(published / "out" / "top_n")).filter(run_date=NIGHT - timedelta(days=1))
    new = changed(published)
    most = (
        lists.filter(pl.col("rank") <= 10)
        .group_by("movie_id")
        .len()
        .sort("len", "movie_id", descending=[True, False])
    )
    found = {name: as_polars(names[name]) for name in ("mine", "new", "most", "past", "as_published")}
    assert new.height > 0
    assert found["mine"]["movie_id"].to_list() == of_one
    assert found["mine"]["title"].null_count() == 0
    assert set(found["new"].select("user_id", "movie_id").iter_rows()) == set(
        new.select("user_id", "movie_id").iter_rows()
    )
    assert found["most"]["movie_id"].to_list()[:5] == most["movie_id"].to_list()[:5]
    assert found["past"].height == found["as_published"].height == before.height


def changed(published: Path) -> pl.DataFrame:
    """Tonight's new movies by the one definition."""
    lists = pl.scan_delta(str(published / "out" / "top_n")).filter(pl.col("rank") <= 10)
    days = [lists.filter(run_date=day) for day in (NIGHT, NIGHT - timedelta(days=1))]
    return churn.moved(*days).filter(churn.in_tonight(), churn.is_new()).collect()


def as_polars(frame: Any) -> pl.DataFrame:
    """A result of any of the tools."""
    if isinstance(frame, pl.DataFrame):
        return frame
    return frame.pl() if hasattr(frame, "pl") else pl.DataFrame(frame.to_dict("list"))


def statements(tool: str) -> list[str]:
    """The SQL statements of one tool's recipes, without comments."""
    (sql,) = re.findall(r"```sql\n(.*?)```", section(tool), flags=re.DOTALL)
    plain = "\n".join(line for line in sql.splitlines() if not line.startswith("--"))
    return [statement.strip() for statement in plain.split(";") if statement.strip()]


@pytest.mark.parametrize("tool", ["Spark SQL", "Athena"])
def test_queries_for_the_other_engines_are_right_where_duckdb_speaks_their_language(
    published: Path, tool: str
) -> None:
    connection = duckdb.connect()
    for name in ("top_n", "movie_embeddings", "runs"):
        connection.register(name, DeltaTable(str(published / "out" / name)).to_pyarrow_dataset())
    own = ("create ", "version as of", "get_json_object")  # what only they have
    queries = [query for query in statements(tool) if not any(word in query for word in own)]
    mine, new, most, past = (connection.sql(query).pl() for query in queries)
    lists = tonight(published, "top_n")
    assert mine["movie_id"].to_list() == lists.filter(user_id=1).sort("rank")["movie_id"].to_list()
    assert new.height == changed(published).height > 0
    assert most["lists"].is_sorted(descending=True)
    assert past.height == lists.height


def test_the_bench_of_the_decision_runs(published: Path, capsys: pytest.CaptureFixture[str]) -> None:
    alike.main(["--output", str(published / "out")])
    assert "rating network" in capsys.readouterr().out


def test_a_movie_that_only_its_features_describe_has_a_title_in_the_tables(
    data_set: Path, tmp_path: Path
) -> None:
    movies = pl.read_parquet(data_set / "movies.parquet")
    unrated = movies.head(1).with_columns(
        pl.lit(999_999, movies["movie_id"].dtype).alias("movie_id"), pl.lit("New (2026)").alias("title")
    )
    (tmp_path / "in").mkdir()
    pl.concat([movies, unrated]).write_parquet(tmp_path / "in" / "movies.parquet")
    pl.read_parquet(data_set / "ratings.parquet").write_parquet(tmp_path / "in" / "ratings.parquet")
    config = QUICK.model_copy(update={"movie_features": ("genres",), "model": "dot_bias"})
    output = str(tmp_path / "out")
    story.nightly(
        story.start(Inputs(ratings=str(tmp_path / "in")), output=output, run_date=NIGHT, config=config)
    )
    titles = pl.read_delta(f"{output}/movie_embeddings").select("movie_id", "title")
    assert titles.filter(movie_id=999_999)["title"].to_list() == ["New (2026)"]
    listed = pl.read_delta(f"{output}/top_n").join(titles, on="movie_id", how="left")
    assert listed["title"].null_count() == 0
