"""Five default nights with 1 % more ratings each: how many movies stay, and what the lists are worth.

    python bench/churn.py --ratings FOLDER [--seeds 3] [--nights 5] [--set KEY=VALUE ...] [--json]

Each user's latest 20 % of the ratings are put aside first and judge the published lists of every night. The
nights get the rest without its latest 4, 3, 2, 1, 0 per cent by time. `kept`: of the first ten movies of
users whose ratings are those of the night before; `first kept`: of their first movies. `cold` is the last
night once more, its refit begun anew. Means over seeds, with the 95 % interval of the mean.
"""

import argparse
import json
import math
import sys
import tempfile
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from cfjobs import evaluation
from cfjobs.config import Config, load_config, relevant_from
from cfjobs.night import story
from cfjobs.night.records import Inputs
from cfjobs.ratings.holdout import temporal_holdout
from cfjobs.topn.problem import NO_MOVIE, Lists

FIRST = date(2025, 1, 1)
GROWTH = 0.01
FIGURES = ("kept", "first_kept", "ndcg", "ndcg_measured", "coverage", "popular_share", "novelty", "weight")


def read(folder: str) -> pl.DataFrame:
    """user_id, movie_id, rating, timestamp of a data set, sorted by user and time."""
    path = Path(folder) / "ratings.parquet" if Path(folder).is_dir() else Path(folder)
    columns = ("user_id", "movie_id", "rating", "timestamp")
    return pl.read_parquet(path, columns=list(columns)).sort("user_id", "timestamp", "movie_id")


def nights(
    ratings: pl.DataFrame, *, seed: int, n_nights: int, config: Config, output: str
) -> list[dict[str, Any]]:
    """One row a night, and one for a cold last night."""
    user = ratings["user_id"].rank("dense").cast(pl.Int32).to_numpy() - 1
    held = temporal_holdout(user, fraction=0.2)
    test, rest = ratings.filter(held), ratings.filter(~held).sort("timestamp", maintain_order=True)
    config = config.model_copy(update={"seed": seed, "top_n": 10})
    cold = config.model_copy(update={"warm_refit": False, "steady": False})
    plan = [(f"night {n + 1}", n, config) for n in range(n_nights)] + [("cold", n_nights - 1, cold)]
    rows, before, lists_before = [], rest.clear(), pl.DataFrame()
    for name, n, chosen in plan:
        here = rest.head(round(rest.height * (1 - GROWTH * (n_nights - 1 - n))))
        folder = Path(output) / name.replace(" ", "-")
        folder.mkdir(parents=True)
        here.write_parquet(folder / "ratings.parquet")
        out = str(Path(output) / "out") if chosen.steady else str(folder / "out")
        night = story.start(
            Inputs(ratings=str(folder / "ratings.parquet")),
            output=out,
            run_date=FIRST + timedelta(days=n),
            config=chosen,
        )
        published = story.nightly(night)
        lists = (
            pl.scan_delta(published.tables["top_n"], version=published.table_versions["top_n"])
            .filter(pl.col("run_date") == night.run_date)
            .select("user_id", "rank", "movie_id")
            .collect()
        )
        row = {"night": name, "seed": seed, **figures(published.metrics), **judged(lists, test)}
        if n and chosen.steady:
            row |= kept(lists, lists_before, unchanged(here, before))
        print(json.dumps(row), file=sys.stderr, flush=True)
        rows.append(row)
        before, lists_before = here, lists
    return rows


def figures(metrics: dict[str, float | None]) -> dict[str, float | None]:
    """What a night says of itself."""
    names = {
        "ndcg_measured": "ndcg_at_10",
        "disliked_measured": "disliked_share_at_10",
        "rmse_measured": "rmse",
        "coverage": "coverage_published",
        "coverage_measured": "coverage",
        "popular_share": "popular_share_at_10_published",
        "popular_share_measured": "popular_share_at_10",
        "novelty": "novelty_at_10_published",
        "novelty_measured": "novelty_at_10",
        "stars": "stars_at_10_published",
        "stars_measured": "stars_at_10",
        "weight": "stars_weight",
    }
    return {short: metrics.get(name) for short, name in names.items()}


def judged(lists: pl.DataFrame, test: pl.DataFrame) -> dict[str, float]:
    """nDCG@10 of published lists on ratings that no night has seen."""
    users = lists["user_id"].unique().sort()
    movies = pl.concat([lists["movie_id"], test["movie_id"]]).unique().sort()
    known = test.filter(pl.col("user_id").is_in(users.implode()))
    listed = np.full((users.len(), 10), NO_MOVIE, np.int32)
    listed[rows_of(lists["user_id"], users), lists["rank"].to_numpy() - 1] = rows_of(
        lists["movie_id"], movies
    )
    held = evaluation.Holdout(
        rows_of(known["user_id"], users),
        rows_of(known["movie_id"], movies),
        known["rating"].cast(pl.Float32).to_numpy(),
    )
    low, high = float(test["rating"].min()), float(test["rating"].max())  # type: ignore[arg-type]
    found = evaluation.list_metrics(
        [Lists(0, listed, np.zeros(listed.shape, np.float32))],
        held,
        relevant_rating=relevant_from((low, high)),
        n_users=users.len(),
        n_candidates=movies.len(),
    )
    return {"ndcg": found["ndcg_at_10"]}


def rows_of(ids: pl.Series, known: pl.Series) -> NDArray[np.int32]:
    """Places among sorted ids."""
    return known.search_sorted(ids).cast(pl.Int32).to_numpy()


def unchanged(now: pl.DataFrame, before: pl.DataFrame) -> pl.DataFrame:
    """Users with as many ratings as before."""
    counts = (frame.group_by("user_id").len() for frame in (now, before))
    return next(counts).join(next(counts), on=["user_id", "len"]).select("user_id")


def kept(lists: pl.DataFrame, before: pl.DataFrame, users: pl.DataFrame) -> dict[str, float]:
    """Of the movies of these users' lists, how many of ten were there; the share of the same first ones."""
    mine = lists.join(users, on="user_id")
    there = mine.join(before, on=["user_id", "movie_id"], how="semi")
    first = mine.filter(rank=1).join(before.filter(rank=1), on=["user_id", "movie_id"], how="semi")
    return {
        "kept": 10 * there.height / mine.height,
        "first_kept": first.height / mine.filter(rank=1).height,
    }


def interval(values: list[float]) -> str:
    half = 1.96 * float(np.std(values, ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return f"{np.mean(values):.4f} +-{half:.4f}"


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--ratings", required=True, help="a folder with ratings.parquet, or the file")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--nights", type=int, default=5)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a configuration key")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    config, ratings, rows = load_config(settings=arguments.set), read(arguments.ratings), []
    for seed in range(arguments.seeds):
        with tempfile.TemporaryDirectory() as output:
            rows += nights(ratings, seed=seed, n_nights=arguments.nights, config=config, output=output)
    if arguments.json:
        print(json.dumps({"rows": rows}))
        return 0
    print(f"{'night':<10}" + "".join(f"{name:>18}" for name in FIGURES))
    for name in dict.fromkeys(row["night"] for row in rows):
        values = [[row[key] for row in rows if row["night"] == name and key in row] for key in FIGURES]
        print(f"{name:<10}" + "".join(f"{interval(v) if v else '':>18}" for v in values))
    return 0


if __name__ == "__main__":
    sys.exit(main())
