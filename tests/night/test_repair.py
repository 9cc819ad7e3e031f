"""What is gone or damaged is found, named, and made again by the next run of the night."""

from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from cfjobs import storage
from cfjobs.errors import DamagedFile, InputError
from cfjobs.night import story
from cfjobs.night.records import Inputs, Night, Scored
from tests.night.test_story import QUICK, rows, start

LOOSE = QUICK.model_copy(update={"gate_beat_popularity": False})


@pytest.fixture(scope="module")
def undisturbed(data_set: Path, tmp_path_factory: pytest.TempPathFactory) -> pl.DataFrame:
    output = str(tmp_path_factory.mktemp("undisturbed"))
    story.nightly(start(data_set, output, config=LOOSE))
    return rows(output)


def scored(data_set: Path, output: str) -> tuple[Night, list[Scored]]:
    """A night that was stopped before its check."""
    night = start(data_set, output, config=LOOSE)
    prepared = story.prepare(night)
    story.hold_out(night, prepared)
    measured = story.fit(night, prepared, on="train")
    story.measure(night, prepared, measured)
    trained = story.fit(night, prepared, on="all", stop_fraction=measured.fraction)
    return night, [story.score(night, prepared, trained, shard) for shard in story.shards(night, prepared)]


def part(night: Night, found: list[Scored]) -> Path:
    return Path(night.output) / "top_n" / str(found[0].parts[0]["path"])


def cut(*paths: Path) -> None:
    for path in paths:
        path.write_bytes(path.read_bytes()[:-20])


DAMAGES: dict[str, Callable[[Night, list[Scored]], None]] = {
    "a part is gone": lambda night, found: part(night, found).unlink(),
    "a part is cut": lambda night, found: cut(part(night, found)),
    "the ratings of the work folder are gone": lambda night, _: (
        Path(night.work) / "ratings.parquet"
    ).unlink(),
    "the users of the work folder are cut": lambda night, _: cut(Path(night.work) / "users.parquet"),
    "the measured model is gone": lambda night, _: storage.delete_under(str(Path(night.work) / "model")),
    "the last model is cut": lambda night, _: cut(
        Path(night.output) / "models" / night.run_id / "network.safetensors"
    ),
    "every record is half": lambda night, _: cut(*Path(night.work).glob("*.json")),
}


@pytest.mark.parametrize("what", DAMAGES)
def test_the_next_run_makes_it_again(
    what: str, data_set: Path, tmp_path: Path, undisturbed: pl.DataFrame
) -> None:
    night, found = scored(data_set, str(tmp_path))
    DAMAGES[what](night, found)
    story.nightly(start(data_set, str(tmp_path), config=LOOSE))
    assert rows(str(tmp_path)).equals(undisturbed)
    assert not Path(night.work).exists()


def test_a_part_that_goes_during_the_night_is_named_and_scored_by_the_next_run(
    data_set: Path, tmp_path: Path, undisturbed: pl.DataFrame
) -> None:
    night, found = scored(data_set, str(tmp_path))
    part(night, found).unlink()
    with pytest.raises(DamagedFile, match=f"{part(night, found).name}: is gone; .* score shard 0 anew"):
        story.check(night, story.prepare(night), found)
    story.nightly(start(data_set, str(tmp_path), config=LOOSE))
    assert rows(str(tmp_path)).equals(undisturbed)


def test_titles_that_are_no_text_are_refused_before_the_training(data_set: Path, tmp_path: Path) -> None:
    movies = pl.read_parquet(data_set / "movies.parquet").with_columns(pl.lit([1]).alias("title"))
    movies.write_parquet(tmp_path / "movies.parquet")
    inputs = Inputs(ratings=str(data_set / "ratings.parquet"), movies=str(tmp_path / "movies.parquet"))
    with pytest.raises(InputError, match="column 'title' is List"):
        story.prepare(story.start(inputs, output=str(tmp_path / "out"), config=LOOSE))


def test_files_of_all_tables_are_there_before_the_first_commit(
    data_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What fails while a table is written leaves every table as it was."""
    story.nightly(start(data_set, str(tmp_path), config=LOOSE))
    before = rows(str(tmp_path))
    again = start(data_set, str(tmp_path), config=LOOSE.model_copy(update={"seed": 5}))
    real, tables_ = (
        storage.write_bytes,
        ("movie_embeddings", "similar_movies", "holdout_predictions", "metrics"),
    )
    for table in tables_:

        def fails(uri: str, data: bytes, table: str = table) -> None:
            if f"/{table}/" in uri:
                raise InputError("the disk is full")
            real(uri, data)

        monkeypatch.setattr(storage, "write_bytes", fails)
        with pytest.raises(InputError, match="full"):
            story.nightly(again)
        assert rows(str(tmp_path)).equals(before)
    monkeypatch.setattr(storage, "write_bytes", real)
    published = story.nightly(again)
    assert published.seconds["window"] <= published.seconds["publish"]
    assert not rows(str(tmp_path)).equals(before)
