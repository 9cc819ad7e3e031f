"""What genres are worth: stars and lists with and without them,
also for movies that training has no rating of.

    python bench/features.py [--network dot_raters] [--seeds 1] [--json]

Data: MovieLens latest-small, in the folder that CFJOBS_ML_LATEST_SMALL names. Two holdouts:

    by time    each user's latest fifth; relevant from 4 stars on;
               movies that only the holdout rates are old or obscure
    by movie   all ratings of one movie in ten, chosen at random: what a new movie is to the network

nDCG@10 and the rating errors are those of a night's holdout. "found among": of two movies without training
ratings, of which a user liked one in the holdout, how often the ranking network puts that one first; a coin
has 0.5. "listed": share of the lists' places that go to such movies.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import polars as pl
import torch
from lesson import data_folder

from cfjobs import evaluation, lists, training
from cfjobs.config import Config
from cfjobs.model_store.files import Model
from cfjobs.models.network import DotScores
from cfjobs.models.predict import predict
from cfjobs.ratings import catalogue, holdout
from cfjobs.ratings.read import rows_of

Y_RANGE = (0.5, 5.0)
LIKED = 4.0
Row = dict[str, Any]


def read() -> tuple[pl.DataFrame, pl.DataFrame]:
    """(ratings by row numbers, sorted by user and time; the movies)."""
    folder = data_folder()
    movies = pl.read_parquet(folder / "movies.parquet").sort("movie_id")
    ratings = pl.read_parquet(folder / "ratings.parquet").sort("user_id", "timestamp", "movie_id")
    frame = ratings.select(
        (pl.col("user_id").rank("dense").cast(pl.Int32) - 1).alias("user_idx"),
        pl.Series("movie_idx", rows_of(ratings["movie_id"], movies["movie_id"])),
        pl.col("rating").cast(pl.Float32),
    )
    return frame, movies


def fitted(config: Config, kept: pl.DataFrame, movies: pl.DataFrame, *, n_users: int) -> Model:
    """Both networks, fitted to the kept ratings as in a refit."""
    users = pl.DataFrame({"user_id": np.arange(n_users)})
    encodings = catalogue.encodings(config, movies=movies, users=users)
    task = training.Task(
        config,
        n_users=n_users,
        n_movies=movies.height,
        y_range=Y_RANGE,
        kept=kept,
        valid=kept.head(0),
        movie_features=catalogue.encoded(movies, encodings.movies),
    )
    found = training.fit_networks(task, training.Kit(torch.device("cpu")))

    def counts(name: str, size: int) -> pl.Series:
        return pl.Series("n_ratings", np.bincount(kept[name].to_numpy(), minlength=size))

    return Model(
        found.network,
        found.ranking,
        config,
        users.with_columns(counts("user_idx", n_users)),
        movies.with_columns(counts("movie_idx", movies.height)),
        encodings,
    )


def measured(model: Model, kept: pl.DataFrame, test: pl.DataFrame) -> Row:
    """Errors of the stars, all and of movies without training ratings; nDCG@10;
    and liked ones found among the unrated."""
    examples = training.examples(test, torch.device("cpu"))
    predicted = predict(model.network, examples.user_idx, examples.movie_idx).numpy()
    error = (predicted - test["rating"].to_numpy()) ** 2
    unrated = model.movies["n_ratings"].to_numpy()[test["movie_idx"].to_numpy()] == 0
    n_users = model.users.height
    best = list(lists.best(lists.request_of(model, kept, users=range(n_users)), n=evaluation.K))
    ranked = evaluation.list_metrics(
        best,
        evaluation.Holdout.of(test),
        relevant_rating=LIKED,
        n_users=n_users,
        n_candidates=int(lists.candidates(model).sum()),
    )
    listed = np.concatenate([batch.movie_idx.ravel() for batch in best])
    n_ratings = model.movies["n_ratings"].to_numpy()
    return {
        "rmse": float(np.sqrt(error.mean())),
        "rmse_unrated": float(np.sqrt(error[unrated].mean())),
        "n_unrated": int(unrated.sum()),
        "ndcg_at_10": ranked["ndcg_at_10"],
        "found_among": found_among(model, kept, test.filter(unrated)),
        "unrated_listed": float((n_ratings[listed[listed >= 0]] == 0).mean()),
    }


def found_among(model: Model, kept: pl.DataFrame, test: pl.DataFrame) -> float:
    """Mean over users of the share of (liked,
    other) pairs of unrated movies whose liked one has the higher score."""
    scores = lists.scores(model, kept, users=range(model.users.height))
    assert isinstance(scores, DotScores)
    unrated = np.flatnonzero(model.movies["n_ratings"].to_numpy() == 0)
    score_UM = (scores.user @ scores.movie[unrated].T + scores.bias[unrated]).numpy()
    shares = []
    for (user,), theirs in test.filter(pl.col("rating") >= LIKED).group_by("user_idx"):
        liked = np.isin(unrated, theirs["movie_idx"].to_numpy())
        ahead = score_UM[user, liked][:, None] - score_UM[user, ~liked][None, :]
        shares.append(float((ahead > 0).mean() + (ahead == 0).mean() / 2))
    return float(np.mean(shares))


def rows(network: str, seeds: int) -> Iterator[Row]:
    frame, movies = read()
    n_users = int(frame["user_idx"].max()) + 1  # type: ignore[arg-type]  # a number
    new = np.random.default_rng(0).permutation(movies.height)[: movies.height // 10]
    holdouts = {
        "by time": holdout.temporal_holdout(frame["user_idx"].to_numpy(), fraction=0.2),
        "by movie": np.isin(frame["movie_idx"].to_numpy(), new),
    }
    for name, held_out in holdouts.items():
        kept, test = frame.filter(~held_out), frame.filter(held_out)
        for columns in ((), ("genres",)):
            found = []
            for seed in range(seeds):
                config = Config(model=network, seed=seed, movie_features=columns)
                found.append(measured(fitted(config, kept, movies, n_users=n_users), kept, test))
            means = {name: float(np.mean([row[name] for row in found])) for name in found[0]}
            yield {"holdout": name, "features": ", ".join(columns) or "none", **means}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--network", default="dot_raters")
    parser.add_argument("--seeds", type=int, default=1, help="how many seeds; the mean is printed")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    found = list(rows(arguments.network, arguments.seeds))
    if arguments.json:
        print(json.dumps({"network": arguments.network, "rows": found}))
        return 0
    print(f"{arguments.network}, mean of {arguments.seeds} seeds")
    print(
        f"{'holdout':<10}{'features':<10}{'RMSE':>8}{'unrated':>9}{'n':>7}{'nDCG@10':>9}{'found among':>12}{'listed':>8}"
    )
    for row in found:
        print(
            f"{row['holdout']:<10}{row['features']:<10}{row['rmse']:>8.4f}{row['rmse_unrated']:>9.4f}{row['n_unrated']:>7.0f}"
            f"{row['ndcg_at_10']:>9.4f}{row['found_among']:>12.3f}{row['unrated_listed']:>8.1%}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
