"""A cold start beside a warm one, after the latest 5 % of the ratings have arrived.

    python bench/warm_start.py [--set KEY=VALUE ...] [--json]

The first night learns from the earliest 95 % of the ratings, with `warm_start = true`. The second night has
all of them: once cold, once from the first night's model. Both are measured on the same holdout. `measured`
is the model that has not seen the holdout, in seconds by the clock and of processor time, which other work on
the machine does not lengthen, and which is judged. `refit` is the published one, which goes on from the
measured one either way. Data: 100,000 ratings of `cfjobs sample`, and those in the folder that
CFJOBS_ML_LATEST_SMALL names. Ends with 1 unless the warm start takes at most a third of the cold one's time
and is as good: RMSE at most 0.5 % above, nDCG@10 at most 2 % below.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

import polars as pl

from cfjobs.config import Config, load_config
from cfjobs.datasets import synthetic
from cfjobs.night import story
from cfjobs.night.records import Inputs, Night, Prepared

FIRST, SECOND = date(2030, 1, 1), date(2030, 1, 2)
SHARE_ARRIVING = 0.05


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a configuration key")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    config = load_config(settings=arguments.set)
    rows = []
    for name, ratings in data_sets().items():
        with tempfile.TemporaryDirectory() as folder:
            rows += [{"data": name, **row} for row in compared(ratings, Path(folder), config)]
    if arguments.json:
        print(json.dumps({"rows": rows}))
    else:
        print(
            f"{'data':<18}{'start':<7}{'measured s':>11}{'cpu s':>8}{'refit s':>9}{'RMSE':>8}{'nDCG@10':>9}"
        )
        for row in rows:
            print(
                f"{row['data']:<18}{row['start']:<7}{row['measured_s']:>11.2f}{row['cpu_s']:>8.2f}{row['refit_s']:>9.2f}{row['rmse']:>8.4f}{row['ndcg']:>9.4f}"
            )
    return 0 if all(good_enough(cold, warm) for cold, warm in zip(rows[::2], rows[1::2], strict=True)) else 1


def data_sets() -> dict[str, pl.DataFrame]:
    """Ratings by name of the data."""
    found = {"sample": synthetic.generate(n_users=1_000, n_movies=2_000, n_ratings=100_000, seed=42).ratings}
    if folder := os.environ.get("CFJOBS_ML_LATEST_SMALL"):
        found["ml-latest-small"] = pl.read_parquet(Path(folder) / "ml-latest-small" / "ratings.parquet")
    return found


def compared(ratings: pl.DataFrame, folder: Path, config: Config) -> list[dict[str, object]]:
    """A cold and a warm second night."""
    ratings = ratings.sort("timestamp", maintain_order=True)
    n_first = round(ratings.height * (1 - SHARE_ARRIVING))
    for name, part in (("first", ratings.head(n_first)), ("second", ratings)):
        part.write_parquet(folder / f"{name}.parquet")
    warm = config.model_copy(update={"warm_start": True})
    output = str(folder / "output")
    story.nightly(
        story.start(Inputs(ratings=str(folder / "first.parquet")), output=output, run_date=FIRST, config=warm)
    )
    rows = []
    for start, chosen in (("cold", config), ("warm", warm)):
        night = story.start(
            Inputs(ratings=str(folder / "second.parquet")), output=output, run_date=SECOND, config=chosen
        )
        prepared = story.prepare(night)
        story.hold_out(night, prepared)
        rows.append({"start": start, **trained(night, prepared)})
    return rows


def trained(night: Night, prepared: Prepared) -> dict[str, float]:
    """Seconds and quality of one night's trainings."""
    began, cpu_began = time.perf_counter(), time.process_time()
    measured = story.fit(night, prepared, on="train")
    refit_began, cpu_ended = time.perf_counter(), time.process_time()
    story.fit(night, prepared, on="all", stop_fraction=measured.fraction)
    ended = time.perf_counter()
    assert (measured.warm_from is not None) == night.config.warm_start
    metrics = story.measure(night, prepared, measured)
    rmse, ndcg = metrics["rmse"], metrics["ndcg_at_10"]
    assert rmse is not None
    assert ndcg is not None
    return {
        "measured_s": refit_began - began,
        "refit_s": ended - refit_began,
        "cpu_s": cpu_ended - cpu_began,
        "rmse": rmse,
        "ndcg": ndcg,
    }


def good_enough(cold: dict[str, float], warm: dict[str, float]) -> bool:
    """Whether the warm start keeps the promise."""
    return (
        warm["cpu_s"] <= cold["cpu_s"] / 3
        and warm["rmse"] <= cold["rmse"] * 1.005
        and warm["ndcg"] >= cold["ndcg"] * 0.98
    )


if __name__ == "__main__":
    sys.exit(main())
