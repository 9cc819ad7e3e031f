"""The sample data: the laws of its form, and that what was planted can be found."""

import time

import numpy as np
import polars as pl
import pytest

from cfjobs.datasets import synthetic
from cfjobs.datasets.synthetic import Generated
from cfjobs.errors import InputError
from cfjobs.ratings.holdout import temporal_holdout


def generated(n_users: int = 600, n_movies: int = 2000, n_ratings: int = 60_000, seed: int = 7) -> Generated:
    return synthetic.generate(n_users=n_users, n_movies=n_movies, n_ratings=n_ratings, seed=seed)


@pytest.fixture(scope="module")
def data() -> Generated:
    return generated()


def rows(data: Generated) -> tuple[np.ndarray, np.ndarray]:
    """Row of the user and of the movie of each rating."""
    movie_ids = data.movies["movie_id"].to_numpy()
    movie_idx = np.searchsorted(movie_ids, data.ratings["movie_id"].to_numpy())
    return data.ratings["user_id"].to_numpy() - 1, movie_idx


SIZES = [
    (1, 1, 1),
    (1, 500, 500),
    (500, 1, 500),
    (7, 5, 35),
    (7, 5, 34),
    (10, 1000, 10),
    (100, 50, 99 * 50 + 1),
    (50, 3000, 1001),
    (300, 400, 60_000),
    (2000, 300, 40_000),
]


@pytest.mark.parametrize(("n_users", "n_movies", "n_ratings"), SIZES)
def test_any_possible_size_is_met_exactly(n_users: int, n_movies: int, n_ratings: int) -> None:
    data = generated(n_users, n_movies, n_ratings)
    ratings = data.ratings
    assert ratings.height == n_ratings
    assert not ratings.select("user_id", "movie_id").is_duplicated().any()
    assert ratings["user_id"].n_unique() == n_users
    assert data.movies.height == n_movies
    assert ratings["movie_id"].is_in(data.movies["movie_id"].implode()).all()
    assert (ratings["user_id"].value_counts()["count"] >= min(20, n_ratings // n_users, n_movies)).all()
    assert ratings["rating"].is_in([stars / 2 for stars in range(1, 11)]).all()


def test_form_is_that_of_the_input_tables(data: Generated) -> None:
    assert data.ratings.schema == {
        "user_id": pl.Int64,
        "movie_id": pl.Int64,
        "rating": pl.Float32,
        "timestamp": pl.Datetime("us"),
    }
    assert data.movies.schema == {"movie_id": pl.Int64, "title": pl.String, "genres": pl.String}
    assert not any(frame.null_count().sum_horizontal().item() for frame in (data.ratings, data.movies))
    assert data.ratings.equals(data.ratings.sort("user_id", "timestamp", maintain_order=True))
    ids = data.movies["movie_id"]
    assert ids.is_unique().all()
    assert ids.is_sorted()
    assert ids.max() > ids.len()  # type: ignore[operator]


def test_nobody_rates_a_movie_before_its_year(data: Generated) -> None:
    dense = generated(30, 200, 5900)
    for found in (data, dense):
        year = pl.col("title").str.extract(r"\((\d{4})\)$").cast(pl.Int32)
        early = found.ratings.join(found.movies, on="movie_id").filter(pl.col("timestamp").dt.year() < year)
        assert early.is_empty()
        assert found.ratings["timestamp"].dt.year().is_between(1996, 2015).all()


def test_titles_try_whoever_shows_them(data: Generated) -> None:
    titles = data.movies["title"]
    assert titles.str.contains(r"^.+ \(\d{4}\)$").all()
    for text in ("<b>Bold</b> & the Beautiful", ",", '"', "é", "千"):
        assert titles.str.contains(text, literal=True).any(), text
    assert titles.is_unique().all()
    assert data.movies["genres"].str.split("|").explode().is_in(list(synthetic.GENRES)).all()


def test_same_seed_gives_the_same_data_and_another_seed_does_not(data: Generated) -> None:
    again, other = generated(), generated(seed=8)
    assert again.ratings.equals(data.ratings)
    assert again.movies.equals(data.movies)
    assert not other.ratings.equals(data.ratings)


def test_chunks_leave_no_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many small chunks: the same laws hold, and users do not run into each other."""
    monkeypatch.setattr(synthetic, "_CHUNK_RATINGS", 1000)
    monkeypatch.setattr(synthetic, "_CHUNK_PAIRS", 3000)
    data = generated(200, 500, 20_000)
    assert data.ratings.height == 20_000
    assert not data.ratings.select("user_id", "movie_id").is_duplicated().any()
    assert data.ratings["user_id"].is_sorted()
    assert data.ratings["user_id"].n_unique() == 200


def test_drawing_again_and_drawing_at_once_give_the_same_popularity(monkeypatch: pytest.MonkeyPatch) -> None:
    def shares(dense_share: float) -> np.ndarray:
        monkeypatch.setattr(synthetic, "_DENSE_FRACTION", dense_share)
        data = generated(3000, 300, 90_000)
        return np.bincount(rows(data)[1], minlength=300) / 90_000

    again, at_once = shares(10.0), shares(0.0)
    assert np.corrcoef(again, at_once)[0, 1] > 0.98
    assert np.abs(again - at_once).sum() < 0.15


def test_popularity_and_activity_are_skewed(data: Generated) -> None:
    per_movie = np.sort(np.bincount(rows(data)[1], minlength=2000))[::-1]
    assert per_movie[:200].sum() > 0.35 * 60_000
    per_user = data.ratings["user_id"].value_counts()["count"]
    assert per_user.mean() > 1.3 * per_user.median()  # type: ignore[operator]


def test_true_stars_beat_the_biases_which_beat_the_mean(data: Generated) -> None:
    user_idx, movie_idx = rows(data)
    rating = data.ratings["rating"].to_numpy().astype(np.float64)
    held_out = temporal_holdout(user_idx.astype(np.int32), fraction=0.2)
    mean = rating[~held_out].mean()
    bias = mean + biases(user_idx, movie_idx, rating - mean, ~held_out)
    truth = np.clip(data.truth.expected(user_idx, movie_idx), 0.5, 5)

    def rmse(predicted: np.ndarray) -> float:
        return float(np.sqrt(np.mean((predicted - rating)[held_out] ** 2)))

    assert rmse(truth) < 0.8 * rmse(bias)
    assert rmse(bias) < 0.9 * rmse(np.full(rating.shape, mean))


def biases(
    user_idx: np.ndarray,
    movie_idx: np.ndarray,
    residual: np.ndarray,
    train: np.ndarray,
) -> np.ndarray:
    """Damped user and movie means of the training residuals, by turns."""
    user, movie = np.zeros(user_idx.max() + 1), np.zeros(movie_idx.max() + 1)
    u, m, y = user_idx[train], movie_idx[train], residual[train]
    for _ in range(8):
        user = np.bincount(u, y - movie[m], user.size) / (np.bincount(u, minlength=user.size) + 3)
        movie = np.bincount(m, y - user[u], movie.size) / (np.bincount(m, minlength=movie.size) + 3)
    both: np.ndarray = user[user_idx] + movie[movie_idx]
    return both


def test_neighbours_find_held_out_movies_that_popularity_does_not(data: Generated) -> None:
    """EASE (Steck, 2019) on the training pairs against the popularity list, and the truth against both."""
    user_idx, movie_idx = rows(data)
    held_out = temporal_holdout(user_idx.astype(np.int32), fraction=0.2)
    seen_UM = np.zeros((600, 2000), dtype=np.float32)
    seen_UM[user_idx[~held_out], movie_idx[~held_out]] = 1
    wanted_UM = np.zeros((600, 2000), dtype=np.bool_)
    wanted_UM[user_idx[held_out], movie_idx[held_out]] = True
    inverse = np.linalg.inv(seen_UM.T @ seen_UM + 300 * np.eye(2000, dtype=np.float32))
    weight = inverse / -np.diag(inverse)
    np.fill_diagonal(weight, 0)

    def hits(score_UM: np.ndarray) -> float:
        top = np.argsort(-np.where(seen_UM > 0, -np.inf, score_UM), axis=1)[:, :10]
        return float(np.take_along_axis(wanted_UM, top, axis=1).mean())

    popular = hits(np.broadcast_to(seen_UM.sum(0), seen_UM.shape))
    neighbours = hits(seen_UM @ weight)
    odds, released = synthetic._genre_odds(data.truth.taste_UG), data.truth.n_released
    truth = hits(synthetic._pick_probability(odds, data.truth.cumulative_GM, released))
    assert neighbours > 1.2 * popular
    assert truth > neighbours


def test_a_hundred_thousand_ratings_take_a_second() -> None:
    generated(100, 500, 2000)
    started = time.perf_counter()
    generated(1000, 2000, 100_000)
    assert time.perf_counter() - started < 5  # 0.2 s; the bound allows for a busy machine


@pytest.mark.parametrize(
    ("n_users", "n_movies", "n_ratings", "seed", "words"),
    [
        (10, 10, 101, 1, "101 ratings do not fit 10 users x 10 movies"),
        (10, 10, 9, 1, "9 ratings leave some of 10 users without any; lower n_users"),
        (0, 10, 9, 1, "n_users is 0, expected 1 or more"),
        (10, -1, 9, 1, "n_movies is -1"),
        (10, 10, 0, 1, "n_ratings is 0"),
        (10, 10, 50, -1, "seed is -1"),
    ],
)
def test_impossible_sizes_are_refused(
    n_users: int,
    n_movies: int,
    n_ratings: int,
    seed: int,
    words: str,
) -> None:
    with pytest.raises(InputError, match=words):
        synthetic.generate(n_users=n_users, n_movies=n_movies, n_ratings=n_ratings, seed=seed)
