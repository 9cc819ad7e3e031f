"""The SQL views: right where DuckDB runs them, over tables that hold more than two nights."""

import re
from datetime import date
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pytest
import sqlglot
from deltalake import DeltaTable

from cfjobs.errors import InputError
from cfjobs.evaluation import churn
from cfjobs.tables import recipes, views
from cfjobs.tables.runs import night_of

VIEWS = ("tonight", "tonight_titled", "movie_reach", "changes", "tonight_by_value")

TONIGHT = pl.DataFrame(
    {"user_id": [1, 1, 1, 2, 3], "rank": [1, 2, 11, 1, 1], "movie_id": [10, 11, 12, 10, 10]}
)
LAST = pl.DataFrame({"user_id": [1, 1, 1, 2, 4], "rank": [1, 2, 11, 1, 1], "movie_id": [11, 12, 10, 10, 10]})
MOVED = {(1, 10, 1, None), (1, 11, 2, 1), (1, 12, None, 2), (2, 10, 1, 1)}


def test_ten_against_ten_for_those_with_a_list_on_both_nights() -> None:
    nights = [night.lazy().filter(pl.col("rank") <= 10) for night in (TONIGHT, LAST)]
    found = churn.moved(*nights).collect()
    assert set(found.select("user_id", "movie_id", "rank", "rank_before").rows()) == MOVED


def test_the_views_are_right_in_duckdb(two_nights: Path) -> None:
    out = str(two_nights / "out")
    database = duckdb.connect()
    for name in views.TABLES + views.LATER:
        database.register(name, DeltaTable(f"{out}/{name}").to_pyarrow_dataset())
    database.execute(views.sql("duckdb"))
    night = night_of(out)
    tonight = pl.read_delta(f"{out}/top_n").filter(run_date=night.run["run_date"])
    assert database.sql("select * from tonight").pl().height == tonight.height
    titled = database.sql("select * from tonight_titled").pl()
    assert (titled.height, titled["title"].null_count()) == (tonight.height, 0)
    reach = database.sql("select * from movie_reach order by lists desc").pl()
    assert reach["lists"].sum() == tonight.filter(pl.col("rank") <= 10).height
    assert reach["share_of_lists"].max() == reach["lists"].max() / tonight["user_id"].n_unique()  # type: ignore[operator]
    found = database.sql("select user_id, movie_id, change, rank, rank_before from changes").pl()
    moved = churn.moved(night.first_lists(), night_of(out, date(2026, 2, 28)).first_lists()).collect()
    moved = moved.filter(pl.col("rank").ne_missing(pl.col("rank_before")))
    columns = ["user_id", "movie_id", "rank", "rank_before"]
    assert set(found.select(columns).rows()) == set(moved.select(columns).rows())
    of_kind = dict(found["change"].value_counts().rows())
    assert of_kind.keys() == {"new", "gone", "up", "down"}
    assert of_kind["new"] == of_kind["gone"] == moved.filter(churn.is_new()).height
    by_value = pl.read_delta(f"{out}/top_n_by_value").filter(run_date=night.run["run_date"])
    assert (
        database.sql("select * from tonight_by_value")
        .pl()
        .drop("title")
        .sort(pl.all())
        .equals(by_value.sort(pl.all()))
    )


@pytest.mark.parametrize("engine", views.ENGINES)
@pytest.mark.parametrize("database", [None, "lake"])
def test_every_statement_of_a_file_is_one_of_its_engine(engine: str, database: str | None) -> None:
    """By a parser of their languages: none of them but DuckDB is at hand."""
    text = views.sql(engine, "s3://bucket/out", database=database)
    found = [sqlglot.parse_one(one, read=engine) for one in text.split(";") if one.strip()]
    made = [one for one in found if isinstance(one, sqlglot.exp.Create)]
    there = {next(one.find_all(sqlglot.exp.Table)).sql(engine): one for one in made}
    in_ = f"{database}." if database else ""
    declared = views.TABLES + views.LATER
    if engine == "trino":  # a call, which the parser takes as it is
        calls = [one.sql("trino") for one in found if isinstance(one, sqlglot.exp.Command)]
        assert all(any(f"'{name}'" in call for call in calls) for name in declared)
    else:
        assert {in_ + name for name in declared} <= there.keys()
    assert {in_ + name for name in VIEWS} <= there.keys()
    known = {in_ + name for name in declared}
    for name in VIEWS:
        view = there[in_ + name]
        of_query = {cte.alias for cte in view.find_all(sqlglot.exp.CTE)}
        read = {table.sql(engine).partition(" ")[0] for table in view.expression.find_all(sqlglot.exp.Table)}
        assert read <= known | of_query, "a view reads what stands above it"
        known.add(in_ + name)


@pytest.mark.parametrize("engine", ["spark", "athena", "trino"])
def test_the_views_mean_the_same_to_other_engines(two_nights: Path, engine: str) -> None:
    """Read in their language and written in DuckDB's, they give the same rows."""
    found = []
    for read in ("duckdb", engine):
        database = duckdb.connect()
        for name in views.TABLES + views.LATER:
            database.register(name, DeltaTable(str(two_nights / "out" / name)).to_pyarrow_dataset())
        for statement in sqlglot.transpile(views.sql(engine), read=read, write="duckdb"):
            database.execute(statement)
        found.append({name: database.sql(f"select * from {name}").pl().sort(pl.all()) for name in VIEWS})
    first, second = found
    assert all(first[name].equals(second[name]) and first[name].height for name in VIEWS)


def test_the_json_of_runs_becomes_rows_as_the_dictionary_says(
    two_nights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(two_nights)
    section = recipes.RECIPES.partition("### What stands in the JSON")[2].partition("\n### ")[0]
    (block,) = re.findall(r"```python\n(.*?)```", section, flags=re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(block, "docs/tables.md: JSON", "exec"), names)
    database = duckdb.connect()
    database.register("runs", DeltaTable("out/runs").to_pyarrow_dataset())
    metrics, inputs = re.findall(r"```sql\n(.*?)```", section, flags=re.DOTALL)[0].strip().splitlines()
    rows = database.sql(metrics).pl()
    assert set(names["figures"].drop_nulls().rows()) == set(rows.drop_nulls().rows())
    assert database.sql(inputs).pl()["bytes"].min() > 0  # type: ignore[operator]


def test_each_engine_declares_the_tables_where_they_are() -> None:
    for engine in views.ENGINES:
        text = views.sql(engine, "s3://lake/o'ut")
        name_in_file = "o'ut" if engine == "spark" else "o''ut"
        assert all(f"/{name_in_file}/{name}" in text for name in views.TABLES + views.LATER)
    assert "file:///data/out/top_n" in views.sql("spark", "/data/out")
    with pytest.raises(InputError, match="object stores only"):
        views.sql("athena", "/data/out")
    with pytest.raises(InputError, match="--database: got 'a; drop', expected letters"):
        views.sql("spark", "/data/out", database="a; drop")
    with pytest.raises(InputError, match="expected one of duckdb"):
        views.sql("oracle")
