"""A night whose ratings are in pieces publishes the tables of one that reads them at once."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from cfjobs.night import pieces, story
from cfjobs.night.pieces import in_turn
from tests.night.test_story import QUICK, rows, start

TABLES = ("top_n", "metrics", "users", "movies", "rejected_ratings", "holdout_predictions")


def in_several_files(data_set: Path, folder: Path) -> Path:
    """The data set with its ratings in files of 700, in any order, some of them without a value."""
    (folder / "ratings.parquet").mkdir(parents=True)
    ratings = pl.read_parquet(data_set / "ratings.parquet").sample(fraction=1, shuffle=True, seed=3)
    wrong = pl.when(pl.int_range(pl.len()) % 97 == 0).then(None).otherwise("rating").alias("rating")
    for number, part in enumerate(ratings.with_columns(wrong).iter_slices(700)):
        part.write_parquet(folder / "ratings.parquet" / f"{number}.parquet")
    for name in ("movies", "users"):
        (folder / f"{name}.parquet").write_bytes((data_set / f"{name}.parquet").read_bytes())
    return folder


def with_small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "range_rows", lambda _config: 1_000)
    monkeypatch.setattr(pieces.scan, "_GROUP_ROWS", 700)


@pytest.mark.parametrize(
    "settings",
    [
        {"popular_days": 100, "movie_features": ("genres",), "lists_per": {"genres": 2}},
        {"holdout": "random", "question": "any", "rank_by": "affinity"},
        {"feedback": "implicit"},
    ],
    ids=["next", "any", "implicit"],
)
@pytest.mark.parametrize("where", ["disk", pytest.param("store", marks=pytest.mark.long)])
def test_the_published_tables_are_those_of_ratings_read_at_once(
    where: str,
    settings: dict[str, Any],
    data_set: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    with_small_pieces(monkeypatch)
    folder = in_several_files(data_set, tmp_path / "in")
    config = QUICK.model_copy(update={"refit": False, "gate_beat_popularity": False} | settings)
    here, there = str(tmp_path / "here"), str(tmp_path / "pieces")
    if where == "store":
        there = f"{request.getfixturevalue('bucket')}/pieces"
    wanted = story.nightly(start(folder, here, config=config))
    stages = replace(
        story.here(),
        prepare=partial(story.prepare, each=in_turn),
        hold_out=partial(story.hold_out, each=in_turn),
    )
    night, n_files = start(folder, there, config=config), list[int]()
    commit = stages.commit

    def look(*arguments: Any, **more: Any) -> Any:
        n_files.append(len(night.files("ratings")))
        return commit(*arguments, **more)

    published, _ = story.story(night, replace(stages, commit=look))
    assert n_files[0] > 2
    for table in TABLES:
        mine, theirs = (rows(output, table) for output in (there, here))
        assert mine.equals(theirs), table
    assert (published.counts, published.metrics) == (wanted.counts, wanted.metrics)
