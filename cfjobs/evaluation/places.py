"""What the published lists are like: the figures of their first places, each user's own, and each movie's
places, from the written rows.

The figures are those of `metrics` for lists that are to be measured; here they are gathered block after
block, as the lists are read back. They need no held-out ratings, so they say of the published lists what nDCG
cannot.
"""

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from cfjobs import ratings
from cfjobs.evaluation import character
from cfjobs.evaluation.character import Traits
from cfjobs.evaluation.metrics import OF_LISTS, K, popular_movies, self_information
from cfjobs.topn.problem import NO_MOVIE

_MEANS = (
    f"stars_at_{K}",
    f"novelty_at_{K}",
    f"popular_share_at_{K}",
    f"diversity_at_{K}",
    f"genre_distance_at_{K}",
)
"""The figures that are means over lists."""

SHOWN = 100
"""The places of `n_top_100`."""


@dataclass
class Places:
    """The lists so far.

    movie_ids: by row. n_ratings, candidates [M]: how often each movie was rated, and whether it could be
    listed. n_users: with ratings.
    """

    movie_ids: pl.Series
    n_ratings: NDArray[np.int64]
    candidates: NDArray[np.bool_]
    n_users: int
    traits: Traits | None = None

    def __post_init__(self) -> None:
        n_movies = len(self.n_ratings)
        self._information = self_information(self.n_ratings, n_users=self.n_users)
        self._popular = popular_movies(self.n_ratings, self.candidates)
        self._first = np.zeros(n_movies, np.int64)
        self._sums, self._lists = np.zeros(len(_MEANS)), np.zeros(len(_MEANS), np.int64)
        self.n_top_10, self.n_top_100, self.n_lists, self.ranks = (
            np.zeros(n_movies, np.int64) for _ in range(4)
        )

    def add(
        self,
        rows: pl.DataFrame,
        *,
        mix: NDArray[np.float64] | None = None,
        counted: NDArray[np.bool_] | None = None,
    ) -> pl.DataFrame:
        """Rows of `top_n` of whole lists, in order. mix [B, G]: the genres of what these users rated, of
        `character.genre_mix`. counted [B]: which lists the figures are about, all by default.

        Returns user_id, novelty, diversity, genre_distance of each list.
        """
        movie = ratings.rows_of(rows["movie_id"], self.movie_ids).astype(np.int64)
        rank = rows["rank"].to_numpy().astype(np.int64)
        self._count(movie, rank)
        first = rank <= K
        user = np.cumsum(rank == 1) - 1
        n_lists = int(user[-1]) + 1 if user.size else 0
        listed = np.full((n_lists, K), NO_MOVIE, np.int32)
        listed[user[first], rank[first] - 1] = movie[first]
        stars = rows["predicted_rating"].cast(pl.Float64).fill_null(np.nan).to_numpy()[first]
        own = self._means(listed, stars, user[first], mix)
        counted = np.ones(n_lists, np.bool_) if counted is None else counted
        self._first += np.bincount(movie[first][counted[user[first]]], minlength=self._first.size)
        for number, values in enumerate(own):
            known = np.isfinite(values) & counted
            self._sums[number] += values[known].sum()
            self._lists[number] += int(known.sum())
        return pl.DataFrame(
            {
                "user_id": rows["user_id"].filter(pl.Series(rank == 1)),
                "novelty": own[1],
                "diversity": own[3],
                "genre_distance": own[4],
            }
        ).with_columns(pl.col(pl.Float64).fill_nan(None))

    def _count(self, movie: NDArray[np.int64], rank: NDArray[np.int64]) -> None:
        """A movie's places."""
        size = self._first.size
        for counted, most in ((self.n_top_10, K), (self.n_top_100, SHOWN), (self.n_lists, None)):
            counted[:] += np.bincount(movie if most is None else movie[rank <= most], minlength=size)
        self.ranks += np.bincount(movie, weights=rank, minlength=size).astype(np.int64)

    def _means(
        self,
        listed: NDArray[np.int32],
        stars: NDArray[np.float64],
        user: NDArray[np.int64],
        mix: NDArray[np.float64] | None,
    ) -> list[NDArray[np.float64]]:
        """Each list's own figures [B] in the order of _MEANS; NaN for one that is not known."""
        there = listed != NO_MOVIE
        length = np.maximum(there.sum(axis=1), 1)
        nothing = np.full(len(listed), np.nan)
        traits = self.traits
        return [
            np.bincount(user, weights=stars, minlength=len(listed)) / length,
            (self._information[listed] * there).sum(axis=1) / length,
            (self._popular[listed] & there).sum(axis=1) / length,
            nothing if traits is None else character.diversity(listed, traits),
            nothing if traits is None or mix is None else character.genre_distance(listed, mix, traits),
        ]

    def figures(self) -> dict[str, float]:
        """By the names of `metrics.OF_LISTS`, those that are known; empty without a list."""
        if not self._lists.any():
            return {}
        known = {
            name: float(total / n)
            for name, total, n in zip(_MEANS, self._sums, self._lists, strict=True)
            if n
        }
        of_candidates = self._first[self.candidates]
        known["coverage"] = float((of_candidates > 0).sum() / max(of_candidates.size, 1))
        known["gini"] = character.gini(of_candidates)
        return {name: known[name] for name in OF_LISTS if name in known}
