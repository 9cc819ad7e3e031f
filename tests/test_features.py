"""Side features: how columns become numbers, and what networks then know of movies that nobody has rated."""

import functools
from datetime import datetime

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cfjobs import features, models, training
from cfjobs.config import Config
from cfjobs.errors import InputError
from cfjobs.features import Encoding, Features
from cfjobs.models.network import UNKNOWN, Network
from cfjobs.models.predict import predict
from cfjobs.models.ranker import History, RankingConfig, RankingModel
from cfjobs.topn import top_n
from cfjobs.topn.problem import Pairs
from cfjobs.training import fold_in
from cfjobs.training.checkpoint import Checkpoints
from cfjobs.training.ranker import fit_ranking
from tests.training.test_checkpoint import Shelf, killed_and_resumed

MOVIES = pl.DataFrame(
    {
        "movie_id": [1, 2, 3, 4, 5],
        "genres": ["Comedy|Drama", "Drama", None, "Comedy| Drama |", "Western"],
        "tags": [["a", "b"], ["a"], [], None, ["b", None]],
        "year": [1990, 2000, None, 2010, 2000],
        "colour": [True, False, None, True, True],
    }
)


def pairs_of(found: Features, row: int) -> dict[int, float]:
    at = slice(found.indptr[row], found.indptr[row + 1])
    return dict(zip(found.values[at].tolist(), found.weights[at].tolist(), strict=True))


# Encoding -------------------------------------------------------------------------------------------


def test_categories_are_split_trimmed_averaged_and_unseen_or_single_ones_left_out() -> None:
    encoding = features.learn(MOVIES, ["genres"], what="movie")
    assert encoding.columns[0].categories == ("Comedy", "Drama")
    found = features.encode(MOVIES, encoding)
    assert [pairs_of(found, row) for row in range(5)] == [
        {0: 0.5, 1: 0.5},
        {1: 1.0},
        {},
        {0: 0.5, 1: 0.5},
        {},
    ]
    assert found.described.tolist() == [True, True, False, True, False]
    tomorrow = pl.DataFrame({"genres": ["Drama|Opera", "Opera"]})
    assert [pairs_of(features.encode(tomorrow, encoding), row) for row in (0, 1)] == [{1: 1.0}, {}]


def test_lists_booleans_and_numbers_have_their_own_values() -> None:
    found = features.encode(MOVIES, features.learn(MOVIES, ["tags", "year", "colour"], what="movie"))
    year = np.array([1990, 2000, 2010, 2000])
    z = ((year - year.mean()) / year.std()).astype(np.float32)
    assert found.n_values == 2 + 2 + 1  # a, b; number, missing; true (one movie alone is false)
    assert pairs_of(found, 0) == pytest.approx({0: 0.5, 1: 0.5, 2: z[0], 4: 1.0})
    assert pairs_of(found, 1) == pytest.approx({0: 1.0, 2: z[1]})
    assert pairs_of(found, 3) == pytest.approx({2: z[2], 4: 1.0})
    assert pairs_of(found, 2) == {}, "nothing is known of it, not even that its year is missing"


def test_a_missing_number_is_a_value_of_a_movie_that_is_otherwise_described() -> None:
    table = pl.DataFrame({"kind": ["a", "a", "b", "b"], "length": [1.0, None, 3.0, float("nan")]})
    found = features.encode(table, features.learn(table, ["kind", "length"], what="movie"))
    assert pairs_of(found, 1) == {0: 1.0, 3: 1.0}
    assert pairs_of(found, 3) == {1: 1.0, 3: 1.0}


@given(st.lists(st.lists(st.sampled_from("abcdef"), max_size=4), min_size=1, max_size=30))
def test_weights_of_a_described_row_sum_to_one_whatever_the_categories(rows: list[list[str]]) -> None:
    table = pl.DataFrame({"kind": [*rows, ["a"], ["a"]]}, schema={"kind": pl.List(pl.String)})
    encoding = features.learn(table, ["kind"], what="movie")
    found = features.encode(table, encoding)
    sums = np.add.reduceat(np.append(found.weights, 0), found.indptr[:-1])[found.described]
    np.testing.assert_allclose(sums, 1, rtol=1e-6)


def test_an_encoding_is_read_back_as_it_was_written() -> None:
    encoding = features.learn(MOVIES, ["genres", "tags", "year", "colour"], what="movie")
    assert Encoding.from_json(encoding.as_json()) == encoding


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (None, r"has no column 'x' \(further columns: y\)"),
        (pl.Series([None] * 40, dtype=pl.String), "is empty"),
        (pl.Series([f"Title {n}" for n in range(40)]), "looks like an id or a title"),
        (pl.Series(range(40)), "looks like an id; leave it out, or cast it to float"),
        (pl.Series([float("nan")] * 40), "holds no finite number"),
        (pl.Series([datetime(2000, 1, 1)] * 40), "cast it on export"),
        (pl.Series([[str(n % 6_000), "a"] for n in range(13_000)]), "at most 5,000"),
    ],
)
def test_a_column_that_will_not_do_is_named(column: pl.Series | None, message: str) -> None:
    table = pl.DataFrame({"movie_id": [1], "y": [1]}) if column is None else pl.DataFrame({"x": column})
    with pytest.raises(InputError, match=message) as refused:
        features.learn(table, ["x"], what="movie")
    assert "movie_features" in str(refused.value)


# What networks know of unrated movies ---------------------------------------------------------------

U, M, N_UNRATED = 150, 100, 20
GENRE = np.arange(M) % 4
UNRATED = np.arange(M - N_UNRATED, M)


def taste(user: np.ndarray, movie: np.ndarray) -> np.ndarray:
    """A user loves one genre of the four, 4.5 stars, likes its neighbour, 3.5, and not the others, 1.5."""
    return np.array([4.5, 3.5, 1.5, 1.5])[(GENRE[movie] - user) % 4].astype(np.float32)


def described(*, rows: int = M) -> Features:
    table = pl.DataFrame({"genre": [f"g{genre}" for genre in GENRE[:rows]]})
    return features.encode(table, features.learn(table, ["genre"], what="movie"))


@functools.cache
def trained(name: str) -> Network:
    rng = np.random.default_rng(0)
    user, movie = rng.integers(0, U, 6_000), rng.integers(0, M - N_UNRATED, 6_000)
    examples = training.Examples(*map(torch.from_numpy, (user, movie, taste(user, movie))))
    config = Config(
        model=name, n_factors=8, batch_size=256, epochs=12, learning_rate=0.04, l2=0.005, movie_features=("genre",),
        dropout=(0.0, 0.0), init="normal", init_std=0.1,
    )  # fmt: skip
    torch.manual_seed(0)
    network = models.build(name, n_users=U, n_movies=M, settings=models.settings(config, y_range=(0.5, 5.0)))
    network.describe(movies=described())
    training.fit_rating(network, examples, config=config)
    return network


ALWAYS = ("dot_raters", "net")
"""The default, and the one with layers; `make laws` tries every network."""


@pytest.fixture(
    params=[pytest.param(n, marks=() if n in ALWAYS else pytest.mark.long) for n in models.names()]
)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_an_unrated_movie_is_predicted_by_what_it_is(name: str) -> None:
    network = trained(name)
    user, movie = (grid.ravel() for grid in np.meshgrid(np.arange(U), UNRATED, indexing="ij"))
    truth = taste(user, movie)
    predicted = predict(network, torch.from_numpy(user), torch.from_numpy(movie)).numpy()
    typical = predict(network, torch.from_numpy(user), torch.full((len(user),), UNKNOWN)).numpy()
    assert np.mean((predicted - truth) ** 2) < 0.3 * np.var(truth)
    assert np.mean((predicted - truth) ** 2) < 0.3 * np.mean((typical - truth) ** 2)


def test_scores_order_described_movies_as_predictions_do_and_nothing_of_training_is_left(name: str) -> None:
    network = trained(name)
    assert not [key for key in network.state_dict() if key.startswith("side.")]
    nothing_seen = Pairs(np.zeros(U + 1, dtype=np.int64), np.empty(0, dtype=np.int32))
    lists = next(top_n(network.scores(), n=M, seen=nothing_seen))
    for user in (0, 1, 77):
        movies = torch.from_numpy(lists.movie_idx[user].astype(np.int64))
        with torch.no_grad():
            predicted = network(torch.full((M,), user), movies).numpy()
        assert (np.diff(predicted) <= 1e-5).all()
        assert (GENRE[lists.movie_idx[user][:20]] == user % 4).mean() > 0.8


def test_a_described_training_that_was_killed_ends_with_the_same_bits(name: str) -> None:
    config = Config(model=name, n_factors=4, batch_size=128, epochs=2, movie_features=("genre",))
    rng = np.random.default_rng(0)
    user, movie = rng.integers(0, U, 500), rng.integers(0, M - N_UNRATED, 500)
    examples = training.Examples(*map(torch.from_numpy, (user, movie, taste(user, movie))))
    ended = []

    def fit(checkpoints: Checkpoints) -> None:
        torch.manual_seed(0)
        network = models.build(
            name, n_users=U, n_movies=M, settings=models.settings(config, y_range=(0.5, 5.0))
        )
        network.describe(movies=described())
        training.fit_rating(network, examples, config=config, valid=examples, checkpoints=checkpoints)
        ended.append(network.state_dict())

    fit(Shelf().checkpoints())
    killed_and_resumed(fit, at=[3, 4])
    assert all(torch.equal(ended[0][key], ended[1][key]) for key in ended[0])


def test_a_described_ranking_training_that_was_killed_ends_with_the_same_bits() -> None:
    rng = np.random.default_rng(0)
    user, movie = np.repeat(np.arange(40), 10), rng.integers(0, M - N_UNRATED, 400)
    history = History.of(
        pl.DataFrame({"user_idx": user, "movie_idx": movie, "rating": taste(user, movie)}), n_users=40
    )
    ended: list[RankingModel] = []

    def fit(checkpoints: Checkpoints) -> None:
        config = RankingConfig(n_factors=4, n_steps=12, batch_users=16)
        ended.append(
            fit_ranking(history, n_movies=M, config=config, features=described(), checkpoints=checkpoints)
        )

    fit(Shelf().checkpoints())
    killed_and_resumed(fit, at=[5, 4])
    first, resumed = (model.tensors() for model in ended)
    assert all(torch.equal(first[key], resumed[key]) for key in first)


def test_without_features_a_network_holds_nothing_for_them(name: str) -> None:
    settings = models.settings(Config(model=name), y_range=(0.5, 5.0))
    assert not [
        key
        for key in models.build(name, n_users=3, n_movies=3, settings=settings).state_dict()
        if "side" in key
    ]


def test_a_described_network_folds_a_new_user_in(name: str) -> None:
    movie = np.arange(0, 40)
    rating = torch.from_numpy(taste(np.full(40, 3), movie))
    one = fold_in.network_of_one(
        trained(name), name, movie_idx=torch.from_numpy(movie), rating=rating, l2=0.005
    )
    predicted = predict(one, torch.zeros(N_UNRATED, dtype=torch.int64), torch.from_numpy(UNRATED)).numpy()
    truth = taste(np.full(N_UNRATED, 3), UNRATED)
    assert np.mean((predicted - truth) ** 2) < 0.5 * np.var(truth)


def test_users_are_described_too(name: str) -> None:
    """Ratings follow what the users table says, and training has few of each user."""
    rng = np.random.default_rng(0)
    user, movie = np.repeat(np.arange(U), 6), rng.integers(0, M, 6 * U)
    rating = torch.from_numpy(np.where((user + movie) % 2 == 0, 4.5, 1.5).astype(np.float32))
    examples = training.Examples(torch.from_numpy(user), torch.from_numpy(movie), rating)
    table = pl.DataFrame({"group": [f"g{n % 2}" for n in range(U)]})
    found = features.encode(table, features.learn(table, ["group"], what="user"))
    losses = []
    for columns in ((), ("group",)):
        config = Config(
            model=name, n_factors=8, batch_size=64, epochs=10, l2=0.01, user_features=columns, learning_rate=0.04,
            dropout=(0.0, 0.0), init="normal", init_std=0.1,
        )  # fmt: skip
        torch.manual_seed(0)
        network = models.build(
            name, n_users=U, n_movies=M, settings=models.settings(config, y_range=(0.5, 5.0))
        )
        if columns:
            network.describe(users=found)
        training.fit_rating(network, examples, config=config)
        all_user, all_movie = (
            grid.ravel() for grid in np.meshgrid(np.arange(U), np.arange(M), indexing="ij")
        )
        truth = np.where((all_user + all_movie) % 2 == 0, 4.5, 1.5)
        predicted = predict(network, torch.from_numpy(all_user), torch.from_numpy(all_movie)).numpy()
        losses.append(np.mean((predicted - truth) ** 2))
    assert losses[1] < 0.9 * losses[0]


def test_the_ranking_network_finds_the_unrated_movies_of_a_users_taste() -> None:
    rng = np.random.default_rng(1)
    users = np.arange(300)
    of_genre = [np.flatnonzero(GENRE[: M - N_UNRATED] == genre) for genre in range(4)]
    movie = np.concatenate([rng.permutation(of_genre[user % 4])[:15] for user in users])
    history = History(
        indptr=torch.arange(0, 15 * 300 + 1, 15),
        movie_idx=torch.from_numpy(movie),
        rating=torch.full((len(movie),), 4.0),
    )
    config = RankingConfig(n_factors=16, n_steps=150)
    model = fit_ranking(history, n_movies=M, config=config, features=described())
    score = model.user_vectors(history) @ model.movie_vectors[UNRATED].T + model.movie_bias[UNRATED]
    for user in range(0, 300, 7):
        best = UNRATED[score[user].argsort(descending=True)[:5].numpy()]
        assert (GENRE[best] == user % 4).mean() >= 0.8
    assert model.movie_bias[UNRATED].mean() < model.movie_bias[: M - N_UNRATED].max()
