"""The stars of a published model beside myFM's, on ratings that neither has seen.

    python bench/stars.py --ratings FOLDER [--seeds 3] [--rank 20] [--set KEY=VALUE ...] [--json]

Each user's latest 20 % of the ratings are put aside and judge. A default night gets the rest, holds out its
own part of it, refits and publishes (without lists: `rank_by = rating`); myFM gets the same rest, 200 Gibbs
steps, once. Where the data say which ratings are exact (`rating_exact`), only those are used. Mean squared
errors of predictions clipped to the ends of the scale; the difference to myFM's over users, with the 95 %
interval of its mean, and the mean over seeds with its own. Seconds are the processor's of the two trainings.

myFM comes with the extra `peers`; where it is not installed, its part is left out.
"""

import argparse
import importlib.util
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from accuracy import interval, mean
from numpy.typing import NDArray

from cfjobs import model_store
from cfjobs.config import Config, load_config
from cfjobs.night import story
from cfjobs.night.records import Inputs
from cfjobs.query.predict import predicted
from cfjobs.ratings.holdout import temporal_holdout

GIBBS_STEPS = 200
COLUMNS = ("user_id", "movie_id", "rating", "timestamp")


def split(folder: str) -> tuple[pl.DataFrame, pl.DataFrame]:
    """(what nights get, what judges them), sorted by user and time."""
    path = Path(folder) / "ratings.parquet" if Path(folder).is_dir() else Path(folder)
    ratings = pl.read_parquet(path)
    if "rating_exact" in ratings.columns:
        ratings = ratings.filter("rating_exact")
    ratings = ratings.select(COLUMNS).sort("user_id", "timestamp", maintain_order=True)
    user = ratings["user_id"].rank("dense").cast(pl.Int32).to_numpy() - 1
    held = temporal_holdout(user, fraction=0.2)
    return ratings.filter(~held), ratings.filter(held)


def of_a_night(
    rest: pl.DataFrame, judge: pl.DataFrame, *, config: Config
) -> tuple[NDArray[np.float32], float]:
    """Predictions of the published model, and the processor seconds of both trainings."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ratings.parquet"
        rest.write_parquet(path)
        night = story.start(Inputs(ratings=str(path)), output=f"{folder}/out", config=config)
        prepared = story.prepare(night)
        story.hold_out(night, prepared)
        started = time.process_time()
        story.fit(night, prepared, on="train")
        trained = story.fit(night, prepared, on="all")
        seconds = time.process_time() - started
        model = model_store.load_model(trained.model_uri)
        found = predicted(model, users=judge["user_id"], movies=judge["movie_id"], device=config.device)
        return found.to_numpy(), seconds


def of_myfm(rest: pl.DataFrame, judge: pl.DataFrame, *, rank: int) -> tuple[NDArray[np.float32], float]:
    """Predictions of myFM for the same pairs, and its processor seconds."""
    import myfm
    import scipy.sparse as sp

    ids = [pl.concat([rest[name], judge[name]]).unique().sort() for name in ("user_id", "movie_id")]

    def one_hot(frame: pl.DataFrame) -> "sp.csr_matrix":
        user, movie = (
            known.search_sorted(frame[name]).to_numpy()
            for known, name in zip(ids, ("user_id", "movie_id"), strict=True)
        )
        columns = np.concatenate([user, len(ids[0]) + movie])
        rows = np.tile(np.arange(frame.height), 2)
        return sp.csr_matrix(
            (np.ones(len(rows)), (rows, columns)), shape=(frame.height, len(ids[0]) + len(ids[1]))
        )

    started = time.process_time()
    regressor = myfm.MyFMRegressor(rank=rank, random_seed=42)
    groups = [0] * len(ids[0]) + [1] * len(ids[1])
    stars = rest["rating"].to_numpy()
    regressor.fit(one_hot(rest), stars, n_iter=GIBBS_STEPS, n_kept_samples=GIBBS_STEPS, grouping=groups)
    found = np.clip(regressor.predict(one_hot(judge)), stars.min(), stars.max())
    return found.astype(np.float32), time.process_time() - started


def by_user(difference: NDArray[np.float64], user: pl.Series) -> tuple[float, float]:
    """The mean over ratings, and half of its 95 % interval, users drawn as wholes."""
    sums = pl.DataFrame({"user": user, "d": difference}).group_by("user").agg(pl.col("d").sum(), n=pl.len())
    total, n = sums["d"].to_numpy(), sums["n"].to_numpy()
    average = float(total.sum() / n.sum())
    spread = float(np.sqrt(np.square(total - average * n).sum())) / float(n.sum())
    return average, 1.96 * spread


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--ratings", required=True, metavar="FOLDER")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rank", type=int, default=20, help="of myFM")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of the nights"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    rest, judge = split(arguments.ratings)
    stars = judge["rating"].to_numpy().astype(np.float64)
    settings = ["rank_by=rating", *arguments.set]
    peer: NDArray[np.float64] | None = None
    rows: list[dict[str, Any]] = []
    if importlib.util.find_spec("myfm"):
        found, seconds = of_myfm(rest, judge, rank=arguments.rank)
        peer = (found - stars) ** 2
        rows.append({"system": f"myFM, rank {arguments.rank}", "mse": float(peer.mean()), "seconds": seconds})
    for seed in range(arguments.seeds):
        config = load_config(settings=[*settings, f"seed={seed}"])
        found, seconds = of_a_night(rest, judge, config=config)
        error = (found - stars) ** 2
        row = {"system": f"published, seed {seed}", "mse": float(error.mean()), "seconds": seconds}
        if peer is not None:
            row["to_myfm"], row["interval"] = by_user(error - peer, judge["user_id"])
        rows.append(row)
    losses = [row["mse"] for row in rows if row["system"].startswith("published")]
    summary = {"mse": mean(losses), "interval": interval(losses)}
    if peer is not None:
        summary["to_myfm_percent"] = 100 * (summary["mse"] / float(peer.mean()) - 1)
    if arguments.json:
        print(json.dumps({"rest": rest.height, "judge": judge.height, "rows": rows, "published": summary}))
        return 0
    print(f"{rest.height:,} ratings to learn from, {judge.height:,} to judge by\n")
    print(f"{'system':<22}{'mse':>8}{'to myFM':>20}{'cpu s':>8}")
    for row in rows:
        apart = f"{row['to_myfm']:+.4f} ± {row['interval']:.4f}" if "to_myfm" in row else ""
        print(f"{row['system']:<22}{row['mse']:>8.4f}{apart:>20}{row['seconds']:>8.1f}")
    apart = f", {summary['to_myfm_percent']:+.2f} % of myFM's" if peer is not None else ""
    print(
        f"\npublished, mean of {len(losses)} seeds: {summary['mse']:.4f} ± {summary['interval']:.4f}{apart}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
