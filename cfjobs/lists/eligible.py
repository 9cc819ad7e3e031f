"""What may be listed: tables of movies to allow or deny, and of pairs to exclude, as rows of the night.

An id that the night does not know changes no list; it is counted and logged.
"""

import logging
from collections.abc import Mapping

import numpy as np
import polars as pl
from numpy.typing import NDArray

from cfjobs import ratings
from cfjobs.config import Config
from cfjobs.errors import InputError
from cfjobs.ratings import id_table

log = logging.getLogger(__name__)

ALLOW, DENY, EXCLUDE = "allow", "deny", "exclude"


def read(limits: Mapping[str, str | None], *, config: Config) -> dict[str, pl.DataFrame]:
    """The tables at these URIs, by what they are: `movie_id`, and of pairs `user_id` too, without nulls.

    Raises InputError as `id_table.read`.
    """
    movie, user = {"movie_column": config.movie_column}, {"user_column": config.user_column}
    found = {}
    for what, uri in limits.items():
        if uri is not None:
            table = id_table.read(uri, what=what, keys=user | movie if what == EXCLUDE else movie)
            names = {config.movie_column: "movie_id"} | (
                {config.user_column: "user_id"} if what == EXCLUDE else {}
            )
            found[what] = table.rename(names).drop_nulls()
    return found


def listed_movies(
    movie_ids: pl.Series, *, allow: pl.DataFrame | None, deny: pl.DataFrame | None
) -> NDArray[np.bool_]:
    """Whether a movie may be listed [M], by these tables. Raises InputError when none may."""
    mask = np.ones(movie_ids.len(), dtype=np.bool_)
    if allow is not None:
        mask &= _among(movie_ids, allow, what=ALLOW)
    if deny is not None:
        mask &= ~_among(movie_ids, deny, what=DENY)
    if not mask.any():
        raise InputError(
            f"candidates: {' and '.join(what for what, t in ((ALLOW, allow), (DENY, deny)) if t is not None)} "
            f"leave none of {mask.size} movies; check that they hold ids of the ratings' movies"
        )
    return mask


def excluded_pairs(user_ids: pl.Series, movie_ids: pl.Series, pairs: pl.DataFrame) -> pl.DataFrame:
    """user_idx, movie_idx (int32) of the pairs, sorted, each once."""
    users, movies = (ratings.rows_of(pairs[known.name], known) for known in (user_ids, movie_ids))
    _log_unknown(EXCLUDE, "pairs", int(((users < 0) | (movies < 0)).sum()), users.size)
    rows = pl.DataFrame({"user_idx": users, "movie_idx": movies})
    return rows.filter((pl.col("user_idx") >= 0) & (pl.col("movie_idx") >= 0)).unique().sort(pl.all())


def _among(movie_ids: pl.Series, table: pl.DataFrame, *, what: str) -> NDArray[np.bool_]:
    rows = ratings.rows_of(table["movie_id"].unique(), movie_ids)
    _log_unknown(what, "movies", int((rows < 0).sum()), rows.size)
    mask = np.zeros(movie_ids.len(), dtype=np.bool_)
    mask[rows[rows >= 0]] = True
    return mask


def _log_unknown(what: str, things: str, n_unknown: int, n: int) -> None:
    level = logging.WARNING if n and n_unknown == n else logging.INFO
    log.log(level, "%s: %d %s, %d of them unknown to this night", what, n, things, n_unknown)
