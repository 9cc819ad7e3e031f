"""What may be listed: tables of movies to allow or deny, and of pairs to exclude, as rows of the night.

An id that the night does not know changes no list; it is counted and logged.
"""

import logging

import numpy as np
import polars as pl
from numpy.typing import NDArray

from cfjobs import ratings
from cfjobs.config import Config
from cfjobs.errors import InputError
from cfjobs.ratings import names, scan, validate

log = logging.getLogger(__name__)

ALLOW, DENY, EXCLUDE = "allow", "deny", "exclude"
_PAIR = ("user_column", "movie_column")


def listed_movies(
    movie_ids: pl.Series, *, allow: str | None, deny: str | None, config: Config
) -> NDArray[np.bool_]:
    """Whether a movie may be listed [M], by the tables at these URIs. Raises InputError when none may."""
    mask = np.ones(movie_ids.len(), dtype=np.bool_)
    if allow is not None:
        mask &= _among(movie_ids, allow, what=ALLOW, config=config)
    if deny is not None:
        mask &= ~_among(movie_ids, deny, what=DENY, config=config)
    if not mask.any():
        raise InputError(
            f"candidates: allow {allow} and deny {deny} leave none of {mask.size} movies; "
            "check that they hold ids of the ratings' movies"
        )
    return mask


def excluded_pairs(user_ids: pl.Series, movie_ids: pl.Series, *, uri: str, config: Config) -> pl.DataFrame:
    """user_idx, movie_idx (int32) of the pairs in the table at a URI, sorted, each once."""
    pairs = _table(uri, what=EXCLUDE, keys={s: getattr(config, s) for s in _PAIR})
    users, movies = (
        ratings.rows_of(pairs[column], known)
        for column, known in ((config.user_column, user_ids), (config.movie_column, movie_ids))
    )
    _log_unknown(EXCLUDE, "pairs", int(((users < 0) | (movies < 0)).sum()), users.size)
    rows = pl.DataFrame({"user_idx": users, "movie_idx": movies})
    return rows.filter((pl.col("user_idx") >= 0) & (pl.col("movie_idx") >= 0)).unique().sort(pl.all())


def _among(movie_ids: pl.Series, uri: str, *, what: str, config: Config) -> NDArray[np.bool_]:
    ids = _table(uri, what=what, keys={"movie_column": config.movie_column})[config.movie_column].unique()
    rows = ratings.rows_of(ids, movie_ids)
    _log_unknown(what, "movies", int((rows < 0).sum()), rows.size)
    mask = np.zeros(movie_ids.len(), dtype=np.bool_)
    mask[rows[rows >= 0]] = True
    return mask


def _table(uri: str, *, what: str, keys: dict[str, str]) -> pl.DataFrame:
    """The id columns that these settings name, of every Parquet file at or under a URI, without nulls."""
    frames, columns = [], list(keys.values())
    for file in ratings.list_parquet(uri, what=what):
        frame = scan.read_parquet(file, what=what)
        frame = frame.rename(names.renaming(frame.columns, keys))
        for column in columns:
            if column not in frame.columns:
                raise InputError(
                    f"{what} {file.uri}: has no column {column!r} (got {', '.join(frame.columns)}); rename it"
                )
            validate.check_type(frame.schema[column], column, column=column, file=f"{what} {file.uri}")
        frames.append(frame.select(columns))
    return pl.concat(frames, how="vertical_relaxed").drop_nulls()


def _log_unknown(what: str, things: str, n_unknown: int, n: int) -> None:
    level = logging.WARNING if n and n_unknown == n else logging.INFO
    log.log(level, "%s: %d %s, %d of them unknown to this night", what, n, things, n_unknown)
