"""Executes docs/a-look-around.ipynb on generated data and writes it back with what its cells print and draw."""

import sys
from datetime import date
from pathlib import Path

import polars as pl

from cfjobs.config import Config
from cfjobs.datasets import synthetic
from cfjobs.night import story
from cfjobs.night.records import Inputs

SHARES = {date(2016, 1, 1): 0.98, date(2016, 1, 2): 0.99, date(2016, 1, 3): 1.0}


def nights(folder: Path) -> str:
    data = synthetic.generate(n_users=800, n_movies=600, n_ratings=60_000, seed=1)
    ratings = data.ratings.sort("timestamp", "user_id", "movie_id")
    wrong = ratings.head(12).with_columns(pl.lit(None, pl.Float32).alias("rating"))
    data.movies.write_parquet(folder / "movies.parquet")
    output = str(folder / "out")
    for night, share in SHARES.items():
        until = ratings.head(round(share * ratings.height))
        pl.concat([until, wrong]).write_parquet(folder / "ratings.parquet")
        config = Config(audience=8)
        story.nightly(story.start(Inputs(ratings=str(folder)), output=output, run_date=night, config=config))
    return output


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir()
    print(nights(folder))
