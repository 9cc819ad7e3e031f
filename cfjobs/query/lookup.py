"""Single questions put to what a night left: a rating from a model, a list from the tables."""

import io
from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from cfjobs import lists, model_store, ratings, storage, tables
from cfjobs.device import resolve_device
from cfjobs.errors import InputError
from cfjobs.model_store.files import Model
from cfjobs.models.predict import predict
from cfjobs.query import new_user
from cfjobs.storage.parquet import parquet_bytes
from cfjobs.tables import delta


@dataclass(frozen=True)
class UserList:
    """One user's list. frame: rank, movie_id, score, predicted_rating and, where known, title.

    user_id: None for a user who came without one. unknown_movies: rated ones that the model does not have.
    """

    user_id: str | int | None
    run_date: date
    source: str
    frame: pl.DataFrame
    unknown_movies: tuple[str, ...] = ()


def predict_pairs(model_uri: str, pairs_uri: str, out_uri: str, *, device: str = "auto") -> int:
    """Add `predicted_rating` to a Parquet file of `user_id, movie_id`; returns the number of rows.

    Rows keep their order. An id that the model does not know is predicted as a typical one.
    """
    model = model_store.load_model(storage.normal(model_uri))
    files = ratings.list_parquet(storage.normal(pairs_uri), what="pairs")
    for file in files:
        with storage.explained(file.uri):
            schema = pl.scan_parquet(file.uri, storage_options=storage.options(file.uri)).collect_schema()
        missing = {"user_id", "movie_id"} - set(schema)
        if missing:
            raise InputError(
                f"pairs {file.uri}: has no column {sorted(missing)[0]!r} (got {', '.join(schema)}); rename it on export"
            )
    with storage.explained(pairs_uri):
        pairs = pl.concat(
            [pl.read_parquet(file.uri, storage_options=storage.options(file.uri)) for file in files]
        )
    stars = predicted(model, users=pairs["user_id"], movies=pairs["movie_id"], device=device)
    storage.write_bytes(
        storage.normal(out_uri), parquet_bytes(pairs.with_columns(stars.alias("predicted_rating")))
    )
    return pairs.height


def predict_one(model_uri: str, user: str, movie: str, *, device: str = "auto") -> dict[str, Any]:
    """The predicted rating of one pair, and whether the model knows its ids."""
    model = model_store.load_model(storage.normal(model_uri))
    users = pl.Series([user]).cast(model.users["user_id"].dtype, strict=False)
    movies = pl.Series([movie]).cast(model.movies["movie_id"].dtype, strict=False)
    return {
        "user_id": user,
        "movie_id": movie,
        "predicted_rating": float(predicted(model, users=users, movies=movies, device=device)[0]),
        "user_known": bool(_user_rows(users, model)[0] >= 0),
        "movie_known": bool(_movie_rows(movies, model)[0] >= 0),
    }


def predicted(model: Model, *, users: pl.Series, movies: pl.Series, device: str = "auto") -> pl.Series:
    """Predicted ratings of pairs of outside ids, float32, in the order of the pairs."""
    on = resolve_device(device)
    network = model.to(on).network
    user_idx, movie_idx = _user_rows(users, model), _movie_rows(movies, model)
    return pl.Series(predict(network, user_idx.to(on), movie_idx.to(on)).cpu().numpy())


def user_list(output: str, user: str, *, run_date: date | None = None) -> UserList:
    """A user's list of the latest published night, or of one date, with titles where the movies table had them."""
    output = storage.normal(output)
    night = _published_night(output, run_date)
    uri = storage.join(output, tables.TOP_N.name)
    with storage.explained(uri):
        scan = pl.scan_delta(uri, storage_options=storage.options(uri))
        user_type = scan.collect_schema()["user_id"]
        wanted = pl.Series([user]).cast(user_type, strict=False)[0]
        frame = (
            scan.filter((pl.col(tables.RUN_DATE) == night["run_date"]) & (pl.col("user_id") == wanted))
            .sort("rank")
            .collect()
        )
    if frame.is_empty():
        raise InputError(
            f"user {user}: has no list of {night['run_date']} in {uri}; lists are made for the users of the ratings and users tables"
        )
    titles_uri = storage.join(night["model_uri"], "movies.parquet")
    movies = pl.read_parquet(io.BytesIO(storage.read_bytes(titles_uri)))
    return UserList(wanted, night["run_date"], frame["source"][0], _with_titles(frame, movies))


def fold_in(
    output: str, ratings_of: str, *, user: str | None = None, run_date: date | None = None
) -> UserList:
    """The list of a user who arrived, or rated more, after the night: its model, these ratings, no training.

    ratings_of: URI of a .csv or Parquet file as `one_user.read` takes it. With exactly the ratings that the night
    had of a user, the list is the published one.
    """
    night = _published_night(storage.normal(output), run_date)
    model = model_store.load_model(night["model_uri"])
    one = new_user.read(ratings_of, user=user, config=model.config, model=model)
    known, unknown = new_user.known_movies(one, model)
    alone = new_user.model_of(one, known, model)
    batch = next(lists.best(lists.ask(alone, known, users=range(1)), n=model.config.top_n))
    frame = lists.rows(batch, alone, alone.users["user_id"])
    source = frame["source"][0] if frame.height else tables.SOURCE_MODEL
    return UserList(one.user, night["run_date"], source, _with_titles(frame, model.movies), tuple(unknown))


def _with_titles(frame: pl.DataFrame, movies: pl.DataFrame) -> pl.DataFrame:
    """A list's columns for people, with titles where the movies table had them."""
    if "title" in movies.columns:
        frame = frame.join(
            movies.select("movie_id", "title"), on="movie_id", how="left", maintain_order="left"
        )
    columns = ("rank", "movie_id", "title", "score", "predicted_rating")
    return frame.select(name for name in columns if name in frame.columns)


def _published_night(output: str, run_date: date | None) -> dict[str, Any]:
    runs = delta.open_table(output, tables.RUNS.name)
    if runs is None:
        raise InputError(
            f"output {output}: no night has been published there; run `cfjobs nightly` first or check the URI"
        )
    uri = storage.join(output, tables.RUNS.name)
    with storage.explained(uri):
        nights = (
            pl.scan_delta(uri, storage_options=storage.options(uri))
            .select("run_date", "run_id", "model_uri")
            .collect()
        )
    chosen = nights.filter(pl.col("run_date") == run_date) if run_date else nights.sort("run_date").tail(1)
    if chosen.is_empty():
        raise InputError(
            f"output {output}: no night of {run_date} is published; there are {', '.join(str(d) for d in nights['run_date'].sort())}"
        )
    return chosen.row(0, named=True)


def _user_rows(ids: pl.Series, model: Model) -> torch.Tensor:
    return _rows(ids, model.users["user_id"], model.users["n_ratings"].to_numpy() > 0)


def _movie_rows(ids: pl.Series, model: Model) -> torch.Tensor:
    return _rows(ids, model.movies["movie_id"], model.knows_movies())


def _rows(ids: pl.Series, known: pl.Series, usable: NDArray[np.bool_]) -> torch.Tensor:
    """Rows [R] int64 of outside ids; -1 for one that the model cannot tell from any other."""
    idx = torch.tensor(ratings.rows_of(ids, known), dtype=torch.int64)
    return torch.where((idx >= 0) & torch.tensor(usable)[idx.clamp(min=0)], idx, -1)
