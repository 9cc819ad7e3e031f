"""How long training takes to the held-out RMSE that libmf reaches in 20 epochs, and ratings a second.

    python bench/train_speed.py [--ratings 4000000] [--json]

Generated ratings (`cfjobs sample`), a random tenth held out, 64 factors, two threads, every system in the
same run. Peers come with the extra `peers`, fastai by itself (`pip install fastai`); one that is not
installed is left out and named. The time is that of the training alone, by the clock: ours has the arranging
of the ratings in it and the measuring of each epoch, and leaves out the compiling, which a machine does once.
libmf's penalty and rate are the best of a grid on this very data: 0.05 of 0.02 to 0.8, 0.1 of 0.01 to 0.2.
"""

import argparse
import importlib.util
import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import astuple
from typing import Any

import numpy as np
import torch

from cfjobs import models, training
from cfjobs.config import Config
from cfjobs.datasets import synthetic

N_FACTORS, N_THREADS, EPOCHS = 64, 2, 20
Row = dict[str, Any]


def split(n_ratings: int) -> tuple[training.Examples, training.Examples, int, int]:
    """Training and held-out ratings, users, movies."""
    n_users, n_movies = n_ratings // 100, max(500, n_ratings // 400)
    data = synthetic.generate(n_users=n_users, n_movies=n_movies, n_ratings=n_ratings, seed=1)
    columns = [
        data.ratings[name].rank("dense").to_numpy().astype(np.int64) - 1 for name in ("user_id", "movie_id")
    ]
    rating = data.ratings["rating"].to_numpy().astype(np.float32)
    held_out = np.zeros(n_ratings, dtype=bool)
    held_out[np.random.default_rng(0).permutation(n_ratings)[: n_ratings // 10]] = True

    def examples(rows: np.ndarray) -> training.Examples:
        return training.Examples(*(torch.from_numpy(column[rows]) for column in (*columns, rating)))

    return examples(~held_out), examples(held_out), int(columns[0].max()) + 1, int(columns[1].max()) + 1


def by_libmf(learn: training.Examples, valid: training.Examples) -> Row:
    from libmf import mf

    parts = (learn.user_idx.numpy(), learn.movie_idx.numpy(), learn.rating.numpy())
    table = np.stack(parts, axis=1).astype(np.float32)
    # It fits rows of three, but predicts all users first and then all movies.
    pairs = (
        np.concatenate([valid.user_idx.numpy(), valid.movie_idx.numpy()]).astype(np.float32).reshape(-1, 2)
    )
    engine = mf.MF(k=N_FACTORS, nr_threads=N_THREADS, nr_iters=EPOCHS, lambda_p2=0.05, lambda_q2=0.05, lambda_p1=0.0, lambda_q1=0.0, eta=0.1, quiet=True)  # fmt: skip
    started = time.perf_counter()
    engine.fit(table)
    seconds = time.perf_counter() - started
    rmse = float(np.sqrt(np.mean((engine.predict(pairs) - valid.rating.numpy()) ** 2)))
    return {
        "system": "libmf, 20 epochs",
        "rmse": rmse,
        "seconds": seconds,
        "ratings_a_second": EPOCHS * len(learn) / seconds,
    }


def by_surprise(learn: training.Examples, valid: training.Examples) -> Row:
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


def by_fastai(learn: training.Examples, valid: training.Examples) -> Row:
    import pandas as pd
    from fastai.collab import CollabDataLoaders, collab_learner

    part = slice(0, 200_000)  # its speed does not depend on how many there are
    columns = {"user": learn.user_idx, "item": learn.movie_idx, "rating": learn.rating}
    frame = pd.DataFrame({name: column[part].numpy() for name, column in columns.items()})
    loaders = CollabDataLoaders.from_df(frame, valid_pct=0.01, bs=64)
    learner = collab_learner(loaders, n_factors=N_FACTORS, y_range=(0, 5.5))
    started = time.perf_counter()
    with learner.no_bar(), learner.no_logging():
        learner.fit_one_cycle(1, 5e-3, wd=0.1)
    seconds = time.perf_counter() - started
    return {
        "system": "fastai, dot bias, batch 64",
        "seconds": seconds,
        "ratings_a_second": 0.99 * len(frame) / seconds,
    }


def by_us(
    name: str,
    learn: training.Examples,
    valid: training.Examples,
    *,
    sizes: tuple[int, int],
    target: float | None,
) -> Row:
    """The default training of a network; seconds_to_target:
    up to the end of the first epoch at the target."""
    config = Config(model=name, n_factors=N_FACTORS, patience=0)
    for part in (
        training.Examples(*(column[:1000] for column in astuple(learn))),
        learn,
    ):  # the first compiles
        torch.manual_seed(config.seed)
        network = models.build(
            name, n_users=sizes[0], n_movies=sizes[1], settings=models.settings(config, y_range=(0.5, 5))
        )
        started, at = time.perf_counter(), list[float]()
        record = training.fit_rating(
            network,
            part,
            config=config,
            valid=valid,
            on_epoch=lambda _, at=at, started=started: at.append(time.perf_counter() - started),
        )
    rmse = [epoch.valid_loss**0.5 for epoch in record]
    reached = next((s for s, r in zip(at, rmse, strict=True) if target is not None and r <= target), None)
    return {
        "system": f"cfjobs, {name}",
        "rmse": min(rmse),
        "seconds": at[-1],
        "seconds_to_target": reached,
        "ratings_a_second": len(record) * len(learn) / at[-1],
        "epochs": len(record),
    }


def rows(n_ratings: int) -> Iterator[Row]:
    learn, valid, *sizes = split(n_ratings)
    target = None
    if importlib.util.find_spec("libmf"):
        yield (peer := by_libmf(learn, valid))
        target = peer["rmse"]
    for name in ("dot_raters", "dot_bias"):
        yield by_us(name, learn, valid, sizes=(sizes[0], sizes[1]), target=target)
    if importlib.util.find_spec("surprise"):
        yield by_surprise(learn, valid)
    if importlib.util.find_spec("fastai"):
        yield by_fastai(learn, valid)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--ratings", type=int, default=4_000_000, help="generated ratings")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    torch.set_num_threads(N_THREADS)
    found: list[Row] = []
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
    peer = next((row for row in found if row["system"].startswith("libmf")), None)
    ours = found[1 if peer else 0]
    ratio = ours["seconds_to_target"] / peer["seconds"] if peer and ours["seconds_to_target"] else None
    if arguments.json:
        print(json.dumps({"rows": found, "ratio": ratio}))
        return 0
    missing = [name for name in ("libmf", "surprise", "fastai") if not importlib.util.find_spec(name)]
    print(
        f"\n{ours['system']} to libmf's RMSE: " + (f"{ratio:.2f} x libmf's time" if ratio else "not reached")
    )
    if missing:
        print(f"not installed, left out: {', '.join(missing)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
