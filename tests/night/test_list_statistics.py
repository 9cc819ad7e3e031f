"""The tables `movies` and `users` against a recomputation, and outputs that were written before them."""

import json
import shutil
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from deltalake import CommitProperties, DeltaTable, write_deltalake

from cfjobs import tables
from cfjobs.config import Config
from cfjobs.errors import InputError
from cfjobs.evaluation import churn
from cfjobs.evaluation.metrics import K
from cfjobs.night import doctor, evaluate, story
from cfjobs.night.records import Inputs, Published
from cfjobs.query import lookup
from cfjobs.report import facts
from cfjobs.tables import latest, retention, rollback

QUICK = Config(
    epochs=1,
    top_n=20,
    n_factors=4,
    ranking_factors=4,
    ranking_steps=5,
    shard_users=50,
    gate_beat_popularity=False,
    gate_max_churn=None,
)
NIGHTS = [date(2026, 3, day) for day in range(1, 6)]


def read(output: Path, name: str, night: date | None = None) -> pl.DataFrame:
    frame = pl.read_delta(str(output / name))
    return frame.filter(pl.col("run_date") == (night or frame["run_date"].max()))


def ratings_of(folder: Path) -> pl.DataFrame:
    return pl.read_parquet(folder / "in" / "ratings.parquet").drop_nulls()


def test_movies_are_counted_as_anybody_counts_them(two_nights: Path) -> None:
    output = two_nights / "out"
    found, lists = read(output, "movies").sort("movie_id"), read(output, "top_n")
    n_users = read(output, "users").height
    rated = ratings_of(two_nights).group_by("movie_id").agg(
        pl.len().alias("n"), pl.col("rating").mean().alias("mean"),
        pl.col("timestamp").min().alias("first"), pl.col("timestamp").max().alias("last"),
    )  # fmt: skip
    listed = lists.group_by("movie_id").agg(
        (pl.col("rank") <= K).sum().alias("ten"), pl.len().alias("all"), pl.col("rank").mean().alias("place")
    )
    wanted = found.select("movie_id").join(rated, on="movie_id", how="left", maintain_order="left")
    wanted = wanted.join(listed, on="movie_id", how="left", maintain_order="left")
    for column, other in (
        ("n_ratings", "n"), ("mean_rating", "mean"), ("n_top_10", "ten"), ("n_top_100", "all"), ("mean_rank", "place")
    ):  # fmt: skip
        nothing = None if column == "mean_rank" else 0
        assert found[column].to_list() == pytest.approx(
            wanted[other].fill_null(nothing).to_list() if nothing == 0 else wanted[other].to_list()
        )
    for column, other in (("first_rated_at", "first"), ("last_rated_at", "last")):
        at = wanted[other]
        at = pl.from_epoch(at, "s") if at.dtype.is_integer() else at
        assert found[column].dt.replace_time_zone(None).to_list() == at.cast(pl.Datetime("us")).to_list()
    reach = wanted["all"].fill_null(0) / (n_users - wanted["n"])
    assert found["reach"].to_list() == pytest.approx(reach.to_list())
    before = read(output, "movies", date(2026, 2, 28)).select("movie_id", pl.col("reach").alias("before"))
    change = found.join(before, on="movie_id", maintain_order="left").select(
        pl.col("reach") - pl.col("before")
    )
    assert found["reach_change"].to_list() == pytest.approx(change.to_series().to_list())
    movies = pl.read_parquet(two_nights / "in" / "movies.parquet").select("movie_id", "title", "genres")
    assert found.select("movie_id", "title", "genres").equals(
        movies.filter(pl.col("movie_id").is_in(found["movie_id"].implode())).sort("movie_id")
    )


def test_users_are_described_as_anybody_describes_them(two_nights: Path) -> None:
    output = two_nights / "out"
    found, lists = read(output, "users"), read(output, "top_n")
    assert set(found["user_id"]) == set(pl.read_parquet(two_nights / "in" / "users.parquet")["user_id"])
    assert found["user_id"].is_unique().all()
    rated = dict(ratings_of(two_nights)["user_id"].value_counts().iter_rows())
    assert dict(found.select("user_id", "n_ratings").iter_rows()) == {
        user: rated.get(user, 0) for user in found["user_id"]
    }
    bands = (
        found.filter(pl.col("n_ratings") > 0)
        .group_by("band")
        .agg(pl.col("n_ratings").min().alias("low"), pl.col("n_ratings").max().alias("high"), pl.len())
    )
    light, medium, heavy = (
        bands.filter(band=band).row(0, named=True) for band in ("light", "medium", "heavy")
    )
    assert light["high"] < medium["low"] <= medium["high"] < heavy["low"]
    assert light["len"] >= len(rated) / 3 - 1
    changed = churn.changes(lists, read(output, "top_n", date(2026, 2, 28)))
    new = dict(changed.select("user_id", "n_new").iter_rows())
    assert dict(found.select("user_id", "n_new_in_ten").iter_rows()) == new
    metrics = dict(read(output, "metrics").filter(band="all").select("metric", "value").iter_rows())
    assert metrics["churn_published"] == pytest.approx(changed["n_new"].sum() / changed["n_places"].sum())
    assert json.loads(read(output, "runs")["metrics"][0])["churn_published"] == metrics["churn_published"]
    assert found["ratings_changed"].to_list() == [False] * found.height
    vectors = dict(read(output, "movie_embeddings").select("movie_id", "vector").iter_rows())
    for user in (1, 900_001):
        ten = lists.filter(pl.col("user_id") == user, pl.col("rank") <= K)["movie_id"].to_list()
        unit = pl.Series([vectors[movie] for movie in ten]).to_numpy()
        cosine = [
            float(a @ b) / (float(a @ a) * float(b @ b)) ** 0.5
            for i, a in enumerate(map(_array, unit))
            for b in map(_array, unit[:i])
        ]
        assert found.filter(user_id=user)["diversity"][0] == pytest.approx(
            1 - sum(cosine) / len(cosine), abs=1e-5
        )


def _array(values: object) -> np.ndarray:
    return np.asarray(values, dtype=np.float64)


@pytest.fixture
def night(data_set: Path, tmp_path: Path) -> Callable[..., Published]:
    """Publishes a night of the small data set, with other ratings or movies if they are given."""
    for name in ("ratings", "movies", "users"):
        (tmp_path / "in").mkdir(exist_ok=True)
        shutil.copy(data_set / f"{name}.parquet", tmp_path / "in" / f"{name}.parquet")

    def publish(number: int, **frames: pl.DataFrame) -> Published:
        for name, frame in frames.items():
            frame.write_parquet(tmp_path / "in" / f"{name}.parquet")
        inputs = Inputs(ratings=str(tmp_path / "in"))
        return story.nightly(
            story.start(inputs, output=str(tmp_path / "out"), run_date=NIGHTS[number], config=QUICK)
        )

    return publish


def as_of_before(output: Path) -> None:
    """Make of one night an output as it was written before `movies`, `users`, and the newer columns."""
    for name in ("movies", "users"):
        shutil.rmtree(output / name)
    gone = {"top_n": ["predicted_rating_spread", "because", "rule"], "metrics": ["last_night"], "runs": []}
    for name, columns in gone.items():
        frame = pl.read_delta(str(output / name)).drop(columns)
        table = next(one for one in tables.PUBLISHED if one.name == name)
        if name == "runs":
            versions = {
                k: v
                for k, v in json.loads(frame["table_versions"][0]).items()
                if k not in {"movies", "users"}
            }
            frame = frame.with_columns(pl.lit(json.dumps(versions)).alias("table_versions"))
        schema = table.schema(user_type=pa.int64(), movie_type=pa.int64())
        kept = [field for field in schema if field.name not in columns]
        rows = frame.select([f.name for f in kept]).to_arrow().cast(pa.schema(kept))
        run_id = pl.read_delta(str(output / "runs"))["run_id"][0]
        shutil.rmtree(output / name)
        write_deltalake(
            str(output / name), rows, partition_by=["run_date"],
            commit_properties=CommitProperties(custom_metadata={"run_id": run_id}),
        )  # fmt: skip
    latest.write(str(output))


def test_an_output_of_before_stays_readable_and_its_next_nights_are_published(
    night: Callable[..., Published], tmp_path: Path, data_set: Path
) -> None:
    output = tmp_path / "out"
    night(0)
    as_of_before(output)
    assert doctor.examine(str(output)).sound, doctor.as_text(doctor.examine(str(output)))
    assert "rule" not in lookup.user_list(str(output), "1").rows[0]
    assert facts.gather(str(output)).places_by_rule == {}
    night(1)
    assert read(output, "top_n", NIGHTS[0])["because"].null_count() == read(output, "top_n", NIGHTS[0]).height
    assert read(output, "users")["ratings_changed"].null_count() == read(output, "users").height
    assert read(output, "users")["n_new_in_ten"].null_count() == 0
    metrics = read(output, "metrics").filter(band="all")
    assert metrics.filter(metric="rmse")["last_night"][0] is not None
    assert metrics.filter(metric="churn_published")["value"][0] is not None

    ratings = pl.read_parquet(data_set / "ratings.parquet")
    user, *_ = ratings["user_id"].unique().sort()
    fewer = ratings.filter(
        (pl.col("user_id") != user) | (pl.col("movie_id") != ratings.filter(user_id=user)["movie_id"][0])
    )
    night(2, ratings=fewer)
    users = read(output, "users")
    assert users.filter("ratings_changed")["user_id"].to_list() == [user]
    told = set(read(output, "metrics")["metric"])
    assert {"churn_published", "churn_unchanged_published", "churn_changed_published"} <= told
    assert doctor.examine(str(output)).sound, doctor.as_text(doctor.examine(str(output)))

    then = read(output, "users", NIGHTS[2])
    rollback.rollback(str(output), to=NIGHTS[0].isoformat(), who="a test", why="")
    assert read(output, "top_n", NIGHTS[0]).height
    assert pl.read_delta(str(output / "movies")).is_empty()
    assert doctor.examine(str(output)).sound, doctor.as_text(doctor.examine(str(output)))
    runs = DeltaTable(str(output / "runs"))
    forth = max(v for v, run_id in rollback.commits(runs).items() if run_id.startswith(NIGHTS[2].isoformat()))
    rollback.rollback(str(output), to=str(forth), who="a test", why="")
    assert read(output, "users", NIGHTS[2]).equals(then)
    retention.retain(str(output), nights=1, min_age=timedelta(0))
    assert pl.read_delta(str(output / "users"))["run_date"].unique().to_list() == [NIGHTS[2]]
    assert doctor.examine(str(output)).sound, doctor.as_text(doctor.examine(str(output)))


def test_columns_of_the_input_join_the_table_and_stay(
    night: Callable[..., Published], tmp_path: Path, data_set: Path
) -> None:
    output = tmp_path / "out"
    movies = pl.read_parquet(data_set / "movies.parquet")
    night(0)
    more = movies.with_columns(
        pl.lit(1999, pl.Int16).alias("year"),
        pl.lit("x").alias("Mean_Rating"),
        pl.concat_list(pl.lit("a"), pl.lit("b")).alias("tags here"),
        pl.struct(pl.lit(1).alias("k")).alias("imdb"),
    )
    night(1, movies=more)
    found = read(output, "movies", NIGHTS[1])
    assert found["year"].unique().to_list() == [1999]
    assert found["input_Mean_Rating"].unique().to_list() == ["x"]
    assert found["tags_here"].to_list()[0] == ["a", "b"]
    assert found["imdb"].unique().to_list() == ['{"k":1}']
    assert read(output, "movies", NIGHTS[0])["year"].null_count() == read(output, "movies", NIGHTS[0]).height
    night(2, movies=movies.drop("genres"))
    found = read(output, "movies", NIGHTS[2])
    assert found["year"].null_count() == found["genres"].null_count() == found.height
    with pytest.raises(InputError, match="column 'year' is String, and Int64 in the published table movies"):
        night(3, movies=movies.with_columns(pl.lit("unknown").alias("year")))
    night(3, movies=movies.with_columns(pl.lit("2001").alias("year")))
    assert read(output, "movies", NIGHTS[3])["year"].unique().to_list() == [2001]
    assert doctor.examine(str(output)).sound, doctor.as_text(doctor.examine(str(output)))


def test_an_ensemble_says_how_sure_it_is(data_set: Path, tmp_path: Path) -> None:
    config = QUICK.model_copy(update={"ensemble": 3, "refit": False})
    story.nightly(
        story.start(Inputs(ratings=str(data_set)), output=str(tmp_path), run_date=NIGHTS[0], config=config)
    )
    found = read(tmp_path, "top_n")
    assert found["predicted_rating_spread"].null_count() == 0
    assert 0 < found["predicted_rating_spread"].mean() < 2  # type: ignore[operator]


def test_whoever_has_a_movie_in_their_list_with_a_higher_score_is_among_its_audience(
    two_nights: Path,
) -> None:
    output = two_nights / "out"
    found, lists = read(output, "audience"), read(output, "top_n").filter(source="model")
    assert found.group_by("movie_id").agg(pl.col("rank").sort())["rank"].list.len().max() == 3
    assert found.join(ratings_of(two_nights), on=["movie_id", "user_id"], how="semi").is_empty()
    both = lists.join(found, on=["movie_id", "user_id"], suffix="_turned")
    assert both.height > 0
    assert both["score"].equals(both["score_turned"].rename("score"))
    least = found.filter(rank=3).select("movie_id", pl.col("score").alias("least"))
    above = lists.join(least, on="movie_id").filter(pl.col("score") > pl.col("least"))
    assert above.join(found, on=["movie_id", "user_id"], how="anti").is_empty()
    for of_movie in found.sort("rank").partition_by("movie_id"):
        assert of_movie["rank"].to_list() == list(range(1, of_movie.height + 1))
        assert of_movie["score"].is_sorted(descending=True)


@pytest.mark.parametrize("shard_users", [7, 1_000])
def test_published_lists_are_described_over_the_users_whose_lists_were_measured(
    two_nights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shard_users: int
) -> None:
    monkeypatch.setattr(evaluate, "MEASURED_USERS", 20)
    config = QUICK.model_copy(update={"shard_users": shard_users})
    inputs = Inputs(ratings=str(two_nights / "in" / "ratings.parquet"))
    night = story.start(inputs, output=str(tmp_path), run_date=NIGHTS[0], config=config)
    story.nightly(night)
    metrics = read(tmp_path, "metrics").filter(band="all")
    assert metrics.filter(metric="coverage")["users"].to_list() == [20]
    users = read(tmp_path, "users").filter(pl.col("n_ratings") > 0).sort("user_id")["user_id"]
    sample = users.gather(evaluate.sampled(users, seed=config.seed))
    first = read(tmp_path, "top_n").filter((pl.col("rank") <= K) & pl.col("user_id").is_in(sample.implode()))
    stars = metrics.filter(metric="stars_at_10_published")["value"].to_list()
    assert stars == pytest.approx(
        [first.group_by("user_id").agg(pl.mean("predicted_rating"))["predicted_rating"].mean()]
    )
    (coverage,) = metrics.filter(metric="coverage_published")["value"]
    n_candidates = first["movie_id"].n_unique() / coverage
    assert n_candidates == pytest.approx(round(n_candidates))
    assert n_candidates <= read(tmp_path, "movies").height
