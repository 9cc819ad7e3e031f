"""How much is rated: each movie's and each user's ratings in a few numbers, block after block of sorted
ratings."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import polars as pl
from numpy.typing import NDArray

BANDS = ("light", "medium", "heavy")
_MIX = (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)  # of splitmix64


@dataclass
class Activity:
    """What has been rated so far of n_movies movies.

    n_ratings, n_kept [M]: all ratings, and those outside the holdout. given [M]: the ratings' sum. first,
    last [M]: microseconds since 1970 of the first and the last one.
    """

    n_movies: int
    n_ratings: NDArray[np.int64] = field(init=False)
    n_kept: NDArray[np.int64] = field(init=False)
    given: NDArray[np.float64] = field(init=False)
    first: NDArray[np.int64] = field(init=False)
    last: NDArray[np.int64] = field(init=False)
    _of_users: NDArray[np.int64] = field(init=False)  # users with so many ratings
    _open: tuple[int, int] = field(init=False, default=(-1, 0))  # the last user so far, and their ratings

    def __post_init__(self) -> None:
        self.n_ratings, self.n_kept = (np.zeros(self.n_movies, np.int64) for _ in range(2))
        self.given = np.zeros(self.n_movies)
        self.first = np.full(self.n_movies, np.iinfo(np.int64).max)
        self.last = np.full(self.n_movies, np.iinfo(np.int64).min)
        self._of_users = np.zeros(self.n_movies + 1, np.int64)

    def add(self, rows: pl.DataFrame, *, held_out: pl.Series | None = None) -> None:
        """user_idx, movie_idx and, where ratings have them, rating and timestamp; sorted by user."""
        movie = rows["movie_idx"].to_numpy()
        count = np.bincount(movie, minlength=self.n_movies)
        self.n_ratings += count
        self.n_kept += count
        if held_out is not None:
            self.n_kept -= np.bincount(movie[held_out.to_numpy()], minlength=self.n_movies)
        if "rating" in rows.columns:
            rating = rows["rating"].cast(pl.Float64).fill_null(np.nan).to_numpy()
            self.given += np.bincount(movie, weights=rating, minlength=self.n_movies)
        if "timestamp" in rows.columns:
            ends = (
                rows.group_by("movie_idx")
                .agg(
                    pl.col("timestamp").min().to_physical().alias("first"),
                    pl.col("timestamp").max().to_physical().alias("last"),
                )
                .drop_nulls()
            )
            row = ends["movie_idx"].to_numpy()
            self.first[row] = np.minimum(self.first[row], ends["first"].to_numpy())
            self.last[row] = np.maximum(self.last[row], ends["last"].to_numpy())
        self._count_users(rows["user_idx"].to_numpy())

    def _count_users(self, user: NDArray[np.int32]) -> None:
        if not user.size:
            return
        begins = np.flatnonzero(np.diff(user, prepend=user[0] - 1))
        length = np.diff(begins, append=user.size)
        open_user, n = self._open
        if open_user == user[0]:
            length[0] += n
        elif n:
            self._of_users[n] += 1
        self._open = (int(user[-1]), int(length[-1]))
        self._of_users += np.bincount(length[:-1], minlength=self._of_users.size)

    def edges(self) -> NDArray[np.int64]:
        """The most ratings of a light and of a medium user: a third of the users with ratings each."""
        users = self._of_users.copy()
        users[self._open[1]] += self._open[1] > 0
        users[0] = 0
        total = users.cumsum()
        place = np.floor((total[-1] - 1) * np.array([1 / 3, 2 / 3])) if total[-1] else np.zeros(2)
        return np.searchsorted(total, place, side="right").astype(np.int64)

    def movies(self) -> pl.DataFrame:
        """n_ratings, mean_rating, first_rated_at, last_rated_at by row of the movies."""
        rated = pl.Series(self.n_ratings > 0)
        at = pl.Datetime("us", "UTC")
        return pl.DataFrame(
            {
                "n_ratings": self.n_ratings,
                "mean_rating": self.given / np.maximum(self.n_ratings, 1),
                "first_rated_at": pl.Series(self.first).cast(at),
                "last_rated_at": pl.Series(self.last).cast(at),
                "rated": rated,
                "timed": pl.Series(self.last >= self.first),
            }
        ).select(
            "n_ratings",
            pl.when("rated").then(pl.col("mean_rating").fill_nan(None)),
            pl.when("timed").then("first_rated_at"),
            pl.when("timed").then("last_rated_at"),
        )


def of_users(
    rows: pl.DataFrame, movie_codes: NDArray[np.uint64], *, users: range, edges: Sequence[int]
) -> pl.DataFrame:
    """n_ratings, mean_rating, first_rated_at, last_rated_at, band, ratings_fingerprint of consecutive users
    [U].

    rows: their ratings, as for `Activity.add`. movie_codes [M]: of `codes`. edges: of `Activity.edges`.
    """
    user = rows["user_idx"].to_numpy().astype(np.int64) - users.start
    n = np.bincount(user, minlength=len(users))
    wanted = {"mean_rating": pl.lit(None, pl.Float64)}
    if "rating" in rows.columns:
        wanted["mean_rating"] = pl.col("rating").cast(pl.Float64).mean()
    at = pl.Datetime("us", "UTC")
    for name, end in (("first_rated_at", "min"), ("last_rated_at", "max")):
        column = pl.col("timestamp").cast(pl.Datetime("us")).dt.replace_time_zone("UTC")
        wanted[name] = getattr(column, end)() if "timestamp" in rows.columns else pl.lit(None, at)
    own = rows.group_by("user_idx").agg(**wanted)
    band = np.searchsorted(np.asarray(edges), n, side="left")
    return (
        pl.DataFrame(
            {
                "user_idx": np.arange(users.start, users.stop, dtype=np.int32),
                "n_ratings": n,
                "band": pl.Series(np.array(BANDS)[band].tolist(), dtype=pl.String),
                "ratings_fingerprint": _fingerprints(rows, user, movie_codes, n_users=len(users)),
            }
        )
        .with_columns(pl.when(pl.col("n_ratings") > 0).then("band"))
        .join(
            own.with_columns(pl.col("user_idx").cast(pl.Int32)),
            on="user_idx",
            how="left",
            maintain_order="left",
        )
    )


def codes(movie_ids: pl.Series) -> NDArray[np.uint64]:
    """A number for each movie id, the same on every night and machine."""
    if movie_ids.dtype == pl.String:
        from hashlib import blake2b

        digests = b"".join(blake2b(text.encode(), digest_size=8).digest() for text in movie_ids)
        return np.frombuffer(digests, "<u8").astype(np.uint64)
    return _mixed(movie_ids.to_numpy().astype(np.int64).view(np.uint64))


def _fingerprints(
    rows: pl.DataFrame, user: NDArray[np.int64], movie_codes: NDArray[np.uint64], *, n_users: int
) -> NDArray[np.int64]:
    """The sum over a user's ratings, modulo 2^64, of a number that movie, rating and time make."""
    code = movie_codes[rows["movie_idx"].to_numpy()]
    if "rating" in rows.columns:
        rating = rows["rating"].cast(pl.Float32).fill_null(0.0).to_numpy().view(np.uint32)
        code = _mixed(code ^ rating.astype(np.uint64))
    if "timestamp" in rows.columns:
        at = rows["timestamp"].to_physical().fill_null(0).cast(pl.Int64).to_numpy().view(np.uint64)
        code = _mixed(code ^ at)
    total = np.zeros(n_users, np.uint64)
    if code.size:
        begins = np.flatnonzero(np.diff(user, prepend=-1))
        total[user[begins]] = np.add.reduceat(code, begins)
    return total.view(np.int64)


def _mixed(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of splitmix64 (Steele and others, 2014)."""
    step, first, second = (np.uint64(number) for number in _MIX)
    x = x + step
    x = (x ^ (x >> np.uint64(30))) * first
    x = (x ^ (x >> np.uint64(27))) * second
    return x ^ (x >> np.uint64(31))
