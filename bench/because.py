"""What naming a reason for the first places costs beside scoring.

    python bench/because.py [--users 6000] [--movies 3700] [--ratings 1000000] [--factors 128]

Generated ratings, vectors without training; the lists, of a hundred, are those of the engine. Once to warm
up, once timed.
"""

import argparse
import time

import numpy as np
import polars as pl
import torch

from cfjobs.datasets import synthetic
from cfjobs.lists.because import FIRST, Reasons
from cfjobs.models.network import DotScores
from cfjobs.models.ranker import History, RankingConfig, RankingModel
from cfjobs.topn import Lists, Pairs, top_n

N = 100


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, value in (("users", 6_000), ("movies", 3_700), ("ratings", 1_000_000), ("factors", 128)):
        parser.add_argument(f"--{name}", type=int, default=value)
    request = parser.parse_args(words)
    data = synthetic.generate(
        n_users=request.users, n_movies=request.movies, n_ratings=request.ratings, seed=1
    ).ratings
    frame = data.select(
        (pl.col("user_id").rank("dense") - 1).cast(pl.Int32).alias("user_idx"),
        (pl.col("movie_id").rank("dense") - 1).cast(pl.Int32).alias("movie_idx"),
        pl.col("rating").cast(pl.Float32),
        "timestamp",
    ).sort("user_idx", "timestamp")
    user, movie = (frame[name].to_numpy() for name in ("user_idx", "movie_idx"))
    n_users, n_movies = int(user.max()) + 1, int(movie.max()) + 1
    model = ranking(n_movies, request.factors)
    seen = Pairs.of(user, movie, n_users=n_users)
    for _ in range(2):
        began = time.perf_counter()
        vectors = model.user_vectors(History.of(frame, n_users=n_users))
        scores = DotScores(vectors, model.movie_vectors, model.movie_bias)
        lists: list[Lists] = list(top_n(scores, n=N, seen=seen))
        scored = time.perf_counter() - began
        began = time.perf_counter()
        reasons = Reasons.of(model)
        named = sum(
            int((reasons.because(batch, frame, first_user=batch.first_user) >= 0).sum()) for batch in lists
        )
        spoken = time.perf_counter() - began
    print(f"{n_users:,} users, {n_movies:,} movies, {frame.height:,} ratings, {request.factors} factors")
    print(f"vectors and lists of {N}: {scored * 1e6 / n_users:.1f} us a user")
    print(f"reasons of the first {FIRST}: {spoken * 1e6 / n_users:.1f} us a user, {named:,} found")


def ranking(n_movies: int, n_factors: int) -> RankingModel:
    """Vectors around a few directions, as taste has them."""
    rng = np.random.default_rng(0)
    axes = rng.normal(size=(8, n_factors))

    def vectors() -> torch.Tensor:
        found = rng.normal(size=(n_movies, 8)) @ axes * 0.1 + rng.normal(size=(n_movies, n_factors)) * 0.05
        return torch.from_numpy(found.astype(np.float32))

    return RankingModel(
        history_vectors=vectors(),
        movie_vectors=vectors(),
        movie_bias=torch.zeros(n_movies),
        config=RankingConfig(n_factors=n_factors),
    )


if __name__ == "__main__":
    main()
