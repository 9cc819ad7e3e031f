"""The ranking network in closed form, against a regression for each movie by itself."""

import numpy as np
import pytest
import torch

from cfjobs.models.ranker import History, RankingConfig
from cfjobs.training import linear
from cfjobs.training.linear import fit_linear

U, M = 60, 12
CONFIG = RankingConfig(n_factors=M, taste=0.0, like_from=4.0, other_weight=0.3)


def history(*, seed: int = 0, n_users: int = U) -> History:
    random = np.random.default_rng(seed)
    user, movie = np.nonzero(random.random((n_users, M)) < 0.4)
    return History(
        indptr=torch.from_numpy(np.concatenate([[0], np.bincount(user, minlength=n_users).cumsum()])),
        movie_idx=torch.from_numpy(movie),
        rating=torch.from_numpy(random.integers(1, 6, user.size).astype(np.float32)),
    )


def matrices(of: History) -> tuple[np.ndarray, np.ndarray]:
    """X and Y [U, M]."""
    user = np.repeat(np.arange(of.n_users), np.diff(of.indptr.numpy()))
    x, y = np.zeros((2, of.n_users, M))
    x[user, of.movie_idx] = 1
    y[user, of.movie_idx] = np.where(of.rating.numpy() >= CONFIG.like_from, 1, CONFIG.other_weight)
    return x, y


@pytest.mark.parametrize("dense", [0, 1], ids=["by matrix products", "by a loop"])
def test_every_movie_is_told_from_the_others_by_ridge_regression(
    dense: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linear, "_DENSE", dense)
    of = history()
    x, y = matrices(of)
    wanted = np.zeros((M, M))
    for movie in range(M):
        others = np.delete(np.arange(M), movie)
        a = x[:, others]
        ridge = a.T @ a + np.sqrt(x.sum()) * np.eye(M - 1)
        wanted[others, movie] = np.linalg.solve(ridge, a.T @ y[:, movie])
    model = fit_linear(of, n_movies=M, config=CONFIG)
    found = (model.history_vectors @ model.movie_vectors.T).numpy()
    scale = (found * wanted).sum() / (wanted**2).sum()
    np.testing.assert_allclose(found, scale * wanted, atol=1e-3 * abs(found).max())


def test_the_order_of_a_history_changes_nothing() -> None:
    of = history()
    turned = History(indptr=of.indptr, movie_idx=of.movie_idx.clone(), rating=of.rating.clone())
    for start, stop in zip(of.indptr[:-1].tolist(), of.indptr[1:].tolist(), strict=True):
        turned.movie_idx[start:stop] = of.movie_idx[start:stop].flip(0)
        turned.rating[start:stop] = of.rating[start:stop].flip(0)
    one, other = (fit_linear(h, n_movies=M, config=CONFIG) for h in (of, turned))
    torch.testing.assert_close(
        one.user_vectors(of) @ one.movie_vectors.T, other.user_vectors(turned) @ other.movie_vectors.T
    )


def test_scores_have_a_spread_of_one_whatever_the_number_of_ratings() -> None:
    for n_users in (30, 300):
        of = history(n_users=n_users)
        model = fit_linear(of, n_movies=M, config=CONFIG)
        assert float((model.user_vectors(of) @ model.movie_vectors.T).std()) == pytest.approx(1, rel=0.05)


@pytest.mark.parametrize("n_factors", [2, 5, 40])
def test_any_number_of_factors_gives_vectors_of_that_length(n_factors: int) -> None:
    config = RankingConfig(n_factors=n_factors)
    model = fit_linear(history(), n_movies=M + 3, config=config)
    assert model.movie_vectors.shape == model.history_vectors.shape == (M + 3, n_factors)
    assert all(tensor.isfinite().all() for tensor in model.tensors().values())


def test_a_few_more_ratings_leave_nearly_the_same_lists() -> None:
    """The first places of users whose ratings did not change, with one rating in a hundred more."""
    of = history(n_users=400)
    fewer = History(
        indptr=of.indptr[:397], movie_idx=of.movie_idx[: of.indptr[396]], rating=of.rating[: of.indptr[396]]
    )
    tops = []
    for h in (of, fewer):
        model = fit_linear(h, n_movies=M, config=CONFIG)
        scores = model.user_vectors(fewer) @ model.movie_vectors.T
        tops.append(scores.topk(4, dim=1).indices)
    same = [len(set(a.tolist()) & set(b.tolist())) for a, b in zip(*tops, strict=True)]
    assert np.mean(same) > 0.9 * 4
