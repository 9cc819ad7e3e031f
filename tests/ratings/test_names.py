"""Columns under the names that people use: recognised where there is no doubt, asked about where there is."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cfjobs import ratings
from cfjobs.config import Config
from cfjobs.errors import InputError
from cfjobs.ratings import names

INT, REAL, TEXT, TIME = pl.Int64(), pl.Float64(), pl.String(), pl.Datetime("us")
PLAIN = {"user_id": INT, "movie_id": INT, "rating": REAL, "timestamp": INT}


def settings(columns: dict[str, Any], **config: Any) -> dict[str, str]:
    return names.settings_of(columns, config=Config(**config), what="ratings a.parquet")


@pytest.mark.parametrize(
    ("columns", "found"),
    [
        (["userId", "movieId", "rating", "timestamp"], ["userId", "movieId", None, None]),
        (["User-ID", "ISBN", "Book-Rating"], ["User-ID", "ISBN", "Book-Rating", None]),
        (["user", "item", "Rating", "date"], ["user", "item", "Rating", "date"]),
        (["customer_id", "product_id", "stars", "ts"], ["customer_id", "product_id", "stars", "ts"]),
        (["user_id", "user", "itemId", "title", "score"], [None, "itemId", "score", None]),
        (["uid", "asin", "overall", "time"], ["uid", "asin", "overall", "time"]),
    ],
)
def test_names_that_people_use_are_recognised(columns: list[str], found: list[str | None]) -> None:
    types = [INT if "id" in name.lower() else REAL for name in columns]
    keys = ["user_column", "movie_column", "rating_column", "timestamp_column"]
    expected = {key: name for key, name in zip(keys, found, strict=True) if name}
    assert settings(dict(zip(columns, types, strict=True))) == expected


@given(st.permutations(sorted(PLAIN)), st.sampled_from(["userId", "itemId", "score", "ts", "x"]))
def test_columns_under_their_own_names_are_never_replaced(order: list[str], more: str) -> None:
    assert settings({name: PLAIN[name] for name in order} | {more: INT}) == {}


def test_a_setting_wins_over_every_name() -> None:
    columns = {"userId": INT, "who": INT, "movieId": INT, "rating": REAL, "ts": INT}
    assert settings(columns, user_column="who") == {"movie_column": "movieId", "timestamp_column": "ts"}
    assert settings(columns, user_column="absent", movie_column="userId") == {"timestamp_column": "ts"}


def test_the_type_decides_between_two_names() -> None:
    columns = {"userId": INT, "itemId": INT, "stars": REAL, "timestamp ": TEXT, "created_at": TIME}
    assert settings(columns)["timestamp_column"] == "created_at"


@pytest.mark.parametrize(
    ("columns", "line"),
    [
        (
            {"userId": INT, "customer_id": INT, "movie_id": INT},
            "'userId' or 'customer_id' could hold the user (got userId, customer_id, movie_id); "
            "add --set user_column=userId, or the column that is meant",
        ),
        (
            {"a": INT, "b": INT, "rating": REAL},
            "no column is named for the user or the movie (got a, b, rating); "
            "add --set user_column=a --set movie_column=b, or the column that is meant",
        ),
        ({"user": INT}, "--set movie_column=COLUMN"),
    ],
)
def test_a_doubt_is_one_line_with_the_settings_to_add(columns: dict[str, Any], line: str) -> None:
    with pytest.raises(InputError, match=r"^ratings a\.parquet: ") as caught:
        settings(columns)
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


def test_other_tables_have_their_ids_and_titles_found(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="cfjobs")
    pl.DataFrame({"itemId": [1], "name": ["a"]}).write_parquet(tmp_path / "a.parquet")
    assert ratings.read_table(str(tmp_path), key="movie_id", name="movie").to_dicts() == [
        {"movie_id": 1, "title": "a"}
    ]
    assert caplog.messages == [
        "movies: movie_id from 'itemId' (recognised by name)",
        "movies: title from 'name' (recognised by name)",
    ]
    assert names.recognised(["user_id", "customer_id"], "user_column") == "user_id"
    assert names.recognised(["userId", "customer_id"], "user_column") is None
    keys = {"user_column": "uid", "movie_column": "movieId"}
    assert names.renaming(["uid", "userId", "movie_id"], keys) == {"movie_id": "movieId"}


def test_what_was_recognised_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pl.DataFrame(schema={"userId": pl.Int64}).write_parquet(
        tmp_path / "0.parquet"
    )  # without rows: tells nothing
    pl.DataFrame({"user": [1], "itemId": [2], "stars": [3.0], "timestamp": [4]}).write_parquet(
        tmp_path / "1.parquet"
    )
    files = ratings.list_parquet(str(tmp_path), what="ratings")
    with caplog.at_level("INFO", logger="cfjobs"):
        config = ratings.with_names(files, Config())
    assert (config.user_column, config.movie_column, config.rating_column) == ("user", "itemId", "stars")
    (line,) = caplog.messages
    assert "--set user_column=user --set movie_column=itemId --set rating_column=stars" in line
