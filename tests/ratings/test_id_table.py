"""Any table with ids, of any type: read as the same ids, or refused in one line before anything costly."""

from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cfjobs import ratings
from cfjobs.config import Config
from cfjobs.errors import InputError
from cfjobs.lists import eligible
from cfjobs.query import new_user, predict
from cfjobs.ratings import column_types, id_table
from tests.conftest import ROOT

NOW = datetime(2026, 3, 1)
USERS, MOVIES = [7, 7, 8], [31, 32, 31]


def _ratings(uri: str) -> pl.DataFrame:
    files = ratings.list_parquet(uri, what="ratings")
    found = ratings.read_ratings(files, config=Config(), until=NOW, now=NOW).ratings
    users, movies = (
        found.users.gather(found.column("user_idx")),
        found.movies["movie_id"].gather(found.column("movie_idx")),
    )
    return pl.DataFrame({"user_id": users, "movie_id": movies})


def _own(uri: str) -> pl.DataFrame:
    text, settings = pl.Series("user_id", [], dtype=pl.String), SimpleNamespace(y_range=(1.0, 5.0))
    model = SimpleNamespace(
        movies=pl.DataFrame({"movie_id": text}),
        users=text.to_frame(),
        stars=SimpleNamespace(settings=settings),
    )
    return new_user.read(uri, config=Config(), model=cast(Any, model)).frame.select("movie_id")


def _limit(what: str) -> Callable[[str], pl.DataFrame]:
    return lambda uri: eligible.read({what: uri}, config=Config())[what]


READERS: dict[str, Callable[[str], pl.DataFrame]] = {
    "ratings": _ratings,
    "movies": lambda uri: ratings.read_table(uri, key="movie_id", name="movie").select("movie_id"),
    "users": lambda uri: ratings.read_table(uri, key="user_id", name="user").select("user_id"),
    "allow": _limit("allow"),
    "deny": _limit("deny"),
    "exclude": _limit("exclude"),
    "pairs": lambda uri: predict.read_pairs(uri).select("user_id", "movie_id"),
    "ratings of one user": _own,
}


def _decimals(precision: int, scale: int) -> Callable[[list[int]], pa.Array]:
    kind = pa.decimal128 if precision <= 38 else pa.decimal256
    return lambda ids: pa.array([Decimal(i) for i in ids], kind(precision, scale))


def _of(kind: pa.DataType) -> Callable[[list[int]], pa.Array]:
    return lambda ids: pa.array(ids, kind)


def _texts(kind: pa.DataType) -> Callable[[list[int]], pa.Array]:
    return lambda ids: pa.array([str(i) for i in ids]).cast(kind)


RIGHT: dict[str, Callable[[list[int]], pa.Array]] = {
    "int8": _of(pa.int8()),
    "int32": _of(pa.int32()),
    "int64": _of(pa.int64()),
    "uint16": _of(pa.uint16()),
    "uint64": _of(pa.uint64()),
    "decimal(20, 0)": _decimals(20, 0),
    "decimal(38, 0)": _decimals(38, 0),
    "string": _texts(pa.string()),
    "large string": _texts(pa.large_string()),
    "string view": _texts(pa.string_view()),
    "bytes": _texts(pa.binary()),
    "category": lambda ids: pa.array([str(i) for i in ids]).dictionary_encode(),
    "category of integers": lambda ids: pa.array(ids).dictionary_encode(),
}
WRONG: dict[str, tuple[Callable[[list[int]], pa.Array], str]] = {
    "float": (_of(pa.float64()), "Float64"),
    "float16": (_of(pa.float16()), "Float16"),
    "bool": (lambda ids: pa.array([True] * len(ids)), "boolean"),
    "date": (lambda ids: pa.array([date(2026, 1, 1)] * len(ids)), "Date"),
    "datetime": (lambda ids: pa.array([datetime(2026, 1, 1, tzinfo=UTC)] * len(ids)), "Datetime"),
    "time": (lambda ids: pa.array([time(1)] * len(ids)), "Time"),
    "duration": (lambda ids: pa.array([timedelta(1)] * len(ids)), "Duration"),
    "list": (lambda ids: pa.array([[i] for i in ids]), "List"),
    "struct": (lambda ids: pa.array([{"id": i} for i in ids]), "Struct"),
    "map": (lambda ids: pa.array([[("id", i)] for i in ids], pa.map_(pa.string(), pa.int64())), "Map"),
    "decimal(10, 2)": (_decimals(10, 2), "Decimal"),
    "decimal(40, 1)": (_decimals(40, 1), r"decimal\(40, 1\)"),
    "bytes of a fixed size": (lambda ids: pa.array([b"%04d" % i for i in ids], pa.binary(4)), "fixed size"),
    "uuid": (
        lambda ids: pa.ExtensionArray.from_storage(
            pa.uuid(), pa.array([UUID(int=i).bytes for i in ids], pa.binary(16))
        ),
        "UUID",
    ),
}
COLUMNS = [
    (table, column)
    for table in READERS
    for column in ("user_id", "movie_id")
    if (table, column) != ("ratings of one user", "user_id")
]


def _write(folder: Path, name: str, columns: dict[str, Any]) -> str:
    others = {"rating": pa.array([3.0, 4.0, 5.0]), "timestamp": pa.array([1, 2, 3])}
    pq.write_table(pa.table({"user_id": USERS, "movie_id": MOVIES, **others, **columns}), folder / name)
    return str(folder / name)


@pytest.mark.parametrize("table", READERS)
def test_an_id_is_the_same_in_every_table_and_of_every_type(table: str, tmp_path: Path) -> None:
    one_user = {"user_id": [7, 7, 7], "movie_id": [31, 32, 33]}
    ids = one_user if table == "ratings of one user" else {"user_id": USERS, "movie_id": MOVIES}
    for name, typed in RIGHT.items():
        uri = _write(tmp_path, "table.parquet", {column: typed(values) for column, values in ids.items()})
        found = READERS[table](uri)
        assert set(found.dtypes) <= {pl.Int64, pl.String}, name
        for column in found.columns:
            assert set(id_table.as_ids(found[column], pl.Int64())) == set(ids[column]), (name, column)
            known = pl.Series(sorted(map(str, set(ids[column]))))
            assert -1 not in ratings.rows_of(found[column], known), (name, column)


@pytest.mark.parametrize(("table", "column"), COLUMNS)
def test_a_column_that_holds_no_ids_ends_the_run_in_one_line(table: str, column: str, tmp_path: Path) -> None:
    if column not in READERS[table](_write(tmp_path, "right.parquet", {"user_id": [7, 7, 7]})).columns:
        return
    values = USERS if column == "user_id" else MOVIES
    for typed, words in WRONG.values():
        uri = _write(tmp_path, "wrong", {column: typed(values)})
        with pytest.raises(InputError, match=rf"^{table},? .*/wrong: '{column}' is .*{words}") as error:
            READERS[table](uri)
        assert "\n" not in str(error.value)
        assert "cast it" in str(error.value)


@pytest.mark.parametrize("table", READERS)
def test_a_file_that_is_none_ends_the_run_in_one_line(table: str, tmp_path: Path) -> None:
    whole = Path(_write(tmp_path, "whole", {})).read_bytes()
    twice = pa.Table.from_arrays([pa.array([1])] * 4, names=["user_id", "movie_id", "rating", "user_id"])
    pq.write_table(twice, tmp_path / "twice")
    damaged = {
        "text": b"user_id,movie_id\n1,2\n",
        "empty": b"",
        "cut": whole[:-20],
        "holed": whole[:4] + bytes(400) + whole[404:],
    }
    for name, data in damaged.items():
        (tmp_path / name).write_bytes(data)
    for name in [*damaged, "twice", "absent"]:
        with pytest.raises(InputError, match=name) as error:
            READERS[table](str(tmp_path / name))
        assert "\n" not in str(error.value)


def test_files_of_one_table_may_differ_in_types_but_not_in_kind(tmp_path: Path) -> None:
    pl.DataFrame({"movie_id": [7], "title": ["Seven"], "year": [1995]}).write_parquet(tmp_path / "a.parquet")
    pl.DataFrame({"movie_id": ["8"], "title": [None], "tags": [["x"]]}).write_parquet(tmp_path / "b.parquet")
    table = ratings.read_table(str(tmp_path), key="movie_id", name="movie")
    assert table["movie_id"].to_list() == ["7", "8"]
    pl.DataFrame({"movie_id": [9], "tags": [3]}).write_parquet(tmp_path / "c.parquet")
    with pytest.raises(InputError, match="'tags' is Int64 and List"):
        ratings.read_table(str(tmp_path), key="movie_id", name="movie")


def test_a_further_column_that_cannot_be_read_is_left_out_by_name(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    wide = _decimals(40, 1)([1, 2, 3])
    uri = _write(tmp_path, "movies.parquet", {"movie_id": [1, 2, 3], "budget": wide})
    caplog.set_level("WARNING", logger="cfjobs")
    assert "budget" not in ratings.read_table(uri, key="movie_id", name="movie").columns
    assert "'budget' is left out" in caplog.text


def test_bytes_that_are_no_text_are_no_id() -> None:
    assert id_table.as_ids(pl.Series([b"7", b"\xff", None]), pl.Int64()).to_list() == [7, None, None]


def test_a_title_of_bytes_is_text(tmp_path: Path) -> None:
    pl.DataFrame({"movie_id": [1, 2], "title": ["Amélie".encode(), b"\xff"]}).write_parquet(tmp_path / "a")
    assert ratings.read_table(str(tmp_path), key="movie_id", name="movie")["title"].to_list() == [
        "Amélie",
        None,
    ]


@pytest.mark.parametrize("table", ["users", "deny", "exclude", "pairs"])
def test_a_table_without_rows_asks_for_nothing(table: str, tmp_path: Path) -> None:
    pl.DataFrame(schema={"user_id": pl.Float64, "movie_id": pl.Null}).write_parquet(tmp_path / "none.parquet")
    found = READERS[table](str(tmp_path))
    assert found.is_empty()
    assert (ratings.rows_of(found[found.columns[0]], pl.Series([1, 2])) >= 0).sum() == 0


def test_the_accepted_types_are_documented() -> None:
    page = " ".join((ROOT / "docs" / "input.md").read_text(encoding="utf-8").split())
    for in_full in column_types.ACCEPTED.values():
        assert in_full in page


def test_ids_of_a_csv_keep_their_zeros(tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text(
        "user_id,movie_id,rating\n007,0031,4\n\n007,32,5\n\n", encoding="utf-8"
    )
    assert _own(str(tmp_path / "mine.csv"))["movie_id"].to_list() == ["0031", "32"]
