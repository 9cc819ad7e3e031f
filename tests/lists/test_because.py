"""The movie that speaks most for a listed one is that of brute force."""

import numpy as np
import polars as pl
import pytest
import torch

from cfjobs.lists.because import FIRST, Reasons
from cfjobs.models.ranker import RankingConfig, RankingModel
from cfjobs.query.explain import history_weights
from cfjobs.topn.problem import NO_MOVIE, Lists

N_USERS, N_MOVIES, N_FACTORS, N = 40, 60, 24, FIRST


def ranking(rng: np.random.Generator, *, recency_half: float) -> RankingModel:
    history, movie = (
        torch.from_numpy(rng.normal(size=(N_MOVIES, N_FACTORS)).astype(np.float32)) for _ in range(2)
    )
    history[1], history[2] = history[0], history[0] * (1 + 1e-7)  # alike, and as good as alike
    movie[5] = 0
    config = RankingConfig(n_factors=N_FACTORS, recency_half=recency_half, max_history=20)
    return RankingModel(
        history_vectors=history, movie_vectors=movie, movie_bias=torch.zeros(N_MOVIES), config=config
    )


def rated(rng: np.random.Generator) -> pl.DataFrame:
    """Up to thirty ratings a user; the first user has none, the second likes all alike."""
    lengths = [0, 10, *rng.integers(1, 31, N_USERS - 2).tolist()]
    rows = [
        (user, movie, 3.0 if user == 1 else float(rng.integers(1, 11)) / 2)
        for user, length in enumerate(lengths)
        for movie in rng.permutation(N_MOVIES)[:length].tolist()
    ]
    kinds = {"user_idx": pl.Int32, "movie_idx": pl.Int32, "rating": pl.Float32}
    return pl.DataFrame(rows, schema=kinds, orient="row")


def brute_force(model: RankingModel, ratings: pl.DataFrame, listed: np.ndarray) -> list[list[float]]:
    """The largest part of each place, as `explain` takes scores apart; 0 where no liked movie has one."""
    found = []
    for user, movies in enumerate(listed.tolist()):
        mine = ratings.filter(user_idx=user)
        n = mine.height
        weights = np.zeros(n)
        weights[max(0, n - 20) :] = (
            history_weights(model, mine).double().numpy()[max(0, n - 20) :] if n else []
        )
        liked = (
            mine["rating"].to_numpy() >= mine["rating"].cast(pl.Float64).mean() if n else np.zeros(0, bool)
        )
        e = model.history_vectors[mine["movie_idx"].to_list()].double().numpy()
        parts = [
            weights * (e @ model.movie_vectors[m].double().numpy()) * liked if n else np.zeros(1)
            for m in movies
        ]
        found.append([max(part.max(), 0.0) for part in parts])
    return found


@pytest.mark.parametrize("recency_half", [5.0, 1e9])
@pytest.mark.parametrize("batch", [1, 7, N_USERS])
def test_reasons_are_those_of_brute_force_for_any_batch(
    rng: np.random.Generator, recency_half: float, batch: int
) -> None:
    model, ratings = ranking(rng, recency_half=recency_half), rated(rng)
    listed = np.stack([rng.permutation(N_MOVIES)[: N + 5] for _ in range(N_USERS)]).astype(np.int32)
    listed[3, 5:] = NO_MOVIE
    reasons = Reasons.of(model)
    found = np.concatenate(
        [
            reasons.because(
                Lists(0, listed[start : start + batch], np.zeros(0, np.float32)), ratings, first_user=start
            )
            for start in range(0, N_USERS, batch)
        ]
    )
    listed = listed[:, :N]
    best = brute_force(model, ratings, listed)
    assert (found[0] == NO_MOVIE).all()
    assert (found[3, 5:] == NO_MOVIE).all()
    for user in range(1, N_USERS):
        mine = ratings.filter(user_idx=user)
        weights = history_weights(model, mine).double().numpy()
        for place, movie in enumerate(listed[user].tolist()):
            reason = int(found[user, place])
            if reason == NO_MOVIE:
                assert movie == NO_MOVIE or best[user][place] <= 1e-9
                continue
            row = mine["movie_idx"].to_list().index(reason)
            part = weights[row] * float(
                model.history_vectors[reason].double() @ model.movie_vectors[movie].double()
            )
            assert mine["rating"][row] >= mine["rating"].cast(pl.Float64).mean() - 1e-6  # type: ignore[operator]
            assert part == pytest.approx(best[user][place], rel=1e-6, abs=1e-9)
