"""What the tables `users`, `movies` and `metrics` have of the written lists, gathered as `check` reads them
back.

Nothing grows with the users: a few numbers for each movie, and the rows of one block of lists at a time,
beside last night's rows of the same users.
"""

import logging
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

from cfjobs import model_store, ratings, tables
from cfjobs.errors import CfjobsError
from cfjobs.evaluation import character, churn
from cfjobs.evaluation.bootstrap import ALL
from cfjobs.evaluation.places import Places
from cfjobs.lists.popularity import first_unseen
from cfjobs.night.records import Night, Prepared, trained_already
from cfjobs.night.side_tables import rows_of_last, traits
from cfjobs.ratings import activity
from cfjobs.ratings.activity import Activity
from cfjobs.storage.parquet import TableFile
from cfjobs.tables.by_user import ByUser
from cfjobs.tables.runs import LastNight, Source
from cfjobs.tables.schema import OF_PUBLISHED
from cfjobs.topn.problem import Pairs

log = logging.getLogger(__name__)

RATINGS_AT_ONCE = 5_000_000
_RATED = ("user_idx", "movie_idx", "rating", "timestamp")


@dataclass(frozen=True)
class Listed:
    """Lists of consecutive users, what the users rated, and their rows of last night. rows: of `top_n`.
    users: by row, those without a list too; ids: theirs. lists_before: user_id, rank, movie_id, None where
    there are none; users_before: user_id, ratings_fingerprint."""

    rows: pl.DataFrame
    rated: pl.DataFrame
    users: range
    ids: pl.Series
    lists_before: pl.DataFrame | None
    users_before: pl.DataFrame | None


@dataclass(frozen=True)
class Before:
    """The last night's tables. n_ratings [M]: its ratings of tonight's movies."""

    lists: ByUser | None = None
    users: ByUser | None = None
    n_ratings: NDArray[np.int64] | None = None

    @classmethod
    def of_night(
        cls, night: Night, last: LastNight | None, *, movie_ids: pl.Series, user_type: pl.DataType
    ) -> Self:
        """Nothing where there was no night before, or its ids were of another type."""
        if last is None:
            return cls()
        source = Source(night.output, dict(last.row))
        lists, users = (
            _by_user(source, table, columns, user_type)
            for table, columns in (
                (tables.TOP_N, ["user_id", "rank", "movie_id"]),
                (tables.USERS, ["user_id", "ratings_fingerprint"]),
            )
        )
        known = rows_of_last(night.output, last, tables.MOVIE_EMBEDDINGS, ["movie_id", "n_ratings"])
        if lists is None or known is None or known["movie_id"].dtype != movie_ids.dtype:
            return cls(users=users)
        row = ratings.rows_of(known["movie_id"], movie_ids)
        n_ratings = np.zeros(movie_ids.len(), np.int64)
        n_ratings[row[row >= 0]] = known["n_ratings"].to_numpy()[row >= 0]
        return cls(lists, users, n_ratings)

    def of(self, ids: pl.Series) -> tuple[pl.DataFrame | None, pl.DataFrame | None]:
        """The rows of users with ascending ids: the first places of their lists, and what they had rated."""
        if ids.is_empty():
            return None, None
        ends = (ids[0], ids[-1])
        first = pl.col("rank") <= churn.FIRST
        return (
            None if self.lists is None else self.lists.between(*ends, where=first),
            None if self.users is None else self.users.between(*ends),
        )


def _by_user(source: Source, table: tables.Table, columns: list[str], id_type: pl.DataType) -> ByUser | None:
    try:
        found = ByUser(source, table, columns)
    except CfjobsError as error:
        log.info("nothing is compared with last night's %s: %s", table.name, error)
        return None
    return found if found.id_type == id_type else None


@dataclass
class _Changed:
    """Places of some users who had a list on both nights, and how many are new: theirs, and popularity's."""

    places: int = 0
    new: int = 0
    popular: int = 0
    popular_new: int = 0
    users: int = 0
    low: int = 2**62
    high: int = 0

    def row(self, metric: str) -> dict[str, Any]:
        """A row of `metrics`."""
        return {
            "metric": metric + OF_PUBLISHED,
            "band": ALL,
            "value": self.new / self.places,
            "low": None,
            "high": None,
            "baseline": self.popular_new / max(self.popular, 1),
            "users": self.users,
            "min_ratings": self.low,
            "max_ratings": self.high,
        }


_CHURNS = {"churn": None, "churn_unchanged": False, "churn_changed": True}
"""Metrics of churn, and whether the ratings of the users changed that they are about."""


@dataclass
class ListStatistics:
    """What has been read so far. sample: rows of the users whose lists were measured, whom the figures of the
    published ones are about too; None where these are all."""

    activity: Activity
    places: Places
    before: Before
    rating_columns: list[str]
    n_users: int
    implicit: bool = False
    sample: NDArray[np.int64] | None = None
    n_rows: int = 0
    n_lists: int = 0
    _changed: dict[str, _Changed] = field(default_factory=lambda: {name: _Changed() for name in _CHURNS})

    def __post_init__(self) -> None:
        self._codes = activity.codes(self.places.movie_ids)
        self._edges = self.activity.edges().tolist()
        self._orders: list[NDArray[np.int32]] = []
        if self.before.n_ratings is not None:
            self._orders = [_most_rated(n) for n in (self.activity.n_ratings, self.before.n_ratings)]

    @classmethod
    def of(cls, night: Night, prepared: Prepared, last: LastNight | None) -> Self:
        """Nothing yet of the lists; the ratings are read once. A movie's ratings are, for the figures of the
        lists, those outside the holdout, by which the measured lists are described too."""
        movies = night.frame("movies")
        user_type = TableFile(night.files("users"), columns=["user_id"]).rows(0, 0)["user_id"].dtype
        files = night.files("ratings")
        there = TableFile(files, columns=[]).names
        columns = [name for name in _RATED if name in there and (prepared.timed or name != "timestamp")]
        rated = Activity(movies.height)
        held_out, at = None, 0
        if night.has("holdout"):
            held_out = TableFile(night.files("holdout"), columns=["held_out"])
        for block in TableFile(files, columns=columns).blocks(RATINGS_AT_ONCE):
            here = None if held_out is None else held_out.rows(at, at + block.height)["held_out"]
            rated.add(block, held_out=here)
            at += block.height
        places = Places(
            movies["movie_id"],
            rated.n_kept,
            rated.n_kept >= max(1, night.config.min_ratings),
            n_users=prepared.n_users,
            traits=traits(model_store.load_model(_model_uri(night), users=range(0))),
        )
        before = Before.of_night(night, last, movie_ids=movies["movie_id"], user_type=user_type)
        n_users = prepared.n_users + prepared.n_cold_users
        sample = night.frame("sample")["user_idx"].to_numpy() if night.has("sample") else None
        return cls(rated, places, before, columns, n_users, implicit=prepared.implicit, sample=sample)

    def add(self, listed: Listed, *, cold: bool) -> pl.DataFrame:
        """Rows of `users`, without the date."""
        rows, rated, ids = listed.rows, listed.rated, listed.ids
        first = rows.filter(pl.col("rank") == 1)
        self.n_rows, self.n_lists = self.n_rows + rows.height, self.n_lists + first.height
        own = activity.of_users(rated, self._codes, users=listed.users, edges=self._edges)
        own = self._without_means(own)
        mix: NDArray[np.float64] | None = None
        known = self.places.traits
        if known is not None and known.genres is not None:
            user = rated["user_idx"].to_numpy().astype(np.int64) - listed.users.start
            mix = character.genre_mix(user, rated["movie_idx"].to_numpy(), known, n_users=len(listed.users))
            mix = mix[ids.search_sorted(first["user_id"]).to_numpy()]
        counted = np.full(first.height, not cold)
        if self.sample is not None:
            user = listed.users.start + ids.search_sorted(first["user_id"]).to_numpy().astype(np.int64)
            counted &= np.isin(user, self.sample)
        figures = self.places.add(rows, mix=mix, counted=counted)
        length = rows.group_by("user_id").agg(pl.len().cast(pl.Int64).alias("n_listed"))
        frame = own.with_columns(ids.alias("user_id"))
        for more in (first.select("user_id", "source"), length, figures):
            frame = frame.join(more, on="user_id", how="left", maintain_order="left")
        frame = _compared(frame, listed)
        self._count(frame, listed)
        return frame.with_columns(pl.col("n_listed").fill_null(0), pl.col("n_new").alias("n_new_in_ten"))

    def _count(self, frame: pl.DataFrame, listed: Listed) -> None:
        """Add the users who had a list on both nights to the churn."""
        both = frame["n_places"].is_not_null().to_numpy()
        if not both.any():
            return
        popular, popular_new = self._popular(listed)
        changed = frame["ratings_changed"]
        for name, wanted in _CHURNS.items():
            mask = both & (True if wanted is None else (changed == wanted).fill_null(value=False).to_numpy())
            if not mask.any():
                continue
            total, some = self._changed[name], frame.filter(pl.Series(mask))
            total.places += int(some["n_places"].sum())
            total.new += int(some["n_new"].sum())
            total.popular += int(popular[mask].sum())
            total.popular_new += int(popular_new[mask].sum())
            total.users += some.height
            total.low = min(total.low, int(some["n_ratings"].min()))  # type: ignore[arg-type]
            total.high = max(total.high, int(some["n_ratings"].max()))  # type: ignore[arg-type]

    def _popular(self, listed: Listed) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Places, and new ones, of each user's popularity list: of the most rated movies tonight that they
        have not rated, and those of last night."""
        users = range(len(listed.users))
        user = listed.rated["user_idx"].to_numpy() - np.int32(listed.users.start)
        seen = Pairs.of(user, listed.rated["movie_idx"].to_numpy(), n_users=len(users))
        now, then = (first_unseen(order, seen, users=users, n=churn.FIRST) for order in self._orders)
        there = now >= 0
        kept = (now[:, :, None] == then[:, None, :]).any(axis=2)
        return there.sum(axis=1), (there & ~kept).sum(axis=1)

    def churns(self) -> list[dict[str, Any]]:
        """Rows of `metrics`, all users first; empty where nobody had a list on both nights."""
        return [changed.row(name) for name, changed in self._changed.items() if changed.places]

    def movies(self) -> pl.DataFrame:
        """Rows of `movies`, without ids, titles and what the input has."""
        places, unseen = self.places, self.n_users - self.activity.n_ratings
        counted = pl.DataFrame(
            {
                "n_top_10": places.n_top_10,
                "n_top_100": places.n_top_100,
                "mean_rank": places.ranks / np.maximum(places.n_lists, 1),
                "reach": places.n_lists / np.maximum(unseen, 1),
                "listed": places.n_lists > 0,
                "unseen": unseen > 0,
            }
        ).select(
            "n_top_10", "n_top_100", pl.when("listed").then("mean_rank"), pl.when("unseen").then("reach")
        )
        return self._without_means(self.activity.movies()).hstack(counted)

    def _without_means(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Implicit feedback has weights, whose mean is no rating."""
        return frame.with_columns(pl.lit(None, pl.Float64).alias("mean_rating")) if self.implicit else frame


def _compared(frame: pl.DataFrame, listed: Listed) -> pl.DataFrame:
    """Rows of users with n_places, n_new and ratings_changed since last night."""
    changed = pl.DataFrame(
        schema={"user_id": frame.schema["user_id"], "n_places": pl.Int64, "n_new": pl.Int64}
    )
    if listed.lists_before is not None:
        changed = churn.changes(listed.rows, listed.lists_before)
    before = listed.users_before
    if before is None:
        before = pl.DataFrame(schema={"user_id": frame.schema["user_id"], "ratings_fingerprint": pl.Int64})
    before = before.rename({"ratings_fingerprint": "before"})
    frame = frame.join(changed, on="user_id", how="left", maintain_order="left")
    frame = frame.join(before, on="user_id", how="left", maintain_order="left")
    return frame.with_columns((pl.col("ratings_fingerprint") != pl.col("before")).alias("ratings_changed"))


def _most_rated(n_ratings: NDArray[np.int64]) -> NDArray[np.int32]:
    """Movies with ratings, most rated first, ties by row."""
    order = np.argsort(-n_ratings, kind="stable")
    return order[n_ratings[order] > 0].astype(np.int32)


def _model_uri(night: Night) -> str:
    """Of the model that made the lists."""
    if night.inputs.model:
        return night.inputs.model
    trained = trained_already(night, on="all" if night.config.refit else "train")
    assert trained is not None  # lists were scored with it
    return trained.model_uri
