"""The ranking network in closed form, for ratings without an order: what else belongs in this profile?

With x_um = 1 where user u rated movie m, and y_um its worth as a target (1 for a liked one,
`other_weight` else; of implicit feedback its weight),

    B = argmin  |Y - X B|^2 + l2 |B|^2   over B with a zero diagonal,       B ~ E Q^T  of `n_factors` columns

A user is the weighted mean of the rows of E of what they rated, a movie its row of Q: the tower of
`models/ranker.py` as it is, without recency. No random order of steps decides it, so a few more ratings move
the lists little.

Source: Steck, "Embarrassingly shallow autoencoders for sparse data" (2019), whose targets are the ratings
themselves; the diagonal's multipliers are found as there. Low rank by randomised SVD: Halko and others
(2011).
"""

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from cfjobs.models.ranker import History, RankingConfig, RankingModel
from cfjobs.training import linear_kernels, ranking_kernels
from cfjobs.training.threads import over

_MOST_MOVIES = 4_096
"""The most rated movies, between which B is; other movies have vectors of zeros."""

_MOST_USERS = 32_768
"""Users that B is fitted to: the cost of the Gram matrix is bounded, whatever the size of the data."""

_CHUNK_USERS = 2_048
_DENSE = 0.03
"""Share of all pairs of movies that users have rated both of, below which a loop over these pairs is quicker
than matrix products."""

_EVER = 1e9
_POPULARITY = 1e-3
"""Of the log-popularity in a movie's bias: it orders what the rest leaves equal."""


@torch.no_grad()
def fit_linear(
    history: History,
    *,
    n_movies: int,
    config: RankingConfig,
    device: torch.device | str = "cpu",
    seed: int = 0,
    most_movies: int = _MOST_MOVIES,
) -> RankingModel:
    """The tower in closed form. Scores are scaled to a spread of 1,
    so that predicted stars can stand beside them.

    most_movies: between which B is; the time goes with its cube.
    """
    device = torch.device(device)
    history = history.to(device)
    config = replace(config, recency_half=_EVER, max_history=1 << 31, n_steps=1)
    counts = torch.bincount(history.movie_idx, minlength=n_movies)
    popularity = (counts + 0.5) / (counts + 0.5).sum()
    top = torch.argsort(counts, descending=True, stable=True)[:most_movies]
    top = top[counts[top] > 0].sort().values
    generator = torch.Generator().manual_seed(seed)
    users = torch.randperm(history.n_users, generator=generator)[:_MOST_USERS].sort().values.to(device)
    gram, target, n_ratings = _products(history, users, top, n_movies=n_movies, config=config)
    e, q = _low_rank(_weights(gram, target, l2=math.sqrt(n_ratings)), config.n_factors, seed=seed)
    model = RankingModel(
        history_vectors=torch.zeros(n_movies, config.n_factors, device=device).index_copy_(0, top, e),
        movie_vectors=torch.zeros(n_movies, config.n_factors, device=device).index_copy_(0, top, q),
        movie_bias=_POPULARITY * popularity.log().to(torch.float32),
        config=config,
    )
    x_UD = model.user_vectors(_of_users(history, users[:: max(1, len(users) // _CHUNK_USERS)]))
    spread = float((x_UD @ q.T).std()) if len(x_UD) and len(q) else 0.0
    scale = spread**-0.5 if spread > 0 else 1.0
    return replace(
        model, history_vectors=scale * model.history_vectors, movie_vectors=scale * model.movie_vectors
    )


def _products(
    history: History, users: Tensor, top: Tensor, *, n_movies: int, config: RankingConfig
) -> tuple[Tensor, Tensor, int]:
    """X'X and X'Y [m, m] between the movies `top` [m], and the number of ratings that they sum over."""
    device = top.device
    place = torch.full((n_movies,), -1, device=device).index_copy_(
        0, top, torch.arange(len(top), device=device)
    )
    value = history.worth(config)
    length = history.indptr[users + 1] - history.indptr[users]
    user = torch.repeat_interleave(length)
    row = torch.arange(len(user), device=device) + (history.indptr[users] - length.cumsum(0) + length)[user]
    column = place[history.movie_idx[row]]
    there = column >= 0
    user, column, value = user[there], column[there], value[row[there]]
    length = torch.bincount(user, minlength=len(users))
    gram = torch.zeros(len(top), len(top), device=device)
    target = torch.zeros_like(gram)
    few = float(length.double().square().sum()) < _DENSE * len(users) * len(top) ** 2
    if device.type == "cpu" and few:
        _add_sparse(column, value, length, gram, target)
    else:
        _add_dense(column, value, length, gram, target)
    return gram, target, len(column)


def _add_sparse(column: Tensor, value: Tensor, length: Tensor, gram: Tensor, target: Tensor) -> None:
    """Add X'X and X'Y, a movie at a time: its users' ratings. length: ratings of each user."""
    offsets = np.concatenate([[0], length.numpy().cumsum()])
    rows, first, users, _ = ranking_kernels.by_movie(
        column.numpy(), value.numpy(), offsets[:-1].copy(), len(gram)
    )
    arrays = (rows, first, users, offsets, *(t.numpy() for t in (column, value, gram, target)))
    with ThreadPoolExecutor(torch.get_num_threads(), thread_name_prefix="linear") as pool:
        over(pool, len(rows), lambda *part: linear_kernels.add_products(*arrays, *part))


def _add_dense(column: Tensor, value: Tensor, length: Tensor, gram: Tensor, target: Tensor) -> None:
    """The same by matrix products of some users at a time."""
    first, m = 0, len(gram)
    for lengths in length.split(_CHUNK_USERS):
        here = slice(first, first := first + int(lengths.sum()))
        user = torch.repeat_interleave(lengths)
        x_BM = torch.zeros(len(lengths), m, device=gram.device)
        y_BM = torch.zeros_like(x_BM)
        x_BM[user, column[here]], y_BM[user, column[here]] = 1.0, value[here]
        gram.addmm_(x_BM.T, x_BM)
        target.addmm_(x_BM.T, y_BM)


def _weights(gram: Tensor, target: Tensor, *, l2: float) -> Tensor:
    """B [m, m]: P X'Y with a zero diagonal, P = (X'X + l2)^-1."""
    regular = gram.clone()
    regular.diagonal().add_(max(l2, 1.0))
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(regular))
    free = inverse @ target
    return free - inverse * (free.diagonal() / inverse.diagonal())


def _low_rank(weights: Tensor, n_factors: int, *, seed: int) -> tuple[Tensor, Tensor]:
    """E, Q [m, n_factors]; columns beyond the rank are zeros."""
    m = len(weights)
    found = weights.new_zeros(2, m, n_factors)
    if m == 0:
        return found[0], found[1]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        left, size, right = torch.svd_lowrank(weights, q=min(n_factors + 16, m), niter=4)
    width = min(n_factors, len(size))
    root = size[:width].sqrt()
    found[0, :, :width], found[1, :, :width] = left[:, :width] * root, right[:, :width] * root
    return found[0], found[1]


def _of_users(history: History, users: Tensor) -> History:
    """The histories of some users."""
    length = history.indptr[users + 1] - history.indptr[users]
    user = torch.repeat_interleave(length)
    row = (
        torch.arange(len(user), device=user.device)
        + (history.indptr[users] - length.cumsum(0) + length)[user]
    )
    indptr = torch.cat([length.new_zeros(1), length.cumsum(0)])
    return History(indptr=indptr, movie_idx=history.movie_idx[row], rating=history.rating[row])
