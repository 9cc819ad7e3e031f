"""Stars and lists on the lesson's data, this project's defaults beside its peers, in one run.

    python bench/accuracy.py [--seeds 3] [--lists FOLDER] [--json]

Data: MovieLens latest-small of October 2016, in the folder that CFJOBS_ML_LATEST_SMALL names. With --lists,
the lists are those of another data set, such as a part of MovieLens 1M, and stars are left out. Peers come
with the extra `peers`; one that is not installed is left out and named.

Stars: the lesson's split (see bench/lesson.py), mean squared error of predictions clipped to 0.5..5. Lists:
per user the last 20 % by time are held out, relevant from 4 stars on, seen movies removed, nDCG@10 over users
with a relevant one; the rules that every night is held against, on a sample of them. Nothing was tuned on
either set of held-out rows.
"""

import argparse
import importlib.util
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from lesson import data_folder, lesson_split, measure

from cfjobs import evaluation
from cfjobs.config import Config, relevant_from
from cfjobs.evaluation.gate import RIVALS
from cfjobs.night import story
from cfjobs.night.records import Inputs, Night, Prepared
from cfjobs.topn.problem import NO_MOVIE, Lists, Pairs
from cfjobs.training.epochs import Examples

if TYPE_CHECKING:
    import scipy.sparse as sp

Row = dict[str, Any]


def installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


# Stars ----------------------------------------------------------------------------------------------


def stars(seeds: int) -> Iterator[Row]:
    """Mean squared error on the lesson's split, one row a system."""
    learn, valid = lesson_split()
    for name in ("dot_raters", "dot_bias"):
        found = [measure(name, seed=seed, learn=learn, valid=valid) for seed in range(seeds)]
        label = "cfjobs, default" if name == Config().model else f"cfjobs, {name}"
        yield {
            "system": label,
            "mse": mean([mse for mse, _ in found]),
            "seconds": mean([s for _, s in found]),
        }
    yield {"system": "biases only", **timed(bias_only, learn, valid)}
    if installed("myfm"):
        yield {"system": "myFM, rank 10, 200 Gibbs steps", **timed(by_myfm, learn, valid)}
    if installed("surprise"):
        yield {"system": "Surprise SVD, tuned", **timed(by_surprise, learn, valid)}


def timed(predict: Callable[[Examples, Examples], np.ndarray], learn: Examples, valid: Examples) -> Row:
    started = time.perf_counter()
    predicted = np.clip(predict(learn, valid), 0.5, 5.0)
    return {
        "mse": float(np.mean((predicted - valid.rating.numpy()) ** 2)),
        "seconds": time.perf_counter() - started,
    }


def bias_only(learn: Examples, valid: Examples) -> np.ndarray:
    """Global mean, and damped means of users and movies in turn."""
    user, movie, rating = (column.numpy() for column in (learn.user_idx, learn.movie_idx, learn.rating))
    n_users, n_movies = int(valid.user_idx.max()) + 1, int(valid.movie_idx.max()) + 1
    n_users, n_movies = max(n_users, int(user.max()) + 1), max(n_movies, int(movie.max()) + 1)
    mean_rating, b_user, b_movie = rating.mean(), np.zeros(n_users), np.zeros(n_movies)
    for _ in range(10):
        b_movie = damped_mean(rating - mean_rating - b_user[user], movie, n_movies)
        b_user = damped_mean(rating - mean_rating - b_movie[movie], user, n_users)
    found: np.ndarray = mean_rating + b_user[valid.user_idx.numpy()] + b_movie[valid.movie_idx.numpy()]
    return found


def damped_mean(value: np.ndarray, idx: np.ndarray, n: int, *, damping: float = 5.0) -> np.ndarray:
    found: np.ndarray = np.bincount(idx, weights=value, minlength=n) / (
        np.bincount(idx, minlength=n) + damping
    )
    return found


def by_myfm(learn: Examples, valid: Examples) -> np.ndarray:
    import myfm
    import scipy.sparse as sp

    n_users = int(max(learn.user_idx.max(), valid.user_idx.max())) + 1
    n_movies = int(max(learn.movie_idx.max(), valid.movie_idx.max())) + 1

    def one_hot(examples: Examples) -> "sp.csr_matrix":
        n = len(examples)
        columns = np.concatenate([examples.user_idx.numpy(), n_users + examples.movie_idx.numpy()])
        rows = np.tile(np.arange(n), 2)
        return sp.csr_matrix((np.ones(2 * n), (rows, columns)), shape=(n, n_users + n_movies))

    regressor = myfm.MyFMRegressor(rank=10, random_seed=42)
    groups = [0] * n_users + [1] * n_movies
    regressor.fit(one_hot(learn), learn.rating.numpy(), n_iter=200, n_kept_samples=200, grouping=groups)
    predicted: np.ndarray = regressor.predict(one_hot(valid))
    return predicted


def by_surprise(learn: Examples, valid: Examples) -> np.ndarray:
    import pandas as pd
    from surprise import SVD, Dataset, Reader

    frame = pd.DataFrame(
        {"user": learn.user_idx.numpy(), "movie": learn.movie_idx.numpy(), "rating": learn.rating.numpy()}
    )
    data = Dataset.load_from_df(frame, Reader(rating_scale=(0.5, 5)))
    algorithm = SVD(n_factors=50, n_epochs=40, lr_all=0.01, reg_all=0.08, random_state=42)
    algorithm.fit(data.build_full_trainset())
    pairs = zip(valid.user_idx.tolist(), valid.movie_idx.tolist(), strict=True)
    return np.array([algorithm.predict(user, movie).est for user, movie in pairs])


# Lists ----------------------------------------------------------------------------------------------


def ranked(ratings: str, seeds: int) -> Iterator[Row]:
    """nDCG@10, recall@10 and coverage on the temporal holdout, one row a system."""
    with tempfile.TemporaryDirectory() as folder:
        for rank_by in ("blend", "affinity", "rating"):
            found = []
            started = time.perf_counter()
            for seed in range(seeds):
                config = Config(rank_by=rank_by, seed=seed, refit=False)
                night, prepared = held_out_night(ratings, folder, config)
                found.append(story.measure(night, prepared, story.fit(night, prepared, on="train")))
            row = {key: mean([float(metrics[key] or 0) for metrics in found]) for key in METRICS}
            row["interval"] = interval([float(metrics["ndcg_at_10"] or 0) for metrics in found])
            label = "cfjobs, default" if rank_by == Config().rank_by else f"cfjobs, rank_by={rank_by}"
            yield {"system": label, **row, "seconds": (time.perf_counter() - started) / seeds}
        for name, words in RIVALS.items():
            if (ndcg := found[0].get(f"ndcg_at_10_{name}")) is not None:
                yield {"system": words, "ndcg_at_10": ndcg}
        yield from peers_ranked(night, prepared)


METRICS = ("ndcg_at_10", "recall_at_10", "coverage")


def held_out_night(ratings: str, folder: str, config: Config) -> tuple[Night, Prepared]:
    night = story.start(Inputs(ratings=ratings), output=folder, config=config)
    prepared = story.prepare(night)
    story.hold_out(night, prepared)
    return night, prepared


def peers_ranked(night: Night, prepared: Prepared) -> Iterator[Row]:
    import scipy.sparse as sp

    frame = night.frame("ratings")
    held_out = night.frame("holdout")["held_out"].to_numpy()
    kept, test = frame.filter(~held_out), frame.filter(held_out)
    user, movie = kept["user_idx"].to_numpy(), kept["movie_idx"].to_numpy()
    seen = Pairs.of(user, movie, n_users=prepared.n_users)
    shape = (prepared.n_users, prepared.n_movies)
    matrix = sp.csr_matrix((np.ones(len(user), dtype=np.float32), (user, movie)), shape=shape)
    holdout = evaluation.Holdout(*(test[name].to_numpy() for name in ("user_idx", "movie_idx", "rating")))
    systems: list[tuple[str, Callable[[sp.csr_matrix], np.ndarray]]] = [("EASE, lambda 400", by_ease)]
    if installed("implicit"):
        systems.append(("implicit ALS, 64 factors", by_implicit))
    for name, system in systems:
        started = time.perf_counter()
        score_UM = system(matrix)
        top = [top_ten(score_UM[row], seen.of_user(row)) for row in range(prepared.n_users)]
        batch = Lists(0, np.array(top, dtype=np.int32), np.zeros((len(top), evaluation.K), np.float32))
        metrics = evaluation.list_metrics(
            [batch],
            holdout,
            relevant_rating=relevant_from(prepared.y_range),
            n_users=prepared.n_users,
            n_candidates=len(np.unique(movie)),
        )
        yield {
            "system": name,
            **{key: metrics[key] for key in METRICS},
            "seconds": time.perf_counter() - started,
        }


def by_ease(matrix: "sp.csr_matrix") -> np.ndarray:
    """Closed form (Steck, 2019): B = I - P / diag(P), P = (X'X + lambda I)^-1."""
    gram = (matrix.T @ matrix).toarray().astype(np.float64)
    gram[np.diag_indices_from(gram)] += 400
    inverse = np.linalg.inv(gram)
    weights = inverse / -np.diag(inverse)
    np.fill_diagonal(weights, 0)
    found: np.ndarray = matrix @ weights
    return found


def by_implicit(matrix: "sp.csr_matrix") -> np.ndarray:
    from implicit.als import AlternatingLeastSquares

    model = AlternatingLeastSquares(factors=64, iterations=15, random_state=42)
    model.fit(matrix, show_progress=False)
    found: np.ndarray = np.asarray(model.user_factors) @ np.asarray(model.item_factors).T
    return found


def top_ten(score_M: np.ndarray, seen: np.ndarray) -> np.ndarray:
    score_M = score_M.copy()
    score_M[seen] = -np.inf
    order = np.argsort(-score_M, kind="stable")[: evaluation.K]
    return np.where(np.isfinite(score_M[order]), order, NO_MOVIE)


# The tables -----------------------------------------------------------------------------------------


def mean(values: list[float]) -> float:
    return float(np.mean(values))


def interval(values: list[float]) -> float:
    """Half of the 95 % interval of the mean over seeds."""
    return 1.96 * float(np.std(values, ddof=1)) / len(values) ** 0.5 if len(values) > 1 else float("nan")


def table(title: str, rows: list[Row], columns: tuple[str, ...]) -> str:
    lines = [title, "", f"{'system':<34}" + "".join(f"{name:>14}" for name in columns)]
    for row in rows:
        cells = (f"{row[name]:>14.4f}" if name in row else f"{'':>14}" for name in columns)
        lines.append(f"{row['system']:<34}" + "".join(cells))
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--seeds", type=int, default=3, help="how many seeds of this project; the mean is shown"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--lists", metavar="FOLDER", help="another data set, for the lists alone")
    arguments = parser.parse_args()
    found = {
        "stars": [] if arguments.lists else list(stars(arguments.seeds)),
        "lists": list(ranked(arguments.lists or str(data_folder()), arguments.seeds)),
    }
    if arguments.json:
        print(json.dumps(found))
        return 0
    if found["stars"]:
        print(table("Stars, the lesson's split", found["stars"], ("mse", "seconds")), end="\n\n")
    print(table("Lists, temporal holdout", found["lists"], (*METRICS, "interval", "seconds")))
    missing = [name for name in ("myfm", "surprise", "implicit") if not installed(name)]
    if missing:
        print(f"\nnot installed, left out: {', '.join(missing)} (pip install '.[peers]')")
    return 0


if __name__ == "__main__":
    sys.exit(main())
