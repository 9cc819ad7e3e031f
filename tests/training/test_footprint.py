"""What a training holds in memory is what docs/training.md says: the bytes of living tensors,
at two sizes."""

import gc
import re
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from cfjobs import models, training
from cfjobs.config import Config
from cfjobs.errors import InputError
from cfjobs.models.ranker import History, RankingConfig
from cfjobs.training import footprint
from cfjobs.training.checkpoint import Checkpoints, State
from cfjobs.training.ranker import fit_ranking
from tests.training.test_ranker import ratings

SMALL, LARGE = (
    {"ratings": 4_000, "users": 500, "movies": 300},
    {"ratings": 9_000, "users": 1_500, "movies": 700},
)


def living_bytes() -> int:
    """Bytes of all tensors that Python holds, each storage once."""
    storages: dict[int, int] = {}
    for found in gc.get_objects():
        if type(found) in {Tensor, torch.nn.Parameter}:
            sparse = found.layout == torch.sparse_csr
            dense = (found.crow_indices(), found.col_indices(), found.values()) if sparse else (found,)
            more = [tensor.grad for tensor in dense if tensor.is_leaf and tensor.grad is not None]
            for tensor in (*dense, *more):
                storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
    return sum(storages.values())


class Gauge(Checkpoints):
    """Takes the measure in place of a checkpoint."""

    def __init__(self) -> None:
        super().__init__(read=lambda: None, write=lambda _data: None, seconds=0)
        self.most, self.before, self.n_offers = 0, living_bytes(), 0

    def offer(self, _state: Callable[[], State]) -> None:
        self.n_offers += 1
        if self.n_offers % 3 == 0:  # a step of the second epoch is among them, when there are best weights
            self.most = max(self.most, living_bytes() - self.before)


def pairs(sizes: dict[str, int]) -> tuple[Tensor, Tensor, Tensor]:
    rng = np.random.default_rng(0)
    user, movie = (
        torch.from_numpy(rng.integers(0, sizes[name], sizes["ratings"])) for name in ("users", "movies")
    )
    return user, movie, torch.from_numpy(rng.integers(1, 6, sizes["ratings"]).astype(np.float32))


@pytest.mark.parametrize("model", models.names())
@pytest.mark.parametrize("sizes", [SMALL, LARGE])
def test_the_rating_network_holds_what_it_should(model: str, sizes: dict[str, int]) -> None:
    config = Config(model=model, n_factors=32, epochs=3, batch_size=2_000)
    gauge = Gauge()
    network = models.build(
        model,
        n_users=sizes["users"],
        n_movies=sizes["movies"],
        settings=models.settings(config, y_range=(1, 5)),
    )
    examples = training.Examples(*pairs(sizes), weight=torch.ones(sizes["ratings"]))
    training.fit_rating(
        network,
        examples,
        config=config,
        valid=training.Examples(*(t[:50].clone() for t in pairs(sizes))),
        checkpoints=gauge,
    )
    told = footprint.of_rating_network(config).bytes(
        **sizes, pairs=sizes["ratings"] if model == "dot_raters" else 0
    )
    layers = (
        0
        if model != "net"
        else 20 * sum(p.numel() for name, p in network.named_parameters() if name.startswith("layers"))
    )
    assert gauge.most == pytest.approx(told + layers, rel=0.03)


def storages(found: object, seen: dict[int, int]) -> None:
    """Bytes of every tensor and array below an object, each storage once, by address."""
    if isinstance(found, Tensor):
        seen[found.untyped_storage().data_ptr()] = found.untyped_storage().nbytes()
    elif isinstance(found, np.ndarray):
        seen[found.__array_interface__["data"][0]] = found.nbytes
    elif isinstance(found, torch.nn.Module):
        storages(list(found.parameters()), seen)
    elif isinstance(found, (list, tuple)):
        for part in found:
            storages(part, seen)
    elif isinstance(found, dict):
        storages(list(found.values()), seen)
    elif is_dataclass(found):
        storages([getattr(found, part.name) for part in fields(found)], seen)


@pytest.mark.parametrize("sizes", [SMALL, LARGE])
def test_a_rating_at_a_time_holds_what_it_should(sizes: dict[str, int]) -> None:
    config = Config(n_factors=32, epochs=3)
    held: list[int] = []

    class Look(Gauge):
        def offer(self, state: Callable[[], State]) -> None:
            seen: dict[int, int] = {}
            storages(vars(state.__self__), seen)  # type: ignore[attr-defined]  # the course
            held.append(sum(seen.values()))

    torch.manual_seed(0)
    settings = models.settings(config, y_range=(1, 5))
    network = models.build("dot_raters", n_users=sizes["users"], n_movies=sizes["movies"], settings=settings)
    user, movie, rating = pairs(sizes)
    train = training.Examples(
        user.int(), movie.int(), rating, torch.ones_like(rating)
    )  # as they are in a night's frame
    valid = training.Examples(*(t[:50].clone() for t in (user.int(), movie.int(), rating)))
    training.fit_rating(network, train, config=config, valid=valid, checkpoints=Look())
    told = footprint.of_dot_raters_by_blocked_sgd(config).bytes(**sizes, pairs=sizes["ratings"])
    assert max(held) == pytest.approx(told, rel=0.03)


@pytest.mark.parametrize("sizes", [SMALL, LARGE])
def test_the_ranking_network_holds_what_it_should(sizes: dict[str, int]) -> None:
    gauge = Gauge()
    history = History.of(ratings(*pairs(sizes)), n_users=sizes["users"])
    fit_ranking(
        history,
        n_movies=sizes["movies"],
        config=RankingConfig(n_factors=32, n_steps=3),
        checkpoints=gauge,
    )
    told = footprint.of_ranking_network(Config(ranking_factors=32)).bytes(**sizes)
    assert gauge.most == pytest.approx(told, rel=0.03)


def test_the_page_says_so_too() -> None:
    page = (Path(__file__).parents[2] / "docs" / "training.md").read_text(encoding="utf-8")
    for footprint_of in (
        footprint.of_rating_network,
        footprint.of_dot_raters_by_blocked_sgd,
        footprint.of_ranking_network,
    ):
        found = footprint_of(Config())
        for number in (found.rating, found.user, found.movie):
            assert re.search(rf"\b{number:,}\b", page), number


def test_a_training_that_cannot_fit_is_refused_before_it_starts() -> None:
    needed = footprint.least(Config(), ratings=10**9, users=10**7, movies=10**5)
    footprint.check_fits(needed, there=needed, where="here")
    with pytest.raises(
        InputError, match=r"training takes .* GB at least, and 1.0 GB are left here; lower n_factors"
    ):
        footprint.check_fits(needed, there=1e9, where="here")
    assert footprint.least(Config(ensemble=8), ratings=10**6, users=10**6, movies=10**4) > footprint.least(
        Config(), ratings=10**6, users=10**6, movies=10**4
    )
