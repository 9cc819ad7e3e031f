"""The blend: one dot product that is the sum of both parts, with a weight that is chosen, kept and told."""

from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from cfjobs import lists, model_store, training
from cfjobs.config import Config
from cfjobs.lists import blend, build
from cfjobs.lists.blend import TYPICAL, WEIGHTS, Blend
from cfjobs.models.network import DotScores
from cfjobs.night import choose, story
from cfjobs.night.records import Inputs, Trained
from cfjobs.ratings import holdout
from tests.night.test_story import QUICK, run


def scores(n_factors: int, *, seed: int, n_users: int = 40, n_movies: int = 70) -> DotScores:
    random = torch.Generator().manual_seed(seed)
    return DotScores(
        torch.randn(n_users, n_factors, generator=random),
        torch.randn(n_movies, n_factors, generator=random),
        torch.randn(n_movies, generator=random),
    )


def every(of: DotScores) -> torch.Tensor:
    return of.user.double() @ of.movie.double().T + of.bias.double()


@pytest.mark.parametrize("factor", [0.25, 1.0, 3.0])
def test_the_joined_score_is_the_sum_of_both_parts(factor: float) -> None:
    affinity, stars = scores(5, seed=0), scores(3, seed=1)
    found = every(blend.joined(affinity, stars, factor=factor))
    torch.testing.assert_close(found, every(affinity) + factor * every(stars), rtol=1e-5, atol=1e-5)


def test_lists_by_blend_are_those_of_brute_force_over_both_networks(
    two_nights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the weight: order every unseen movie by affinity + weight x the network's sum in stars."""
    monkeypatch.setattr(build, "_SPARE", 0)  # first places as they come
    runs = pl.read_delta(str(two_nights / "out" / "runs")).sort("run_date")
    model = model_store.load_model(runs["model_uri"][-1])
    assert model.ranking is not None
    rng = np.random.default_rng(0)
    n_users, n_movies = 30, model.movies.height
    pairs = rng.permutation(n_users * n_movies)[: n_users * 12]
    rated = pl.DataFrame(
        {
            "user_idx": (pairs // n_movies).astype(np.int32),
            "movie_idx": (pairs % n_movies).astype(np.int32),
            "rating": rng.integers(1, 6, pairs.size).astype(np.float32),
        }
    ).sort("user_idx", maintain_order=True)
    of_affinity = lists.scores(replace(model, stars_weight=0.0), rated, users=range(n_users))
    of_stars = model.network.scores()
    assert isinstance(of_affinity, DotScores)
    assert isinstance(of_stars, DotScores)
    low, high = model.network.range.bounds()  # type: ignore[union-attr, operator]
    slope = (high - low) / 4
    for weight in (0.0, 0.5, 2.0):
        request = lists.request_of(replace(model, stars_weight=weight), rated, users=range(n_users))
        listed = np.concatenate([batch.movie_idx for batch in lists.best(request, n=10)])
        wanted = every(of_affinity) + weight * slope * every(of_stars)[:n_users]
        wanted[rated["user_idx"].to_list(), rated["movie_idx"].to_list()] = -torch.inf
        wanted[:, ~torch.from_numpy(lists.candidates(model))] = -torch.inf
        best = torch.topk(wanted, 10, dim=1)
        found = wanted.gather(1, torch.from_numpy(listed).long())
        torch.testing.assert_close(found, best.values, rtol=1e-5, atol=1e-5)


FEW = dict.fromkeys((0.0, 0.5, 1.0, 2.0), 0.2)
"""Disliked places that do not matter."""


def test_the_weight_goes_as_far_as_half_of_the_gain_allows() -> None:
    assert blend.chosen({0.0: 0.10, 0.5: 0.14, 1.0: 0.13, 2.0: 0.11}, FEW) == 1.0
    assert blend.chosen({0.0: 0.10, 0.5: 0.09, 1.0: 0.08}, FEW) == 0.0
    assert blend.chosen({0.0: 0.10, 0.5: 0.101, 1.0: 0.10}, FEW) == 0.5


def test_the_weight_goes_further_for_disliked_places_but_not_below_affinity_alone() -> None:
    """Whatever the figures: at most so many disliked places where a weight that costs no nDCG has so few,
    and never less nDCG than affinity alone."""
    rng = np.random.default_rng(0)
    for _ in range(300):
        ndcg = dict(zip(FEW, rng.uniform(0.1, 0.2, 4), strict=True))
        disliked = dict(zip(FEW, np.sort(rng.uniform(0.15, 0.4, 4))[::-1], strict=True))
        weight = blend.chosen(ndcg, disliked)
        free = [w for w in FEW if ndcg[w] >= ndcg[0.0]]
        assert weight in free
        few = [w for w in free if disliked[w] <= blend.MOST_DISLIKED]
        assert weight in (few or [min(free, key=lambda w: disliked[w])])
    assert blend.chosen({0.0: 0.10, 0.5: 0.14, 1.0: 0.11}, {0.0: 0.4, 0.5: 0.3, 1.0: 0.2}) == 1.0
    assert blend.chosen({0.0: 0.10, 0.5: 0.14, 1.0: 0.09}, {0.0: 0.4, 0.5: 0.3, 1.0: 0.2}) == 0.5


@pytest.mark.parametrize(
    ("last", "tonight", "kept"),
    [
        (None, 0.5, 0.5),
        (0.75, 1.25, 0.75),
        (1.0, 0.25, 0.25),
        (0.0, 0.5, 0.5),
        (1.5, 2.0, 2.0),
        (0.7, 1.0, 1.0),
    ],
)
def test_last_nights_weight_stays_while_tonights_is_near_and_it_is_allowed(
    last: float | None, tonight: float, kept: float
) -> None:
    assert blend.kept(last, tonight, [0.0, 0.5, 0.75, 1.0, 2.0]) == kept


@pytest.mark.parametrize(
    ("settings", "found"), [({"stars_weight": 1.3}, 1.3), ({"model": "net"}, 0.0), ({}, None)]
)
def test_the_weight_is_the_configured_one_or_one_of_those_tried(
    settings: dict[str, object], found: float | None, ratings: pl.DataFrame
) -> None:
    config = QUICK.model_copy(update=settings)
    chosen = choose.choose(task(config, ratings), device=torch.device("cpu"))
    if found is not None:
        assert chosen.weight == found
        return
    assert set(chosen.tried) == set(chosen.disliked) == set(WEIGHTS)
    assert chosen.weight in WEIGHTS
    assert Blend.model_validate_json(chosen.model_dump_json()) == chosen


def test_few_users_get_the_typical_weight(ratings: pl.DataFrame) -> None:
    few = ratings.filter(pl.col("user_idx") < 30)
    assert choose.choose(task(QUICK, few), device=torch.device("cpu")).weight == TYPICAL


def test_the_choice_does_not_look_at_the_holdout(ratings: pl.DataFrame) -> None:
    """Whatever was held out, the weight and its figures are the same."""
    held = holdout.temporal_holdout(ratings["user_idx"].to_numpy(), fraction=0.2)
    one = task(QUICK, ratings.filter(~held))
    other = replace(one, valid=ratings.filter(held))
    on = torch.device("cpu")
    assert choose.choose(one, device=on) == choose.choose(other, device=on)


def test_the_weight_is_stored_with_both_models_of_a_night(data_set: Path, tmp_path: Path) -> None:
    night = story.start(
        Inputs(ratings=str(data_set / "ratings.parquet")),
        output=str(tmp_path),
        run_date=date(2026, 3, 1),
        config=QUICK,
    )
    prepared = story.prepare(night)
    story.hold_out(night, prepared)
    for on in ("train", "all"):
        story.fit(night, prepared, on=on)
    measured, refit = (night.load(f"trained-{on}", Trained) for on in ("train", "all"))
    assert measured is not None
    assert refit is not None
    assert measured.blend == refit.blend
    assert {model_store.load_model(t.model_uri).stars_weight for t in (measured, refit)} == {
        measured.blend.weight
    }


@pytest.mark.parametrize("rank_by", ["affinity", "rating"])
def test_other_orders_know_no_weight(rank_by: str, data_set: Path, tmp_path: Path) -> None:
    config = QUICK.model_copy(update={"rank_by": rank_by, "gate_beat_popularity": False})
    assert model_store.load_model(run(data_set, str(tmp_path), config=config).model_uri).stars_weight == 0


@pytest.fixture(scope="module")
def ratings(data_set: Path) -> pl.DataFrame:
    frame = pl.read_parquet(data_set / "ratings.parquet").drop_nulls()
    return frame.select(
        (pl.col("user_id").rank("dense") - 1).cast(pl.Int32).alias("user_idx"),
        (pl.col("movie_id").rank("dense") - 1).cast(pl.Int32).alias("movie_idx"),
        pl.col("rating").cast(pl.Float32),
        "timestamp",
    ).sort("user_idx", "timestamp", "movie_idx")


def task(config: Config, ratings: pl.DataFrame) -> training.Task:
    return training.Task(
        config,
        n_users=ratings["user_idx"].n_unique(),
        n_movies=int(ratings["movie_idx"].to_numpy().max()) + 1,
        y_range=(0.5, 5.0),
        kept=ratings.drop("timestamp"),
        valid=ratings.clear(),
    )
