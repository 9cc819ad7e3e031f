"""What goes wrong with a place: wrong input is never told as something to retry."""

import errno
import os
from datetime import UTC, date, datetime
from pathlib import Path

import polars as pl
import pytest

from cfjobs import storage
from cfjobs.config import Config
from cfjobs.errors import InputError, StorageFault
from cfjobs.night import story
from cfjobs.night.records import Inputs
from cfjobs.storage.faults import explained


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.ENOTDIR, errno.ENAMETOOLONG, errno.EDQUOT, errno.EFBIG, errno.EACCES])  # fmt: skip
def test_what_no_retry_mends_is_wrong_input(number: int) -> None:
    with pytest.raises(InputError, match="/out: "), explained("/out"):
        raise OSError(number, os.strerror(number))
    from_rust = type("Error", (Exception,), {"__module__": "polars.exceptions"})
    with pytest.raises(InputError), explained("/out"):
        raise from_rust(f"Generic LocalFileSystem error: {os.strerror(number)} (os error {number})")


def test_what_passes_is_worth_a_retry() -> None:
    with pytest.raises(StorageFault, match="retry"), explained("/out"):
        raise OSError(errno.EIO, "Input/output error")


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("s3:/bucket/x", "two slashes"),
        ("s3:bucket/x", "two slashes"),
        ("S3://bucket/x", "small letters"),
        ("file:/tmp/x", "two slashes"),
        ("gs:/bucket/x", "two slashes"),
        ("", "empty"),
        ("  ", "empty"),
        ("s3://", "names no bucket"),
        ("gs://bucket/x", "not supported"),
        ("s3://bucket/a//b", "empty name"),
        ("s3://bucket/../b", "empty name, '.' or '..'"),
        ("s3://bucket/a\tb", "control character"),
        ("/tmp/a\nb", "control character"),
        ("file://host/x", "three slashes"),
    ],
)
def test_a_uri_that_is_none_is_refused(uri: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        storage.normal(uri)


@pytest.mark.parametrize(
    ("uri", "means"),
    [
        ("s3a://bucket/x/", "s3://bucket/x"),
        ("s3n://bucket/x", "s3://bucket/x"),
        ("file:///tmp/a%20b", "/tmp/a b"),
        ("/tmp/a%20b#c", "/tmp/a%20b#c"),
    ],
)
def test_a_uri_that_is_written_differently_means_the_same(uri: str, means: str) -> None:
    assert storage.normal(uri) == means


@pytest.mark.parametrize("root", ["{}", "s3://bucket"])
@pytest.mark.parametrize(
    "name", ["a b", "a#b", "a%b", "a%20b", "ümlaut", "[b]", "env=prod", "=a", "a?b", "a|b", 'a"b']
)
def test_an_output_that_readers_would_not_find_is_refused_before_anything_is_read(
    name: str, root: str, data_set: Path, tmp_path: Path
) -> None:
    output = f"{root.format(tmp_path)}/{name}/out"
    with pytest.raises(InputError, match="readers of Delta tables"):
        story.start(Inputs(ratings=str(data_set / "absent")), output=output)


def test_places_that_nobody_can_write_to_are_refused_before_anything_is_read(
    data_set: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("not a folder")
    for output in (tmp_path / "file", tmp_path / "file" / "out", tmp_path / ("x" * 300)):
        with pytest.raises(InputError):
            story.start(Inputs(ratings=str(data_set / "ratings.parquet")), output=str(output))


@pytest.mark.parametrize("what", ["deny", "allow", "exclude", "movies", "users", "model"])
def test_an_unset_variable_is_not_an_input_that_was_left_out(
    what: str, data_set: Path, tmp_path: Path
) -> None:
    inputs = Inputs(ratings=str(data_set / "ratings.parquet"), **{what: ""})
    with pytest.raises(InputError, match=f"{what}: an empty URI"):
        story.start(inputs, output=str(tmp_path / "out"))


def test_ratings_and_tables_have_folders_of_their_own(data_set: Path, tmp_path: Path) -> None:
    ratings = tmp_path / "lake" / "ratings"
    ratings.mkdir(parents=True)
    pl.read_parquet(data_set / "ratings.parquet").write_parquet(ratings / "part-0.parquet")
    os.symlink(ratings, tmp_path / "link")
    for output in (ratings, ratings / "out", tmp_path / "lake", tmp_path / "link" / "out"):
        with pytest.raises(InputError, match="folders of their own"):
            story.start(Inputs(ratings=str(ratings)), output=str(output))
    story.start(Inputs(ratings=str(ratings)), output=str(tmp_path / "lake" / "ratings-out"))
    story.start(Inputs(ratings=str(data_set)), output=str(data_set / "out"))  # beside ratings.parquet


def test_a_date_far_ahead_is_refused_unless_it_is_allowed(data_set: Path, tmp_path: Path) -> None:
    now = datetime(2026, 3, 1, 23, tzinfo=UTC)

    def start(run_date: date, config: Config = Config()) -> None:
        inputs = Inputs(ratings=str(data_set / "ratings.parquet"))
        story.start(inputs, output=str(tmp_path / "out"), run_date=run_date, config=config, now=now)

    start(date(2026, 3, 2))
    for far in (date(2026, 3, 3), date(2205, 1, 3)):
        with pytest.raises(InputError, match="gate_max_days_ahead"):
            start(far)
    start(date(2205, 1, 3), Config(gate_max_days_ahead=None))
