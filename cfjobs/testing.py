"""The laws that every network of ratings obeys, for the tests of a network inside or outside this package.

    @pytest.mark.parametrize("law", testing.LAWS)
    def test_my_network_obeys(law, tmp_path):
        law("package.module", folder=tmp_path)

A law takes the network's name, as `model = ...` names it, and an empty folder; it raises AssertionError where
the network breaks it.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import torch

from cfjobs import model_store, models, training
from cfjobs.config import Config
from cfjobs.model_store.files import Model
from cfjobs.models.network import UNKNOWN, MovieTable, Network, UserTable
from cfjobs.models.predict import predict
from cfjobs.topn import top_n
from cfjobs.topn.problem import Pairs

U, M = 40, 30
"""Users and movies of the networks here; the last two of each have no ratings."""


def network(name: str, **changes: object) -> Network:
    """A small untrained network, the same each time."""
    config = Config.model_validate(
        {"model": name, "n_factors": 8, "ensemble": 2, "max_raters": 3} | dict(changes)
    )
    torch.manual_seed(3)
    return models.build(name, n_users=U, n_movies=M, settings=models.settings(config, y_range=(0.5, 5.0)))


def examples(*, n: int = 600, seed: int = 0) -> training.Examples:
    """Ratings like a checkerboard, which a network can learn."""
    rng = np.random.default_rng(seed)
    user, movie = rng.integers(0, U - 2, n), rng.integers(0, M - 2, n)
    rating = np.where((user + movie) % 2 == 0, 4.5, 1.5).astype(np.float32)
    return training.Examples(torch.from_numpy(user), torch.from_numpy(movie), torch.from_numpy(rating))


def trained(name: str) -> Network:
    """The small network after some epochs of minibatch."""
    found = network(name)
    training.fit_rating(found, examples(), config=Config(model=name, batch_size=64, epochs=3))
    return found


# The laws -------------------------------------------------------------------------------------------


def says_whose_its_rows_are(name: str, *, folder: Path) -> None:
    """Every embedding is a UserTable of U + 1 rows or a MovieTable of M + 1, so that each gets its own
    penalty."""
    tables = [table for table in network(name).modules() if isinstance(table, torch.nn.Embedding)]
    assert any(isinstance(table, UserTable) for table in tables)
    assert any(isinstance(table, MovieTable) for table in tables)
    for table in tables:
        assert isinstance(table, UserTable | MovieTable)
        assert table.num_embeddings == (U if isinstance(table, UserTable) else M) + 1


def predicts_one_rating_a_pair_and_knows_unknown_ids(name: str, *, folder: Path) -> None:
    users, movies = torch.tensor([0, UNKNOWN, 0, UNKNOWN]), torch.tensor([0, 0, UNKNOWN, UNKNOWN])
    predicted = predict(trained(name), users, movies)
    assert predicted.shape == (4,)
    assert torch.isfinite(predicted).all()


def predicts_the_same_without_copies_of_rows(name: str, *, folder: Path) -> None:
    found = trained(name)
    pairs = torch.randint(UNKNOWN, U, (500,)), torch.randint(UNKNOWN, M, (500,))
    copied = found(*pairs).detach().clamp(0.5, 5.0).float()  # a gradient is wanted, so rows are gathered
    torch.testing.assert_close(predict(found, *pairs), copied, rtol=2e-7, atol=0)


def predicts_a_row_without_ratings_as_an_unknown_id(name: str, *, folder: Path) -> None:
    found = trained(name)
    never_rated = torch.tensor([U - 1]), torch.tensor([M - 1])
    unknown = torch.tensor([UNKNOWN]), torch.tensor([UNKNOWN])
    assert predict(found, *never_rated) == predict(found, *unknown)


def scores_in_the_order_of_its_predictions(name: str, *, folder: Path) -> None:
    found = trained(name)
    nothing_seen = Pairs(np.zeros(U + 1, dtype=np.int64), np.empty(0, dtype=np.int32))
    lists = next(top_n(found.scores(), n=M, seen=nothing_seen))
    for user in range(U):
        movies = torch.from_numpy(lists.movie_idx[user].astype(np.int64))
        with torch.no_grad():
            predicted = found(torch.full((M,), user), movies).numpy()
        assert (np.diff(predicted) <= 1e-5).all()


def starts_small_and_different_for_each_row(name: str, *, folder: Path) -> None:
    for init in ("uniform", "normal", "kaiming"):
        for table in network(name, init=init).modules():
            if isinstance(table, torch.nn.Embedding):
                assert table.weight.abs().max() < 10
                assert table.weight.std() > 0


def is_the_same_for_the_same_seed(name: str, *, folder: Path) -> None:
    first, second = trained(name).state_dict(), trained(name).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)


def is_read_back_as_it_was_saved(name: str, *, folder: Path) -> None:
    """Whole, and a range of its users alone."""
    found = trained(name)
    users = pl.DataFrame({"user_id": np.arange(U), "n_ratings": np.ones(U, dtype=np.int64)})
    movies = pl.DataFrame({"movie_id": np.arange(M), "n_ratings": np.ones(M, dtype=np.int64)})
    model_store.save_model(str(folder), Model(found, None, Config(model=name), users, movies))
    pairs = torch.arange(M), torch.arange(M)
    wanted = predict(found, *pairs)
    assert torch.equal(predict(model_store.load_model(str(folder)).network, *pairs), wanted)
    part = model_store.load_model(str(folder), users=range(5, 9)).network
    assert torch.equal(predict(part, torch.arange(4), pairs[1][5:9]), wanted[5:9])
    assert {path.suffix for path in folder.iterdir()} == {".safetensors", ".json", ".parquet"}


Law = Callable[..., None]

LAWS: tuple[Law, ...] = (
    says_whose_its_rows_are,
    predicts_one_rating_a_pair_and_knows_unknown_ids,
    predicts_the_same_without_copies_of_rows,
    predicts_a_row_without_ratings_as_an_unknown_id,
    scores_in_the_order_of_its_predictions,
    starts_small_and_different_for_each_row,
    is_the_same_for_the_same_seed,
    is_read_back_as_it_was_saved,
)
