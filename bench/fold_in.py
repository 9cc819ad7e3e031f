"""Users that training never saw, folded in from their ratings, beside the typical user's prediction.

    python bench/fold_in.py [--network dot_raters] [--json]

Data: MovieLens latest-small, in the folder that CFJOBS_ML_LATEST_SMALL names. Every fifth user is kept from
training altogether; the last fifth of their ratings is predicted from the k ratings before it. Root mean
squared error.
"""

import argparse
import json
import os
import sys
from pathlib import Path

import polars as pl
import torch

from cfjobs import models, training
from cfjobs.config import Config
from cfjobs.models.network import UNKNOWN, Network
from cfjobs.models.predict import predict
from cfjobs.training import fold_in

Y_RANGE = (0.5, 5.0)
KNOWN = (1, 2, 5, 10, 20, 50)


def read(file: Path) -> tuple[training.Examples, list[training.Examples], int]:
    """(ratings of the users to train on, each new user's ratings by time, number of movies)."""
    ratings = pl.read_parquet(file).sort("user_id", "timestamp", "movie_id")
    ratings = ratings.with_columns(
        pl.col("user_id", "movie_id").rank("dense").cast(pl.Int64) - 1, pl.col("rating").cast(pl.Float32)
    )
    is_new = pl.col("user_id") % 5 == 0

    def examples(frame: pl.DataFrame) -> training.Examples:
        columns = (frame[name].to_numpy(writable=True) for name in ("user_id", "movie_id", "rating"))
        return training.Examples(*map(torch.from_numpy, columns))

    new = ratings.filter(is_new).partition_by("user_id", maintain_order=True)
    return examples(ratings.filter(~is_new)), [*map(examples, new)], int(ratings["movie_id"].max()) + 1  # type: ignore[arg-type]


def trained(config: Config, learn: training.Examples, n_movies: int) -> Network:
    torch.manual_seed(config.seed)
    network = models.build(
        config.model,
        n_users=int(learn.user_idx.max()) + 1,
        n_movies=n_movies,
        settings=models.settings(config, y_range=Y_RANGE),
    )
    training.fit_rating(network, learn, config=config)
    return network


def rmse(
    network: Network, config: Config, new: list[training.Examples], *, known: int
) -> tuple[float, float]:
    """(folded in from the `known` latest of the first four fifths, as a typical user)."""
    folded, typical = [], []
    for theirs in new:
        cut = len(theirs) * 4 // 5
        movie_idx, rating = theirs.movie_idx[cut:], theirs.rating[cut:]
        one = fold_in.network_of_one(
            network,
            config.model,
            movie_idx=theirs.movie_idx[max(0, cut - known) : cut],
            rating=theirs.rating[max(0, cut - known) : cut],
            l2=models.recipe_of(config).l2,
        )
        user_idx = torch.zeros_like(movie_idx)
        folded.append(predict(one, user_idx, movie_idx) - rating)
        typical.append(predict(network, user_idx + UNKNOWN, movie_idx) - rating)
    return tuple(float(torch.cat(errors).square().mean().sqrt()) for errors in (folded, typical))  # type: ignore[return-value]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--network", default="dot_raters", choices=models.names())
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    folder = os.environ.get("CFJOBS_ML_LATEST_SMALL")
    if not folder:
        print("set CFJOBS_ML_LATEST_SMALL to the folder that holds ml-latest-small/", file=sys.stderr)
        return 2
    learn, new, n_movies = read(Path(folder) / "ml-latest-small" / "ratings.parquet")
    config = Config(model=arguments.network, seed=0)
    network = trained(config, learn, n_movies)
    rows = []
    for known in (*KNOWN, 10**9):
        folded, typical = rmse(network, config, new, known=known)
        rows.append({"known": known if known < 10**9 else "all", "folded_in": folded, "typical": typical})
    if arguments.json:
        print(json.dumps({"network": arguments.network, "rows": rows}))
    else:
        print(f"{arguments.network}, {len(new)} new users\n{'known':>6}{'folded in':>11}{'typical':>9}")
        for row in rows:
            print(f"{row['known']:>6}{row['folded_in']:>11.4f}{row['typical']:>9.4f}")
    return 0 if all(row["folded_in"] <= row["typical"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
