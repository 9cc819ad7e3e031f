"""Metrics, against values worked out by hand and against their own definitions."""

import time
from typing import Any

import numpy as np
import pytest

from cfjobs.config import relevant_from
from cfjobs.evaluation.baselines import Holdout, bias_only
from cfjobs.evaluation.bootstrap import BANDS
from cfjobs.evaluation.character import Traits
from cfjobs.evaluation.metrics import (
    BASELINES,
    NAMES,
    Measure,
    list_metrics,
    measures,
    overall,
    stars,
)
from cfjobs.topn.problem import Lists


def lists_of(*rows: list[int]) -> Lists:
    movie_idx = np.full((len(rows), 10), -1, dtype=np.int32)
    for row, movies in enumerate(rows):
        movie_idx[row, : len(movies)] = movies
    return Lists(0, movie_idx, np.zeros(movie_idx.shape, dtype=np.float32))


def holdout_of(*triples: tuple[int, int, float]) -> Holdout:
    user, movie, rating = zip(*triples, strict=True)
    return Holdout(np.array(user, np.int32), np.array(movie, np.int32), np.array(rating, np.float32))


def metrics(lists: Lists, holdout: Holdout, *, n_candidates: int = 20) -> dict[str, float]:
    return list_metrics(
        [lists], holdout, relevant_rating=4, n_users=len(lists.movie_idx), n_candidates=n_candidates
    )


def test_stars() -> None:
    holdout = holdout_of((0, 5, 1.0), (0, 6, 4.0), (1, 5, 2.0))
    rmse, mae = stars(np.array([1, 2, 3], np.float32), holdout, n_users=2)
    assert np.sqrt(rmse.total.sum() / rmse.weight.sum()) == pytest.approx(np.sqrt(5 / 3))
    assert mae.total.sum() / mae.weight.sum() == pytest.approx(1.0)


def test_a_perfect_list_scores_one_and_an_empty_one_nothing() -> None:
    holdout = holdout_of((0, 5, 4.0), (0, 6, 5.0), (1, 7, 4.5))
    assert metrics(lists_of([5, 6], [7]), holdout)["ndcg_at_10"] == pytest.approx(1)
    assert metrics(lists_of([], []), holdout)["ndcg_at_10"] == 0


def test_a_hit_counts_by_its_rank_and_disliked_movies_do_not() -> None:
    holdout = holdout_of((0, 5, 4.0), (0, 6, 1.0))
    found = metrics(lists_of([6, 5, 8]), holdout)
    assert found["ndcg_at_10"] == pytest.approx(1 / np.log2(3))
    assert found["recall_at_10"] == pytest.approx(1)
    assert found["coverage"] == pytest.approx(3 / 20)


def test_users_without_a_liked_movie_are_left_out_of_the_mean() -> None:
    holdout = holdout_of((0, 5, 5.0), (1, 6, 1.0))
    found = metrics(lists_of([5], [6]), holdout)
    assert found["users_measured"] == 1
    assert found["ndcg_at_10"] == pytest.approx(1)


def test_metrics_do_not_depend_on_the_batches() -> None:
    rng = np.random.default_rng(0)
    rows = [rng.permutation(50)[:10].tolist() for _ in range(30)]
    holdout = holdout_of(
        *[
            (u, int(m), float(r))
            for u in range(30)
            for m, r in zip(rng.permutation(50)[:8], rng.integers(1, 6, 8), strict=True)
        ]
    )
    whole = metrics(lists_of(*rows), holdout, n_candidates=50)
    split = [
        Lists(
            start,
            lists_of(*rows[start : start + 7]).movie_idx,
            np.zeros((len(rows[start : start + 7]), 10), np.float32),
        )
        for start in range(0, 30, 7)
    ]
    assert list_metrics(split, holdout, relevant_rating=4, n_users=30, n_candidates=50) == pytest.approx(
        whole
    )


def test_four_of_five_stars_is_liked() -> None:
    """Of the ratings that such a scale has, whatever its lower end."""
    for low, step in ((0.5, 0.5), (1.0, 1.0), (1.0, 0.5), (0.0, 1.0)):
        liked = [r for r in np.arange(low, 5.5, step) if r >= relevant_from((low, 5.0))]
        assert liked[0] == 4.0


def random_case(rng: np.random.Generator, *, n_users: int = 60, n_movies: int = 40) -> dict[str, Any]:
    """Ratings, a fifth held out, with random lists without the training movies."""
    pairs = rng.permutation(n_users * n_movies)[: n_users * 12]
    rating = rng.integers(1, 11, pairs.size).astype(np.float32) / 2
    held = np.arange(pairs.size) % 5 == 0
    user, movie = (pairs // n_movies).astype(np.int32), (pairs % n_movies).astype(np.int32)
    holdout, training = (Holdout(user[m], movie[m], rating[m]) for m in (held, ~held))
    seen = set(zip(training.user_idx.tolist(), training.movie_idx.tolist(), strict=True))
    rows = [
        [m for m in rng.permutation(n_movies).tolist() if (u, m) not in seen][:10] for u in range(n_users)
    ]
    return {
        "holdout": holdout,
        "training": training,
        "predicted": np.clip(holdout.rating + rng.normal(0, 1, holdout.rating.size), 0.5, 5).astype(
            np.float32
        ),
        "lists": lists_of(*rows),
        "popular": lists_of(*rows[::-1]),
        "relevant_rating": 4.0,
        "candidates": np.ones(n_movies, np.bool_),
        "n_users": n_users,
        "traits": Traits.of(
            rng.normal(size=(n_movies, 5)).astype(np.float32), rng.dirichlet(np.ones(4), n_movies)
        ),
    }


def measured(case: dict[str, Any], *, batch: int = 1000, seed: int = 0) -> list[Measure]:
    def batches(whole: Lists) -> list[Lists]:
        return [
            Lists(start, whole.movie_idx[start : start + batch], whole.score[start : start + batch])
            for start in range(0, len(whole.movie_idx), batch)
        ]

    return measures(
        **case | {"lists": batches(case["lists"]), "popular": batches(case["popular"])},
        seed=seed,
        predict=lambda user_idx, movie_idx: (1 + (user_idx + movie_idx) % 4).astype(np.float32),
    )


def test_disliked_places_and_stars_are_those_of_a_loop_over_places(rng: np.random.Generator) -> None:
    case = random_case(rng)
    training, holdout = case["training"], case["holdout"]
    given = dict(zip(zip(holdout.user_idx, holdout.movie_idx, strict=True), holdout.rating, strict=True))
    rated, disliked, stars = 0, 0, []
    for user, movies in enumerate(case["lists"].movie_idx.tolist()):
        own = training.rating[training.user_idx == user]
        mean = own.mean() if own.size else 0.0
        ratings = [given[user, movie] for movie in movies if (user, movie) in given]
        rated += len(ratings)
        disliked += sum(rating < mean for rating in ratings)
        stars.append(np.mean([1 + (user + movie) % 4 for movie in movies if movie >= 0]))
    found = {row.metric: row.value for row in measured(case) if row.band == "all"}
    assert found["disliked_share_at_10"] == pytest.approx(disliked / rated)
    assert found["stars_at_10"] == pytest.approx(np.mean(stars))


def test_list_metrics_are_those_of_a_loop_over_users(rng: np.random.Generator) -> None:
    case = random_case(rng)
    holdout, sums = case["holdout"], {"ndcg": 0.0, "recall": 0.0, "map": 0.0, "mrr": 0.0}
    n = 0
    for user, movies in enumerate(case["lists"].movie_idx.tolist()):
        wanted = set(holdout.movie_idx[(holdout.user_idx == user) & (holdout.rating >= 4)].tolist())
        if not wanted:
            continue
        n += 1
        hits = [movie in wanted for movie in movies]
        ranks = [rank for rank, hit in enumerate(hits, 1) if hit]
        best = sum(1 / np.log2(rank + 1) for rank in range(1, min(10, len(wanted)) + 1))
        sums["ndcg"] += sum(1 / np.log2(rank + 1) for rank in ranks) / best
        sums["recall"] += len(ranks) / len(wanted)
        sums["map"] += sum(sum(hits[:rank]) / rank for rank in ranks) / min(10, len(wanted))
        sums["mrr"] += 1 / ranks[0] if ranks else 0
    found = overall(measured(case))
    assert found["users_measured"] == n
    for name, total in sums.items():
        assert found[f"{name}_at_10"] == pytest.approx(total / n)


def test_no_batch_size_changes_any_figure(rng: np.random.Generator) -> None:
    case = random_case(rng)
    assert measured(case, batch=1) == measured(case, batch=7) == measured(case)


def test_every_metric_stands_beside_its_baseline_in_every_band(rng: np.random.Generator) -> None:
    rows = measured(random_case(rng))
    assert {(row.metric, row.band) for row in rows} == {(m, b) for m in NAMES for b in ("all", *BANDS)}
    assert all(np.isfinite([row.value, row.baseline]).all() for row in rows)
    found = overall(rows)
    assert {*NAMES, *BASELINES.values(), "ndcg_at_10_high", "users_measured"} == found.keys()
    users = {row.band: row.users for row in rows if row.metric == "rmse"}
    assert users["all"] == sum(users[band] for band in BANDS)


def test_intervals_hold_the_value_and_narrow_with_more_users(rng: np.random.Generator) -> None:
    few = {r.metric: r for r in measured(random_case(rng)) if r.band == "all"}
    many = {r.metric: r for r in measured(random_case(rng, n_users=2000)) if r.band == "all"}
    for name in set(NAMES) - {"coverage", "gini"}:
        assert few[name].low <= few[name].value <= few[name].high  # type: ignore[operator]
        assert many[name].high - many[name].low < few[name].high - few[name].low  # type: ignore[operator]
    assert few["coverage"].low is None


def test_the_interval_is_the_one_of_theory_and_of_its_seed(rng: np.random.Generator) -> None:
    case = random_case(rng, n_users=30_000, n_movies=40)
    (rmse,) = [r for r in measured(case) if (r.metric, r.band) == ("rmse", "all")]
    error = case["predicted"].astype(np.float64) - case["holdout"].rating
    per_user = np.bincount(case["holdout"].user_idx, weights=error**2 - rmse.value**2)
    standard_error = np.sqrt((per_user**2).sum()) / error.size / (2 * rmse.value)
    assert (rmse.high - rmse.low) == pytest.approx(2 * 1.96 * standard_error, rel=0.1)  # type: ignore[operator]
    assert measured(case, seed=3) == measured(case, seed=3)


def test_bias_only_finds_planted_biases_and_unknown_ones_are_nil() -> None:
    rng = np.random.default_rng(0)
    user, movie = (x.ravel().astype(np.int32) for x in np.meshgrid(np.arange(300), np.arange(200)))
    of_user, of_movie = rng.normal(0, 0.5, 301), rng.normal(0, 0.5, 200)
    of_user[300] = 0
    rating = (3 + of_user[user] + of_movie[movie]).astype(np.float32)
    training = Holdout(user, movie, rating)
    found = bias_only(training, training, n_users=301, n_movies=200)
    assert np.abs(found - rating).max() < 0.1
    unknown = Holdout(np.array([300], np.int32), np.array([0], np.int32), np.zeros(1, np.float32))
    assert bias_only(training, unknown, n_users=301, n_movies=200)[0] == pytest.approx(
        rating[movie == 0].mean(), abs=0.1
    )


def test_novelty_and_popularity_by_hand() -> None:
    training = holdout_of(*[(u, 0, 3.0) for u in range(8)], (0, 1, 3.0), (1, 1, 3.0))
    case: dict[str, Any] = {
        "holdout": holdout_of((2, 1, 5.0)),
        "training": training,
        "predicted": np.array([5], np.float32),
        "lists": lists_of([], [], [1], [1], [1], [1], [1], [1]),
        "popular": lists_of(*[[0]] * 8),
        "relevant_rating": 4.0,
        "candidates": np.ones(2, np.bool_),
        "n_users": 8,
    }
    found = overall(measured(case))
    assert found["novelty_at_10"] == pytest.approx(2)  # rated by 2 of 8
    assert found["novelty_at_10_popular"] == pytest.approx(0)
    assert found["popular_share_at_10"] == 0
    assert found["popular_share_at_10_popular"] == 1
    assert found["coverage"] == pytest.approx(1 / 2)


def test_a_hundred_thousand_users_take_a_moment(rng: np.random.Generator) -> None:
    n_users, n_movies = 100_000, 5_000
    user = np.repeat(np.arange(n_users, dtype=np.int32), 5)
    holdout = Holdout(
        user,
        rng.integers(0, n_movies, user.size).astype(np.int32),
        rng.integers(1, 6, user.size).astype(np.float32),
    )
    lists = Lists(
        0, rng.integers(0, n_movies, (n_users, 10)).astype(np.int32), np.zeros((n_users, 10), np.float32)
    )
    started = time.perf_counter()
    list_metrics([lists], holdout, relevant_rating=4, n_users=n_users, n_candidates=n_movies)
    assert time.perf_counter() - started < 5


def test_lists_of_a_sample_are_measured_as_if_its_users_were_all(rng: np.random.Generator) -> None:
    """But for what goes by the ratings of all: popular movies and novelty."""
    case, sample = random_case(rng), np.arange(1, 60, 3)
    of_sample = {
        name: Lists(0, case[name].movie_idx[sample], case[name].score[sample])
        for name in ("lists", "popular")
    }
    row = np.full(60, -1, np.int32)
    row[sample] = np.arange(sample.size)
    own, alone = {}, {"n_users": sample.size}
    for name in ("holdout", "training"):
        there = row[case[name].user_idx] >= 0
        own[name] = Holdout(
            row[case[name].user_idx[there]], case[name].movie_idx[there], case[name].rating[there]
        )
    alone |= {"predicted": case["predicted"][row[case["holdout"].user_idx] >= 0]}
    sampled = {(row.metric, row.band): row for row in measured(case | of_sample | {"sample": sample})}
    wanted = {row.metric: row for row in measured(case | of_sample | own | alone) if row.band == "all"}
    of_all = {row.metric: row for row in measured(case) if row.band == "all"}
    for name, found in wanted.items():
        if name.startswith(("novelty", "popular_share")):
            continue
        same, got = of_all[name] if name in {"rmse", "mae"} else found, sampled[name, "all"]
        assert (got.value, got.baseline) == pytest.approx((same.value, same.baseline)), name
        assert got.users == same.users
    assert sum(sampled["recall_at_10", band].users for band in ("light", "medium", "heavy")) == (
        wanted["recall_at_10"].users
    )
