"""Scoring at scale: reading by ranges, parts of bounded size, candidates."""

import functools
import itertools
import json
import logging
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.torch
import torch
from deltalake import DeltaTable
from hypothesis import given, settings
from hypothesis import strategies as st

from cfjobs import model_store, models, storage
from cfjobs.config import Config
from cfjobs.errors import InputError
from cfjobs.lists.writer import PartsWriter
from cfjobs.model_store.slices import ModelSlices, of_some_users
from cfjobs.night import score, story
from cfjobs.storage.parquet import SortedFile, TableFile
from cfjobs.storage.tensors import TensorFile
from tests.night.test_story import QUICK, check_contract, rows, run, start

SCHEMA = pa.schema({"user_id": pa.int64(), "rank": pa.int16(), "movie_id": pa.int64(), "source": pa.string()})


def write_sorted(path: Path, counts: list[int], *, group: int) -> pl.DataFrame:
    """A Parquet file of `counts[k]` rows of key k, in row groups of `group`."""
    keys = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    frame = pl.DataFrame({"key": keys, "value": np.arange(keys.size)})
    pq.write_table(frame.to_arrow(), path, row_group_size=group)
    return frame


@settings(max_examples=40, deadline=None)
@given(
    counts=st.lists(st.integers(0, 9), min_size=1, max_size=30),
    group=st.integers(1, 12),
    cut=st.tuples(st.integers(0, 30), st.integers(0, 30)),
    keys=st.integers(1, 8),
    rows_=st.integers(1, 20),
)
def test_a_sorted_file_gives_the_rows_of_any_range(
    tmp_path_factory: pytest.TempPathFactory,
    counts: list[int],
    group: int,
    cut: tuple[int, int],
    keys: int,
    rows_: int,
) -> None:
    path = tmp_path_factory.mktemp("sorted") / "f.parquet"
    frame = write_sorted(path, counts, group=group)
    file = SortedFile(str(path), key="key", columns=["key", "value"])
    start_, stop = sorted(min(c, len(counts)) for c in cut)
    assert file.between(start_, stop).equals(frame.filter(pl.col("key").is_between(start_, stop - 1)))
    found = file.ranges(start_, stop, keys=keys, rows=rows_)
    assert list(itertools.chain(*found)) == list(range(start_, stop)), "every key once, in order"
    assert all(0 < len(r) <= keys for r in found)
    for r in found:  # at most `rows` are read, beside the row groups at both ends
        assert len(r) == 1 or file.between(r.start, r.stop).height <= rows_ + 2 * group
    first, last = sorted(min(c, frame.height) for c in cut)
    assert (
        TableFile(str(path), columns=["value"])
        .rows(first, last)
        .equals(frame.slice(first, last - first).select("value"))
    )


def test_only_the_wanted_row_groups_are_read_over_s3(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame = write_sorted(tmp_path / "f.parquet", [1_000] * 100, group=5_000)
    uri = f"{bucket}/f.parquet"
    storage.write_bytes(uri, (tmp_path / "f.parquet").read_bytes())
    file = SortedFile(uri, key="key", columns=["key", "value"])
    read: list[int] = []
    real = storage.read_range

    def counted(uri: str, start: int, stop: int) -> bytes:
        read.append(stop - start)
        return real(uri, start, stop)

    monkeypatch.setattr("cfjobs.storage.files.read_range", counted)
    assert file.between(42, 44).equals(frame.filter(pl.col("key").is_between(42, 43)))
    assert 0 < sum(read) < storage.size(uri) / 10


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.bool])
def test_tensors_are_read_by_rows(tmp_path: Path, dtype: torch.dtype) -> None:
    tensors = {"a": torch.arange(60).reshape(10, 3, 2).to(dtype), "b": torch.ones(()).to(dtype)}
    path = tmp_path / "t.safetensors"
    safetensors.torch.save_file(tensors, path)
    file = TensorFile(str(path))
    assert torch.equal(file.tensor("a"), tensors["a"])
    assert torch.equal(file.tensor("b"), tensors["b"])
    assert torch.equal(file.rows("a", 3, 7), tensors["a"][3:7])
    assert file.rows("a", 4, 4).shape == (0, 3, 2)


@pytest.mark.parametrize("name", models.names())
def test_a_slice_of_a_model_predicts_and_scores_as_the_whole(
    data_set: Path, tmp_path: Path, name: str
) -> None:
    config = QUICK.model_copy(update={"model": name, "epochs": 1, "rank_by": "rating", "refit": False})
    trained = story.train_alone(start(data_set, str(tmp_path), config=config))
    whole = model_store.load_model(trained.model_uri)
    part = ModelSlices(trained.model_uri, device=torch.device("cpu")).of_users(range(30, 50))
    movies = torch.arange(20)
    expected = whole.network(torch.arange(30, 50), movies)
    assert torch.equal(part.network(torch.arange(20), movies), expected)
    unknown = torch.full((20,), -1)
    assert torch.equal(part.network(unknown, movies), whole.network(unknown, movies))
    assert torch.equal(part.network.scores().user, whole.network.scores().user[30:50])
    assert part.users.equals(whole.users[30:50])
    rows = np.array([3, 31, 49])
    some = of_some_users(whole, rows)
    assert torch.equal(
        some.network(torch.arange(3), movies[:3]), whole.network(torch.tensor(rows), movies[:3])
    )
    assert torch.equal(some.network(unknown[:3], movies[:3]), whole.network(unknown[:3], movies[:3]))
    assert some.users.equals(whole.users[rows])


# Parts ----------------------------------------------------------------------------------------------


def lists_of(lengths: list[int]) -> pa.Table:
    ranks = [rank for n in lengths for rank in range(1, n + 1)]
    users = [user for user, n in enumerate(lengths) for _ in range(n)]
    data: dict[str, Any] = {
        "user_id": users,
        "rank": ranks,
        "movie_id": ranks,
        "source": ["model"] * len(ranks),
    }
    return pa.table(data, schema=SCHEMA)


def write_parts(folder: Path, table: pa.Table, *, pieces: list[int], part: int, group: int) -> PartsWriter:
    writer = PartsWriter(
        str(folder), schema=SCHEMA, path=lambda n: f"{n}.parquet", part_rows=part, group_rows=group
    )
    with writer:
        at = 0
        for size in [*pieces, table.num_rows]:
            writer.write(table.slice(at, size))
            at += size
    return writer


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 6), max_size=40),
    pieces=st.lists(st.integers(1, 30), max_size=5),
    part=st.integers(1, 60),
    group=st.integers(1, 20),
)
def test_parts_hold_whole_lists_in_order_whatever_the_batches(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], pieces: list[int], part: int, group: int
) -> None:
    folder, table = tmp_path_factory.mktemp("parts"), lists_of(lengths)
    writer = write_parts(folder / "a", table, pieces=pieces, part=part, group=group)
    assert writer.n_lists == len(lengths)
    files = [folder / "a" / p.path for p in writer.parts]
    assert [(p.size, p.rows) for p in writer.parts] == [
        (f.stat().st_size, pq.read_metadata(f).num_rows) for f in files
    ]
    assert pa.concat_tables([SCHEMA.empty_table(), *map(pq.read_table, files)]).equals(table)
    groups = [
        pq.ParquetFile(f).read_row_group(g) for f in files for g in range(pq.read_metadata(f).num_row_groups)
    ]
    users = [set(g["user_id"].to_pylist()) for g in groups]
    assert sum(map(len, users)) == len(lengths), "no list is in two row groups"
    assert all(g.num_rows <= group or len(u) == 1 for g, u in zip(groups, users, strict=True))
    assert all(p.rows < part + max(group, 6) for p in writer.parts)
    for p, f in zip(writer.parts, files, strict=True):
        ids = pq.read_table(f)["user_id"].to_pylist()
        stats = json.loads(p.stats)
        assert (stats["minValues"]["user_id"], stats["maxValues"]["user_id"]) == (min(ids), max(ids))
    again = write_parts(folder / "b", table, pieces=[], part=part, group=group)
    assert [p.stats for p in again.parts] == [p.stats for p in writer.parts]
    assert [(folder / "b" / p.path).read_bytes() for p in again.parts] == [f.read_bytes() for f in files]


def test_a_part_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def fail() -> None:
        with PartsWriter(str(tmp_path), schema=SCHEMA, path=str, part_rows=10**6, group_rows=5) as writer:
            writer.write(lists_of([4] * 10))
            assert list(tmp_path.iterdir())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("where", ["disk", "s3"])
def test_a_look_up_of_one_user_opens_one_file_and_one_row_group(
    data_set: Path, tmp_path: Path, bucket: str, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    small = functools.partial(PartsWriter, group_rows=200)
    monkeypatch.setattr(score, "PartsWriter", small)
    output = str(tmp_path) if where == "disk" else f"{bucket}/out"
    run(data_set, output, config=QUICK.model_copy(update={"part_rows": 500}))
    uri = storage.join(output, "top_n")
    table = DeltaTable(uri, storage_options=storage.options(uri))
    frame = rows(output)
    assert len(table.file_uris()) > 5
    dataset = table.to_pyarrow_dataset()
    for user in frame["user_id"].unique().sample(10, seed=1).to_list():
        wanted = pa.compute.field("user_id") == user
        fragments = list(dataset.get_fragments(filter=wanted))
        groups = [g for f in fragments for g in f.split_by_row_group(wanted)]
        assert (len(fragments), len(groups)) == (1, 1)
        assert dataset.to_table(filter=wanted).num_rows == 20
    if where == "disk":
        metadata = pq.read_metadata(table.file_uris()[0])
        column = metadata.row_group(0).column(0)
        assert column.compression == "ZSTD"
        assert column.has_offset_index
        assert column.statistics.has_min_max


# Memory ---------------------------------------------------------------------------------------------


def test_lists_do_not_depend_on_the_chunks(
    data_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(data_set, str(tmp_path / "a"))
    small = score._Room(chunk_users=7, chunk_ratings=100, engine=1e7)
    monkeypatch.setattr(score._Room, "of", classmethod(lambda *_, **__: small))
    run(data_set, str(tmp_path / "b"), config=QUICK.model_copy(update={"shard_users": None}))
    assert rows(str(tmp_path / "a")).equals(rows(str(tmp_path / "b")))


def test_too_little_memory_for_the_movies_is_refused(data_set: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"memory_gb: got 0\.5, but scoring 294 movies takes 0\.8 at least"):
        run(data_set, str(tmp_path), config=QUICK.model_copy(update={"memory_gb": 0.5}))


def test_shards_are_cut_by_the_work_and_stay_as_they_were(data_set: Path, tmp_path: Path) -> None:
    night = start(data_set, str(tmp_path), config=Config())
    prepared = story.prepare(night)
    big = prepared.model_copy(update={"n_users": 3_000_000, "n_movies": 59_047, "n_cold_users": 5})
    found = story.shards(night, big)
    assert [s.start for s in found[1:]] == [s.stop for s in found[:-1]]
    assert [s.cold for s in found] == [False] * (len(found) - 1) + [True]
    assert 50_000 < found[0].stop < 2_000_000
    assert story.shards(night, prepared) == found, "as cut when scoring began"


# Candidates -----------------------------------------------------------------------------------------


def movie_ids(data_set: Path) -> pl.Series:
    return pl.read_parquet(data_set / "ratings.parquet")["movie_id"].unique().sort()


def table_of(folder: Path, name: str, **columns: Any) -> str:
    path = folder / f"{name}.parquet"
    pl.DataFrame(columns).write_parquet(path)
    return str(path)


def test_allowed_denied_and_excluded_movies(
    data_set: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO, "cfjobs")
    monkeypatch.setattr(logging.getLogger("cfjobs"), "propagate", True)
    ids = movie_ids(data_set)
    allowed, denied = ids[:60], ids[50:60]
    excluded = [(user, movie) for user in (1, 2, 900_001) for movie in ids[:25].to_list()]
    excluded += [(-7, int(ids[0])), (1, -9)]
    more = {
        "allow": table_of(tmp_path, "allow", movie_id=[*allowed, -1, -2]),
        "deny": table_of(tmp_path, "deny", movie_id=denied),
        "exclude": table_of(
            tmp_path, "exclude", user_id=[p[0] for p in excluded], movie_id=[p[1] for p in excluded]
        ),
    }
    run(data_set, str(tmp_path / "out"), config=QUICK.model_copy(update={"top_n": 50}), **more)
    lists = rows(str(tmp_path / "out"))
    ratings = pl.read_parquet(data_set / "ratings.parquet")
    check_contract(lists, ratings, n=50)
    of_user = dict(lists.group_by("user_id").agg(pl.col("movie_id")).iter_rows())
    may = set(allowed) - set(denied)
    for user, listed in of_user.items():
        seen = set(ratings.filter(pl.col("user_id") == user)["movie_id"])
        left = may - seen - {movie for u, movie in excluded if u == user}
        assert set(listed) == left, "fewer candidates than N: all of them, and no other"
    assert "allow: 62 movies, 2 of them unknown" in caplog.text
    assert "exclude: 77 pairs, 2 of them unknown" in caplog.text


def test_a_least_score_shortens_the_lists_of_the_model(data_set: Path, tmp_path: Path) -> None:
    run(data_set, str(tmp_path / "all"))
    all_lists = rows(str(tmp_path / "all"))
    model = all_lists.filter(pl.col("source") == "model")
    least = float(model["score"].median())  # type: ignore[arg-type]
    run(data_set, str(tmp_path / "best"), config=QUICK.model_copy(update={"min_score": least}))
    kept = all_lists.filter((pl.col("score") >= least) | (pl.col("source") == "popular"))
    assert rows(str(tmp_path / "best")).equals(kept)


def test_candidates_are_part_of_the_night(data_set: Path, tmp_path: Path) -> None:
    table = table_of(tmp_path, "some", movie_id=movie_ids(data_set)[:30])
    works = {
        start(data_set, str(tmp_path), **more).work
        for more in ({}, {"allow": table}, {"deny": table}, {"allow": table, "deny": table})
    }
    assert len(works) == 4
    same = start(data_set, str(tmp_path), config=QUICK.model_copy(update={"memory_gb": 9.0, "threads": 1}))
    assert same.work in works


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"id": [1]}, "has no column 'movie_id'"),
        ({"movie_id": [-1]}, "leave none of"),
        (None, "holds no .parquet"),
    ],
)
def test_a_wrong_allow_table_is_refused(
    data_set: Path, tmp_path: Path, columns: dict[str, Any] | None, said: str
) -> None:
    uri = table_of(tmp_path, "allow", **columns) if columns else str(tmp_path / "absent")
    with pytest.raises(InputError, match=said):
        run(data_set, str(tmp_path / "out"), allow=uri)
    assert not (tmp_path / "out" / "models").exists()


def test_an_existing_model_scores_with_candidates_too(data_set: Path, tmp_path: Path) -> None:
    output = str(tmp_path / "out")
    model = run(data_set, output).model_uri
    table = table_of(tmp_path, "allow", movie_id=movie_ids(data_set)[:10])
    few = QUICK.model_copy(update={"gate_override": True})  # ten movies make shorter lists than last night's
    night = start(data_set, output, model=model, allow=table, run_date=date(2026, 3, 2), config=few)
    story.nightly(night)
    lists = rows(output).filter(pl.col("run_date") == date(2026, 3, 2))
    assert lists["movie_id"].is_in(movie_ids(data_set)[:10].implode()).all()
