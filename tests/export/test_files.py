"""Files of a night's lists: every form has the rows of the published table, whole or not at all."""

import json
import sqlite3
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from cfjobs.errors import DamagedFile, InputError, StorageFault
from cfjobs.export import export, rows
from cfjobs.export.rows import Lists

NIGHT, BEFORE = date(2026, 3, 1), date(2026, 2, 28)
COLUMNS = ["user_id", "rank", "movie_id", "title", "score", "predicted_rating", "source"]


def published(folder: Path, day: date = NIGHT) -> pl.DataFrame:
    """The night's rows with titles, by user and rank."""
    out = str(folder / "out")
    titles = pl.read_delta(f"{out}/movie_embeddings").filter(run_date=day).select("movie_id", "title")
    lists = pl.read_delta(f"{out}/top_n").filter(run_date=day)
    return lists.join(titles, on="movie_id", how="left").select(COLUMNS).sort("user_id", "rank")


def from_jsonl(path: Path) -> pl.DataFrame:
    lines = [json.loads(line) for line in path.read_bytes().split(b"\n") if line]
    assert len({line["user_id"] for line in lines}) == len(lines)
    return pl.DataFrame([{"user_id": line["user_id"], **item} for line in lines for item in line["items"]])


def from_sqlite(path: Path) -> pl.DataFrame:
    with sqlite3.connect(path) as database:
        return pl.read_database("select * from top_n", database)


READERS: dict[str, Callable[[Path], pl.DataFrame]] = {
    "csv": pl.read_csv,
    "jsonl": from_jsonl,
    "parquet": pl.read_parquet,
    "sqlite": from_sqlite,
}


@pytest.mark.parametrize("block_rows", [7, 250_000])
@pytest.mark.parametrize("form", READERS)
def test_every_form_has_the_rows_of_the_table(
    two_nights: Path, tmp_path: Path, form: str, block_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "BLOCK_ROWS", block_rows)
    to = tmp_path / f"lists.{form}"
    done = export(str(two_nights / "out"), str(to))
    wanted = published(two_nights)
    found = READERS[form](to).sort("user_id", "rank")
    assert (done.lists, done.rows) == (wanted["user_id"].n_unique(), wanted.height)
    columns = [name for name in COLUMNS if name in found.columns]
    assert len(columns) >= 6
    for name in columns:
        if wanted.schema[name] == pl.Float32:
            assert (found[name].cast(pl.Float32) - wanted[name]).abs().max() < 1e-6  # type: ignore[operator]
        else:
            assert found[name].to_list() == wanted[name].to_list()
    assert [path.name for path in tmp_path.iterdir()] == [to.name]


def test_a_part_of_the_lists_of_a_night_for_some_users(two_nights: Path, tmp_path: Path) -> None:
    lists = published(two_nights, BEFORE)
    some = lists["user_id"].unique().sort().head(5)
    wanted = pl.DataFrame({"user_id": [*some, 10**9]})
    wanted.write_parquet(tmp_path / "users.parquet")
    done = export(
        str(two_nights / "out"),
        str(tmp_path / "lists.parquet"),
        run_date=BEFORE,
        top=3,
        users=str(tmp_path / "users.parquet"),
        titles=False,
    )
    found = pl.read_parquet(tmp_path / "lists.parquet")
    assert (done.lists, done.users_without_list) == (5, 1)
    assert found["run_date"].unique().to_list() == [BEFORE]
    mine = lists.filter(pl.col("user_id").is_in(some.implode()), pl.col("rank") <= 3)
    assert found.drop("run_date").sort("user_id", "rank").equals(mine.drop("title"))


def broken(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on the store fails after the first block."""
    blocks = Lists.blocks

    def fail(lists: Lists) -> Iterator[pl.DataFrame]:
        yield next(blocks(lists))
        raise StorageFault("the store went away")

    monkeypatch.setattr(Lists, "blocks", fail)


@pytest.mark.parametrize("form", READERS)
def test_what_fails_leaves_the_file_of_before(
    two_nights: Path, tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    to = tmp_path / f"lists.{form}"
    export(str(two_nights / "out"), str(to))
    before = to.read_bytes()
    broken(monkeypatch)
    with pytest.raises(StorageFault, match="went away"):
        export(str(two_nights / "out"), str(to))
    assert to.read_bytes() == before
    assert list(tmp_path.iterdir()) == [to]


def test_what_cannot_be_written_is_told(two_nights: Path, tmp_path: Path) -> None:
    def refused(to: str, **more: Any) -> str:
        with pytest.raises(InputError) as error:
            export(str(two_nights / "out"), to, **more)
        return str(error.value)

    assert "its end does not say what to write" in refused(str(tmp_path / "lists"))
    assert "its end does not say" in refused("mysql://me:planted@host/x")
    assert "planted" not in refused("mysql://me:planted@host/x")
    (tmp_path / "mine.db").write_text("precious")
    assert "no SQLite file" in refused(str(tmp_path / "mine.db"))
    with sqlite3.connect(tmp_path / "app.db") as database:
        database.execute("create table orders (id int)")
    assert "orders" in refused(str(tmp_path / "app.db"))
    pl.DataFrame({"user_id": ["someone"]}).write_parquet(tmp_path / "users.parquet")
    assert "'someone' cannot be an id" in refused(
        str(tmp_path / "x.csv"), users=str(tmp_path / "users.parquet")
    )
    assert not (tmp_path / "x.csv").exists()


def test_lists_whose_rows_lie_apart_are_refused() -> None:
    together = pl.DataFrame({"user_id": [1, 1, 2], "rank": [1, 2, 1]})
    Lists._check(together, after=None, uri="x")
    Lists._check(together.tail(2).with_columns(rank=pl.Series([2, 1])), after=1, uri="x")
    for user, rank, after in (([1, 1], [2, 3], None), ([1, 2, 1], [1, 1, 2], None), ([1], [1], 1)):
        with pytest.raises(DamagedFile, match="lie apart"):
            Lists._check(pl.DataFrame({"user_id": user, "rank": rank}), after=after, uri="x")
