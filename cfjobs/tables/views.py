"""SQL views over the published tables: the same statements for every engine, over tables that each declares
in its own way; printed as a file to run.

    duckdb   views of delta_scan(), in a database of its own or a file
    spark    views of delta.`path`, in the current database
    athena   external tables, and views of them, in the database that the query runs in, or --database
    trino    tables registered in a Delta catalog, and views of them, in the current schema, or --database
"""

import re

from cfjobs import storage
from cfjobs.errors import InputError

ENGINES = ("duckdb", "spark", "athena", "trino")
TABLES = ("top_n", "movie_embeddings", "similar_movies", "holdout_predictions", "metrics", "runs")
LATER = ("top_n_by_value",)
"""Tables that outputs of before may not have: what needs them stands last, where it can be left out."""

_VIEWS = """-- tonight: every user's list of the newest night
create or replace view {in_}tonight as
select run_date, user_id, rank, movie_id, score, predicted_rating, source
from {in_}top_n
where run_date = (select max(run_date) from {in_}runs);

-- tonight_titled: the same, with titles
create or replace view {in_}tonight_titled as
select t.run_date, t.user_id, t.rank, t.movie_id, m.title, t.score, t.predicted_rating, t.source
from {in_}tonight t left join {in_}movie_embeddings m on m.run_date = t.run_date and m.movie_id = t.movie_id;

-- movie_reach: among the first ten of how many users each movie is tonight, and on which places
create or replace view {in_}movie_reach as
select
  movie_id,
  max(title) as title,
  count(*) as lists,
  cast(count(*) as double) / (select count(distinct user_id) from {in_}tonight) as share_of_lists,
  min(rank) as best_rank,
  avg(rank) as mean_rank
from {in_}tonight_titled
where rank <= 10
group by movie_id;

-- changes: what changed since last night, ten against ten, for the users who have a list on both nights
-- change is new, gone, up or down: users with new rows see something that they did not see last night
create or replace view {in_}changes as
with tonights as (
  select user_id, movie_id, rank from {in_}top_n
  where rank <= 10 and run_date = (select max(run_date) from {in_}runs)
), lasts as (
  select user_id, movie_id, rank from {in_}top_n
  where rank <= 10
    and run_date = (select max(run_date) from {in_}runs where run_date < (select max(run_date) from {in_}runs))
), places as (
  select
    coalesce(t.user_id, l.user_id) as user_id,
    coalesce(t.movie_id, l.movie_id) as movie_id,
    t.rank as rank,
    l.rank as rank_before
  from tonights t full outer join lasts l on l.user_id = t.user_id and l.movie_id = t.movie_id
)
select
  user_id,
  movie_id,
  case
    when rank_before is null then 'new'
    when rank is null then 'gone'
    when rank < rank_before then 'up'
    else 'down'
  end as change,
  rank,
  rank_before
from places
where user_id in (select user_id from tonights) and user_id in (select user_id from lasts)
  and (rank is null or rank_before is null or rank <> rank_before);
"""

_LATER_VIEWS = """-- tonight_by_value: every user's lists of each value of a column, such as of each genre, where lists_per asks
-- for them, with titles: the table is there from the first night on that knows it
create or replace view {in_}tonight_by_value as
select v.run_date, v.user_id, v.column, v.value, v.rank, v.movie_id, m.title, v.score, v.predicted_rating, v.source
from {in_}top_n_by_value v left join {in_}movie_embeddings m on m.run_date = v.run_date and m.movie_id = v.movie_id
where v.run_date = (select max(run_date) from {in_}runs);
"""

_DECLARED = {
    "duckdb": "create or replace view {name} as select * from delta_scan('{uri}');",
    "spark": "create or replace view {name} as select * from delta.`{uri}`;",
    "athena": "create external table if not exists {name} location '{uri}/' tblproperties ('table_type' = 'DELTA');",
    "trino": "call delta.system.register_table(schema_name => {schema}, table_name => '{name}', table_location => '{uri}');",
}

_BEFORE = {
    "duckdb": "-- duckdb lists.db < views.sql\ninstall delta;\nload delta;\n",
    "spark": "-- spark-sql -f views.sql, with the package io.delta:delta-spark,\n"
    "-- spark.sql.extensions=io.delta.sql.DeltaSparkSessionExtension\n"
    "-- and spark.sql.catalog.spark_catalog=org.apache.spark.sql.delta.catalog.DeltaCatalog\n",
    "athena": "-- engine 3, one statement at a time, in {where}\n",
    "trino": "-- trino --catalog delta --schema {where} -f views.sql: the catalog has delta.register-table-procedure.enabled=true\n",
}


def sql(engine: str, output: str | None = None, *, database: str | None = None) -> str:
    """The views for an engine, after the declarations of the tables where the output is given.

    Without it the views stand alone, over tables that go by their names. database: of tables and views;
    without it, the one that the statements run in. InputError for another engine, for an output on this disk
    where the engine reads object stores only, and for a database whose name would need quotes.
    """
    if engine not in ENGINES:
        raise InputError(f"--engine: got {engine!r}, expected one of {', '.join(ENGINES)}")
    if database is not None and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,127}", database):
        raise InputError(f"--database: got {database!r}, expected letters, digits and _, such as lake")
    in_ = f"{database}." if database else ""
    views, later = _VIEWS.format(in_=in_), _LATER_VIEWS.format(in_=in_)
    if output is None:
        return f"{views}\n{later}"
    uri = storage.normal(output)
    if not storage.is_s3(uri) and engine in {"athena", "trino"}:
        raise InputError(f"output {uri}: {engine} reads object stores only, expected s3://bucket/prefix")
    where = database or {"athena": "the database that you choose"}.get(engine, "YOUR_SCHEMA")
    begin = _BEFORE[engine].format(where=where)
    if storage.is_s3(uri) and engine == "duckdb":
        begin += "create or replace secret lake (type s3, provider credential_chain);\n"
    if database and engine in {"duckdb", "spark"}:
        begin += f"create schema if not exists {database};\n"

    def declared(names: tuple[str, ...]) -> str:
        return "".join(
            _DECLARED[engine].format(
                name=name if engine == "trino" else in_ + name,
                schema=f"'{database}'" if database else "current_schema",
                uri=_located(storage.join(uri, name), engine),
            )
            + "\n"
            for name in names
        )

    return f"{begin}{declared(TABLES)}\n{views}\n{declared(LATER)}{later}"


def _located(uri: str, engine: str) -> str:
    """The URI as the engine takes it, inside its quotes."""
    if engine == "spark":
        uri = f"s3a://{uri.removeprefix('s3://')}" if storage.is_s3(uri) else f"file://{uri}"
        return uri.replace("`", "``")
    return uri.replace("'", "''")
