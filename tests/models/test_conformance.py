"""Laws that every network obeys: a new file in cfjobs/models is tested by being there."""

from pathlib import Path

import numpy as np
import pytest
import torch

from cfjobs import model_store, models, training
from cfjobs.config import Config
from cfjobs.model_store.files import Model
from cfjobs.models.network import UNKNOWN, Network
from cfjobs.models.predict import predict
from cfjobs.topn import top_n
from cfjobs.topn.problem import Pairs

U, M = 40, 30


def network(name: str, **changes: object) -> Network:
    config = Config(**({"model": name, "n_factors": 8, "ensemble": 2, "max_raters": 3} | changes))  # type: ignore[arg-type]  # a mixture of types
    torch.manual_seed(3)
    return models.build(name, n_users=U, n_movies=M, settings=models.settings(config, y_range=(0.5, 5.0)))


def examples(*, n: int = 600, seed: int = 0) -> training.Examples:
    rng = np.random.default_rng(seed)
    user, movie = rng.integers(0, U - 2, n), rng.integers(0, M - 2, n)
    rating = np.where((user + movie) % 2 == 0, 4.5, 1.5).astype(np.float32)
    return training.Examples(torch.from_numpy(user), torch.from_numpy(movie), torch.from_numpy(rating))


def trained(name: str) -> Network:
    found = network(name)
    training.fit_rating(found, examples(), config=Config(model=name, batch_size=64, epochs=3))
    return found


@pytest.fixture(params=models.names())
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_it_predicts_one_rating_a_pair_and_knows_unknown_ids(name: str) -> None:
    found = trained(name)
    users, movies = torch.tensor([0, UNKNOWN, 0, UNKNOWN]), torch.tensor([0, 0, UNKNOWN, UNKNOWN])
    predicted = predict(found, users, movies)
    assert predicted.shape == (4,)
    assert torch.isfinite(predicted).all()


def test_a_prediction_without_copies_of_rows_is_the_one_with_them(name: str) -> None:
    found = trained(name)
    pairs = torch.randint(UNKNOWN, U, (500,)), torch.randint(UNKNOWN, M, (500,))
    copied = found(*pairs).detach().clamp(0.5, 5.0).float()  # a gradient is wanted, so rows are gathered
    torch.testing.assert_close(predict(found, *pairs), copied, rtol=2e-7, atol=0)


def test_a_row_without_ratings_is_predicted_as_an_unknown_id(name: str) -> None:
    found = trained(name)
    never_rated = torch.tensor([U - 1]), torch.tensor([M - 1])
    unknown = torch.tensor([UNKNOWN]), torch.tensor([UNKNOWN])
    assert predict(found, *never_rated) == predict(found, *unknown)


def test_its_scores_order_movies_as_its_predictions_do(name: str) -> None:
    found = trained(name)
    nothing_seen = Pairs(np.zeros(U + 1, dtype=np.int64), np.empty(0, dtype=np.int32))
    lists = next(top_n(found.scores(), n=M, seen=nothing_seen))
    for user in range(U):
        movies = torch.from_numpy(lists.movie_idx[user].astype(np.int64))
        with torch.no_grad():
            predicted = found(torch.full((M,), user), movies).numpy()
        assert (np.diff(predicted) <= 1e-5).all()


@pytest.mark.parametrize("init", ["uniform", "normal", "kaiming"])
def test_every_initialisation_starts_small_and_different_for_each_row(name: str, init: str) -> None:
    found = network(name, init=init)
    for table in found.modules():
        if isinstance(table, torch.nn.Embedding):
            assert table.weight.abs().max() < 10
            assert table.weight.std() > 0


def test_the_same_seed_gives_the_same_model(name: str) -> None:
    first, second = trained(name).state_dict(), trained(name).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_it_is_read_back_as_it_was_saved(name: str, tmp_path: Path) -> None:
    import polars as pl

    found = trained(name)
    users = pl.DataFrame({"user_id": np.arange(U), "n_ratings": np.ones(U, dtype=np.int64)})
    movies = pl.DataFrame({"movie_id": np.arange(M), "n_ratings": np.ones(M, dtype=np.int64)})
    model_store.save_model(str(tmp_path), Model(found, None, Config(model=name), users, movies))
    loaded = model_store.load_model(str(tmp_path))
    pairs = torch.arange(M), torch.arange(M)
    assert torch.equal(predict(loaded.network, *pairs), predict(found, *pairs))
    assert {path.suffix for path in tmp_path.iterdir()} == {".safetensors", ".json", ".parquet"}


def test_what_is_left_of_the_raters_is_the_plain_network() -> None:
    """Leaving u out: a pair's training prediction is that of the sum over the other raters."""
    found = network("dot_raters", max_raters=1000)
    pairs = torch.tensor([0, 1, 2, 0]), torch.tensor([0, 0, 0, 1])
    found.begin(*pairs)
    found.train()
    with_own_left_out = found(*pairs)
    rater = found.user_as_rater.weight  # type: ignore[union-attr]  # made by begin
    others = [
        (rater[1] + rater[2]) / 3**0.5,
        (rater[0] + rater[2]) / 3**0.5,
        (rater[0] + rater[1]) / 3**0.5,
        rater[0] * 0,
    ]
    for row, (user, movie) in enumerate(zip(*pairs, strict=True)):
        p = found.user.weight[user].view(2, -1)  # type: ignore[union-attr, operator]  # an embedding
        q = (found.movie.weight[movie] + others[row]).view(2, -1)  # type: ignore[union-attr, operator]  # an embedding
        logit = (p[:, :-1] * q[:, :-1]).sum(1) + p[:, -1] + q[:, -1]
        torch.testing.assert_close(with_own_left_out[row], found.range(logit))  # type: ignore[operator]  # a module


def test_folding_the_raters_changes_no_prediction() -> None:
    found = network("dot_raters")
    found.begin(examples().user_idx, examples().movie_idx)
    found.eval()
    pairs = torch.tensor([0, 1, UNKNOWN, 3]), torch.tensor([0, 2, 4, UNKNOWN])
    before = found(*pairs)
    found.finish()
    torch.testing.assert_close(found(*pairs), before, rtol=1e-6, atol=1e-6)
