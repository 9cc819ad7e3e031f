"""Which movies a published night could list, and by which rules, for lists that are made after it."""

import json

import numpy as np
import polars as pl
from numpy.typing import NDArray

from cfjobs import lists, ratings, tables
from cfjobs.config import Config
from cfjobs.lists.rules import Rules
from cfjobs.model_store.files import Model
from cfjobs.ratings import catalogue
from cfjobs.tables.runs import Source

_LISTABLE = "listable"


def of_night(night: Source, model: Model) -> NDArray[np.bool_]:
    """Whether the night could list a movie of its model [M]: as its table `movies` tells, and by the ratings
    alone for a night that did not tell."""
    listed = lists.candidates(model)
    if night.version(tables.MOVIES) is None:
        return listed
    movies = night.scan(tables.MOVIES)
    if _LISTABLE not in movies.collect_schema().names():
        return listed
    withheld = movies.filter(~pl.col(_LISTABLE)).select("movie_id").collect()["movie_id"]
    rows = ratings.rows_of(withheld, model.movies["movie_id"])
    listed[rows[rows >= 0]] = False
    return listed


def rules_of_night(night: Source, model: Model) -> Rules | None:
    """The rules of the shop that a night's lists were made by, by its table `movies`; None where there were
    none."""
    settings = json.loads(night.run["config"])
    if "max_per" not in settings:  # of a version without rules, whatever its movies table has
        return None
    config = Config(**{name: value for name, value in settings.items() if name in Config.model_fields})
    movies = model.movies
    if night.version(tables.MOVIES) is not None:
        taken = {column.name for column in tables.MOVIES.columns}
        columns = {name: catalogue.public_name(name, taken=taken) for name in lists.rules.named(config)}
        scan = night.scan(tables.MOVIES)
        there = set(scan.collect_schema().names())
        wanted = {name: pl.col(public) for name, public in columns.items() if public in there}
        published = scan.select("movie_id", **wanted).collect()
        movies = movies.select("movie_id").join(published, on="movie_id", how="left", maintain_order="left")
    n_ratings, run_date = model.movies["n_ratings"].to_numpy(), night.run["run_date"]
    return lists.rules.of(movies, config, n_ratings=n_ratings, run_date=run_date)
