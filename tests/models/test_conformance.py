"""Laws that every network obeys: a new file in cfjobs/models/networks is tested by being there, one outside
by its name."""

from pathlib import Path

import polars as pl
import pytest
import torch

from cfjobs import models
from cfjobs.config import Config
from cfjobs.errors import InputError
from cfjobs.models.network import UNKNOWN
from cfjobs.models.networks import dot_raters
from cfjobs.models.raters import unusual
from cfjobs.tables import runs
from cfjobs.testing import LAWS, Law, M, U, examples, network
from tests.night.test_story import QUICK, check_contract, rows, run

OUTSIDE = "tests.models.factorization_machine"


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("name", [*models.names(), OUTSIDE])
def test_every_network_obeys(law: Law, name: str, tmp_path: Path) -> None:
    law(name, folder=tmp_path)


def test_a_network_outside_the_package_runs_a_whole_night(data_set: Path, tmp_path: Path) -> None:
    """Stars and lists are its own, and readers find how it was trained."""
    run(data_set, str(tmp_path), config=QUICK.model_copy(update={"model": OUTSIDE, "rank_by": "rating"}))
    check_contract(rows(str(tmp_path)), pl.read_parquet(data_set / "ratings.parquet"), n=20)
    assert [night.training for night in runs.published(str(tmp_path))] == ["minibatch"]


@pytest.mark.parametrize("name", ["dots", "no.such.module", "json.decoder"])
def test_a_name_that_names_no_network_is_refused(name: str) -> None:
    with pytest.raises(InputError, match=f"configuration key model: got '{name}'"):
        models.recipe_of(Config(model=name))


def test_what_is_left_of_the_raters_is_the_plain_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaving u and m out: a pair's training prediction is that of the sums over the others."""
    monkeypatch.setattr(dot_raters, "ENOUGH", 0)
    found = network("dot_raters", max_raters=1000)
    pairs = torch.tensor([0, 1, 2, 0]), torch.tensor([0, 0, 0, 1])
    stars = torch.tensor([1.0, 3.0, 5.0, 5.0])
    found.setup(*pairs, stars)
    r = unusual(pairs[0].numpy(), pairs[1].numpy(), stars.numpy(), n_users=U, n_movies=M)
    found.train()
    with_own_left_out = found(*pairs)
    rater = found.user_as_rater.weight.view(U + 1, 2, -1)  # type: ignore[union-attr, operator]  # made by setup
    rated = found.movie_as_rated.weight.view(M + 1, 2, -1)  # type: ignore[union-attr, operator]  # made by setup
    x = [rater[user, 0] + float(r[row]) * rater[user, 1] for row, user in enumerate(pairs[0])]
    y = [rated[movie, 0] + float(r[row]) * rated[movie, 1] for row, movie in enumerate(pairs[1])]
    others = [(x[1] + x[2]) / 3**0.5, (x[0] + x[2]) / 3**0.5, (x[0] + x[1]) / 3**0.5, x[0] * 0]
    other_movies = [y[3] / 2**0.5, y[0] * 0, y[0] * 0, y[0] / 2**0.5]
    for row, (user, movie) in enumerate(zip(*pairs, strict=True)):
        p = (found.user.weight[user] + other_movies[row]).view(2, -1)  # type: ignore[union-attr, index]  # an embedding
        q = (found.movie.weight[movie] + others[row]).view(2, -1)  # type: ignore[union-attr, index]  # an embedding
        logit = (p[:, :-1] * q[:, :-1]).sum(1) + p[:, -1] + q[:, -1]
        torch.testing.assert_close(with_own_left_out[row], found.range(logit))  # type: ignore[operator]  # a module


@pytest.mark.parametrize("enough", [0, 1_000])
def test_folding_the_raters_changes_no_prediction(enough: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dot_raters, "ENOUGH", enough)
    found = network("dot_raters")
    found.setup(examples().user_idx, examples().movie_idx, examples().rating)
    found.eval()
    pairs = torch.tensor([0, 1, UNKNOWN, 3]), torch.tensor([0, 2, 4, UNKNOWN])
    before = found(*pairs)
    found.fold()
    torch.testing.assert_close(found(*pairs), before, rtol=1e-6, atol=1e-6)
