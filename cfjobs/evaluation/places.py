"""What the published lists are like: coverage, novelty, popularity and stars of their first places,
from the written rows.

The figures are those of `metrics` for lists that are to be measured; here they are gathered block after
block, as the lists are read back. They need no held-out ratings, so they say of the published lists what nDCG
cannot.
"""

from dataclasses import dataclass, field

import numpy as np
import polars as pl
from numpy.typing import NDArray

from cfjobs import ratings
from cfjobs.evaluation.metrics import OF_LISTS, OF_STARS, K, popular_movies, self_information


@dataclass
class Places:
    """The first K places of every list so far.

    movie_ids: by row. n_ratings, candidates [M]: how often each movie was rated, and whether it could be
    listed. n_users: with ratings.
    """

    movie_ids: pl.Series
    n_ratings: NDArray[np.int64]
    candidates: NDArray[np.bool_]
    n_users: int
    _lists: int = field(default=0, init=False)
    _predicted: bool = field(default=True, init=False)

    def __post_init__(self) -> None:
        self._information = self_information(self.n_ratings, n_users=self.n_users)
        self._popular = popular_movies(self.n_ratings, self.candidates)
        self._listed = np.zeros(len(self.n_ratings), dtype=np.bool_)
        self._sums = np.zeros(3)

    def add(self, rows: pl.DataFrame) -> None:
        """Rows of `top_n` of whole lists."""
        first = rows.filter(pl.col("rank") <= K)
        if first.is_empty():
            return
        self._predicted &= first["predicted_rating"].null_count() == 0
        movie = ratings.rows_of(first["movie_id"], self.movie_ids)
        self._listed[movie] = True
        means = (
            pl.DataFrame(
                {
                    "user_id": first["user_id"],
                    "stars": first["predicted_rating"].cast(pl.Float64),
                    "novelty": self._information[movie],
                    "popular": self._popular[movie].astype(np.float64),
                }
            )
            .group_by("user_id", maintain_order=True)
            .mean()
        )
        self._sums += [float(means[name].sum()) for name in ("stars", "novelty", "popular")]
        self._lists += means.height

    def figures(self) -> dict[str, float]:
        """By the names of `evaluate.OF_LISTS`; empty without a list,
        without stars where none are predicted."""
        if not self._lists:
            return {}
        stars, novelty, popular = (self._sums / self._lists).tolist()
        coverage = float((self._listed & self.candidates).sum() / max(int(self.candidates.sum()), 1))
        found = dict(zip(OF_LISTS, (stars, coverage, novelty, popular), strict=True))
        return {name: value for name, value in found.items() if self._predicted or name not in OF_STARS}
