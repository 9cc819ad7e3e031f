"""One user's ratings from a file, and the model with that user as its only one,
so that a list is made as any other."""

import io
import json
import logging
from dataclasses import dataclass, replace
from datetime import date
from typing import Any

import polars as pl
import torch

from cfjobs import lists, model_store, models, ratings, storage, tables
from cfjobs.config import Config
from cfjobs.errors import InputError
from cfjobs.model_store.files import Model
from cfjobs.query import listable
from cfjobs.query.lookup import UserList, for_people
from cfjobs.ratings import id_table, names, validate
from cfjobs.storage.faults import first_line
from cfjobs.tables.runs import night_of
from cfjobs.training import fold_in

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class OneUser:
    """One user's ratings. user: their id where it was given. frame: movie_id, rating, the latest last, a
    movie once. timed: whether the file had times."""

    user: str | int | None
    frame: pl.DataFrame
    timed: bool = True


def list_of(
    output: str, ratings_of: str, *, user: str | None = None, run_date: date | None = None
) -> UserList:
    """The list of a user who arrived, or rated more, after the night: its model, these ratings, its rules, no
    training.

    ratings_of: URI of a .csv or Parquet file as `read` takes it. With exactly the ratings that the night
    had of a user, the list is the published one.
    """
    night = night_of(output, run_date)
    model = model_store.load_model(night.run["model_uri"])
    one = read(ratings_of, user=user, config=model.config, model=model)
    known, unknown = known_movies(one, model)
    alone = model_of(one, known, model)
    settings = json.loads(night.run["config"])
    limits = lists.Limits(
        listed=listable.of_night(night, model),
        min_score=settings.get("min_score"),
        rules=listable.rules_of_night(night, model),
    )
    request = lists.request_of(alone, known, users=range(1), limits=limits)
    batch = next(lists.best(request, n=settings.get("top_n", model.config.top_n)))
    frame = lists.rows(batch, alone, alone.users["user_id"])
    source = frame["source"][0] if frame.height else tables.SOURCE_MODEL
    return UserList(
        one.user, night.run["run_date"], source, for_people(_titled(frame, model.movies)), tuple(unknown)
    )


def _titled(frame: pl.DataFrame, movies: pl.DataFrame) -> list[dict[str, Any]]:
    """The rows of a list, with titles and genres where the movies have them."""
    known = [name for name in ("title", "genres") if name in movies.columns]
    if known:
        frame = frame.join(
            movies.select("movie_id", *known), on="movie_id", how="left", maintain_order="left"
        )
    return frame.to_dicts()


_COLUMNS = ("user_column", "movie_column", "rating_column", "timestamp_column")


def read(uri: str, *, user: str | None = None, config: Config, model: Model) -> OneUser:
    """Ratings of one user from a .csv or Parquet file: movie, rating (unless the model learnt from implicit
    feedback) and, where the file has them, timestamp and user.

    Without timestamps the file is taken as oldest first where a movie is rated twice. The latest rating of a
    movie stands. Columns are named as the configuration says, or as people do. InputError for what is not the
    ratings of one user.
    """
    table = _read(storage.normal(uri), config)
    movie, rating, timestamp = config.movie_column, config.rating_column, config.timestamp_column
    needed = (movie,) if model.stars is None else (movie, rating)
    if missing := [name for name in needed if name not in table.columns]:
        raise InputError(
            f"ratings of one user, {uri}: has no column {missing[0]!r} (got {', '.join(table.columns)}); rename it on export"
        )
    frame = table.select(
        id_table.as_ids(table[movie], model.movies["movie_id"].dtype).alias("movie_id"),
        id_table.as_ids(table[movie], pl.String()).alias("movie"),
        pl.lit(1.0, pl.Float32).alias("rating")
        if model.stars is None
        else pl.col(rating).cast(pl.Float32, strict=False).alias("rating"),
        _moment(table, timestamp, uri).alias("timestamp"),
    )
    _check_rows(frame, uri, y_range=model.stars.settings.y_range if model.stars else (0.0, 1.0))
    # As in the night: the latest of a movie stands; then by time, and within it by movie.
    frame = frame.sort("timestamp", maintain_order=True).unique("movie", keep="last", maintain_order=True)
    timed = timestamp is not None and timestamp in table.columns
    if timed:
        frame = frame.sort("timestamp", "movie_id", nulls_last=True, maintain_order=True)
    columns = frame.select("movie_id", "movie", "rating")
    return OneUser(_user(table, user, config, model, uri), columns, timed=timed)


def known_movies(one: OneUser, model: Model) -> tuple[pl.DataFrame, list[str]]:
    """(user_idx 0, movie_idx, rating of the movies that the model has; the ids of those that it has not)."""
    rows = ratings.rows_of(one.frame["movie_id"], model.movies["movie_id"])
    frame = one.frame.with_columns(pl.lit(0, pl.Int32).alias("user_idx"), pl.Series("movie_idx", rows))
    known = frame.filter(pl.col("movie_idx") >= 0).select("user_idx", "movie_idx", "rating")
    return known, frame.filter(pl.col("movie_idx") < 0)["movie"].to_list()


def model_of(one: OneUser, known: pl.DataFrame, model: Model) -> Model:
    """The model with this user as its only one, row 0; the movies are the model's.

    The ranking network reads the history as it is; without times it is the one that asks for no order. The
    rating network's row is the trained one when the file has as many ratings as the model was trained on for
    this user, so that nothing is new; otherwise it is folded in.
    """
    name = model.config.model
    users = pl.DataFrame(
        {
            "user_id": pl.Series([one.user], dtype=model.users["user_id"].dtype, strict=False),
            "n_ratings": [known.height],
        }
    )
    ranking = model.ranking if one.timed or model.profile is None else model.profile
    if model.stars is None:
        return replace(model, ranking=ranking, users=users)
    row = _trained_row(one, known, model)
    if row is not None:
        network = fold_in.only_user(model.network, name, row)
    else:
        network = fold_in.network_of_one(
            model.network,
            name,
            movie_idx=torch.from_numpy(known["movie_idx"].cast(pl.Int64).to_numpy(writable=True)),
            rating=torch.from_numpy(known["rating"].to_numpy(writable=True)),
            l2=models.recipe_of(model.config).l2,
        )
    return replace(model, stars=network, ranking=ranking, users=users)


def _trained_row(one: OneUser, known: pl.DataFrame, model: Model) -> int | None:
    if one.user is None:
        return None
    found = model.users.with_row_index("row").filter(pl.col("user_id") == one.user)
    if found.is_empty() or found["n_ratings"][0] != known.height:
        return None
    return int(found["row"][0])


def _read(uri: str, config: Config) -> pl.DataFrame:
    """The file's rows, ids as Int64 or text, types checked."""
    about = f"ratings of one user, {uri}"
    keys = {name: column for name in _COLUMNS if (column := getattr(config, name)) is not None}
    movie = config.movie_column
    if not uri.lower().endswith(".csv"):
        if storage.exists(uri) and (begin := storage.read_range(uri, 0, 4)) != b"PAR1":
            raise InputError(
                f"{about}: is neither a .csv with a header nor a Parquet file (begins with {begin!r})"
            )
        uri = ratings.pinned(uri, what="ratings of one user,")
        table = id_table.read(uri, what="ratings of one user,", keys={"movie_column": movie}, others=True)
    else:
        data = storage.read_bytes(uri)
        try:
            header = pl.read_csv(io.BytesIO(data), n_rows=0).columns
            ids = {config.user_column, movie}
            other = names.renaming(header, keys)
            as_text = [name for name in header if other.get(name, name) in ids]  # 007 is not 7
            table = pl.read_csv(
                io.BytesIO(data),
                infer_schema_length=None,
                try_parse_dates=True,
                schema_overrides=dict.fromkeys(as_text, pl.String),
            )
        except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
            raise InputError(f"{about}: is no CSV with a header ({first_line(error)}); mend it") from error
        table = table.filter(~pl.all_horizontal(pl.all().is_null()))
    if renamed := names.renaming(table.columns, keys):
        log.info("ratings of one user: %s", names.words_of(renamed))
    table = table.rename(renamed)
    for setting in ("user_column", "rating_column"):
        name = getattr(config, setting)
        if name in table.columns and not (table.schema[name] == pl.String and setting == "rating_column"):
            validate.check_type(table.schema[name], setting, column=name, file=about)
    return table


def _moment(table: pl.DataFrame, column: str | None, uri: str) -> pl.Expr:
    """When: the file's timestamps, or the number of the row where it has none."""
    if column is None or column not in table.columns:
        return pl.int_range(pl.len()).cast(pl.Datetime("us"))
    dtype = table.schema[column]
    if not (dtype.is_numeric() or isinstance(dtype, pl.Datetime) or dtype == pl.Date):
        raise InputError(
            f"ratings of one user, {uri}: {column!r} is {dtype}, expected a datetime or seconds since 1970; mend it, or leave the column out"
        )
    return validate.utc_microseconds(pl.col(column), dtype).cast(pl.Datetime("us"))


def _check_rows(frame: pl.DataFrame, uri: str, *, y_range: tuple[float, float]) -> None:
    low, high = y_range
    fine = pl.col("rating").is_between(low, high) & pl.all_horizontal(
        pl.col("movie", "timestamp").is_not_null()
    )
    bad = frame.with_row_index("row").filter(~fine.fill_null(False))
    if not bad.is_empty():
        row: dict[str, Any] = bad.row(0, named=True)
        raise InputError(
            f"ratings of one user, {uri}: row {row['row']} has movie {row['movie']!r}, rating {row['rating']}, timestamp {row['timestamp']}; "
            f"expected an id, a number from {low:g} to {high:g}, and a time; mend the file"
        )


def _user(table: pl.DataFrame, user: str | None, config: Config, model: Model, uri: str) -> str | int | None:
    dtype = model.users["user_id"].dtype
    if config.user_column in table.columns:
        in_file = id_table.as_ids(table[config.user_column], dtype).unique()
        if in_file.len() > 1:
            raise InputError(
                f"ratings of one user, {uri}: holds those of {in_file.len()} users; keep the rows of one"
            )
        if user is None and in_file.len():
            return in_file[0]  # type: ignore[no-any-return]  # an id
    return None if user is None else pl.Series([user]).cast(dtype, strict=False)[0]
