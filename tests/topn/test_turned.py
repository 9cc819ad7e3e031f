"""The best users of each movie are those of brute force over the engine's own scores."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from cfjobs.models.network import DotScores, MlpScores
from cfjobs.topn import NO_MOVIE, Pairs, top_n
from cfjobs.topn.turned import Audiences

N_USERS, N_MOVIES, D, N = 90, 25, 7, 6


def scores_of(kind: str, rng: np.random.Generator) -> DotScores | MlpScores:
    def tensor(*shape: int) -> torch.Tensor:
        return torch.from_numpy(rng.normal(size=shape).astype(np.float32))

    user, movie = tensor(N_USERS, D), tensor(N_MOVIES, D)
    user[40] = user[3]  # a tie
    if kind == "dot":
        return DotScores(user, movie, tensor(N_MOVIES))
    layers = ((tensor(8, 2 * D), tensor(8)), (tensor(1, 8), tensor(1)))
    return MlpScores(user, movie, layers)


@pytest.mark.parametrize("kind", ["dot", "net"])
@pytest.mark.parametrize("chunk", [90, 37])
def test_audiences_are_those_of_brute_force_for_any_chunk(
    rng: np.random.Generator, kind: str, chunk: int
) -> None:
    scores = scores_of(kind, rng)
    pairs = np.unique(rng.integers(0, N_USERS * N_MOVIES, 700))
    user, movie = (part.astype(np.int32) for part in np.divmod(pairs, N_MOVIES))
    may = rng.random(N_USERS) < 0.9
    found = Audiences(N_MOVIES, N)
    for start in range(0, N_USERS, chunk):
        users = slice(start, min(start + chunk, N_USERS))
        mine = (user >= users.start) & (user < users.stop)
        seen = Pairs.of(user[mine] - np.int32(start), movie[mine], n_users=users.stop - users.start)
        found.add(replace(scores, user=scores.user[users]), first_user=start, seen=seen, users=may[users])
    seen = Pairs.of(user, movie, n_users=N_USERS)
    full = np.full((N_USERS, N_MOVIES), -np.inf, np.float32)
    for batch in top_n(scores, n=N_MOVIES, seen=seen):
        for row, (movies, values) in enumerate(zip(batch.movie_idx, batch.score, strict=True)):
            there = movies != NO_MOVIE
            full[batch.first_user + row, movies[there]] = values[there]
    full[~may] = -np.inf
    best = np.argsort(-full, axis=0, kind="stable")[:N].T
    value = np.take_along_axis(full.T, best, axis=1)
    assert np.array_equal(found.score, value)
    assert np.array_equal(found.user_idx, np.where(np.isfinite(value), best, -1))
