"""What the URI of an input stands for, on a disk and in a store: every file is read, hidden, or named."""

import base64
import json
import os
import struct
from datetime import date, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import polars as pl
import pytest
from deltalake import DeltaTable
from pyiceberg.catalog.memory import InMemoryCatalog
from pyiceberg.manifest import FileFormat

from cfjobs import ratings, storage
from cfjobs.config import Config
from cfjobs.errors import InputError
from cfjobs.lists import eligible
from cfjobs.ratings import history, iceberg
from cfjobs.storage.uri import FileInfo

NOW = datetime(2026, 3, 1)
FRAME = pl.DataFrame(
    {
        "user_id": [1, 2, 3, 4],
        "movie_id": [10, 20, 30, 40],
        "rating": [1.0, 2.0, 3.0, 4.0],
        "timestamp": [1, 2, 3, 4],
    }
)


def users_of(uri: str) -> list[int]:
    """Who has ratings, by the reader of ratings; the reader of small tables has to agree."""
    uri = ratings.pinned(storage.normal(uri), what="ratings")
    files = ratings.list_parquet(uri, what="ratings")
    found = ratings.read_ratings(files, config=Config(), until=NOW, now=NOW)
    assert found.counts["read"] == found.counts["kept"]
    assert set(ratings.read_table(uri, key="user_id", name="user")["user_id"]) == set(found.ratings.users)
    assert eligible.read({"deny": uri}, config=Config())["deny"].height == found.counts["read"]
    return found.ratings.users.to_list()


def bitmap(rows: list[int]) -> bytes:
    """A 64-bit Roaring bitmap of small numbers, as Delta keeps deletion vectors."""
    one = struct.pack("<IIHHI", 12346, 1, 0, len(rows) - 1, 16) + np.array(rows, dtype="<u2").tobytes()
    return struct.pack("<iQI", 1681511377, 1, 0) + one


def with_deletion_vector(folder: Path, frame: pl.DataFrame, rows: list[int]) -> None:
    """A Delta table of one file of which some rows are deleted, as Spark leaves it after DELETE."""
    (folder / "_delta_log").mkdir(parents=True)
    frame.write_parquet(folder / "part-0.parquet")
    data = bitmap(rows)
    vector = base64.b85encode(data + bytes(-len(data) % 4)).decode()
    z85 = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"
    b85 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%&()*+-;<=>?@^_`{|}~"
    names = {pl.Int64: "long", pl.Float64: "double"}
    fields = [
        {"name": name, "type": names[type(dtype)], "nullable": True, "metadata": {}}
        for name, dtype in frame.schema.items()
    ]
    features = {"readerFeatures": ["deletionVectors"], "writerFeatures": ["deletionVectors"]}
    actions: list[dict[str, Any]] = [
        {"protocol": {"minReaderVersion": 3, "minWriterVersion": 7, **features}},
        {
            "metaData": {
                "id": "test",
                "format": {"provider": "parquet", "options": {}},
                "schemaString": json.dumps({"type": "struct", "fields": fields}),
                "partitionColumns": [],
                "configuration": {"delta.enableDeletionVectors": "true"},
            }
        },
        {
            "add": {
                "path": "part-0.parquet",
                "partitionValues": {},
                "size": (folder / "part-0.parquet").stat().st_size,
                "modificationTime": 0,
                "dataChange": True,
                "stats": json.dumps({"numRecords": frame.height}),
                "deletionVector": {
                    "storageType": "i",
                    "pathOrInlineDv": vector.translate(str.maketrans(b85, z85)),
                    "sizeInBytes": len(data),
                    "cardinality": len(rows),
                },
            }
        },
    ]
    log = folder / "_delta_log" / f"{0:020}.json"
    log.write_text("\n".join(map(json.dumps, actions)), encoding="utf-8")


@pytest.fixture(params=["disk", "store"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a table lies: a folder, or a prefix of a bucket."""
    return str(tmp_path / "lake") if request.param == "disk" else f"{request.getfixturevalue('bucket')}/lake"


def put(frame: pl.DataFrame, uri: str) -> None:
    data = Path(f"/dev/shm/{abs(hash(uri))}.parquet")
    try:
        frame.write_parquet(data)
        storage.write_bytes(uri, data.read_bytes())
    finally:
        data.unlink()


def test_a_delta_table_is_its_live_version_or_the_one_asked_for(place: str) -> None:
    options = storage.options(place)
    FRAME.write_delta(place, storage_options=options)
    DeltaTable(place, storage_options=options).delete("user_id = 2")
    FRAME.tail(1).with_columns(user_id=pl.lit(9)).write_delta(place, mode="append", storage_options=options)
    assert users_of(place) == [1, 3, 4, 9]
    assert users_of(f"{place}/?version=0") == [1, 2, 3, 4]
    assert users_of(f"{place}?version=1") == [1, 3, 4]
    assert users_of(f"{place}?at={datetime.now().year + 2}-01-01") == [1, 3, 4, 9]
    FRAME.head(1).write_delta(place, mode="overwrite", storage_options=options)
    assert users_of(place) == [1]
    DeltaTable(place, storage_options=options).delete()
    assert eligible.read({"deny": place}, config=Config())["deny"].is_empty()
    for wrong, words in (
        ("?version=7", "cannot be read"),
        ("?version=new", "expected a number"),
        ("?at=2001-01-01", "had no version"),
        ("?at=soon", "expected a date"),
    ):
        with pytest.raises(InputError, match=words):
            users_of(place + wrong)


def test_rows_that_a_deletion_vector_deletes_are_none(tmp_path: Path) -> None:
    with_deletion_vector(tmp_path / "a b", FRAME, [1, 3])
    assert users_of(str(tmp_path / "a b")) == [1, 3]
    files = ratings.list_parquet(str(tmp_path / "a b"), what="ratings")
    recorded = [FileInfo(**json.loads(json.dumps(file.as_record()))) for file in files]
    found = history.read_histories(recorded, [1, 2, 3, 4], config=Config(), run_date=NOW.date(), now=NOW)
    assert found["user_id"].to_list() == ["1", "3"]


def test_columns_of_delta_partitions_are_those_of_a_small_table(tmp_path: Path) -> None:
    users = FRAME.select(
        "user_id", country=pl.Series(["a b", "ä#%", "a b", None]), year=pl.Series([1, 2, 1, 2])
    )
    users.write_delta(str(tmp_path / "t"), delta_write_options={"partition_by": ["country", "year"]})
    found = ratings.read_table(str(tmp_path / "t"), key="user_id", name="user")
    assert found.sort("user_id").select(users.columns).equals(users)


def test_columns_of_delta_partitions_are_those_of_ratings(tmp_path: Path) -> None:
    days = pl.Series([date(2026, 1, 1), date(2026, 1, 2), date(2026, 1, 1), date(2026, 1, 3)])
    FRAME.with_columns(timestamp=days, rating=pl.Series([4, 4, 4, 5])).write_delta(
        str(tmp_path), delta_write_options={"partition_by": ["timestamp", "rating"]}
    )
    found = ratings.read_ratings(
        ratings.list_parquet(str(tmp_path), what="ratings"), config=Config(), until=NOW, now=NOW
    )
    assert found.ratings.frame["timestamp"].cast(pl.Date).to_list() == days.to_list()
    assert found.ratings.frame["rating"].to_list() == [4.0, 4.0, 4.0, 5.0]


@pytest.mark.parametrize("feature", ["columnMapping", "somethingNew"])
def test_a_delta_table_that_cannot_be_read_exactly_is_refused(feature: str, tmp_path: Path) -> None:
    with_deletion_vector(tmp_path, FRAME, [1])
    log = next((tmp_path / "_delta_log").iterdir())
    text = log.read_text(encoding="utf-8").replace('"deletionVectors"', f'"{feature}"')
    text = text.replace('"delta.enableDeletionVectors": "true"', '"delta.columnMapping.mode": "name"')
    log.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=f"{feature}|cannot be read"):
        users_of(str(tmp_path))


def test_an_iceberg_table_is_its_current_snapshot_or_the_one_asked_for(tmp_path: Path) -> None:
    catalog = InMemoryCatalog("test", warehouse=f"file://{tmp_path}")
    catalog.create_namespace("lake")
    table = catalog.create_table("lake.ratings", FRAME.to_arrow().schema)
    uri = str(tmp_path / "lake" / "ratings")
    with pytest.raises(InputError, match="hold no rows"):
        users_of(uri)
    assert eligible.read({"deny": uri}, config=Config())["deny"].is_empty()
    table.append(FRAME.to_arrow())
    first = table.current_snapshot().snapshot_id
    table.delete("user_id == 2")
    assert users_of(uri) == [1, 3, 4]
    assert users_of(f"{uri}?version={first}") == [1, 2, 3, 4]
    assert users_of(f"{uri}?at={(datetime.now() + timedelta(days=2)).date()}") == [1, 3, 4]
    older = sorted((tmp_path / "lake" / "ratings" / "metadata").glob("00001-*.metadata.json"))[0]
    assert users_of(str(older)) == [1, 2, 3, 4]
    with pytest.raises(InputError, match="has no snapshot 12"):
        users_of(f"{uri}?version=12")
    with table.update_schema() as update:
        update.rename_column("movie_id", "film_id")
    with pytest.raises(InputError, match="'movie_id' is 'film_id' in the table by now"):
        users_of(uri)
    (older.parent / f"{len(list(older.parent.glob('*.metadata.json'))) - 1:05}-x.metadata.json").write_text(
        "{}"
    )
    with pytest.raises(InputError, match="2 files say they are the newest"):
        users_of(uri)


def test_an_iceberg_table_in_a_store_is_every_input(bucket: str) -> None:
    keys = {"s3.endpoint": "AWS_ENDPOINT_URL", "s3.region": "AWS_REGION"}
    keys |= {"s3.access-key-id": "AWS_ACCESS_KEY_ID", "s3.secret-access-key": "AWS_SECRET_ACCESS_KEY"}
    catalog = InMemoryCatalog(
        "test", warehouse=bucket, **{name: os.environ[value] for name, value in keys.items()}
    )
    catalog.create_namespace("lake")
    table = catalog.create_table("lake.ratings", FRAME.to_arrow().schema)
    table.append(FRAME.to_arrow())
    table.delete("user_id == 2")
    uri = f"{bucket}/lake/ratings"
    assert users_of(uri) == [1, 3, 4]
    assert eligible.read({"deny": uri}, config=Config())["deny"]["movie_id"].sort().to_list() == [10, 30, 40]
    assert ratings.read_table(uri, key="user_id", name="user")["user_id"].sort().to_list() == [1, 3, 4]


def test_rows_that_a_file_of_positions_deletes_are_none(tmp_path: Path) -> None:
    """As Spark and Flink leave them; tables of plain metadata are written by copying only."""
    kind = FileFormat.PARQUET
    data, delete = f"file://{tmp_path}/a.parquet", str(tmp_path / "delete.parquet")
    rows = {"file_path": [data, data, f"{data}2"], "pos": [3, 1, 2]}
    pl.DataFrame(rows).write_parquet(delete)
    task = SimpleNamespace(
        file=SimpleNamespace(file_path=data, file_format=kind, file_size_in_bytes=7),
        delete_files=[SimpleNamespace(file_path=f"file:{delete}", file_format=kind)],
    )
    part = iceberg._part(cast(Any, task), about="ratings")
    assert (part.uri, part.deleted.tolist()) == (str(tmp_path / "a.parquet"), [1, 3])


def test_a_folder_is_accounted_for_file_by_file(place: str, caplog: pytest.LogCaptureFixture) -> None:
    rows = [FRAME.filter(user_id=user) for user in (1, 2, 3, 4)]
    for frame, name in zip(
        rows, ("a.parquet", "b/000000_0", "_year=2026/c.PARQUET", "d.parquet/part-0"), strict=True
    ):
        put(frame, f"{place}/{name}")
    for name in ("_SUCCESS", ".part-0.crc", "part.crc", "_temporary/0/x.parquet", "b_$folder$", "empty"):
        storage.write_bytes(f"{place}/{name}", b"" if name in ("empty", "b_$folder$") else b"none")
    caplog.set_level("WARNING", logger="cfjobs")
    assert users_of(place) == [1, 2, 3, 4]
    assert not caplog.text
    storage.write_bytes(f"{place}/b/more.csv", b"user_id,movie_id,rating\n")
    assert users_of(place) == [1, 2, 3, 4]
    assert f"{place}: 1 file is no Parquet and not read: b/more.csv" in caplog.text
    assert users_of(f"{place}/d.parquet/") == [4]  # a folder, as Spark writes it
    assert users_of(f"{place}/b/000000_0") == [2]


def test_links_are_followed_once_and_lead_somewhere(tmp_path: Path) -> None:
    for user, name in ((1, "in/a"), (2, "elsewhere/b"), (3, "c")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        FRAME.filter(user_id=user).write_parquet(tmp_path / f"{name}.parquet")
    (tmp_path / "in" / "folder").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in" / "again").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "c.parquet").symlink_to(tmp_path / "c.parquet")
    assert users_of(str(tmp_path / "in")) == [1, 2, 3]
    (tmp_path / "c.parquet").unlink()
    with pytest.raises(InputError, match="a link to nothing"):
        users_of(str(tmp_path / "in"))


def test_tables_of_another_kind_and_parts_of_tables_are_refused(tmp_path: Path) -> None:
    FRAME.write_delta(str(tmp_path / "lake" / "t"))
    part = next((tmp_path / "lake" / "t").glob("*.parquet"))
    storage.write_bytes(str(tmp_path / "hudi" / ".hoodie" / "hoodie.properties"), b"x")
    put(FRAME, str(tmp_path / "hudi" / "a.parquet"))
    put(FRAME, str(tmp_path / "plain" / "a.parquet"))
    for uri, words in (
        (str(part), "lies in the Delta table"),
        (str(tmp_path / "lake"), "has the Delta table .*/lake/t in it"),
        (str(tmp_path / "hudi"), "is a Hudi table"),
        (f"{tmp_path}/plain?version=1", "has no versions"),
        (str(tmp_path / "absent"), "holds no .parquet file"),
    ):
        with pytest.raises(InputError, match=words):
            users_of(uri)


ODD = ["a b", "a#b", "a%20b", "ümlaut", "[b]", "a*b", "env=prod", "a+b", "a{b}", 'a"b', "a&b", "日本"]


def test_ratings_may_lie_under_any_name(place: str) -> None:
    for name in ODD:
        put(FRAME, f"{place}/{name}/a{name}.parquet")
        assert users_of(f"{place}/{name}") == [1, 2, 3, 4], name
    if not storage.is_s3(place):
        assert users_of(f"file://{place}/a%20b") == [1, 2, 3, 4]
    else:
        assert users_of(f"s3a://{place.removeprefix('s3://')}/a b") == [1, 2, 3, 4]
