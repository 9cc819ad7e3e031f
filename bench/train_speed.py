"""How long training takes to the held-out RMSE that libmf reaches in 20 epochs, and ratings a second.

    python bench/train_speed.py [--ratings 4000000] [--json]

Generated ratings (`cfjobs sample`), a random tenth held out, 64 factors, two threads, every system in the same run.
Peers come with the extra `peers`; one that is not installed is left out and named. The time is that of the training
alone: reading, the split and the measuring of the holdout are outside of it for everyone.
"""

import argparse
import importlib.util
import json
import os
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from cfjobs import models, sample, train
from cfjobs.config import Config

N_FACTORS, N_THREADS, EPOCHS = 64, 2, 20
Row = dict[str, Any]


def split(n_ratings: int) -> tuple[train.Examples, train.Examples, int, int]:
    """Training and held-out ratings, users, movies."""
    n_users, n_movies = n_ratings // 100, max(500, n_ratings // 400)
    data = sample.generate(n_users=n_users, n_movies=n_movies, n_ratings=n_ratings, seed=1)
    columns = [
        data.ratings[name].rank("dense").to_numpy().astype(np.int64) - 1 for name in ("user_id", "movie_id")
    ]
    rating = data.ratings["rating"].to_numpy().astype(np.float32)
    held_out = np.zeros(n_ratings, dtype=bool)
    held_out[np.random.default_rng(0).permutation(n_ratings)[: n_ratings // 10]] = True

    def examples(rows: np.ndarray) -> train.Examples:
        return train.Examples(*(torch.from_numpy(column[rows]) for column in (*columns, rating)))

    return examples(~held_out), examples(held_out), int(columns[0].max()) + 1, int(columns[1].max()) + 1


def by_libmf(learn: train.Examples, valid: train.Examples) -> Row:
    from libmf import mf

    table, pairs = (
        np.stack([part.user_idx.numpy(), part.movie_idx.numpy(), part.rating.numpy()], axis=1).astype(
            np.float32
        )
        for part in (learn, valid)
    )
    engine = mf.MF(k=N_FACTORS, nr_threads=N_THREADS, nr_iters=EPOCHS, lambda_p2=0.05, lambda_q2=0.05, lambda_p1=0.0, lambda_q1=0.0, eta=0.05, quiet=True)  # fmt: skip
    started = time.perf_counter()
    engine.fit(table)
    seconds = time.perf_counter() - started
    rmse = float(np.sqrt(np.mean((engine.predict(pairs[:, :2]) - pairs[:, 2]) ** 2)))
    return {
        "system": "libmf, 20 epochs",
        "rmse": rmse,
        "seconds": seconds,
        "ratings_a_second": EPOCHS * len(learn) / seconds,
    }


def by_surprise(learn: train.Examples, valid: train.Examples) -> Row:
    import pandas as pd
    from surprise import SVD, Dataset, Reader

    frame = pd.DataFrame(
        {"u": learn.user_idx.numpy(), "m": learn.movie_idx.numpy(), "r": learn.rating.numpy()}
    )
    data = Dataset.load_from_df(frame, Reader(rating_scale=(0.5, 5))).build_full_trainset()
    engine = SVD(n_factors=N_FACTORS, n_epochs=2, random_state=0)
    started = time.perf_counter()
    engine.fit(data)
    seconds = time.perf_counter() - started
    return {
        "system": "Surprise SVD, 2 epochs",
        "seconds": seconds,
        "ratings_a_second": 2 * len(learn) / seconds,
    }


def by_us(
    name: str, learn: train.Examples, valid: train.Examples, *, sizes: tuple[int, int], target: float | None
) -> Row:
    """The default training of a network; seconds: up to the first epoch at the target."""
    config = Config(model=name, n_factors=N_FACTORS, patience=0)
    torch.manual_seed(config.seed)
    network = models.build(
        name, n_users=sizes[0], n_movies=sizes[1], settings=models.settings(config, y_range=(0.5, 5))
    )
    record = train.fit(network, learn, config=config, valid=valid)
    spent = np.cumsum([epoch.seconds for epoch in record])
    rmse = [epoch.valid_loss**0.5 for epoch in record]
    reached = next(
        (float(s) for s, r in zip(spent, rmse, strict=True) if target is not None and r <= target), None
    )
    return {
        "system": f"cfjobs, {name}",
        "rmse": min(rmse),
        "seconds": float(spent[-1]),
        "seconds_to_target": reached,
        "ratings_a_second": len(record) * len(learn) / float(spent[-1]),
        "epochs": len(record),
    }


def rows(n_ratings: int) -> Iterator[Row]:
    learn, valid, *sizes = split(n_ratings)
    target = None
    if importlib.util.find_spec("libmf"):
        yield (peer := by_libmf(learn, valid))
        target = peer["rmse"]
    for name in ("dot_bias", "dot_raters"):
        yield by_us(name, learn, valid, sizes=(sizes[0], sizes[1]), target=target)
    if importlib.util.find_spec("surprise"):
        yield by_surprise(learn, valid)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--ratings", type=int, default=4_000_000, help="generated ratings")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    torch.set_num_threads(N_THREADS)
    found = []
    columns = ("rmse", "seconds", "seconds_to_target", "ratings_a_second")
    if not arguments.json:
        print(
            f"{arguments.ratings:,} ratings, {N_FACTORS} factors, {N_THREADS} threads, load {os.getloadavg()[0]:.1f}\n"
        )
        print(f"{'system':<26}" + "".join(f"{name:>20}" for name in columns))
    for row in rows(arguments.ratings):
        found.append(row)
        if not arguments.json:
            cells = (
                f"{value:>20,.4f}" if (value := row.get(name)) is not None else f"{'':>20}"
                for name in columns
            )
            print(f"{row['system']:<26}" + "".join(cells), flush=True)
    if arguments.json:
        print(json.dumps({"rows": found}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
