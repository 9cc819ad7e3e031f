"""Folding in: a new user's row is the answer of a small least-squares problem,
and better than the typical user's."""

import numpy as np
import pytest
import torch

from cfjobs import models, training
from cfjobs.config import Config
from cfjobs.models.network import UNKNOWN, Network
from cfjobs.models.predict import predict
from cfjobs.training import fold_in

U, M = 80, 40
_KNOBS = {
    "n_factors": 8,
    "init": "normal",
    "init_std": 0.1,
    "batch_size": 64,
    "l2": 0.001,
    "learning_rate": 0.02,
    "epochs": 20,
}


def tastes(*, users: range, per_user: int, seed: int) -> training.Examples:
    """Even users love even movies, odd ones odd movies: 4.5 stars, or 1.5."""
    rng = np.random.default_rng(seed)
    user = np.repeat(np.asarray(users), per_user)
    movie = np.concatenate([rng.permutation(M)[:per_user] for _ in users])
    rating = np.where((user + movie) % 2 == 0, 4.5, 1.5).astype(np.float32)
    return training.Examples(torch.from_numpy(user), torch.from_numpy(movie), torch.from_numpy(rating))


def trained(name: str, **changes: object) -> tuple[Network, float]:
    """A network that knows the first 60 users, and its l2."""
    config = Config(**(_KNOBS | {"model": name} | changes))  # type: ignore[arg-type]  # a mixture of types
    torch.manual_seed(1)
    network = models.build(name, n_users=U, n_movies=M, settings=models.settings(config, y_range=(0.5, 5.0)))
    training.fit_rating(network, tastes(users=range(60), per_user=20, seed=0), config=config)
    return network, 0.001


def all_movies(network: Network, user: int) -> torch.Tensor:
    return predict(network, torch.full((M,), user), torch.arange(M))


@pytest.mark.parametrize("name", models.names())
@pytest.mark.parametrize("ensemble", [1, 2])
def test_a_new_user_is_predicted_better_than_as_a_typical_one(name: str, ensemble: int) -> None:
    network, l2 = trained(name, ensemble=ensemble)
    for user in (70, 71):
        theirs = tastes(users=range(user, user + 1), per_user=12, seed=user)
        one = fold_in.network_of_one(network, name, movie_idx=theirs.movie_idx, rating=theirs.rating, l2=l2)
        truth = torch.where((user + torch.arange(M)) % 2 == 0, 4.5, 1.5)
        folded, typical = (
            (all_movies(*who) - truth).square().mean() for who in ((one, 0), (network, UNKNOWN))
        )
        assert folded < 0.5 * typical


@pytest.mark.parametrize("name", models.names())
def test_without_ratings_it_is_the_typical_user(name: str) -> None:
    network, l2 = trained(name, epochs=1)
    nothing = torch.empty(0, dtype=torch.int64)
    one = fold_in.network_of_one(network, name, movie_idx=nothing, rating=torch.empty(0), l2=l2)
    assert torch.equal(all_movies(one, 0), all_movies(network, UNKNOWN))
    assert torch.equal(all_movies(one, UNKNOWN), all_movies(network, UNKNOWN))


@pytest.mark.parametrize("name", models.names())
def test_the_network_of_one_trained_user_predicts_as_the_whole_one(name: str) -> None:
    network, _ = trained(name, epochs=1)
    assert torch.equal(all_movies(fold_in.only_user(network, name, 7), 0), all_movies(network, 7))


def test_for_the_dot_product_it_is_ridge_regression() -> None:
    network, l2 = trained("dot", epochs=2)
    theirs = tastes(users=range(70, 71), per_user=12, seed=3)
    one = fold_in.network_of_one(network, "dot", movie_idx=theirs.movie_idx, rating=theirs.rating, l2=l2)
    weights = network.state_dict()
    movies, typical = weights["movie.weight"][theirs.movie_idx].double(), weights["user.weight"][-1].double()
    hold = l2 * 12 + fold_in.HOLD
    normal = movies.T @ movies + hold * torch.eye(8, dtype=torch.float64)
    row = typical + torch.linalg.solve(normal, movies.T @ (theirs.rating - movies @ typical))
    torch.testing.assert_close(one.state_dict()["user.weight"][0].double(), row, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", models.names())
def test_the_order_of_the_ratings_does_not_matter_and_the_network_is_left_as_it_was(name: str) -> None:
    network, l2 = trained(name, epochs=2)
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    theirs = tastes(users=range(70, 71), per_user=12, seed=3)
    one, other = (
        fold_in.network_of_one(
            network, name, movie_idx=theirs.movie_idx[order], rating=theirs.rating[order], l2=l2
        )
        for order in (torch.arange(12), torch.randperm(12))
    )
    torch.testing.assert_close(all_movies(one, 0), all_movies(other, 0), rtol=1e-4, atol=1e-4)
    assert all(torch.equal(before[key], tensor) for key, tensor in network.state_dict().items())
