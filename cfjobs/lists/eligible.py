"""What may be listed: tables of movies to allow or deny, and of pairs to exclude, as rows of the night;
and the days on which the movies table says that a movie is available.

An id that the night does not know changes no list; it is counted and logged.
"""

import logging
from collections.abc import Mapping
from datetime import date

import numpy as np
import polars as pl
from numpy.typing import NDArray

from cfjobs import ratings
from cfjobs.config import Config
from cfjobs.errors import InputError
from cfjobs.ratings import id_table

log = logging.getLogger(__name__)

ALLOW, DENY, EXCLUDE = "allow", "deny", "exclude"
_SETTINGS = ("available_from_column", "available_until_column")


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


def unavailable(movies: pl.DataFrame | None, *, config: Config, on: date) -> pl.DataFrame | None:
    """movie_id of the movies that are not available on a date; None where the movies table has no column that
    says so.

    movies: movie_id and any further columns; both ends are days on which a movie is available, and one
    without a value is open. Raises InputError for a column that holds no dates, and for one that a setting
    names and that is not there.
    """
    starts, ends = (_days(movies, setting, config=config) for setting in _SETTINGS)
    if movies is None or (starts is None and ends is None):
        return None
    early = pl.lit(value=False) if starts is None else starts > on
    late = pl.lit(value=False) if ends is None else ends < on
    found = movies.filter(early | late).select("movie_id")
    log.info("availability: %d of %d movies are not available on %s", found.height, movies.height, on)
    return found


def listed_movies(
    movie_ids: pl.Series,
    *,
    allow: pl.DataFrame | None = None,
    deny: pl.DataFrame | None = None,
    unavailable: pl.DataFrame | None = None,
) -> NDArray[np.bool_]:
    """Whether a movie may be listed [M], by these tables. Raises InputError when none may."""
    mask = np.ones(movie_ids.len(), dtype=np.bool_)
    if allow is not None:
        mask &= _among(movie_ids, allow, what=ALLOW)
    if deny is not None:
        mask &= ~_among(movie_ids, deny, what=DENY)
    if unavailable is not None:
        mask &= ~_mask(ratings.rows_of(unavailable["movie_id"], movie_ids), movie_ids)
    if not mask.any():
        rules = {ALLOW: allow, DENY: deny, "days of availability": unavailable}
        checks = ["that they hold ids of the ratings' movies"] * (allow is not None or deny is not None)
        checks += ["the days in the movies table"] * (unavailable is not None)
        raise InputError(
            f"candidates: {' and '.join(what for what, table in rules.items() if table is not None)} "
            f"leave none of {mask.size} movies; check {' and '.join(checks)}"
        )
    return mask


def excluded_pairs(user_ids: pl.Series, movie_ids: pl.Series, pairs: pl.DataFrame) -> pl.DataFrame:
    """user_idx, movie_idx (int32) of the pairs, sorted, each once."""
    users, movies = (ratings.rows_of(pairs[known.name], known) for known in (user_ids, movie_ids))
    _log_unknown(EXCLUDE, "pairs", int(((users < 0) | (movies < 0)).sum()), users.size)
    rows = pl.DataFrame({"user_idx": users, "movie_idx": movies})
    return rows.filter((pl.col("user_idx") >= 0) & (pl.col("movie_idx") >= 0)).unique().sort(pl.all())


def _days(movies: pl.DataFrame | None, setting: str, *, config: Config) -> pl.Expr | None:
    """The days of a column of the movies table, of datetimes in UTC; None where it is not there."""
    name = getattr(config, setting)
    if name is None:
        return None
    if movies is None or name not in movies.columns:
        if name == Config.model_fields[setting].default:
            return None
        there = "is not given" if movies is None else f"has no such column (got {', '.join(movies.columns)})"
        raise InputError(
            f"configuration key {setting}: got {name!r}, but the movies table {there}; leave the key out, or name a column"
        )
    kind = movies.schema[name]
    if kind.base_type() not in {pl.Date, pl.Datetime, pl.Null}:
        raise InputError(
            f"movies: column {name!r} is {kind}, expected a date or a datetime; cast it on export, or set {setting}=null"
        )
    if isinstance(kind, pl.Datetime) and kind.time_zone:
        return pl.col(name).dt.convert_time_zone("UTC").dt.date()
    return pl.col(name).cast(pl.Date)


def _among(movie_ids: pl.Series, table: pl.DataFrame, *, what: str) -> NDArray[np.bool_]:
    rows = ratings.rows_of(table["movie_id"].unique(), movie_ids)
    _log_unknown(what, "movies", int((rows < 0).sum()), rows.size)
    return _mask(rows, movie_ids)


def _mask(rows: NDArray[np.int32], movie_ids: pl.Series) -> NDArray[np.bool_]:
    mask = np.zeros(movie_ids.len(), dtype=np.bool_)
    mask[rows[rows >= 0]] = True
    return mask


def _log_unknown(what: str, things: str, n_unknown: int, n: int) -> None:
    level = logging.WARNING if n and n_unknown == n else logging.INFO
    log.log(level, "%s: %d %s, %d of them unknown to this night", what, n, things, n_unknown)
