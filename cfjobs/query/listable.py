"""Which movies a published night could list, for lists that are made after it."""

import numpy as np
import polars as pl
from numpy.typing import NDArray

from cfjobs import lists, ratings, tables
from cfjobs.model_store.files import Model
from cfjobs.tables.runs import Source

_TOLD = "listable"


def of_night(night: Source, model: Model) -> NDArray[np.bool_]:
    """Whether the night could list a movie of its model [M]: as its table `movies` tells, and by the ratings
    alone for a night that did not tell."""
    listed = lists.candidates(model)
    if night.version(tables.MOVIES) is None:
        return listed
    movies = night.scan(tables.MOVIES)
    if _TOLD not in movies.collect_schema().names():
        return listed
    withheld = movies.filter(~pl.col(_TOLD)).select("movie_id").collect()["movie_id"]
    rows = ratings.rows_of(withheld, model.movies["movie_id"])
    listed[rows[rows >= 0]] = False
    return listed
