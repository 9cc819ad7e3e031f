"""The night as a whole, on a disk and on a real S3 server: contract of the tables,
replacement, resumption."""

import json
from datetime import date
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pytest
from deltalake import DeltaTable

from cfjobs import model_store, storage
from cfjobs.config import Config
from cfjobs.errors import GateRefused, InputError
from cfjobs.night import story
from cfjobs.night.records import Inputs, Night, Published
from cfjobs.query import lookup, predict
from cfjobs.tables import delta

QUICK = Config(epochs=2, top_n=20, n_factors=8, ranking_factors=8, ranking_steps=20, shard_users=50)
NIGHT = date(2026, 3, 1)


def start(
    data_set: Path, output: str, *, config: Config = QUICK, run_date: date = NIGHT, **more: Any
) -> Night:
    more = {"movies": str(data_set / "movies.parquet"), "users": str(data_set / "users.parquet")} | more
    inputs = Inputs(ratings=str(data_set / "ratings.parquet"), **more)
    return story.start(inputs, output=output, run_date=run_date, config=config)


def run(data_set: Path, output: str, **more: Any) -> Published:
    return story.nightly(start(data_set, output, **more))


def rows(output: str, name: str = "top_n") -> pl.DataFrame:
    uri = storage.join(output, name)
    frame = pl.read_delta(uri, storage_options=storage.options(uri))
    keys = [key for key in ("run_date", "user_id", "rank") if key in frame.columns]
    return frame.sort(keys)


def check_contract(lists: pl.DataFrame, ratings: pl.DataFrame, *, n: int) -> None:
    """The rules of `top_n` in a night without rules of a shop, on every row."""
    filled = lists.drop("because", "predicted_rating_spread", "rule", strict=False)
    assert filled.null_count().sum_horizontal().item() == 0
    for list_ in lists.partition_by("run_date", "user_id", maintain_order=True):
        assert list_["rank"].to_list() == list(range(1, list_.height + 1))
        assert list_["score"].is_sorted(descending=True)
        assert list_.height <= n
        assert list_["movie_id"].n_unique() == list_.height
        assert list_["source"].n_unique() == 1
    assert lists["score"].is_finite().all()
    assert lists["predicted_rating"].is_between(ratings["rating"].min(), ratings["rating"].max()).all()
    assert lists.join(ratings, on=["user_id", "movie_id"], how="semi").is_empty()


def test_the_published_lists_keep_their_contract(data_set: Path, tmp_path: Path) -> None:
    published = run(data_set, str(tmp_path))
    ratings = pl.read_parquet(data_set / "ratings.parquet")
    lists = rows(str(tmp_path))
    check_contract(lists, ratings, n=20)
    assert set(lists["user_id"]) == set(pl.read_parquet(data_set / "users.parquet")["user_id"])
    by_source = dict(lists.group_by("source").agg(pl.col("user_id").n_unique()).iter_rows())
    assert by_source == {"model": 120, "popular": 2}
    assert published.counts["lists"] == 122
    assert (
        published.counts["read"]
        == published.counts["kept"] + published.counts["superseded"] + published.counts["rejected"]
    )
    run_row = rows(str(tmp_path), "runs").row(0, named=True)
    assert run_row["run_id"] == published.run_id
    stages = ["prepare", "split", "train", "evaluate", "refit", "score", "check", "publish", "window"]
    assert json.loads(run_row["config"])["training"] == "blocked_sgd"
    assert model_store.load_model(published.model_uri).training == "blocked_sgd"
    assert list(json.loads(run_row["seconds"])) == list(published.seconds) == stages
    assert not Path(start(data_set, str(tmp_path)).work).exists()


def test_a_cold_user_gets_the_most_rated_movies(data_set: Path, tmp_path: Path) -> None:
    run(data_set, str(tmp_path))
    popular = (
        pl.read_parquet(data_set / "ratings.parquet")
        .group_by("movie_id")
        .len()
        .sort("len", "movie_id", descending=[True, False])
    )
    assert (
        rows(str(tmp_path)).filter(pl.col("user_id") == 900_001)["movie_id"].to_list()
        == popular["movie_id"].head(20).to_list()
    )


def test_disk_and_object_store_get_identical_rows_that_duckdb_reads(
    data_set: Path, tmp_path: Path, bucket: str
) -> None:
    run(data_set, str(tmp_path))
    published = run(data_set, f"{bucket}/night")
    on_disk, in_store = rows(str(tmp_path)), rows(f"{bucket}/night")
    assert on_disk.equals(in_store)
    for uri in (str(tmp_path / "top_n"), published.tables["top_n"]):
        connection = duckdb.connect()
        connection.register(
            "lists", DeltaTable(uri, storage_options=storage.options(uri)).to_pyarrow_dataset()
        )
        assert connection.sql("select count(*), max(rank) from lists").fetchall() == [(on_disk.height, 20)]
    assert len(lookup.user_list(f"{bucket}/night", "1").rows) == 20


def test_ratings_are_read_from_the_object_store_too(data_set: Path, tmp_path: Path, bucket: str) -> None:
    for name in ("ratings", "movies", "users"):
        storage.write_bytes(f"{bucket}/in/{name}.parquet", (data_set / f"{name}.parquet").read_bytes())
    story.nightly(
        story.start(Inputs(ratings=f"{bucket}/in"), output=str(tmp_path / "a"), run_date=NIGHT, config=QUICK)
    )
    story.nightly(
        story.start(Inputs(ratings=str(data_set)), output=str(tmp_path / "b"), run_date=NIGHT, config=QUICK)
    )
    assert rows(str(tmp_path / "a")).equals(rows(str(tmp_path / "b")))


def test_the_same_date_is_replaced_and_another_is_added(data_set: Path, tmp_path: Path) -> None:
    output = str(tmp_path)
    anew = QUICK.model_copy(update={"steady": False})
    run(data_set, output, config=anew)
    first = rows(output)
    run(data_set, output, config=QUICK.model_copy(update={"top_n": 5}))
    assert rows(output).height == 122 * 5
    run(data_set, output, run_date=date(2026, 3, 2), config=anew)
    both = rows(output)
    assert both.filter(pl.col("run_date") == NIGHT).height == 122 * 5
    assert both.filter(pl.col("run_date") == date(2026, 3, 2)).drop("run_date").equals(first.drop("run_date"))
    assert rows(output, "runs")["run_date"].to_list() == [NIGHT, date(2026, 3, 2)]


@pytest.mark.parametrize("shard_users", [1000, 50, 7])
def test_lists_do_not_depend_on_the_shards(data_set: Path, tmp_path: Path, shard_users: int) -> None:
    run(data_set, str(tmp_path / "a"))
    run(data_set, str(tmp_path / "b"), config=QUICK.model_copy(update={"shard_users": shard_users}))
    assert rows(str(tmp_path / "a")).equals(rows(str(tmp_path / "b")))


def test_a_night_that_was_stopped_goes_on_where_it_was(
    data_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(data_set, str(tmp_path / "unkilled"))
    output = str(tmp_path / "killed")
    real_write, calls = storage.write_bytes, []

    def dies_in_the_second_shard(uri: str, data: bytes) -> None:
        calls.append(uri)
        if uri.endswith("scored-00001.json"):
            raise KeyboardInterrupt
        real_write(uri, data)

    monkeypatch.setattr(storage, "write_bytes", dies_in_the_second_shard)
    with pytest.raises(KeyboardInterrupt):
        run(data_set, output)
    assert delta.open_table(output, "top_n") is None
    calls.clear()

    def notes(uri: str, data: bytes) -> None:
        calls.append(uri)
        real_write(uri, data)

    monkeypatch.setattr(storage, "write_bytes", notes)
    run(data_set, output)
    assert not any("model.json" in uri or ("/top_n/" in uri and "-00000-" in uri) for uri in calls)
    assert rows(output).equals(rows(str(tmp_path / "unkilled")))


def test_an_existing_model_scores_ratings_with_users_and_movies_it_does_not_know(
    data_set: Path, tmp_path: Path
) -> None:
    output = str(tmp_path / "out")
    model_uri = run(data_set, output).model_uri
    new = pl.DataFrame(
        {
            "user_id": [777_777] * 2,
            "movie_id": [pl.read_parquet(data_set / "movies.parquet")["movie_id"][0], 888_888],
            "rating": [5.0, 1.0],
        }
    )
    ratings = pl.read_parquet(data_set / "ratings.parquet")
    more = pl.concat(
        [
            ratings,
            new.select(
                "user_id",
                "movie_id",
                pl.col("rating").cast(ratings["rating"].dtype),
                pl.lit(ratings["timestamp"].max()).alias("timestamp"),
            ),
        ]
    )
    (tmp_path / "more").mkdir()
    more.write_parquet(tmp_path / "more" / "ratings.parquet")
    night = story.start(
        Inputs(ratings=str(tmp_path / "more"), model=model_uri),
        output=output,
        run_date=date(2026, 3, 2),
        config=QUICK,
    )
    story.nightly(night)
    lists = rows(output).filter(pl.col("run_date") == date(2026, 3, 2))
    check_contract(lists, more, n=20)
    assert lists.filter(pl.col("user_id") == 777_777)["source"].unique().to_list() == ["model"], (
        "folded in by history"
    )
    known = pl.col("user_id") < 777_777
    before = rows(output).filter((pl.col("run_date") == NIGHT) & known)
    assert lists.filter(known).drop("run_date").equals(before.drop("run_date"))


def test_a_refused_night_changes_nothing_and_an_override_is_recorded(data_set: Path, tmp_path: Path) -> None:
    output = str(tmp_path)
    run(data_set, output)
    before = rows(output)
    strict = QUICK.model_copy(update={"gate_max_rmse": 0.01, "epochs": 1})
    with pytest.raises(GateRefused, match="above gate_max_rmse"):
        run(data_set, output, config=strict)
    assert rows(output).equals(before)
    run(data_set, output, config=strict.model_copy(update={"gate_override": True}))
    assert rows(output, "runs")["gate"][0].startswith("overridden: rmse is")


def test_lists_go_by_affinity_or_by_predicted_rating(data_set: Path, tmp_path: Path) -> None:
    run(
        data_set,
        str(tmp_path),
        config=QUICK.model_copy(update={"rank_by": "rating", "gate_beat_popularity": False}),
    )
    by_rating = rows(str(tmp_path)).filter(pl.col("source") == "model")
    assert all(
        list_["predicted_rating"].is_sorted(descending=True) for list_ in by_rating.partition_by("user_id")
    )
    run(data_set, str(tmp_path))
    by_affinity = rows(str(tmp_path))
    check_contract(by_affinity, pl.read_parquet(data_set / "ratings.parquet"), n=20)
    assert not by_affinity.filter(pl.col("source") == "model")["movie_id"].equals(by_rating["movie_id"])


@pytest.mark.parametrize("holdout", ["random", "none"])
def test_other_holdouts_publish_too(data_set: Path, tmp_path: Path, holdout: str) -> None:
    published = run(data_set, str(tmp_path), config=QUICK.model_copy(update={"holdout": holdout}))
    assert (published.metrics["rmse"] is None) == (holdout == "none")


def test_string_ids_go_through_the_whole_night(data_set: Path, tmp_path: Path) -> None:
    ratings = pl.read_parquet(data_set / "ratings.parquet").with_columns(
        pl.format("usér {}", "user_id").alias("user_id"),
        pl.format("m/{}'; drop", "movie_id").alias("movie_id"),
    )
    (tmp_path / "in").mkdir()
    ratings.write_parquet(tmp_path / "in" / "ratings.parquet")
    output = str(tmp_path / "out")
    story.nightly(
        story.start(Inputs(ratings=str(tmp_path / "in")), output=output, run_date=NIGHT, config=QUICK)
    )
    check_contract(rows(output), ratings, n=20)
    assert len(lookup.user_list(output, "usér 1").rows) == 20
    with pytest.raises(InputError, match=r"column '(user|movie)_id' is int64|is string"):
        run(data_set, output)


def test_the_same_seed_gives_the_same_tables_and_another_does_not(data_set: Path, tmp_path: Path) -> None:
    run(data_set, str(tmp_path / "a"))
    run(data_set, str(tmp_path / "b"))
    run(data_set, str(tmp_path / "c"), config=QUICK.model_copy(update={"seed": 1}))
    a, b, c = (rows(str(tmp_path / name)) for name in "abc")
    assert a.equals(b)
    assert not a.equals(c)


def test_a_list_longer_than_the_catalogue_is_refused_before_anything_is_written(
    data_set: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="the catalogue has"):
        run(data_set, str(tmp_path / "out"), config=QUICK.model_copy(update={"top_n": 1000}))
    assert not (tmp_path / "out").exists()


def test_train_and_evaluate_alone_publish_nothing(data_set: Path, tmp_path: Path) -> None:
    output = str(tmp_path)
    night = start(data_set, output, config=QUICK.model_copy(update={"refit": False}))
    trained = story.train_alone(night)
    assert model_store.load_model(trained.model_uri).movies.height > 0
    metrics = story.evaluate_alone(start(data_set, output, model=trained.model_uri))
    assert metrics["rmse"] is not None
    assert delta.open_table(output, "top_n") is None


def test_predictions_of_pairs_match_the_published_ones(data_set: Path, tmp_path: Path) -> None:
    output = str(tmp_path / "out")
    published = run(data_set, output)
    lists = rows(output).filter(pl.col("source") == "model")
    unknown = pl.DataFrame({"user_id": [-5], "movie_id": [-5]})
    pl.concat([lists.select("user_id", "movie_id"), unknown]).write_parquet(tmp_path / "pairs.parquet")
    n = predict.predict_pairs(
        published.model_uri, str(tmp_path / "pairs.parquet"), str(tmp_path / "out.parquet")
    )
    predicted = pl.read_parquet(tmp_path / "out.parquet")
    assert n == predicted.height == lists.height + 1
    assert (predicted["predicted_rating"].head(-1) - lists["predicted_rating"]).abs().max() < 1e-5  # type: ignore[operator]
    one = predict.predict_one(published.model_uri, str(lists["user_id"][0]), "no such movie")
    assert one["user_known"]
    assert not one["movie_known"]
