"""Training: it learns what is there, keeps the best epoch, obeys its schedule,
and refuses a loss that is not a number."""

import itertools
import math

import numpy as np
import pytest
import torch

from cfjobs import models, training
from cfjobs.config import Config
from cfjobs.device import resolve_device
from cfjobs.errors import InputError, TrainingDiverged
from cfjobs.models.network import Network, RatingRange
from cfjobs.models.predict import predict
from cfjobs.training import minibatch
from cfjobs.training.fit import later_counts_more

U, M = 60, 40


def checkerboard(*, n: int = 3_000, seed: int = 0) -> training.Examples:
    """Even users love even movies, odd ones odd movies: 4.5 stars, or 1.5."""
    rng = np.random.default_rng(seed)
    user, movie = rng.integers(0, U, n), rng.integers(0, M, n)
    rating = np.where((user + movie) % 2 == 0, 4.5, 1.5).astype(np.float32)
    return training.Examples(torch.from_numpy(user), torch.from_numpy(movie), torch.from_numpy(rating))


def network(config: Config) -> Network:
    torch.manual_seed(config.seed)
    settings = models.settings(config, y_range=(0.5, 5.0))
    return models.build(config.model, n_users=U, n_movies=M, settings=settings)


@pytest.mark.parametrize(
    "settings",
    [
        {"optimizer": "sgd", "learning_rate": 1.0, "epochs": 40, "l2": 0.0},
        {"optimizer": "adam"},
        {"optimizer": "adamw", "weight_decay": 0.01},
        {"schedule": "constant"},
        {"schedule": "cosine", "cycle_len": 2, "cycle_mult": 2},
    ],
)
def test_the_checkerboard_is_learnt_with_every_optimiser_and_schedule(settings: dict[str, object]) -> None:
    config = Config(
        **(
            {
                "model": "dot_bias",
                "n_factors": 8,
                "init": "normal",
                "init_std": 0.1,
                "l2": 0.0001,
                "epochs": 30,
                "batch_size": 128,
                "learning_rate": 0.03,
            }
            | settings
        )
    )  # type: ignore[arg-type]
    found = network(config)
    training.fit_rating(found, checkerboard(), config=config)
    assert training.mean_squared_error(found, checkerboard(seed=1)) < 0.1


def test_the_best_epoch_is_kept_and_training_stops_without_a_better_one() -> None:
    rng = np.random.default_rng(1)
    noise = torch.from_numpy(rng.choice([1.0, 5.0], 400).astype(np.float32))
    train_set, valid = checkerboard(n=400), checkerboard(n=400, seed=2)
    overfitted = training.Examples(train_set.user_idx, train_set.movie_idx, noise)
    config = Config(
        model="dot_bias",
        n_factors=8,
        l2=0.0,
        epochs=60,
        batch_size=64,
        learning_rate=0.03,
        schedule="constant",
        patience=3,
    )
    found = network(config)
    record = training.fit_rating(found, overfitted, config=config, valid=valid)
    best = training.best_epoch(record)
    assert len(record) == best + 3 < 60
    assert training.mean_squared_error(found, valid) <= min(epoch.valid_loss for epoch in record) + 1e-3


def test_a_refit_follows_the_same_schedule_and_stops_earlier() -> None:
    config = Config(epochs=10, batch_size=256)
    whole, part = network(config), network(config)
    assert len(training.fit_rating(part, checkerboard(), config=config, stop_fraction=0.4)) == 4
    seen: list[float] = []
    training.fit_rating(whole, checkerboard(), config=config, on_epoch=lambda e: seen.append(e.train_loss))
    again: list[float] = []
    training.fit_rating(
        network(config),
        checkerboard(),
        config=config,
        stop_fraction=0.4,
        on_epoch=lambda e: again.append(e.train_loss),
    )
    assert seen[:4] == again


@pytest.mark.parametrize("model", ["dot_bias", "net"])
def test_a_learned_padding_moves_and_stays_outside_the_range(model: str) -> None:
    config = Config(model=model, y_padding="learned", l2=0.0, epochs=20, batch_size=128, learning_rate=0.05)
    found = network(config)
    assert isinstance(found.range, RatingRange)
    before = [float(end) for end in found.range.bounds()]
    training.fit_rating(found, checkerboard(), config=config)
    after = [float(end) for end in found.range.bounds()]
    assert before == pytest.approx([0.0, 5.5])
    assert all(abs(a - b) > 0.01 for a, b in zip(before, after, strict=True))
    assert after[0] < 0.5
    assert after[1] > 5.0


def test_a_loss_that_is_not_finite_names_the_knob() -> None:
    config = Config(
        model="dot", optimizer="sgd", learning_rate=1000, schedule="constant", epochs=5, batch_size=64
    )
    with pytest.raises(TrainingDiverged, match="lower learning_rate"):
        training.fit_rating(network(config), checkerboard(), config=config)


def test_predictions_stay_in_the_rating_range_for_any_batch_size() -> None:
    found = network(Config(model="dot", init_std=5))
    users, movies = torch.arange(U).repeat_interleave(M), torch.arange(M).repeat(U)
    whole = predict(found, users, movies)
    assert whole.min() >= 0.5
    assert whole.max() <= 5.0
    for batch_size in (1, 7, U * M):
        torch.testing.assert_close(predict(found, users, movies, batch_size=batch_size), whole)


def test_one_cycle_rises_to_the_peak_and_falls_to_nothing() -> None:
    config = Config(learning_rate=0.1, epochs=4)
    rates = [rate for rate, _ in minibatch.learning_rates(config, epochs=4, steps_per_epoch=25)]
    assert len(rates) == 100
    assert max(rates) == pytest.approx(0.1)
    assert rates.index(max(rates)) == 25
    assert rates[-1] < 0.001


def test_cosine_restarts_with_longer_cycles() -> None:
    config = Config(schedule="cosine", learning_rate=1.0, cycle_len=1, cycle_mult=2)
    rates = [
        rate
        for rate, _ in itertools.islice(minibatch.learning_rates(config, epochs=7, steps_per_epoch=10), 70)
    ]
    assert [step for step, rate in enumerate(rates) if math.isclose(rate, 1.0)] == [0, 10, 30]


def test_a_device_that_is_absent_is_a_clear_error() -> None:
    assert resolve_device("cpu").type == "cpu"
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match="use auto or cpu"):
            resolve_device("cuda")


def test_later_ratings_of_a_user_count_more_whoever_else_there_is() -> None:
    weight = later_counts_more(torch.tensor([0, 0, 0, 2, 2, 2, 5]))
    assert float(weight.mean()) == pytest.approx(1)
    assert torch.equal(weight[:3], weight[3:6])
    assert (weight[:3].diff() > 0).all()
    assert float(weight[6]) == pytest.approx(float(weight[2]))
    assert len(later_counts_more(torch.tensor([], dtype=torch.int64))) == 0


@pytest.mark.parametrize("model", ["dot_raters", "dot_bias"])
def test_a_rating_that_does_not_count_is_not_learnt(model: str) -> None:
    """Whichever way the steps are taken: where two ratings of a pair contradict each other, the one with all
    the weight is predicted."""
    user = torch.arange(40).repeat(40)
    movie = torch.arange(40).repeat_interleave(40)
    counts = torch.tensor([0.0, 2.0])
    twice = training.Examples(
        torch.cat([user, user]),
        torch.cat([movie, movie]),
        torch.cat([torch.full((1600,), 1.0), torch.full((1600,), 5.0)]),
        weight=counts.repeat_interleave(1600),
    )
    config = Config(model=model, n_factors=4, epochs=12)
    network = models.build(
        model, n_users=40, n_movies=40, settings=models.settings(config, y_range=(1.0, 5.0))
    )
    training.fit_rating(network, twice, config=config)
    assert float(predict(network, user, movie).mean()) > 4
