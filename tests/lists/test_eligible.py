"""Days of availability, against a plain loop; and what is said of columns that hold none."""

from datetime import UTC, date, datetime, timedelta
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cfjobs.config import Config
from cfjobs.errors import InputError
from cfjobs.lists import eligible

NIGHT = date(2026, 3, 1)
days = st.none() | st.integers(-2, 2).map(lambda n: NIGHT + timedelta(days=n))


def as_dates(day: date) -> date:
    return day


def as_moments(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, 23, 59)


def elsewhere(day: date) -> datetime:
    """The same day in UTC, which is the next one in Tokyo."""
    return as_moments(day).replace(tzinfo=UTC)


@given(st.lists(st.tuples(days, days), min_size=1, max_size=8), st.sampled_from([0, 1, 2]), st.data())
def test_a_movie_is_available_from_its_first_to_its_last_day(
    ends: list[tuple[date | None, date | None]], kind: int, data: st.DataObject
) -> None:
    made, dtype = [
        (as_dates, pl.Date()),
        (as_moments, pl.Datetime("ms")),
        (elsewhere, pl.Datetime("us", "Asia/Tokyo")),
    ][kind]
    there = data.draw(st.sets(st.sampled_from(["available_from", "available_until"])))
    columns = {
        name: pl.Series([None if end[side] is None else made(end[side]) for end in ends], dtype=dtype)  # type: ignore[arg-type]
        for side, name in enumerate(("available_from", "available_until"))
        if name in there
    }
    movies = pl.DataFrame({"movie_id": list(range(len(ends))), **columns})
    found = eligible.unavailable(movies, config=Config(), on=NIGHT)
    wanted = [
        movie
        for movie, (first, last) in enumerate(ends)
        if ("available_from" in there and first is not None and first > NIGHT)
        or ("available_until" in there and last is not None and last < NIGHT)
    ]
    assert (found is None) == (not there)
    assert (found["movie_id"].to_list() if found is not None else []) == wanted


@pytest.mark.parametrize(
    ("columns", "settings", "said"),
    [
        ({"available_from": ["2026-03-01"]}, {}, "'available_from' is String, expected a date or a datetime"),
        ({"available_until": [20260301]}, {}, "set available_until_column=null"),
        ({}, {"available_from_column": "release"}, r"the movies table has no such column \(got movie_id\)"),
        (None, {"available_until_column": "gone"}, "the movies table is not given"),
    ],
)
def test_what_holds_no_days_is_refused(
    columns: dict[str, Any] | None, settings: dict[str, Any], said: str
) -> None:
    movies = None if columns is None else pl.DataFrame({"movie_id": [1], **columns})
    with pytest.raises(InputError, match=said) as error:
        eligible.unavailable(movies, config=Config(**settings), on=NIGHT)
    assert "\n" not in str(error.value)


def test_columns_without_values_or_not_looked_for_withhold_nothing() -> None:
    empty = pl.DataFrame({"movie_id": [1], "available_from": [None]})
    found = eligible.unavailable(empty, config=Config(), on=NIGHT)
    assert found is not None
    assert found.is_empty()
    text = pl.DataFrame({"movie_id": [1], "available_from": ["soon"]})
    assert eligible.unavailable(text, config=Config(available_from_column=None), on=NIGHT) is None
    assert eligible.unavailable(None, config=Config(), on=NIGHT) is None


def test_nothing_left_is_said_with_the_rules_that_left_it() -> None:
    ids, some = pl.Series("movie_id", [1, 2]), pl.DataFrame({"movie_id": [1]})
    withheld = pl.DataFrame({"movie_id": ["1", "2", "3"]})
    with pytest.raises(InputError, match="candidates: days of availability leave none of 2 movies"):
        eligible.listed_movies(ids, unavailable=withheld)
    with pytest.raises(InputError, match="allow and days of availability leave none"):
        eligible.listed_movies(ids, allow=some, unavailable=withheld)
    assert eligible.listed_movies(ids, unavailable=some).tolist() == [False, True]
