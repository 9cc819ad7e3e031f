"""The statistics of a night's files are right for every reader: a filter finds what is there."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from deltalake import DeltaTable
from hypothesis import given
from hypothesis import strategies as st

from cfjobs import tables
from cfjobs.tables.parts import MOST_SIGNS, Statistics


@pytest.mark.parametrize("table", tables.PUBLISHED, ids=lambda table: table.name)
def test_a_filter_on_any_column_finds_the_rows_that_have_the_value(
    two_nights: Path, table: tables.Table
) -> None:
    published = DeltaTable(str(two_nights / "out" / table.name))
    dataset, frame = published.to_pyarrow_dataset(), pl.read_delta(published.table_uri)
    for name, kind in frame.schema.items():
        if kind.is_nested():
            continue
        column = pc.field(name)
        assert dataset.count_rows(filter=column.is_null()) == frame[name].null_count(), name
        for value in frame[name].drop_nulls().unique().sort()[[0, -1]] if frame[name].count() else ():
            wanted = frame.filter(pl.col(name) == pl.lit(value, kind)).height
            assert (
                dataset.count_rows(filter=column == pa.scalar(value, dataset.schema.field(name).type))
                == wanted
            ), name


@given(st.lists(st.text(max_size=2 * MOST_SIGNS), min_size=1, max_size=5), st.text(max_size=3))
def test_bounds_of_text_are_bounds(values: list[str], begin: str) -> None:
    values = [(begin * MOST_SIGNS)[:MOST_SIGNS] + value for value in values]
    statistics = Statistics(pa.schema([("a", pa.string())]))
    for value in values:
        statistics.add(pa.table({"a": pa.array([value, None], pa.string())}))
    found = json.loads(statistics.as_json())
    assert found["nullCount"]["a"] == len(values)
    assert found["numRecords"] == 2 * len(values)
    assert found["minValues"]["a"] <= min(values)
    assert found["maxValues"]["a"] >= max(values)
    assert pa.array([found["maxValues"]["a"]], pa.string())[0].as_py() == found["maxValues"]["a"]


@given(st.datetimes(min_value=datetime(1970, 1, 1), max_value=datetime(2100, 1, 1), timezones=st.just(UTC)))
def test_bounds_of_times_are_bounds_in_milliseconds(moment: datetime) -> None:
    statistics = Statistics(pa.schema([("at", pa.timestamp("us", "UTC"))]))
    statistics.add(pa.table({"at": pa.array([moment], pa.timestamp("us", "UTC"))}))
    found = json.loads(statistics.as_json())
    low, high = (datetime.fromisoformat(found[end]["at"]) for end in ("minValues", "maxValues"))
    assert low <= moment <= high
    assert high - low <= timedelta(milliseconds=1)
