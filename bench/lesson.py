"""The lesson's own split: each of its three networks, and the default one, beside the lesson's figure.

    python bench/lesson.py [--seeds 3] [--json]

Data: MovieLens latest-small of October 2016, in the folder that CFJOBS_ML_LATEST_SMALL names. The lesson
holds out the first 20,000 rows of numpy's seed-42 permutation. Each network is trained with its own recipe,
without looking at those rows; the figure is the mean squared error after the last epoch, predictions clipped
to 0.5..5.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
import torch

from cfjobs import models, training
from cfjobs.config import Config

LESSON = {"dot": 1.130, "dot_bias": 0.801, "net": 0.7808, "dot_raters": None}
N_VALID = 20_000
Y_RANGE = (0.5, 5.0)


def data_folder() -> Path:
    """The folder of the lesson's ratings; ends the bench with a word when it is not given."""
    folder = os.environ.get("CFJOBS_ML_LATEST_SMALL")
    if not folder:
        sys.exit("set CFJOBS_ML_LATEST_SMALL to the folder that holds ml-latest-small/")
    return Path(folder) / "ml-latest-small"


def lesson_split() -> tuple[training.Examples, training.Examples]:
    """Training and validation ratings of the lesson."""
    ratings = pl.read_parquet(data_folder() / "ratings.parquet")
    user, movie = (
        ratings[name].rank("dense").cast(pl.Int64).to_numpy() - 1 for name in ("user_id", "movie_id")
    )
    rating = ratings["rating"].cast(pl.Float32).to_numpy()
    np.random.seed(42)  # noqa: NPY002  # the lesson's own generator
    rows = np.random.permutation(len(rating))  # noqa: NPY002

    def examples(chosen: np.ndarray) -> training.Examples:
        return training.Examples(*(torch.from_numpy(column[chosen]) for column in (user, movie, rating)))

    return examples(rows[N_VALID:]), examples(rows[:N_VALID])


def measure(
    name: str, *, seed: int, learn: training.Examples, valid: training.Examples
) -> tuple[float, float]:
    """(mean squared error, seconds) of one network."""
    config = Config(model=name, seed=seed)
    torch.manual_seed(seed)
    n_users, n_movies = (
        int(max(a.max(), b.max())) + 1
        for a, b in ((learn.user_idx, valid.user_idx), (learn.movie_idx, valid.movie_idx))
    )
    network = models.build(
        name, n_users=n_users, n_movies=n_movies, settings=models.settings(config, y_range=Y_RANGE)
    )
    started = time.perf_counter()
    training.fit_rating(network, learn, config=config)
    return training.mean_squared_error(network, valid), time.perf_counter() - started


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seeds", type=int, default=3, help="how many seeds; the mean is compared")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    learn, valid = lesson_split()
    rows = []
    for name, lesson in LESSON.items():
        found = [measure(name, seed=seed, learn=learn, valid=valid) for seed in range(arguments.seeds)]
        losses = [loss for loss, _ in found]
        rows.append(
            {
                "network": name,
                "mse": float(np.mean(losses)),
                "worst": max(losses),
                "lesson": lesson,
                "seconds": float(np.mean([s for _, s in found])),
            }
        )
    if arguments.json:
        print(json.dumps({"rows": rows}))
    else:
        print(f"{'network':<10}{'MSE':>8}{'worst':>8}{'lesson':>8}{'s':>7}")
        for row in rows:
            print(
                f"{row['network']:<10}{row['mse']:>8.4f}{row['worst']:>8.4f}{row['lesson'] or float('nan'):>8.4f}{row['seconds']:>7.1f}"
            )
    return 0 if all(row["lesson"] is None or row["mse"] <= row["lesson"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
