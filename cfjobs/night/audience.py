"""The table `audience`: for each movie the users who fit it best, when the configuration asks for it.

The users are scored once more, with roles swapped, chunk after chunk: what grows is `audience` places for
each movie.
"""

from collections.abc import Iterator

import numpy as np
import polars as pl

from cfjobs import tables
from cfjobs.night.records import Night, Prepared, Trained
from cfjobs.night.score import requests_of
from cfjobs.night.side_tables import schema_of, write_table
from cfjobs.tables.parts import Ready
from cfjobs.topn.turned import NO_USER, Audiences

_MOVIES_AT_ONCE = 10_000


def write_audience(night: Night, prepared: Prepared, trained: Trained) -> Ready:
    """The night's rows; none with `audience` = 0."""
    schema = schema_of(night, tables.AUDIENCE)
    if not night.config.audience:
        return Ready(tables.AUDIENCE, schema, ())
    found = Audiences(prepared.n_movies, night.config.audience)
    listed = np.zeros(prepared.n_movies, np.bool_)
    for chunk, engine in requests_of(night, prepared, trained):
        request, first_user = chunk.request, chunk.users.start
        listed = request.limits.listed
        if request.scores is not None:
            found.add(
                request.scores, first_user=first_user, seen=request.seen, users=request.by_model, **engine
            )
    return write_table(night, tables.AUDIENCE, schema, _rows(night, found, listed))


def _rows(night: Night, found: Audiences, listed: np.ndarray) -> Iterator[pl.DataFrame]:
    user_ids, movie_ids = (night.frame(name, [f"{name[:-1]}_id"]).to_series() for name in ("users", "movies"))
    for start in range(0, found.n_movies, _MOVIES_AT_ONCE):
        block = slice(start, start + _MOVIES_AT_ONCE)
        movie, column = np.nonzero((found.user_idx[block] != NO_USER) & listed[block, None])
        yield pl.DataFrame(
            {
                "movie_id": movie_ids[movie + start],
                "rank": (column + 1).astype(np.int16),
                "user_id": user_ids[found.user_idx[block][movie, column]],
                "score": found.score[block][movie, column],
            }
        )
