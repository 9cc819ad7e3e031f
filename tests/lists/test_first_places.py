"""No list begins with a movie that its user is expected to dislike, where one of the next would please."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from cfjobs import lists, model_store
from cfjobs.lists import build
from cfjobs.lists.build import Limits
from cfjobs.model_store.files import Model
from cfjobs.models.predict import predict
from cfjobs.topn import NO_MOVIE, top_n

N = 8


@pytest.fixture(scope="module")
def model(two_nights: Path) -> Model:
    """A published one, its lists by affinity alone: they begin with disliked movies more often."""
    runs = pl.read_delta(str(two_nights / "out" / "runs")).sort("run_date")
    return replace(model_store.load_model(runs["model_uri"][-1]), stars_weight=0.0)


def rated(model: Model, *, stars: float) -> pl.DataFrame:
    """Random ratings of every user, around so many stars."""
    rng = np.random.default_rng(3)
    n_users, n_movies = model.network.n_users, model.movies.height
    user = np.repeat(np.arange(n_users), 6)
    movie = np.concatenate([rng.permutation(n_movies)[:6] for _ in range(n_users)])
    rating = np.clip(stars + rng.normal(size=user.size), 0.5, 5.0)
    frame = pl.DataFrame({"user_idx": user, "movie_idx": movie, "rating": rating})
    return frame.cast({"user_idx": pl.Int32, "movie_idx": pl.Int32, "rating": pl.Float32})


def predicted(model: Model, movie_idx: np.ndarray) -> np.ndarray:
    """Of the first users' lists [U, k]."""
    user, movie = np.broadcast_arrays(np.arange(len(movie_idx))[:, None], movie_idx.clip(0))
    rows = (torch.from_numpy(idx.ravel().astype(np.int64)) for idx in (user, movie))
    return predict(model.network, *rows).numpy().reshape(movie_idx.shape)


@pytest.mark.parametrize("stars", [2.0, 3.5, 4.5])
def test_leading_movies_far_below_the_users_mean_are_left_out(model: Model, stars: float) -> None:
    """Everything else is the engine's own list, and every list is as long."""
    frame, users = rated(model, stars=stars), range(model.network.n_users)
    request = lists.request_of(model, frame, users=users)
    found = np.concatenate([batch.movie_idx for batch in lists.best(request, n=N)])
    assert request.scores is not None
    wide = N + build._SPARE
    engine = top_n(request.scores, n=wide, seen=request.seen, candidates=request.limits.listed)
    wanted = np.concatenate([batch.movie_idx for batch in engine])
    low, high = model.network.settings.y_range
    mean = frame.group_by("user_idx").mean().sort("user_idx")["rating"].to_numpy()
    fits = predicted(model, wanted) >= (mean - (high - low) / 9)[:, None]
    for user, (row, fit) in enumerate(zip(wanted, fits, strict=True)):
        first = int(fit[: build._SPARE + 1].argmax())
        assert found[user].tolist() == row[first : first + N].tolist()
    moved = (found[:, 0] != wanted[:, 0]).sum()
    assert moved or stars < 4


@pytest.mark.parametrize("batch_users", [1, 7, 64])
def test_no_batch_size_changes_a_list(model: Model, batch_users: int) -> None:
    frame, n_users = rated(model, stars=4.5), model.network.n_users
    whole = np.concatenate(
        [b.movie_idx for b in lists.best(lists.request_of(model, frame, users=range(n_users)), n=N)]
    )
    parts = [
        batch.movie_idx
        for start in range(0, n_users, batch_users)
        for batch in lists.best(
            lists.request_of(model, frame, users=range(start, min(start + batch_users, n_users))), n=N
        )
    ]
    np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_a_list_that_would_get_shorter_stays(model: Model) -> None:
    """Where nothing is left to fill its end with."""
    frame, users = rated(model, stars=4.9), range(model.network.n_users)
    listed = np.zeros(model.movies.height, np.bool_)
    listed[np.flatnonzero(lists.candidates(model))[: N - 1]] = True
    request = lists.request_of(model, frame, users=users, limits=Limits(listed=listed))
    found = np.concatenate([batch.movie_idx for batch in lists.best(request, n=N)])
    unseen = [N - 1 - np.isin(np.flatnonzero(listed), request.seen.of_user(user)).sum() for user in users]
    assert (found != NO_MOVIE).sum(axis=1).tolist() == unseen


def test_lists_by_stars_are_as_they_were(model: Model) -> None:
    frame, users = rated(model, stars=4.9), range(model.network.n_users)
    request = lists.request_of(replace(model, ranking=None), frame, users=users)
    assert request.scores is not None
    engine = top_n(request.scores, n=N, seen=request.seen, candidates=request.limits.listed)
    wanted = np.concatenate([batch.movie_idx for batch in engine])
    found = np.concatenate([batch.movie_idx for batch in lists.best(request, n=N)])
    np.testing.assert_array_equal(found[request.by_model], wanted[request.by_model])


def test_no_published_list_begins_with_a_disliked_movie(two_nights: Path) -> None:
    """Unless none of the places that are looked at would please either."""
    ratings = pl.read_parquet(two_nights / "in" / "ratings.parquet").drop_nulls()
    mean = ratings.group_by("user_id").agg(pl.col("rating").mean().alias("mean"))
    width = float(ratings["rating"].max()) - float(ratings["rating"].min())  # type: ignore[arg-type]
    lists_out = pl.read_delta(str(two_nights / "out" / "top_n")).filter(source="model")
    lists_out = lists_out.filter(pl.col("run_date") == pl.col("run_date").max()).join(mean, on="user_id")
    fits = pl.col("predicted_rating") >= pl.col("mean") - width / 9 - 1e-5
    some = lists_out.filter(fits, pl.col("rank") <= 1 + build._SPARE)["user_id"].unique()
    first = lists_out.filter(pl.col("rank") == 1, pl.col("user_id").is_in(some.implode()))
    assert first.height
    assert first.filter(~fits).is_empty()
