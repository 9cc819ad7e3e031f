"""SQL views over the published tables: the same statements for every engine, over tables that each declares
in its own way."""

from cfjobs import storage
from cfjobs.errors import InputError

ENGINES = ("duckdb", "spark", "athena", "trino")
TABLES = ("top_n", "movie_embeddings", "similar_movies", "holdout_predictions", "metrics", "runs")

VIEWS = """-- tonight: every user's list of the newest night
create or replace view tonight as
select run_date, user_id, rank, movie_id, score, predicted_rating, source
from top_n
where run_date = (select max(run_date) from runs);

-- tonight_titled: the same, with titles
create or replace view tonight_titled as
select t.run_date, t.user_id, t.rank, t.movie_id, m.title, t.score, t.predicted_rating, t.source
from tonight t left join movie_embeddings m on m.run_date = t.run_date and m.movie_id = t.movie_id;

-- movie_reach: in how many users' first ten each movie is tonight, and on which places
create or replace view movie_reach as
select
  movie_id,
  max(title) as title,
  count(*) as lists,
  cast(count(*) as double) / (select count(distinct user_id) from tonight) as share_of_lists,
  min(rank) as best_rank,
  avg(rank) as mean_rank
from tonight_titled
where rank <= 10
group by movie_id;

-- changes: what changed since last night; ten against ten, for the users who have a list on both nights
-- change is new, gone, up or down; users with 'new' rows see something that they did not see last night
create or replace view changes as
with tonights as (
  select user_id, movie_id, rank from top_n
  where rank <= 10 and run_date = (select max(run_date) from runs)
), lasts as (
  select user_id, movie_id, rank from top_n
  where rank <= 10
    and run_date = (select max(run_date) from runs where run_date < (select max(run_date) from runs))
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

_DECLARED = {
    "duckdb": "create or replace view {name} as select * from delta_scan('{uri}');",
    "spark": "create table if not exists {name} using delta location '{uri}';",
    "athena": "create external table if not exists {name} location '{uri}/' tblproperties ('table_type' = 'DELTA');",
    "trino": "call delta.system.register_table(schema_name => current_schema, table_name => '{name}', table_location => '{uri}');",
}

_BEFORE = {
    "duckdb": "install delta;\nload delta;\n",
    "spark": "-- with io.delta.sql.DeltaSparkSessionExtension on the session\n",
    "athena": "-- engine 3; run one statement at a time\n",
    "trino": "-- in the catalog `delta`, with delta.register-table-procedure.enabled=true\n",
}


def sql(engine: str, output: str | None = None) -> str:
    """The views for an engine, after the declarations of the tables where the output is given.

    Without it the views stand alone, over tables that go by their names. InputError for another engine, and
    for an output on this disk where the engine reads object stores only.
    """
    if engine not in ENGINES:
        raise InputError(f"--engine: got {engine!r}, expected one of {', '.join(ENGINES)}")
    if output is None:
        return VIEWS
    uri = storage.normal(output)
    if not storage.is_s3(uri) and engine in {"athena", "trino"}:
        raise InputError(f"output {uri}: {engine} reads object stores only, expected s3://bucket/prefix")
    begin = _BEFORE[engine]
    if storage.is_s3(uri) and engine == "duckdb":
        begin += "create or replace secret lake (type s3, provider credential_chain);\n"
    named = [
        _DECLARED[engine].format(name=name, uri=_located(storage.join(uri, name), engine)) for name in TABLES
    ]
    return begin + "\n".join(named) + "\n\n" + VIEWS


def _located(uri: str, engine: str) -> str:
    """The URI as the engine takes it, inside single quotes."""
    if engine == "spark":
        uri = f"s3a://{uri.removeprefix('s3://')}" if storage.is_s3(uri) else f"file://{uri}"
    return uri.replace("'", "''")
