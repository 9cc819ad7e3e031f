"""Predicted ratings of pairs of outside ids, from a model."""

from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from cfjobs import model_store, ratings, storage
from cfjobs.device import resolve_device
from cfjobs.model_store.files import Model
from cfjobs.models.predict import predict
from cfjobs.query.movies import matching, one_movie
from cfjobs.ratings import id_table
from cfjobs.storage.parquet import parquet_bytes


def predict_pairs(model_uri: str, pairs_uri: str, out_uri: str, *, device: str = "auto") -> int:
    """Add `predicted_rating` to a table of `user_id, movie_id`; returns the number of rows.

    Rows keep their order. An id that the model does not know is predicted as a typical one. Raises InputError
    as `id_table.read`.
    """
    target = storage.normal(out_uri)
    pairs = read_pairs(pairs_uri)
    model = model_store.load_model(storage.normal(model_uri))
    stars = predicted(model, users=pairs["user_id"], movies=pairs["movie_id"], device=device)
    storage.write_bytes(target, parquet_bytes(pairs.with_columns(stars.alias("predicted_rating"))))
    return pairs.height


def read_pairs(uri: str) -> pl.DataFrame:
    """The pairs to predict, with every other column of their table; ids as Int64 or text."""
    uri = ratings.pinned(storage.normal(uri), what="pairs")
    return id_table.read(
        uri, what="pairs", keys={"user_column": "user_id", "movie_column": "movie_id"}, others=True
    )


def predict_one(model_uri: str, user: str, movie: str, *, device: str = "auto") -> dict[str, Any]:
    """The predicted rating of one pair, and whether the model knows its ids.

    movie: an id, a title, or words of one title; InputError for words of several.
    """
    model = model_store.load_model(storage.normal(model_uri))
    users = pl.Series([user]).cast(model.users["user_id"].dtype, strict=False)
    movie_id = _movie_id(model, movie)
    movies = pl.Series([movie_id]).cast(model.movies["movie_id"].dtype, strict=False)
    return {
        "user_id": user,
        "movie_id": movie_id,
        "predicted_rating": float(predicted(model, users=users, movies=movies, device=device)[0]),
        "user_known": bool(_user_rows(users, model)[0] >= 0),
        "movie_known": bool(_movie_rows(movies, model)[0] >= 0),
    }


def _movie_id(model: Model, movie: str) -> str:
    """The id that a movie's title stands for; the text itself where no title has it."""
    if "title" not in model.movies.columns:
        return movie
    titles = model.movies.select("movie_id", pl.col("title").cast(pl.String)).to_dicts()
    return str(one_movie(titles, movie)["movie_id"]) if matching(titles, movie) else movie


def predicted(model: Model, *, users: pl.Series, movies: pl.Series, device: str = "auto") -> pl.Series:
    """Predicted ratings of pairs of outside ids, float32, in the order of the pairs."""
    on = resolve_device(device)
    network = model.to(on).network
    user_idx, movie_idx = _user_rows(users, model), _movie_rows(movies, model)
    return pl.Series(predict(network, user_idx.to(on), movie_idx.to(on)).cpu().numpy())


def _user_rows(ids: pl.Series, model: Model) -> torch.Tensor:
    return _rows(ids, model.users["user_id"], model.users["n_ratings"].to_numpy() > 0)


def _movie_rows(ids: pl.Series, model: Model) -> torch.Tensor:
    return _rows(ids, model.movies["movie_id"], model.knows_movies())


def _rows(ids: pl.Series, known: pl.Series, usable: NDArray[np.bool_]) -> torch.Tensor:
    """Rows [R] int64 of outside ids; -1 for one that the model cannot tell from any other."""
    idx = torch.tensor(ratings.rows_of(ids, known), dtype=torch.int64)
    return torch.where((idx >= 0) & torch.tensor(usable)[idx.clamp(min=0)], idx, -1)
