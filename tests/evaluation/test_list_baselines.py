"""Strong rules for lists, against their definitions worked out the long way."""

from datetime import datetime, timedelta

import numpy as np
import polars as pl
import pytest
import torch

from cfjobs.evaluation import list_baselines
from cfjobs.evaluation.baselines import Holdout
from cfjobs.evaluation.list_baselines import DAYS, Rivals, _Histories, ease, rivals, slit
from cfjobs.evaluation.metrics import AGAINST, list_metrics, measures, overall
from cfjobs.topn.problem import NO_MOVIE, Lists

U, M, K = 40, 15, 4


def ratings(*, seed: int = 0) -> pl.DataFrame:
    """Sorted by user and time; every user has some."""
    random = np.random.default_rng(seed)
    there = random.random((U, M)) < 0.4
    there[:, 0] = True
    user, movie = np.nonzero(there)
    at = [datetime(2026, 1, 1) + timedelta(hours=float(h)) for h in random.uniform(0, 2_000, user.size)]
    frame = pl.DataFrame({"user_idx": user, "movie_idx": movie, "timestamp": at})
    return frame.cast({"user_idx": pl.Int32, "movie_idx": pl.Int32}).sort("user_idx", "timestamp")


def histories(frame: pl.DataFrame) -> _Histories:
    return _Histories.of(*(frame[name].to_numpy().astype(np.int64) for name in ("user_idx", "movie_idx")))


def test_ease_is_ridge_regression_of_each_movie_on_all_others() -> None:
    frame = ratings()
    x = np.zeros((U, M))
    x[frame["user_idx"], frame["movie_idx"]] = 1
    found = ease(histories(frame), np.arange(U), l2=7.0).numpy()
    for movie in range(M):
        others = np.delete(np.arange(M), movie)
        a = x[:, others]
        wanted = np.linalg.solve(a.T @ a + 7 * np.eye(M - 1), a.T @ x[:, movie])
        np.testing.assert_allclose(found[others, movie], wanted, atol=1e-4)
        assert found[movie, movie] == 0


def test_slit_is_ridge_regression_of_the_next_ratings_on_the_latest() -> None:
    frame = ratings()
    past, following = [], []
    for (_,), of_user in frame.group_by("user_idx", maintain_order=True):
        movies = of_user["movie_idx"].to_list()
        for share in list_baselines._CUTS:
            cut = int(share * len(movies))
            s, t = np.zeros((2, M))
            for age, movie in enumerate(reversed(movies[:cut])):
                s[movie] = 1 / (1 + age / 5)
            t[movies[cut : cut + 10]] = 1
            past.append(s)
            following.append(t)
    s, t = np.array(past), np.array(following)
    wanted = np.linalg.solve(s.T @ s + 3 * np.eye(M), s.T @ t)
    np.testing.assert_allclose(slit(histories(frame), np.arange(U), l2=3.0).numpy(), wanted, atol=1e-4)


@pytest.mark.parametrize("days", DAYS)
def test_recent_popularity_counts_the_days_before_each_users_last_rating(days: int) -> None:
    frame = ratings()
    users = np.array([0, 3, 17, 39])
    found = rivals(frame, users, ordered=True, k=K, seed=0).listed[f"popular_{days}_days"]
    for row, user in enumerate(users.tolist()):
        mine = frame.filter(user_idx=user)
        last = mine["timestamp"].to_list()[-1]
        window = frame.filter(pl.col("timestamp") > last - timedelta(days=days), pl.col("timestamp") <= last)
        count = np.bincount(window["movie_idx"], minlength=M)
        count[mine["movie_idx"]] = 0
        best = [m for m in np.argsort(-count, kind="stable")[:K] if count[m]]
        assert found[row].tolist() == best + [NO_MOVIE] * (K - len(best))


@pytest.mark.parametrize("ordered", [True, False])
def test_no_rule_lists_a_seen_movie_and_only_ordered_times_allow_all_rules(ordered: bool) -> None:
    frame = ratings()
    found = rivals(frame, np.arange(U), ordered=ordered, k=K, seed=0)
    assert set(found.listed) == (
        {"popular_7_days", "popular_30_days", "ease", "slit"} if ordered else {"ease"}
    )
    seen = set(frame.select("user_idx", "movie_idx").iter_rows())
    for listed in found.listed.values():
        assert listed.shape == (U, K)
        pairs = [(u, m) for u, row in enumerate(listed.tolist()) for m in row if m != NO_MOVIE]
        assert not seen & set(pairs)
        assert len(set(pairs)) == len(pairs)


def test_movies_beyond_the_most_rated_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(list_baselines, "MOST_MOVIES", 6)
    frame = ratings()
    most = set(np.argsort(-np.bincount(frame["movie_idx"]), kind="stable")[:6].tolist())
    found = rivals(frame, np.arange(U), ordered=True, k=K, seed=0)
    for name in ("ease", "slit"):
        assert set(found.listed[name].ravel().tolist()) <= most | {NO_MOVIE}


def test_a_night_is_held_against_each_rule_on_the_same_users() -> None:
    """For any sample: the figures are those of the sampled users' own lists and holdout."""
    random = np.random.default_rng(1)
    held = Holdout(
        np.repeat(np.arange(U), 3).astype(np.int32),
        random.integers(0, M, 3 * U).astype(np.int32),
        random.choice([2.0, 5.0], 3 * U).astype(np.float32),
    )
    own, theirs = (np.array([random.permutation(M)[:10] for _ in range(U)], np.int32) for _ in range(2))
    users = np.sort(random.permutation(U)[:12])

    def of(listed: np.ndarray) -> Lists:
        return Lists(0, listed, np.zeros(listed.shape, np.float32))

    frame = ratings()
    found = measures(
        holdout=held,
        training=Holdout.of(frame.with_columns(rating=pl.Series(np.arange(frame.height) % 5 + 1.0))),
        predicted=held.rating,
        lists=[of(own)],
        popular=[of(theirs)],
        relevant_rating=4.0,
        candidates=np.ones(M, np.bool_),
        n_users=U,
        seed=0,
        predict=lambda user, _: np.zeros(user.size, np.float32),
        rivals=Rivals(users, {"ease": theirs[users]}),
    )
    (row,) = [row for row in found if row.metric.startswith(AGAINST)]
    sampled = np.isin(held.user_idx, users)
    mine = Holdout(held.user_idx[sampled], held.movie_idx[sampled], held.rating[sampled])
    for value, listed in ((row.value, own), (row.baseline, theirs)):
        wanted = list_metrics([of(listed)], mine, relevant_rating=4.0, n_users=U, n_candidates=M)
        assert value == pytest.approx(wanted["ndcg_at_10"])
    metrics = overall(found)
    assert metrics["ndcg_at_10_ease"] == row.baseline
    assert metrics["ndcg_at_10_sampled"] == row.value <= metrics["ndcg_at_10_sampled_high"]


def test_the_sample_comes_from_the_seed_alone() -> None:
    frame, some = ratings(), np.arange(U)
    one, other = (rivals(frame, some, ordered=True, k=K, seed=5) for _ in range(2))
    for name, listed in one.listed.items():
        np.testing.assert_array_equal(listed, other.listed[name])
    assert torch.is_tensor(ease(histories(frame), some))
