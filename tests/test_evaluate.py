"""Metrics, against values worked out by hand and against their own definitions."""

import numpy as np
import pytest

from cfjobs.evaluate import Holdout, list_metrics, relevant_from, star_metrics
from cfjobs.score import Lists


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
    found = star_metrics(np.array([1, 2, 3], np.float32), np.array([1, 4, 2], np.float32))
    assert found["rmse"] == pytest.approx(np.sqrt(5 / 3))
    assert found["mae"] == pytest.approx(1.0)


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
    assert relevant_from((0.5, 5.0)) == pytest.approx(4.0)
