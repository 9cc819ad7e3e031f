"""Ingest: every row is kept, superseded or rejected with its reason, whatever the files look like."""

import math
from collections import Counter
from collections.abc import Callable, Iterable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cfjobs import ratings, storage
from cfjobs.config import Config
from cfjobs.errors import InputError
from cfjobs.ratings import scan as rating_files
from cfjobs.ratings.ids import IntegerIds, TextIds
from cfjobs.ratings.read import Cleaned
from cfjobs.ratings.sort import Columns, Times, sort_and_deduplicate

NOW = datetime(2026, 11, 24)
THEN = datetime(2016, 10, 1, 12, 0, 0)
LENIENT = Config(max_rejected=1, feedback="ratings")


def clean(
    folder: Path,
    config: Config = LENIENT,
    *,
    until: datetime = NOW,
    **tables: pl.DataFrame,
) -> Cleaned:
    files = ratings.list_parquet(storage.normal(folder), what="ratings")
    return ratings.read_ratings(files, config=config, until=until, now=NOW, **tables)


def write(path: Path, **columns: Any) -> Path:
    """A rating file: four good rows, with the columns given in place of or beside theirs."""
    n = next((len(values) for values in columns.values() if values is not None), 4)
    good = {
        "user_id": [1 + i // 2 for i in range(n)],
        "movie_id": [10 + i for i in range(n)],
        "rating": [0.5 + i % 5 for i in range(n)],
        "timestamp": [1_475_000_000 + i for i in range(n)],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    present = {name: values for name, values in (good | columns).items() if values is not None}
    pl.DataFrame(present).write_parquet(path)
    return path


def outside(cleaned: Cleaned) -> list[tuple[Any, Any, float, datetime]]:
    """The kept rows with outside ids, in their order."""
    found, frame = cleaned.ratings, cleaned.ratings.frame
    users, movies = found.users[frame["user_idx"]], found.movies["movie_id"][frame["movie_idx"]]
    return list(zip(users, movies, frame["rating"], frame["timestamp"], strict=True))


def reasons(cleaned: Cleaned) -> list[tuple[int, str]]:
    return [(row, reason) for _, row, reason, *_ in cleaned.rejected.iter_rows()]


def check_contract(cleaned: Cleaned) -> None:
    """What every reader of the clean table relies on."""
    counts, frame, found = cleaned.counts, cleaned.ratings.frame, cleaned.ratings
    assert counts["read"] == counts["kept"] + counts["superseded"] + counts["rejected"]
    assert counts["kept"] == frame.height > 0
    assert counts["rejected"] == cleaned.rejected.height
    assert frame.schema == {
        "user_idx": pl.Int32,
        "movie_idx": pl.Int32,
        "rating": pl.Float32,
        "timestamp": pl.Datetime("us"),
    }
    assert frame.equals(frame.sort("user_idx", "timestamp", "movie_idx"))
    assert not frame.select("user_idx", "movie_idx").is_duplicated().any()
    assert frame["rating"].is_finite().all()
    assert frame.null_count().sum_horizontal().item() == 0
    for idx, ids in (("user_idx", found.users), ("movie_idx", found.movies["movie_id"])):
        assert ids.is_sorted()
        assert ids.n_unique() == ids.len()
        assert set(frame[idx]) == set(range(ids.len()))
    assert cleaned.rejected.equals(cleaned.rejected.sort("file", "row"))
    assert not cleaned.rejected.select("file", "row").is_duplicated().any()


# Laws ---------------------------------------------------------------------------------------------------


USERS = st.sampled_from([1, 2, 3, -4, 2**53 + 1, 2**53 + 2, 2**63 - 1, -(2**63)])
MOVIES = st.sampled_from([7, 8, 9, 2**40])
BAD_RATINGS = [6.0, -1.0, math.nan, math.inf, -math.inf, 1e300, None]
RATINGS = st.sampled_from([0.5, 1.0, 3.5, 5.0, 0.0, -0.0, *BAD_RATINGS])
FAR_TIMES = [
    datetime(1, 1, 1),
    datetime(1969, 12, 31, 23, 59, 59, 999999),
    datetime(2026, 11, 20),
    datetime(2030, 1, 1),
]
TIMES = st.sampled_from([*(THEN + timedelta(microseconds=i) for i in range(6)), *FAR_TIMES, None])
ROW = st.tuples(st.one_of(st.none(), USERS), st.one_of(st.none(), MOVIES), RATINGS, TIMES)
ROWS = st.lists(ROW, max_size=25)
FORMS = st.sampled_from(["int", "string", "categorical"])
UNTIL = datetime(2026, 11, 1)


def file_of(path: Path, rows: list[tuple[Any, ...]], form: str) -> None:
    user, movie, rating, time = zip(*rows, strict=True) if rows else ((), (), (), ())
    ids = {"int": pl.Int64, "string": pl.String, "categorical": pl.Categorical}[form]

    def column(values: Iterable[int | None]) -> pl.Series:
        whole = pl.Series(values, dtype=pl.Int64)
        return whole if form == "int" else whole.cast(pl.String).cast(ids)

    pl.DataFrame(
        {
            "user_id": column(user),
            "movie_id": column(movie),
            "rating": pl.Series(rating, dtype=pl.Float64),
            "timestamp": pl.Series(time, dtype=pl.Datetime("us")),
            f"only in {form} files": pl.Series([0] * len(rows), dtype=pl.Int8),
        }
    ).write_parquet(path)


def model(
    files: list[list[tuple[Any, ...]]],
    *,
    text: bool,
    y_range: tuple[float, float] | None,
) -> tuple[Any, ...]:
    """Brute force: what is kept, why and where rows are rejected, and how many are superseded and later."""
    pairs: dict[tuple[Any, Any], tuple[datetime, float]] = {}
    rejected, n_good, n_later = [], 0, 0
    for number, rows in enumerate(files):
        for row, (user, movie, rating, time) in enumerate(rows):
            if reason := fault(user, movie, rating, time, y_range):
                rejected.append((number, row, reason))
            elif time >= UNTIL:
                n_later += 1
            else:
                n_good += 1
                pair = (str(user), str(movie)) if text else (user, movie)
                pairs[pair] = max(pairs.get(pair, (time, rating)), (time, rating))
    kept = sorted((*pair, rating, time) for pair, (time, rating) in pairs.items())
    return kept, rejected, n_good - len(kept), n_later


def fault(user: Any, movie: Any, rating: Any, time: Any, y_range: tuple[float, float] | None) -> str | None:
    """The first reason to reject a row."""
    low, high = y_range or (-math.inf, math.inf)
    number = math.nan if rating is None else rating
    faults = {
        "user is missing": user is None,
        "movie is missing": movie is None,
        "rating is missing": rating is None,
        "rating is not a finite number": not math.isfinite(number),
        "rating is too large": abs(number) > 3.5e38,
        "rating is out of y_range": not low <= number <= high,
        "timestamp is missing": time is None,
        "timestamp is in the future": time is not None and time > NOW,
    }
    return next((reason for reason, holds in faults.items() if holds), None)


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    files=st.lists(st.tuples(ROWS, FORMS), min_size=1, max_size=4),
    y_range=st.sampled_from([None, (0.5, 5.0)]),
    reverse=st.booleans(),
)
def test_any_mixture_is_cleaned_as_brute_force_does(
    tmp_path_factory: pytest.TempPathFactory,
    files: list[Any],
    y_range: Any,
    reverse: bool,
) -> None:
    folder = tmp_path_factory.mktemp("mixture")
    for number, (rows, form) in enumerate(files):
        file_of(folder / f"{number}.parquet", rows, form)
    text = any(rows and form != "int" for rows, form in files)
    kept, rejected, n_superseded, n_later = model([rows for rows, _ in files], text=text, y_range=y_range)
    listed = ratings.list_parquet(str(folder), what="ratings")
    config = Config(max_rejected=1, y_range=y_range, feedback="ratings")

    def run() -> Cleaned:
        return ratings.read_ratings(listed[::-1] if reverse else listed, config=config, until=UNTIL, now=NOW)

    if not kept:
        with pytest.raises(InputError, match=r"hold no rows|rejected|later than the night"):
            run()
        return
    cleaned = run()
    check_contract(cleaned)
    assert sorted(outside(cleaned)) == kept
    assert cleaned.counts["superseded"] == n_superseded
    assert cleaned.counts["later"] == n_later
    assert cleaned.counts["read"] + n_later == sum(len(rows) for rows, _ in files)
    found = [(int(Path(file).stem), row, reason) for file, row, reason, *_ in cleaned.rejected.iter_rows()]
    assert found == rejected


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_arranging_equals_sorting_for_any_sizes(data: st.DataObject) -> None:
    n_users, n_movies = data.draw(st.integers(1, 50)), data.draw(st.integers(1, 50))
    n_rows, span = data.draw(st.integers(0, 400)), data.draw(st.sampled_from([1, 9, 2**50, 2**62]))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    check_arranged(
        pl.DataFrame(
            {
                "u": rng.integers(n_users, size=n_rows, dtype=np.int32),
                "m": rng.integers(n_movies, size=n_rows, dtype=np.int32),
                "r": rng.integers(-3, 4, n_rows).astype(np.float32),
                "t": rng.integers(-span, span, n_rows),
            }
        ),
        n_users=n_users,
        n_movies=n_movies,
    )


def test_arranging_many_ranges_equals_sorting() -> None:
    rng = np.random.default_rng(1)
    n_rows, n_users = 1_000_000, 3_000
    check_arranged(
        pl.DataFrame(
            {
                "u": (rng.random(n_rows) ** 4 * n_users).astype(np.int32),
                "m": rng.integers(1_000, size=n_rows, dtype=np.int32),
                "r": rng.integers(1, 11, n_rows).astype(np.float32) / 2,
                "t": rng.integers(0, 2**50, n_rows),
            }
        ),
        n_users=n_users,
        n_movies=1_000,
    )


def check_arranged(rows: pl.DataFrame, *, n_users: int, n_movies: int) -> None:
    columns = Columns(*(rows[name].to_numpy(writable=True) for name in "umrt"))
    kept = sort_and_deduplicate(columns, n_users=n_users, n_movies=n_movies)
    wanted = rows.sort("u", "t", "m", "r").unique(["u", "m"], keep="last", maintain_order=True)
    found = {"u": kept.user, "m": kept.movie, "r": kept.rating, "t": kept.timestamp}
    assert pl.DataFrame(found).equals(wanted)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(-3, 2**25), max_size=30), max_size=5))
def test_numbers_of_ids_are_dense_and_lead_back(batches: list[list[int]]) -> None:
    for numbering, as_ids in ((IntegerIds(), pl.Int64), (TextIds(), pl.String)):
        given_ids, numbers = pl.Series([], dtype=as_ids), []
        for batch in batches:
            ids, out = pl.Series(batch, dtype=pl.Int64).cast(as_ids), np.empty(len(batch), np.int32)
            numbering.number(ids, out)
            given_ids, numbers = pl.concat([given_ids, ids]), [*numbers, *out.tolist()]
        assert set(numbers) == set(range(given_ids.n_unique()))
        seen = numbering.seen().to_list()
        assert [seen[number] for number in numbers] == given_ids.to_list()


def test_many_distinct_ids_are_numbered() -> None:
    ids = np.random.default_rng(2).permutation(np.arange(-300_000, 300_000) * 2**40 // 3)
    out = np.empty(ids.size, np.int32)
    numbering = IntegerIds()
    numbering.number(pl.Series(ids), out)
    assert (numbering.seen().to_numpy()[out] == ids).all()


# Schemas drift ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [pl.Int8, pl.Int16, pl.Int32, pl.UInt8, pl.UInt32, pl.Decimal(38, 0)])
def test_integer_types_of_ids_are_one(tmp_path: Path, dtype: pl.DataType) -> None:
    write(tmp_path / "a.parquet")
    ids = pl.Series([1, 2, 3, 4], dtype=dtype)
    write(tmp_path / "b.parquet", user_id=ids, movie_id=ids)
    cleaned = clean(tmp_path)
    check_contract(cleaned)
    assert cleaned.ratings.users.to_list() == [1, 2, 3, 4]
    assert cleaned.ratings.users.dtype == cleaned.ratings.movies["movie_id"].dtype == pl.Int64


@pytest.mark.parametrize(
    "texts",
    [
        pl.Series(["1", "2", "é", "電影"]),
        pl.Series(["1", "2", "é", "電影"], dtype=pl.Categorical),
        pl.Series(["1", "2", "é", "電影"], dtype=pl.Enum(["電影", "2", "é", "1"])),
        pl.Series([text.encode() for text in ("1", "2", "é", "電影")]),
    ],
)
def test_one_file_of_strings_makes_every_id_text(tmp_path: Path, texts: pl.Series) -> None:
    write(tmp_path / "a.parquet")
    write(tmp_path / "b.parquet", user_id=texts)
    cleaned = clean(tmp_path)
    check_contract(cleaned)
    assert cleaned.ratings.users.to_list() == ["1", "2", "é", "電影"]
    assert cleaned.ratings.movies["movie_id"].dtype == pl.Int64


def test_ids_beyond_a_double_and_negative_ones_stay_apart(tmp_path: Path) -> None:
    ids = [-(2**63), -1, 2**53, 2**53 + 1]
    write(tmp_path / "a.parquet", user_id=ids, movie_id=ids[::-1])
    cleaned = clean(tmp_path)
    assert cleaned.ratings.users.to_list() == ids
    assert {user: movie for user, movie, *_ in outside(cleaned)} == dict(zip(ids, ids[::-1], strict=True))


def test_unsigned_64_bit_ids_become_text(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", user_id=pl.Series([2**64 - 1, 1, 1, 2], dtype=pl.UInt64))
    cleaned = clean(tmp_path)
    assert cleaned.ratings.users.to_list() == ["1", "18446744073709551615", "2"]


def test_a_decimal_id_beyond_64_bits_is_set_aside(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", user_id=pl.Series([Decimal(2**70), Decimal(1)], dtype=pl.Decimal(38, 0)))
    cleaned = clean(tmp_path)
    assert reasons(cleaned) == [(0, "user is not a valid id")]
    assert cleaned.rejected["user_id"].to_list() == [str(2**70)]


@pytest.mark.parametrize(
    "stars",
    [
        pl.Series([1, 2, 3, 4], dtype=pl.Int8),
        pl.Series([1, 2, 3, 4], dtype=pl.UInt64),
        pl.Series([1, 2, 3, 4], dtype=pl.Float32),
        pl.Series([Decimal("1.0"), Decimal("2.0"), Decimal("3.0"), Decimal("4.0")]),
    ],
)
def test_any_number_is_a_rating(tmp_path: Path, stars: pl.Series) -> None:
    write(tmp_path / "a.parquet", rating=stars)
    write(tmp_path / "b.parquet", user_id=[8], movie_id=[8], rating=[4.5])
    cleaned = clean(tmp_path)
    check_contract(cleaned)
    assert cleaned.ratings.frame["rating"].to_list() == [1, 2, 3, 4, 4.5]


EPOCH = 1_475_323_200
"""Seconds of THEN, which is UTC."""


@pytest.mark.parametrize(
    "times",
    [
        pl.Series([THEN], dtype=pl.Datetime("ms")),
        pl.Series([THEN], dtype=pl.Datetime("us")),
        pl.Series([THEN], dtype=pl.Datetime("ns")),
        pl.Series([THEN.replace(tzinfo=UTC)]),
        pl.Series([THEN.replace(tzinfo=UTC)]).dt.convert_time_zone("America/Los_Angeles"),
        *(pl.Series([EPOCH * unit], dtype=pl.Int64) for unit in (1, 10**3, 10**6, 10**9)),
        *(pl.Series([EPOCH * unit], dtype=pl.Float64) for unit in (1, 10**3, 10**6, 10**9)),
        pl.Series([EPOCH], dtype=pl.Int32),
        pl.Series([EPOCH], dtype=pl.UInt64),
        pl.Series([Decimal(EPOCH)], dtype=pl.Decimal(20, 0)),
    ],
    ids=lambda series: str(series.dtype),
)
def test_a_moment_is_the_same_in_any_type(tmp_path: Path, times: pl.Series) -> None:
    write(tmp_path / "a.parquet", user_id=[1], movie_id=[2], rating=[3.0], timestamp=times)
    assert outside(clean(tmp_path)) == [(1, 2, 3.0, THEN)]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.lists(st.integers(-(2**33), 2**33), max_size=9)), max_size=9))
def test_times_come_back_whether_whole_seconds_or_not(batches: list[tuple[bool, list[int]]]) -> None:
    wanted = [value * (1_000_000 if whole else 1) for whole, values in batches for value in values]
    column = np.empty(len(wanted), np.int64)
    times = Times(column)
    for whole, values in batches:
        times.append(np.array(values, np.int64) * (1_000_000 if whole else 1))
    times.widen()
    assert column.tolist() == wanted


def test_a_date_is_its_midnight(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", user_id=[1], movie_id=[2], rating=[3.0], timestamp=[date(1969, 7, 20)])
    assert outside(clean(tmp_path)) == [(1, 2, 3.0, datetime(1969, 7, 20))]


def test_microseconds_decide(tmp_path: Path) -> None:
    times = [THEN + timedelta(microseconds=1), THEN]
    write(tmp_path / "a.parquet", user_id=[1, 1], movie_id=[2, 2], rating=[1.0, 5.0], timestamp=times)
    assert outside(clean(tmp_path)) == [(1, 2, 1.0, times[0])]


@pytest.mark.parametrize(
    ("times", "reason"),
    [
        (pl.Series([None], dtype=pl.Int64), "timestamp is missing"),
        (pl.Series([math.nan]), "timestamp is missing"),
        (pl.Series([math.inf]), "timestamp is outside of the calendar"),
        (pl.Series([-70_000_000_000]), "timestamp is outside of the calendar"),
        (pl.Series([2**63 - 1]), "timestamp is in the future"),
        (pl.Series([2**64 - 1], dtype=pl.UInt64), "timestamp is outside of the calendar"),
        (pl.Series([2**62], dtype=pl.Int64).cast(pl.Datetime("ms")), "timestamp is outside of the calendar"),
        (
            pl.Series([-(2**62)], dtype=pl.Int64).cast(pl.Datetime("us")),
            "timestamp is outside of the calendar",
        ),
        (pl.Series([2**30], dtype=pl.Int32).cast(pl.Date), "timestamp is outside of the calendar"),
        (pl.Series([datetime(2026, 11, 24, 0, 0, 1)]), "timestamp is in the future"),
    ],
)
def test_impossible_times_are_set_aside(tmp_path: Path, times: pl.Series, reason: str) -> None:
    write(tmp_path / "a.parquet", user_id=[1], movie_id=[2], rating=[3.0], timestamp=times)
    write(tmp_path / "b.parquet")
    cleaned = clean(tmp_path)
    check_contract(cleaned)
    assert reasons(cleaned) == [(0, reason)]


def test_a_column_without_any_value_is_of_no_type(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet")
    for column in ("user_id", "movie_id", "rating", "timestamp"):
        write(tmp_path / f"{column}.parquet", **{column: [None, None]})
    cleaned = clean(tmp_path)
    check_contract(cleaned)
    assert cleaned.counts["rejected"] == 8
    assert cleaned.ratings.users.dtype == pl.Int64


def test_other_columns_and_their_order_do_not_matter(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", note=["x"] * 4, __row=[9] * 4)
    write(tmp_path / "b.parquet", user_id=[5], movie_id=[5], code=[True], user=["y"])
    frame = pl.read_parquet(path)
    turned = frame.select("note", "timestamp", "rating", "movie_id", pl.col("user_id") + 10)
    turned.write_parquet(tmp_path / "c.parquet")
    cleaned = clean(tmp_path)
    check_contract(cleaned)
    assert cleaned.ratings.users.to_list() == [1, 2, 5, 11, 12]


def test_columns_are_found_under_the_names_of_the_config(tmp_path: Path) -> None:
    frame = pl.read_parquet(write(tmp_path / "x" / "a.parquet"))
    names = {"user_id": "user", "movie_id": "code", "rating": "wide", "timestamp": "untimed"}
    frame.rename(names).write_parquet(tmp_path / "a.parquet")
    config = Config(
        user_column="user",
        movie_column="code",
        rating_column="wide",
        timestamp_column="untimed",
        feedback="ratings",
    )
    (tmp_path / "x" / "a.parquet").unlink()
    assert len(outside(clean(tmp_path, config))) == 4


def test_folders_named_like_columns_are_no_columns(tmp_path: Path) -> None:
    write(tmp_path / "year=2024" / "user_id=77" / "a.parquet")
    write(tmp_path / "year=2025" / "b [1]*.parquet", user_id=[3], movie_id=[4])
    cleaned = clean(tmp_path)
    check_contract(cleaned)
    assert cleaned.ratings.users.to_list() == [1, 2, 3]


# Rows ---------------------------------------------------------------------------------------------------


def test_a_rejected_row_says_where_it_is_and_what_it_holds(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet")
    path = write(
        tmp_path / "b.parquet",
        user_id=["u", "", None, "é", "w"],
        movie_id=[1, 2, 3, None, 4],
        rating=[1.5, 2.5, math.nan, 3.5, -math.inf],
    )
    cleaned = clean(tmp_path)
    check_contract(cleaned)
    assert cleaned.rejected.rows() == [
        (str(path), 1, "user is missing", "", "2", "2.5"),
        (str(path), 2, "user is missing", None, "3", "NaN"),
        (str(path), 3, "movie is missing", "é", None, "3.5"),
        (str(path), 4, "rating is not a finite number", "w", "4", "-inf"),
    ]


def test_the_ends_of_y_range_are_inside_whatever_the_float(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", rating=pl.Series([0.7, 4.7], dtype=pl.Float32))
    write(tmp_path / "b.parquet", user_id=[8, 9], movie_id=[8, 9], rating=[0.7, 4.7])
    write(tmp_path / "c.parquet", user_id=[6, 7], movie_id=[6, 7], rating=[0.6, 4.8])
    cleaned = clean(tmp_path, Config(y_range=(0.7, 4.7), max_rejected=1))
    assert cleaned.counts["kept"] == 4
    assert {reason for _, reason in reasons(cleaned)} == {"rating is out of y_range"}


def test_contradictions_are_settled_by_time_then_by_the_higher_rating(tmp_path: Path) -> None:
    rows = [(4.0, 100), (1.0, 300), (5.0, 200), (2.0, 300)]
    for number, order in enumerate((rows, rows[::-1])):
        folder = tmp_path / str(number)
        for part, (stars, time) in enumerate(order):
            write(folder / f"{part}.parquet", user_id=[1], movie_id=[1], rating=[stars], timestamp=[time])
        cleaned = clean(folder)
        assert outside(cleaned) == [(1, 1, 2.0, datetime(1970, 1, 1, 0, 5))]
        assert cleaned.counts == {"read": 4, "kept": 1, "superseded": 3, "rejected": 0, "later": 0}


def test_later_rows_belong_to_another_night(tmp_path: Path) -> None:
    write(
        tmp_path / "a.parquet",
        user_id=[1, 1, 1],
        movie_id=[1, 1, 2],
        rating=[1.0, 5.0, 3.0],
        timestamp=[
            THEN,
            THEN + timedelta(days=1),
            THEN + timedelta(days=1),
        ],
    )
    cleaned = clean(tmp_path, until=THEN + timedelta(days=1))
    check_contract(cleaned)
    assert outside(cleaned) == [(1, 1, 1.0, THEN)]
    assert cleaned.counts == {"read": 1, "kept": 1, "superseded": 0, "rejected": 0, "later": 2}


def test_catalogue_and_cold_users_are_joined_whatever_their_types(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet")
    movies = pl.DataFrame({"movie_id": ["12", "10", "x", "10"], "title": ["Twelve", "Ten", "?", "Ten again"]})
    cleaned = clean(tmp_path, movies=movies, users=pl.DataFrame({"user_id": ["9", "1", "9", None]}))
    assert cleaned.ratings.movies.rows() == [(10, "Ten"), (11, None), (12, "Twelve"), (13, None)]
    assert cleaned.ratings.cold_users.to_list() == [9]


# Ends of the run ----------------------------------------------------------------------------------------


def message(folder: Path, config: Config = LENIENT, **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        clean(folder, config, **options)
    text = str(caught.value)
    assert "\n" not in text
    assert ";" in text, "a line says what, got and remedy"
    return text.replace(f"{folder}/", "")


@pytest.mark.parametrize(
    ("column", "values", "words"),
    [
        ("rating", ["5", "4"], "is string, expected a number"),
        ("rating", [True, False], "is boolean, expected a number"),
        ("user_id", [1.0, 2.0], "is Float64, expected an integer or a string"),
        ("movie_id", [[1], [2]], "is List, expected an integer or a string"),
        ("timestamp", ["2016", "2017"], "is string, expected a datetime or seconds since 1970"),
    ],
)
def test_a_wrong_type_is_named(tmp_path: Path, column: str, values: list[Any], words: str) -> None:
    write(tmp_path / "part-1.parquet")
    write(tmp_path / "part-3.parquet", **{column: values})
    setting = f"{column.removesuffix('_id')}_column"
    assert message(tmp_path) == (
        f"ratings part-3.parquet: '{column}' {words}; cast it on export or map another column with {setting}"
    )


def test_a_column_that_is_absent_is_named(tmp_path: Path) -> None:
    write(tmp_path / "part-1.parquet")
    write(tmp_path / "part-3.parquet", rating=None)
    assert message(tmp_path) == (
        "ratings part-3.parquet: has no column 'rating' (got user_id, movie_id, timestamp); "
        "rename it on export or set rating_column"
    )


def test_a_column_that_only_the_path_has_is_explained(tmp_path: Path) -> None:
    write(tmp_path / "user_id=5" / "a.parquet", user_id=None)
    assert "'user_id'" in message(tmp_path)
    assert "a folder's name is not read as a column" in message(tmp_path)


def test_a_folder_without_parquet_ends_the_run(tmp_path: Path) -> None:
    assert "holds no .parquet file" in message(tmp_path)


def test_files_without_rows_are_passed_over(tmp_path: Path) -> None:
    pl.DataFrame({"user_id": [], "whatever": []}).write_parquet(tmp_path / "a.parquet")
    assert message(tmp_path) == "ratings: the files hold no rows; check the export"
    write(tmp_path / "b.parquet")
    assert clean(tmp_path).counts["kept"] == 4


def damaged(whole: bytes) -> dict[str, tuple[bytes, str]]:
    middle = len(whole) // 8
    return {
        "empty": (b"", "is empty (0 bytes), expected a Parquet file"),
        "no Parquet": (b"user,movie\n1,2\n" * 9, "is not a Parquet file (begins with b'user')"),
        "truncated": (whole[:-20], "is truncated"),
        "footer": (whole[:-40] + b"\xff" * 32 + whole[-8:], "footer is damaged"),
        "footer's length": (whole[:-8] + b"\xff\xff\xff\x7f" + whole[-4:], "footer is damaged"),
        "pages": (whole[:4] + b"\xff" * middle + whole[4 + middle :], "is damaged"),
    }


@pytest.mark.parametrize("kind", ["empty", "no Parquet", "truncated", "footer", "footer's length", "pages"])
def test_a_damaged_file_is_named_among_good_ones(tmp_path: Path, kind: str) -> None:
    for part in range(5):
        path = write(tmp_path / f"part-{part}.parquet", user_id=list(range(4000)))
    content, words = damaged(path.read_bytes())[kind]
    (tmp_path / "part-2.parquet").write_bytes(content)
    line = message(tmp_path)
    assert line.startswith("ratings part-2.parquet: ")
    assert words in line
    assert "export it again, or take it out of the folder" in line


def rewritten(path: Path) -> None:
    write(path, user_id=[1, 2, 3, 4, 5])


def grown(path: Path) -> None:
    frame = pl.read_parquet(path)
    pl.concat([frame, frame]).write_parquet(path)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


@pytest.mark.parametrize("change", [rewritten, grown, cut, Path.unlink])
@pytest.mark.parametrize("moment", ["footers", "batches"])
def test_a_file_that_changes_while_it_is_read_ends_the_run(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[Path], None],
    moment: str,
) -> None:
    for part in range(3):
        path = write(tmp_path / f"part-{part}.parquet")
    files = ratings.list_parquet(str(tmp_path), what="ratings")
    step = "group_files" if moment == "footers" else "check_unchanged"
    original = getattr(rating_files, step)

    def late(*args: Any, **options: Any) -> Any:
        if path.exists() and path.stat().st_size == files[2].size:
            change(path)
        return original(*args, **options)

    monkeypatch.setattr(rating_files, step, late)
    line = r"^ratings .*part-2\.parquet: changed while it was read \(.*\); rerun once"
    with pytest.raises(InputError, match=line):
        ratings.read_ratings(files, config=LENIENT, until=NOW, now=NOW)


def test_too_many_rejected_rows_end_the_run(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", rating=[1.0] * 17 + [2.0, math.nan, None], user_id=list(range(20)))
    assert clean(tmp_path, Config(max_rejected=0.1)).counts["rejected"] == 2
    assert message(tmp_path, Config(max_rejected=0.09)) == (
        "ratings: 2 of 20 rows are rejected, most often because the rating is missing (1); "
        "mend the export, or raise max_rejected (now 0.09)"
    )


def test_a_night_with_nothing_but_rejected_or_later_rows_ends(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", rating=[math.nan] * 3)
    assert "3 of 3 rows are rejected" in message(tmp_path)
    write(tmp_path / "a.parquet")
    assert "all 4 rows are later than the night's date" in message(tmp_path, until=datetime(2000, 1, 1))


# Many files, other tables -------------------------------------------------------------------------------


def test_two_thousand_small_files_of_three_schemas(tmp_path: Path) -> None:
    kinds = [
        write(tmp_path / "kind" / "a.parquet"),
        write(tmp_path / "kind" / "b.parquet", user_id=["x"], movie_id=[1]),
        write(tmp_path / "kind" / "c.parquet", rating=[math.nan]),
    ]
    contents = [path.read_bytes() for path in kinds]
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(2_000):
        (folder / f"{number:05d}.parquet").write_bytes(contents[number % 3])
    cleaned = clean(folder)
    check_contract(cleaned)
    assert cleaned.counts == {
        "read": 667 * 4 + 667 + 666,
        "kept": 5,
        "superseded": 666 * 5,
        "rejected": 666,
        "later": 0,
    }
    found = Counter(Path(file).stem for file in cleaned.rejected["file"])
    assert found == {f"{number:05d}": 1 for number in range(2, 2_000, 3)}
    assert set(cleaned.rejected["row"]) == {0}


def test_tables_of_movies_are_read_from_drifting_files(tmp_path: Path) -> None:
    drifting = pl.DataFrame({"movie_id": [2, 1, None, 1], "title": ["b", "a", "?", "a2"]})
    drifting.write_parquet(tmp_path / "a.parquet")
    pl.DataFrame({"movie_id": ["3"], "year": [1999]}).write_parquet(tmp_path / "b.parquet")
    table = ratings.read_table(str(tmp_path), key="movie_id", name="movie")
    assert table.rows() == [("2", "b", None), ("1", "a", None), ("3", None, 1999)]


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ({"id": [1]}, "has no column 'movie_id' (got id); rename it or set movie_column"),
        ({"movie_id": [1.5]}, "'movie_id' is Float64, expected an integer or a string; cast it on export"),
        ({"movie_id": []}, "holds no rows; check the export, or leave movies out"),
    ],
)
def test_a_wrong_table_of_movies_is_explained(tmp_path: Path, content: dict[str, Any], line: str) -> None:
    pl.DataFrame(content).write_parquet(tmp_path / "a.parquet")
    with pytest.raises(InputError, match=r"^movies ") as caught:
        ratings.read_table(str(tmp_path), key="movie_id", name="movie")
    assert line in str(caught.value)


def test_a_damaged_table_of_movies_is_explained(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"no parquet")
    with pytest.raises(InputError, match="is not a Parquet file"):
        ratings.read_table(str(tmp_path), key="movie_id", name="movie")


def test_ratings_take_the_rows_of_an_existing_model(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet")
    found = clean(tmp_path, users=pl.DataFrame({"user_id": [5]})).ratings
    movies = pl.DataFrame({"movie_id": [13, 12, 10], "title": ["c", "b", "a"]})
    moved = ratings.with_rows_of(found, users=pl.Series("user_id", [9, 2]), movies=movies)
    assert moved.cold_users.to_list() == [1, 5]
    assert moved.frame.select("user_idx", "movie_idx").rows() == [(1, 1), (1, 0), (2, 2)]
