"""Training a rating at a time: the steps of the equation, the same model on any number of threads,
killed or not."""

from typing import get_args

import numpy as np
import pytest
import torch

from cfjobs import models, training
from cfjobs.config import Config
from cfjobs.errors import InputError
from cfjobs.models.network import Network
from cfjobs.models.networks import dot_raters
from cfjobs.models.raters import Raters
from cfjobs.training import blocked_sgd_kernels
from cfjobs.training.checkpoint import State
from tests.training.test_checkpoint import Shelf, killed_and_resumed

U, M, K, D = 60, 80, 2, 5


@pytest.fixture(autouse=True)
def _users_have_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dot_raters, "ENOUGH", 0)


SMALL = Config(n_factors=D, ensemble=K, epochs=3, max_raters=7)


def examples(seed: int = 0, n: int = 1_500) -> training.Examples:
    rng = np.random.default_rng(seed)
    pairs = np.sort(rng.permutation(U * M)[:n])
    user, movie = np.divmod(pairs, M)
    rating = 3 + (user % 2 == movie % 2) + rng.normal(0, 0.3, n)
    return training.Examples(*map(torch.from_numpy, (user, movie, rating.astype(np.float32))))


def begun(config: Config = SMALL) -> Network:
    torch.manual_seed(0)
    settings = models.settings(config, y_range=(0.5, 5.0))
    return models.build("dot_raters", n_users=U, n_movies=M, settings=settings)


def trained(
    data: training.Examples, config: Config = SMALL, **more: object
) -> tuple[Network, list[training.Epoch]]:
    network = begun(config)
    return network, training.fit_rating(network, data, config=config, **more)  # type: ignore[arg-type]


def same(one: Network, other: Network) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_a_visit_takes_the_steps_of_the_equation() -> None:
    """One rating, beside autograd in float64: users, movies, and what the rows that are summed get of it."""
    rng = np.random.default_rng(1)
    p, q, s, t = (rng.normal(0, 0.5, (1, K, D + 1)) for _ in range(4))
    x, y = (rng.normal(0, 0.5, (1, 2 * K, D + 1)) for _ in range(2))
    rating, value, counts, c, e = 4.0, -0.7, 1.2, 0.6, 0.3
    offset, low, span, rate, l2, l2_bias = 0.3, 0.0, 5.5, 0.1, 0.2, 0.05
    tp, tq, tx, ty = (torch.tensor(part, requires_grad=True) for part in (p, q, x, y))
    v = tq + torch.tensor(s) - c * (tx[:, :K] + value * tx[:, K:])
    w = tp + torch.tensor(t) - e * (ty[:, :K] + value * ty[:, K:])
    logit = (w[..., :-1] * v[..., :-1]).sum(2) + w[..., -1] + v[..., -1] + offset
    error = low + span * torch.sigmoid(logit) - rating
    (counts * error.square().sum() / 2).backward()
    tables = [part.astype(np.float32) for part in (p, q, x, y, s, t)]
    gradients = [np.zeros((1, rows * K, D + 1), np.float32) for rows in (1, 1, 2, 2)]
    squares = [np.full((1, K, 2), 0.1, np.float32) for _ in range(2)]
    squared = blocked_sgd_kernels.visit(
        np.array([~0], np.int32), np.array([~0], np.int32), np.array([rating], np.float32),
        np.array([value], np.float32), np.array([counts], np.float32), 0,
        *tables, *gradients, np.array([c], np.float32), np.array([e], np.float32), *squares,
        *(np.float32(n) for n in (offset, low, span, rate, l2, l2_bias)), True,
    )  # fmt: skip
    assert squared == pytest.approx(float(error.detach().square().sum()), rel=1e-5)
    for before, table, found in ((p, tables[0], tp), (q, tables[1], tq)):
        assert found.grad is not None
        g = found.grad.numpy() + np.array([l2] * D + [l2_bias]) * before
        mean = np.concatenate([(g[..., :-1] ** 2).mean(2, keepdims=True).repeat(D, 2), g[..., -1:] ** 2], 2)
        np.testing.assert_allclose(table, before - rate / np.sqrt(0.1 + mean) * g, rtol=1e-4, atol=1e-6)
    for gradient, rows, sign in zip(gradients, (tq, tp, tx, ty), (1, 1, -1, -1), strict=True):
        assert rows.grad is not None  # x, y: a rating leaves its own part out
        np.testing.assert_allclose(gradient, sign * rows.grad.numpy(), rtol=1e-4, atol=1e-6)


def test_the_model_does_not_depend_on_the_threads() -> None:
    data, before = examples(), torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            found.append(trained(data)[0])
    finally:
        torch.set_num_threads(before)
    assert same(found[0], found[1])
    assert same(found[0], found[2])


def test_every_rating_is_visited_once_an_epoch() -> None:
    """Each in the one block of its users and movies, and marked where its user is among the movie's raters,
    and its movie among what the user's sum is over."""
    data = examples()
    user, movie, rating = (part.numpy() for part in (data.user_idx, data.movie_idx, data.rating))
    order = np.random.default_rng(0).permutation(U)
    value = np.zeros_like(rating)
    raters = Raters.of(user, movie, value, n_movies=M, at_most=7, order=order)
    rated = Raters.of(movie, user, value, n_movies=U, at_most=5, order=np.arange(M))
    blocks = blocked_sgd_kernels.Blocks.of(
        user,
        movie,
        rating,
        value,
        np.ones_like(rating),
        raters=raters,
        rated=rated,
        row_bytes=1 << 17,
        rng=np.random.default_rng(2),
    )
    back = np.where(blocks.movie < 0, ~blocks.movie, blocks.movie)
    who = np.where(blocks.user < 0, ~blocks.user, blocks.user)
    assert sorted(zip(who, back, blocks.rating, strict=True)) == sorted(zip(user, movie, rating, strict=True))
    n = blocks.n_blocks
    block_of = np.repeat(np.arange(n * n), np.diff(blocks.first))
    for rows, of in ((who, block_of // n), (back, block_of % n)):
        assert all(len(set(of[rows == row])) <= 1 for row in range(max(U, M)))
    for m in range(M):
        chosen = sorted(user[movie == m], key=lambda u: order[u])[:7]
        assert set(who[(back == m) & (blocks.movie < 0)]) == set(chosen)
        assert set(raters.users[raters.first_user[m] : raters.first_user[m + 1]]) == set(chosen)
    for u in range(U):
        assert set(back[(who == u) & (blocks.user < 0)]) == set(np.sort(movie[user == u])[:5])


def test_a_killed_training_ends_with_the_same_bits() -> None:
    data, valid = examples(), examples(1, 300)
    config = SMALL.model_copy(update={"patience": 1, "epochs": 6})
    whole, record = trained(data, config, valid=valid)
    found: list[Network] = []

    def fit(checkpoints: object) -> None:
        found.append(begun(config))
        training.fit_rating(found[-1], data, config=config, valid=valid, checkpoints=checkpoints)  # type: ignore[arg-type]

    killed_and_resumed(fit, at=[1, 5, 9, 8])
    assert same(found[-1], whole)
    assert record[-1].of == 6


def test_the_holdout_loss_is_that_of_the_finished_network() -> None:
    """Without clipping apart: the loops and the network predict the same."""
    data, valid = examples(), examples(1, 300)
    network, record = trained(data, SMALL.model_copy(update={"patience": 0}), valid=valid)
    best = min(epoch.valid_loss for epoch in record)
    assert training.mean_squared_error(network, valid) == pytest.approx(
        best, rel=0.02
    )  # rows without ratings differ


def test_it_learns_what_batches_learn() -> None:
    data, valid = examples(n=2_500), examples(5, 800)
    losses = []
    for config in (Config(n_factors=D), Config(n_factors=D, optimizer="adam")):
        _, record = trained(data, config, valid=valid)
        losses.append(min(epoch.valid_loss for epoch in record))
    assert losses[0] <= 1.1 * losses[1]


@pytest.mark.parametrize(
    "asks",
    [
        {"optimizer": "adam"},
        {"steps": 5},
        {"batch_size": 9},
        {"schedule": "cosine"},
        {"y_padding": "learned"},
        {"movie_features": ("genres",)},
        {"processes": 2},
        {"model": "dot_bias"},
    ],
)
def test_what_asks_for_minibatch_is_not_trained_by_blocked_sgd(asks: dict[str, object]) -> None:
    """auto gives way, and a training that is asked for by name refuses with the reason."""
    config = Config().model_copy(update=asks)
    assert models.training_of(Config()) == "blocked_sgd"
    assert models.training_of(Config(training="minibatch")) == "minibatch"
    assert models.training_of(config) == "minibatch"
    with pytest.raises(InputError, match=f"training: got 'blocked_sgd', but .*{next(iter(asks))}"):
        models.training_of(config.model_copy(update={"training": "blocked_sgd"}))


@pytest.mark.parametrize("where", [{"device": "cuda"}, {"processes": 2}])
def test_a_gpu_or_more_processes_train_by_minibatch(where: dict[str, object]) -> None:
    assert models.training_of(Config(), **where) == "minibatch"  # type: ignore[arg-type]


@pytest.mark.parametrize("training_name", get_args(models.Training))
def test_a_training_by_name_is_the_one_that_runs(
    training_name: models.Training, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever runs is in what its checkpoints are known by; without a holdout the log has no loss of it."""
    shelf = Shelf()
    with caplog.at_level("INFO", logger="cfjobs"):
        trained(
            examples(), SMALL.model_copy(update={"training": training_name}), checkpoints=shelf.checkpoints()
        )
    assert shelf.data is not None
    assert State.from_bytes(shelf.data).header["fingerprint"]["training"] == training_name
    assert "training loss" in caplog.text
    assert "nan" not in caplog.text
    assert "holdout" not in caplog.text


@pytest.mark.parametrize("y_range", [(5.0, 5.0), (1.0, 5.0)])
def test_ratings_that_are_all_alike_are_learnt(y_range: tuple[float, float]) -> None:
    """Without a padding, at the very end of the range."""
    data = examples()
    data = training.Examples(data.user_idx, data.movie_idx, torch.full_like(data.rating, 5.0))
    config = Config(n_factors=D, epochs=5, y_padding=0.0)
    settings = models.settings(config, y_range=y_range)
    network = models.build("dot_raters", n_users=U, n_movies=M, settings=settings)
    record = training.fit_rating(network, data, config=config)
    assert record[-1].train_loss < 0.05
