"""The recipes of the data dictionary: what to paste into Polars, DuckDB, pandas, Spark SQL and Athena.

Those for Polars, DuckDB and pandas are run by the tests, block after block.
"""

METRICS = """## What each metric says

| metric | meaning | better | baseline |
|---|---|---|---|
| `rmse` | root of the mean squared error of the predicted ratings, in stars | lower | global mean + damped user and movie means |
| `mae` | mean absolute error, in stars | lower | the same |
| `ndcg_at_10` | how many liked held-out movies are among the first ten, and how high; 1 is all of them at the top | higher | the popularity list |
| `recall_at_10` | share of a user's liked held-out movies that are among the first ten | higher | the popularity list |
| `map_at_10` | mean precision at each hit among the first ten | higher | the popularity list |
| `mrr_at_10` | 1 / rank of the first hit among the first ten, 0 without one | higher | the popularity list |
| `disliked_share_at_10` | of the movies among the first ten that their user went on to rate, those rated below the user's own mean | lower | the popularity list |
| `stars_at_10` | mean predicted rating of the first ten, in stars | | the popularity list |
| `coverage` | share of the movies that could be listed that are in anybody's first ten | | the popularity list |
| `novelty_at_10` | mean self-information of the listed movies in bits: 0 is rated by everybody, 10 by one in 1,024 | | the popularity list |
| `popular_share_at_10` | share of list places that go to the tenth of the movies with most ratings | | the popularity list |
| `gini` | how unequally the movies that could be listed share the places of the first ten: 0 all alike, 1 all to one | | the popularity list |
| `diversity_at_10` | 1 less the mean cosine between the embeddings of any two of the first ten: 0 is all alike | | the popularity list |
| `genre_distance_at_10` | how much of the mix of genres among the first ten would have to change to be that of the user's ratings, 0 to 1; where the movies table has genres | lower | the popularity list |
| `ndcg_at_10_against_popular_7_days`, `_30_days` | nDCG of at most 2,000 of the users; only for `all`, where times put the ratings in order | higher | the movies with most ratings in so many days before each user's last one |
| `ndcg_at_10_against_ease` | the same, at any times | higher | EASE, which tells each movie from all others of a profile by ridge regression |
| `ndcg_at_10_against_slit` | the same, where times put the ratings in order | higher | SLIT, which tells the next ratings from the latest ones by ridge regression |
| `stars_at_10_published` and so on | stars, coverage, novelty, popular share, gini, diversity and genre distance of the lists that were published, over every user with ratings; only for `all`; a movie's ratings are those outside the holdout, as for the measured ones | | the measured lists |
| `churn_published` | share of the places up to rank 10 whose movie was not among the user's first ten last night, over users who had a list on both nights; only for `all` | | the popularity list of last night's counts against that of tonight's, for the same users, without what they have rated tonight |
| `churn_unchanged_published`, `churn_changed_published` | the same, of users whose own ratings are last night's, and of the others | | the same |

A held-out movie is liked from `relevant_rating` on; of implicit feedback every held-out movie is, as it was chosen. Lists are judged without the movies of the training ratings, over
users with a liked held-out movie; stars and variety (from `stars_at_10` to `genre_distance_at_10`) over every user.
Where there are more than 30,000 users, the lists of as many are judged, drawn by their ids, so the same from night to
night; coverage counts what these have. `rmse` and `mae` are of all.
"""

RECIPES = """## Recipes

`out` is the output URI, a folder or `s3://bucket/prefix`. For the latter, credentials come from the environment.

**One night, also while the next is being published.** A night is one commit a table, `runs` last; `seconds.window` of
`runs` says for how long the newest versions of two tables may be of two nights. Two ways to never see that:

- ask for the date that `runs` has: `where run_date = (select max(run_date) from runs)`, in any engine. It holds for
  every night of a new date, as each table keeps both dates;
- read every table at the version that the newest row of `runs` names. It holds for a date that is run again too. Each
  first block below does it. `out/latest.json` has the same: `{"run_date", "run_id", "tables": {"top_n": 7, ...}}`.

**What changed since last night** has one meaning everywhere, here, in the view `changes`, on the page, in
`churn_published` of `runs.metrics` and in `cfjobs compare`: ten against ten, for the users who have a list on
both nights. A movie is new where it is among tonight's first ten and was not among last night's first ten.

**Views.** `cfjobs views --engine duckdb --output out > views.sql` (or `spark`, `athena`, `trino`) prints a file to
run, which declares the tables and defines `tonight`, `tonight_titled`, `movie_reach`, `changes` and
`tonight_by_value`; without `--output` the views alone, over tables that are there by their names, such as those
of the first block for DuckDB below. `--database lake` puts tables and views there. DuckDB and Spark read the
files by their path, as they are at each query; Athena and Trino register the tables.
**For an app**, `cfjobs export` writes the lists as CSV, JSON lines, Parquet, SQLite or a table of Postgres.

### Polars

```python
import json

import polars as pl

out = "out"
nights = pl.read_delta(f"{out}/runs").sort("run_date")
tonight, at = nights["run_date"][-1], json.loads(nights["table_versions"][-1])
lists = pl.scan_delta(f"{out}/top_n", version=at["top_n"])
```

Tonight's list for a user, with titles:

```python
embeddings = pl.scan_delta(f"{out}/movie_embeddings", version=at["movie_embeddings"])
titles = embeddings.filter(run_date=tonight).select("movie_id", "title")
mine = (
    lists.filter(run_date=tonight, user_id=1)
    .join(titles, on="movie_id", how="left")
    .sort("rank")
    .select("rank", "movie_id", "title", "predicted_rating")
    .collect()
)
print(mine)
```

What changed since last night: who has a movie among the first ten that was not among last night's first ten.
Who had no list last night does not count.

```python
last_night = nights["run_date"][-2]
first = lists.filter(pl.col("rank") <= 10).select("run_date", "user_id", "rank", "movie_id")
before = first.filter(run_date=last_night)
new = (
    first.filter(run_date=tonight)
    .join(before, on="user_id", how="semi")
    .join(before, on=["user_id", "movie_id"], how="anti")
    .sort("user_id", "rank")
    .collect()
)
print(new["user_id"].n_unique(), "users see something new")
```

Which movies are recommended most:

```python
most = (
    lists.filter(pl.col("run_date") == tonight, pl.col("rank") <= 10)
    .group_by("movie_id")
    .agg(pl.len().alias("lists"))
    .join(titles, on="movie_id", how="left")
    .sort("lists", "movie_id", descending=[True, False])
    .head(20)
    .collect()
)
print(most)
```

A past night, by date and by version. A version is the table as it stood then, even where the date was run again since:

```python
past = lists.filter(run_date=last_night).collect()
version = (
    nights.filter(run_date=last_night)["table_versions"].str.json_path_match("$.top_n").cast(pl.Int64).item()
)
as_published = pl.scan_delta(f"{out}/top_n", version=version).filter(run_date=last_night).collect()
print(past.height, as_published.height)
```

Explain the night: where are the stars wrong, and by how much?

```python
worst = (
    pl.scan_delta(f"{out}/holdout_predictions", version=at["holdout_predictions"])
    .filter(run_date=tonight)
    .group_by("movie_id")
    .agg(pl.len().alias("n"), pl.col("residual").mean().alias("mean_residual"))
    .filter(pl.col("n") >= 5)
    .join(titles, on="movie_id", how="left")
    .sort("mean_residual")
    .head(10)
    .collect()
)
print(worst)
```

### DuckDB

Without its `delta` extension, and so without a download, over the Arrow data sets of `deltalake`:

```python
import json

import duckdb
from deltalake import DeltaTable

out = "out"
db = duckdb.connect()
nights = DeltaTable(f"{out}/runs").to_pyarrow_table().sort_by("run_date").to_pylist()
at = json.loads(nights[-1]["table_versions"])
for name, version in at.items():
    db.register(name, DeltaTable(f"{out}/{name}", version=version).to_pyarrow_dataset())
db.sql("set variable tonight = (select max(run_date) from runs)")
db.sql("set variable last_night = (select max(run_date) from runs where run_date < getvariable('tonight'))")
```

Tonight's list for a user, with titles:

```python
mine = db.sql(\"\"\"
    select l.rank, l.movie_id, m.title, l.predicted_rating
    from top_n l left join movie_embeddings m using (run_date, movie_id)
    where l.run_date = getvariable('tonight') and l.user_id = 1
    order by l.rank
\"\"\")
mine.show()
```

What changed since last night:

```python
new = db.sql(\"\"\"
    with before as (
      select user_id, movie_id from top_n where run_date = getvariable('last_night') and rank <= 10
    )
    select user_id, rank, movie_id
    from top_n
    where run_date = getvariable('tonight') and rank <= 10
      and user_id in (select user_id from before)
      and (user_id, movie_id) not in (select (user_id, movie_id) from before)
    order by user_id, rank
\"\"\")
new.show()
```

Which movies are recommended most:

```python
most = db.sql(\"\"\"
    select l.movie_id, any_value(m.title) as title, count(*) as lists
    from top_n l left join movie_embeddings m using (run_date, movie_id)
    where l.run_date = getvariable('tonight') and l.rank <= 10
    group by l.movie_id
    order by lists desc, l.movie_id
    limit 20
\"\"\")
most.show()
```

A past night, by date and by version:

```python
past = db.sql("select * from top_n where run_date = getvariable('last_night')")
version = db.sql(
    "select (table_versions ->> '$.top_n')::int from runs where run_date = getvariable('last_night')"
).fetchall()[0][0]
db.register("top_n_then", DeltaTable(f"{out}/top_n", version=version).to_pyarrow_dataset())
as_published = db.sql("select * from top_n_then where run_date = getvariable('last_night')")
print(len(past), len(as_published))
```

### pandas

```python
import json

import pandas as pd
from deltalake import DeltaTable

out = "out"


nights = DeltaTable(f"{out}/runs").to_pandas().sort_values("run_date")
at = json.loads(nights["table_versions"].iloc[-1])


def read(name, version=None, **filters):
    table = DeltaTable(f"{out}/{name}", version=at[name] if version is None else version)
    return table.to_pandas(filters=[(column, "=", value) for column, value in filters.items()] or None)


tonight, last_night = nights["run_date"].iloc[-1], nights["run_date"].iloc[-2]
```

Tonight's list for a user, with titles:

```python
titles = read("movie_embeddings", run_date=tonight)[["movie_id", "title"]]
mine = read("top_n", run_date=tonight, user_id=1).merge(titles, on="movie_id", how="left").sort_values("rank")
print(mine[["rank", "movie_id", "title", "predicted_rating"]].head(10))
```

What changed since last night:

```python
lists, before = read("top_n", run_date=tonight), read("top_n", run_date=last_night)
first, before = lists[lists["rank"] <= 10], before[before["rank"] <= 10][["user_id", "movie_id"]]
new = first[first["user_id"].isin(before["user_id"])]
new = new.merge(before, on=["user_id", "movie_id"], how="left", indicator=True)
new = new[new["_merge"] == "left_only"].sort_values(["user_id", "rank"])
print(new["user_id"].nunique(), "users see something new")
```

Which movies are recommended most:

```python
most = lists[lists["rank"] <= 10].groupby("movie_id").size().rename("lists").reset_index()
most = most.merge(titles, on="movie_id", how="left").sort_values(
    ["lists", "movie_id"], ascending=[False, True]
)
print(most.head(20))
```

A past night, by date and by version:

```python
past = read("top_n", run_date=last_night)
versions = json.loads(nights[nights["run_date"] == last_night]["table_versions"].item())
as_published = read("top_n", version=versions["top_n"], run_date=last_night)
print(len(past), len(as_published))
```

### Lists per genre

With `lists_per = {genres = 20}` a night fills `top_n_by_value`: for each user and each genre the 20 best movies
that have it. A movie of three genres is in three lists. For a page of shelves that shows each movie once, keep it
where it stands highest; with Polars, after the first block above:

```python
shelves = (
    pl.scan_delta(f"{out}/top_n_by_value", version=at["top_n_by_value"])
    .filter(run_date=tonight, user_id=1, column="genres")
    .join(titles, on="movie_id", how="left")
    .sort("movie_id", "rank", "value")
    .unique("movie_id", keep="first", maintain_order=True)
    .sort("value", "rank")
    .select("value", "rank", "movie_id", "title", "score")
    .collect()
)
for (genre,), shelf in shelves.group_by("value", maintain_order=True):
    print(genre, *shelf["title"].head(5), sep="\\n  ")
```

One list, in SQL for DuckDB, Spark and Athena; `column` is a word of SQL, so it stands behind the table's name:

```sql
select l.rank, l.movie_id, m.title, l.predicted_rating
from top_n_by_value l left join movie_embeddings m on m.run_date = l.run_date and m.movie_id = l.movie_id
where l.run_date = (select max(run_date) from runs) and l.user_id = 1
  and l.column = 'genres' and l.value = 'Comedy'
order by l.rank;
```

Scores of one user's lists can be compared: the best comedy stands above the best western where its score is
higher. Lists of `popular` users are ordered by numbers of ratings instead.

### What stands in the JSON of `runs`

A row of `runs` has what a night was in JSON, so that a new figure changes no column. Keys:

| column | keys |
|---|---|
| `table_versions` | the name of each table |
| `counts` | of ratings `read`, `kept`, `superseded`, `rejected`, `later` (than the night); `users`, `cold_users`, `movies`, `unrated_movies_listable`, `unrated_movies_left_out`, `unavailable_movies`, `boosted_movies`, `pinned_movies`; `lists`, `rows`; with `lists_per` `lists_by_value`, `rows_by_value` |
| `metrics` | a metric of the table above over `all`; with `_bias_only`, `_popular` and so on its baselines; with `_published` what the published lists are like; `ndcg_at_10_high`, the upper end of its interval; `users_measured`, `scale_low`, `scale_high`, `stars_weight` |
| `seconds` | a stage: `prepare`, `split`, `train`, `evaluate`, `refit`, `score`, `check`, `publish`; and `window` |
| `losses` | a list of `[epoch, training loss, holdout loss]` |
| `config` | the settings that `cfjobs config` prints |
| `inputs` | a list of `{"what", "uri", "size", "etag"}` |
| `versions` | `cfjobs`, `python`, and the main packages |

As rows, a night and a metric each, with Polars; the other objects in the same way:

```python
import json

import polars as pl

nights = pl.read_delta("out/runs").sort("run_date")
figures = pl.DataFrame(
    [
        {"run_date": night, "metric": name, "value": value}
        for night, text in nights.select("run_date", "metrics").iter_rows()
        for name, value in json.loads(text).items()
    ]
)
print(figures)
```

With DuckDB, over `runs` as registered above:

```sql
select run_date, key as metric, value::double as value from runs, json_each(metrics::json);
select run_date, value ->> 'uri' as file, (value ->> 'size')::bigint as bytes from runs, json_each(inputs::json);
```

With Spark, and with Athena:

```sql
select run_date, metric, value from runs
lateral view explode(from_json(metrics, 'map<string,double>')) as metric, value;

select run_date, metric, value from runs
cross join unnest(cast(json_parse(metrics) as map(varchar, double))) as t (metric, value);
```

### Spark SQL

With the Delta Lake package on the session (`io.delta.sql.DeltaSparkSessionExtension`):

```sql
create table top_n using delta location 's3://bucket/out/top_n';
create table movie_embeddings using delta location 's3://bucket/out/movie_embeddings';
create table runs using delta location 's3://bucket/out/runs';

-- one night, also while the next is being published; or `top_n version as of N`, with N from `runs.table_versions`
create view top_n_tonight as select * from top_n where run_date = (select max(run_date) from runs);

-- tonight's list for a user, with titles
select l.rank, l.movie_id, m.title, l.predicted_rating
from top_n l left join movie_embeddings m using (run_date, movie_id)
where l.run_date = (select max(run_date) from runs) and l.user_id = 1
order by l.rank;

-- what changed since last night
with nights as (select run_date, row_number() over (order by run_date desc) as back from runs),
     before as (select b.user_id, b.movie_id from top_n b join nights n on b.run_date = n.run_date and n.back = 2
                where b.rank <= 10)
select t.user_id, t.rank, t.movie_id
from top_n t join nights n on t.run_date = n.run_date and n.back = 1
where t.rank <= 10 and t.user_id in (select user_id from before) and not exists (
  select 1 from before b where b.user_id = t.user_id and b.movie_id = t.movie_id);

-- which movies are recommended most
select l.movie_id, m.title, count(*) as lists
from top_n l left join movie_embeddings m using (run_date, movie_id)
where l.run_date = (select max(run_date) from runs) and l.rank <= 10
group by l.movie_id, m.title order by lists desc limit 20;

-- a past night, by date and by version
select * from top_n where run_date = date '2026-03-01';
select get_json_object(table_versions, '$.top_n') from runs where run_date = date '2026-03-01';
select * from top_n version as of 7 where run_date = date '2026-03-01';
```

### Athena

Athena engine 3 reads Delta tables once they are declared; it takes the columns from the table itself:

```sql
create external table top_n location 's3://bucket/out/top_n' tblproperties ('table_type' = 'DELTA');
create external table movie_embeddings location 's3://bucket/out/movie_embeddings' tblproperties ('table_type' = 'DELTA');
create external table runs location 's3://bucket/out/runs' tblproperties ('table_type' = 'DELTA');

-- one night, also while the next is being published
create view top_n_tonight as select * from top_n where run_date = (select max(run_date) from runs);

-- tonight's list for a user, with titles
select l.rank, l.movie_id, m.title, l.predicted_rating
from top_n l left join movie_embeddings m on m.run_date = l.run_date and m.movie_id = l.movie_id
where l.run_date = (select max(run_date) from runs) and l.user_id = 1
order by l.rank;

-- what changed since last night
with nights as (select run_date, row_number() over (order by run_date desc) as back from runs),
     before as (select user_id, movie_id from top_n
                where run_date = (select run_date from nights where back = 2) and rank <= 10)
select t.user_id, t.rank, t.movie_id
from top_n t left join before b on b.user_id = t.user_id and b.movie_id = t.movie_id
where t.run_date = (select run_date from nights where back = 1) and t.rank <= 10 and b.movie_id is null
  and t.user_id in (select user_id from before);

-- which movies are recommended most
select l.movie_id, m.title, count(*) as lists
from top_n l left join movie_embeddings m on m.run_date = l.run_date and m.movie_id = l.movie_id
where l.run_date = (select max(run_date) from runs) and l.rank <= 10
group by l.movie_id, m.title order by lists desc limit 20;

-- a past night, by date; Athena reads the latest version of a Delta table only, so take a version with Polars or Spark
select * from top_n where run_date = date '2026-03-01';
```
"""
