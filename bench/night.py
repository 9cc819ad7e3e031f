"""A whole night beside implicit's, from Parquet to Parquet, in one run: seconds, peak memory,
quality of the lists.

    python bench/night.py                     # the shape of MovieLens 25M, 24.8 million generated ratings
    python bench/night.py --ratings 1000000   # the same, smaller
    python bench/night.py --data FOLDER       # ratings.parquet of your own, in the usual columns
    python bench/night.py --busy 2            # ours alone, quiet and beside two busy processes

implicit's night: read and index, fit (ALS, 64 factors, 15 iterations), recommend 100 unseen movies to
everyone, write; with OPENBLAS_NUM_THREADS=1, as it asks for, and without settings of OpenBLAS that hold it
down. This project's, with its defaults: read and clean, hold out, train both networks, evaluate, pass the
gate, train on all, score, check, publish, report. Each runs in a process of its own, ours after a small night
that compiles what a machine compiles once. The quality of implicit's lists is measured apart from its night,
on the same temporal holdout.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from cfjobs import evaluation
from cfjobs.config import relevant_from
from cfjobs.datasets import synthetic
from cfjobs.lists.build import Lists
from cfjobs.ratings import holdout

USERS_PER_RATING, MOVIES_PER_RATING = 162_519 / 24_800_000, 59_047 / 24_800_000
LIST = 100
Row = dict[str, Any]


def implicits_night(ratings: Path, folder: Path) -> Row:
    """Everything implicit's user would write."""
    import scipy.sparse as sp
    from implicit.als import AlternatingLeastSquares

    seconds, clock = {}, _Clock()
    frame = pl.read_parquet(ratings, columns=["user_id", "movie_id"])
    users, user = np.unique(frame["user_id"].to_numpy(), return_inverse=True)
    movies, movie = np.unique(frame["movie_id"].to_numpy(), return_inverse=True)
    ones = np.ones(len(user), np.float32)
    matrix = sp.csr_matrix((ones, (user, movie)), shape=(len(users), len(movies)))
    seconds["read"] = clock.lap()
    model = AlternatingLeastSquares(factors=64, iterations=15, random_state=42)
    model.fit(matrix, show_progress=False)
    seconds["fit"] = clock.lap()
    ids, scores = model.recommend(np.arange(len(users)), matrix, N=LIST, filter_already_liked_items=True)
    seconds["recommend"] = clock.lap()
    lists = {
        "user_id": np.repeat(users, LIST),
        "rank": np.tile(np.arange(1, LIST + 1, dtype=np.int32), len(users)),
        "movie_id": movies[np.ravel(ids)],
        "score": np.ravel(scores),
    }
    pl.DataFrame(lists).write_parquet(folder / "lists.parquet")
    seconds["write"] = clock.lap()
    return {"stages": seconds}


def implicits_quality(ratings: Path, folder: Path) -> Row:
    """nDCG@10 on the temporal holdout of the project's default."""
    import scipy.sparse as sp
    from implicit.als import AlternatingLeastSquares

    frame = pl.read_parquet(ratings).sort("user_id", "timestamp", maintain_order=True)
    user, movie = (frame[n].rank("dense").to_numpy().astype(np.int64) - 1 for n in ("user_id", "movie_id"))
    rating = frame["rating"].to_numpy().astype(np.float32)
    n_users, n_movies = int(user.max()) + 1, int(movie.max()) + 1
    held = holdout.temporal_holdout(user.astype(np.int32), fraction=0.2)
    matrix = sp.csr_matrix(
        (np.ones(int((~held).sum()), np.float32), (user[~held], movie[~held])), shape=(n_users, n_movies)
    )
    model = AlternatingLeastSquares(factors=64, iterations=15, random_state=42)
    model.fit(matrix, show_progress=False)
    ids, scores = model.recommend(np.arange(n_users), matrix, N=evaluation.K, filter_already_liked_items=True)
    metrics = evaluation.list_metrics(
        [Lists(0, ids.astype(np.int32), scores)],
        evaluation.Holdout(user[held], movie[held], rating[held]),
        relevant_rating=relevant_from((float(rating.min()), float(rating.max()))),
        n_users=n_users,
        n_candidates=len(np.unique(movie[~held])),
    )
    return {"ndcg_at_10": metrics["ndcg_at_10"]}


def our_night(ratings: Path, folder: Path) -> Row:
    """`cfjobs nightly`, as an operator runs it; published whatever the gate says of generated ratings."""
    command = ["-m", "cfjobs", "nightly", "--ratings", str(ratings.parent), "--output", str(folder / "out")]
    done = _process([*command, "--run-date", "2026-01-01", "--set", "gate_override=true", "--json"])
    published = json.loads(done.pop("printed"))
    metrics = published["metrics"]
    told = ("ndcg_at_10", "ndcg_at_10_popular", "rmse", "rmse_bias_only")
    return done | {"stages": published["seconds"]} | {name: metrics[name] for name in told}


def generated(folder: Path, *, n_ratings: int) -> Path:
    """Ratings and movies of this project's generator, in the shape of MovieLens 25M;
    the path of the ratings."""
    made = synthetic.generate(
        n_users=max(50, round(n_ratings * USERS_PER_RATING)),
        n_movies=max(100, round(n_ratings * MOVIES_PER_RATING)),
        n_ratings=n_ratings,
        seed=5,
    )
    folder.mkdir()
    made.movies.write_parquet(folder / "movies.parquet")
    made.ratings.write_parquet(folder / "ratings.parquet")
    return folder / "ratings.parquet"


class _Clock:
    def __init__(self) -> None:
        self._at = time.perf_counter()

    def lap(self) -> float:
        before, self._at = self._at, time.perf_counter()
        return self._at - before


def _process(arguments: list[str]) -> Row:
    """Run Python on this; its seconds, its peak in bytes, and what it printed."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("OPENBLAS")}
    if arguments[0] == __file__:  # the peer
        environment["OPENBLAS_NUM_THREADS"] = "1"
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, *arguments], stdout=subprocess.PIPE, text=True, env=environment
    )
    assert process.stdout is not None
    printed = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(arguments)}: failed")
    return {
        "seconds": time.perf_counter() - began,
        "processor": usage.ru_utime + usage.ru_stime,
        "peak": usage.ru_maxrss * 1024,
        "printed": printed,
    }


def _apart(what: str, ratings: Path, folder: Path) -> Row:
    done = _process([__file__, "--only", what, "--data", str(ratings.parent), "--folder", str(folder)])
    return json.loads(done.pop("printed").splitlines()[-1]) | done


def beside_busy(ratings: Path, folder: Path, *, n: int) -> list[Row]:
    """Our night quiet, and once more beside n processes that never rest."""
    our_night(generated(folder / "first", n_ratings=100_000), folder / "first")
    quiet = {"system": "cfjobs"} | our_night(ratings, folder / "quiet")
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(n)]
    try:
        return [{"system": f"beside {n}"} | our_night(ratings, folder / "busy"), quiet]
    finally:
        for process in busy:
            process.kill()


def measure(ratings: Path, folder: Path) -> list[Row]:
    first = our_night(generated(folder / "first", n_ratings=100_000), folder / "first")["seconds"]
    ours = {"system": "cfjobs", "first_small_night": first} | our_night(ratings, folder)
    print(f"{ours}; now implicit", file=sys.stderr)
    peer = {"system": "implicit"} | _apart("night", ratings, folder)
    print(f"{peer}; now the quality of its lists", file=sys.stderr)
    peer["ndcg_at_10"] = _apart("quality", ratings, folder)["ndcg_at_10"]
    return [ours, peer]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--ratings", type=int, default=24_800_000, help="generated ratings")
    parser.add_argument(
        "--data", type=Path, help="a folder with a ratings.parquet, instead of generated ones"
    )
    parser.add_argument(
        "--busy", type=int, metavar="N", help="ours beside N busy processes, without implicit"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--only", choices=["night", "quality"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        work = implicits_night if options.only == "night" else implicits_quality
        print(json.dumps(work(options.data / "ratings.parquet", options.folder)))
        return 0
    with tempfile.TemporaryDirectory() as temporary:
        folder, data = Path(temporary), options.data
        if data is None:
            data = generated(folder / "data", n_ratings=options.ratings).parent
        found = data / "ratings.parquet"
        rows = beside_busy(found, folder, n=options.busy) if options.busy else measure(found, folder)
    if options.json:
        print(json.dumps({"rows": rows}))
        return 0
    print(f"load before {os.getloadavg()[2]:.1f}, {os.cpu_count()} cores\n")
    print(f"{'night':<12}{'seconds':>10}{'ratio':>8}{'peak GB':>10}{'nDCG@10':>10}   stages, seconds")
    for row in rows:
        stages = ", ".join(f"{name} {value:.1f}" for name, value in row["stages"].items())
        print(
            f"{row['system']:<12}{row['seconds']:>10.1f}{row['seconds'] / rows[-1]['seconds']:>8.2f}"
            f"{row['peak'] / 2**30:>10.2f}{row['ndcg_at_10']:>10.4f}   {stages}"
        )
    if options.busy:
        return 0
    ours = rows[0]
    print(
        f"\nthe popularity list's nDCG@10 {ours['ndcg_at_10_popular']:.4f}; "
        f"RMSE {ours['rmse']:.4f}, of biases alone {ours['rmse_bias_only']:.4f}\n"
        f"a night of 100,000 ratings before it, which compiles the loops where that was not done yet: "
        f"{ours['first_small_night']:.1f} s"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
