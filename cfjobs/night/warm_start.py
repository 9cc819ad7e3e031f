"""The model that a training goes on from: the last published one, or for the refit tonight's measured one.

With `steady` the refit goes on from the last published model, where there is one that fits and has seen most
of tonight's ratings: users whose ratings did not change then keep their lists.

A model that is to be measured must not have seen tonight's holdout, and the published one, fitted again on
all ratings, has. So with `warm_start` a night keeps two models, and each is the start of its like:

    models/RUN/            published, fitted on all ratings         ->  tonight's refit
    models/RUN/measured/   fitted on the ratings before the holdout ->  tonight's measured training

`trained_until.parquet` beside the second names each user's last rating that it has seen; where more than one
held-out rating in a hundred lies before it, as with random holdouts, the training starts cold.
"""

import io
import logging
from dataclasses import replace

import polars as pl
import torch

from cfjobs import model_store, models, ratings, storage, tables
from cfjobs.errors import DamagedFile, InputError
from cfjobs.model_store.files import Model
from cfjobs.models.network import Network
from cfjobs.models.ranker import RankingModel
from cfjobs.night.records import Night, On, Prepared, Trained
from cfjobs.ratings.catalogue import NOT_DESCRIBED
from cfjobs.storage.parquet import parquet_bytes
from cfjobs.tables import delta
from cfjobs.training.warm_start import (
    COLD,
    OF_ANOTHER_NIGHT,
    OF_TONIGHT,
    Keep,
    Start,
    carry_over,
    carry_over_ranking,
)

log = logging.getLogger(__name__)

_UNTIL = "trained_until"
_MAX_LEAKED = 0.01
_LEAST_SEEN = 0.9  # of the ratings: small steps learn little anew
_DOES_NOT_FIT = (ValueError, KeyError, TypeError, DamagedFile, pl.exceptions.PolarsError)
_SHAPE = ("n_factors", "hidden", "y_range", "y_padding", "ensemble")


def start_of(night: Night, prepared: Prepared, *, on: On, valid: pl.DataFrame) -> Start:
    """Where a training of the night begins: the refit from the last published model with `steady`, or from
    the measured one with `warm_refit`; any from the last published model with `warm_start`, else cold.

    valid: the held-out ratings, user_idx, movie_idx, timestamp. A model that does not fit is a reason to
    start cold, which is logged; a store that does not answer raises StorageFault.
    """
    measured = night.load("trained-train", Trained)
    if on == "all" and night.config.warm_refit and measured is not None:
        return _of_last_night(night, prepared) or _of_measured(measured.model_uri, night, prepared)
    if not night.config.warm_start:
        return COLD
    try:
        uri = _earlier(night, held_out=bool(on == "train" and valid.height))
        if on == "train" and valid.height:
            _check_unseen(uri, night, valid)
        start = _start(model_store.load_model(uri), uri, night, prepared, keep=OF_ANOTHER_NIGHT)
    except _DOES_NOT_FIT as reason:
        log.warning("cold start: %s", reason)
        return COLD
    log.info("warm start from %s", uri)
    return start


def _of_last_night(night: Night, prepared: Prepared) -> Start | None:
    """The refit's beginning: the last published model of an earlier date; None, and the log says why,
    without a fitting one."""
    if not night.config.steady:
        return None
    try:
        uri = _earlier(night, held_out=False, same_date=False)
        model = model_store.load_model(uri)
        seen, now = int(model.users["n_ratings"].sum()), prepared.counts["kept"]
        if seen < _LEAST_SEEN * now:
            raise ValueError(f"{uri} has seen {seen:,} ratings, tonight's are {now:,}")
        start = _start(model, uri, night, prepared, keep=OF_ANOTHER_NIGHT)
    except _DOES_NOT_FIT as reason:
        log.info("the refit does not go on from last night's model: %s", reason)
        return None
    log.info("the refit goes on from %s", uri)
    return start


def _of_measured(uri: str, night: Night, prepared: Prepared) -> Start:
    """The refit's beginning: the model of this night that the holdout has measured."""
    config = night.config
    if config.movie_features or config.user_features:
        log.info("the refit begins anew: side features are part of a model's rows")
        return COLD
    start = _start(model_store.load_model(uri), uri, night, prepared, keep=OF_TONIGHT)
    return replace(start, model_uri=None)


def measured_uri(night: Night) -> str:
    """Where a night that may be gone on from keeps the model that it measured."""
    return storage.join(night.output, "models", night.run_id, "measured")


def keep_until(uri: str, night: Night, kept: pl.DataFrame) -> None:
    """Write beside a model what each user's last rating was that it has seen. kept:
    its training ratings, sorted by user and time."""
    last = kept.group_by("user_idx", maintain_order=True).last()
    frame = _with_ids(night, last).select("user_id", "timestamp", "movie_id")
    storage.write_bytes(storage.join(uri, f"{_UNTIL}.parquet"), parquet_bytes(frame))


def _earlier(night: Night, *, held_out: bool, same_date: bool = True) -> str:
    """The model of the last night published up to this one's date, or before it.
    Raises ValueError when there is none."""
    runs = delta.open_table(night.output, tables.RUNS.name)
    if runs is None:
        raise ValueError(f"{night.output} has no published night")
    uri = storage.join(night.output, tables.RUNS.name)
    with storage.explained(uri):
        scan = pl.scan_delta(uri, storage_options=storage.options(uri))
        until = pl.col("run_date") <= night.run_date if same_date else pl.col("run_date") < night.run_date
        nights = scan.select("run_date", "model_uri").filter(until).collect()
    if nights.is_empty():
        raise ValueError(
            f"{night.output} has no night published {'up to' if same_date else 'before'} {night.run_date}"
        )
    published = str(nights.sort("run_date")["model_uri"][-1])
    if not held_out:
        return published
    for uri in (storage.join(published, "measured"), published):
        if storage.exists(storage.join(uri, f"{_UNTIL}.parquet")):
            return uri
    raise ValueError(f"{published} keeps no model that has not seen the holdout; nights with warm_start do")


def _check_unseen(uri: str, night: Night, valid: pl.DataFrame) -> None:
    """ValueError when the model has seen too many of tonight's held-out ratings."""
    data = storage.read_bytes(storage.join(uri, f"{_UNTIL}.parquet"))
    until = pl.read_parquet(io.BytesIO(data)).rename({"timestamp": "until", "movie_id": "until_movie"})
    both = _with_ids(night, valid).join(until, on="user_id", how="inner")
    earlier = pl.col("timestamp") < pl.col("until")
    tied = (pl.col("timestamp") == pl.col("until")) & (pl.col("movie_id") <= pl.col("until_movie"))
    n_seen = both.filter(earlier | tied).height
    if n_seen > _MAX_LEAKED * valid.height:
        raise ValueError(f"{uri} may have seen {n_seen:,} of the {valid.height:,} held-out ratings")


def _start(model: Model, uri: str, night: Night, prepared: Prepared, *, keep: Keep) -> Start:
    _check_shape(model, night, prepared)
    user_rows = _rows(night.frame("users")["user_id"].head(prepared.n_users), model.users, "user_id")
    movie_rows = _rows(night.frame("movies")["movie_id"], model.movies, "movie_id")
    earlier = {} if model.stars is None else model.stars.state_dict() | model_store.load_unfinished(uri)
    if missing := set(model.stars.forgotten if model.stars else ()) - earlier.keys():
        raise ValueError(f"{uri} does not keep {', '.join(sorted(missing))}; nights with warm_start do")
    log.info(
        "of %d users %d are known, of %d movies %d",
        len(user_rows),
        int((user_rows >= 0).sum()),
        len(movie_rows),
        int((movie_rows >= 0).sum()),
    )

    def rating(network: Network) -> None:
        carry_over(network, earlier, user_rows=user_rows, movie_rows=movie_rows, keep=keep.rating)

    def ranking(initial: RankingModel) -> RankingModel:
        assert model.ranking is not None
        return carry_over_ranking(initial, model.ranking, movie_rows=movie_rows, keep=keep.ranking)

    of_rating = rating if model.stars else None
    of_ranking = ranking if model.ranking else None
    return Start(of_rating, of_ranking, uri, keep.pace, keep.passes)


def _check_shape(model: Model, night: Night, prepared: Prepared) -> None:
    """ValueError when the model is another network, or one of other sizes, than tonight's."""
    config = night.config
    if prepared.implicit != (model.stars is None):
        raise ValueError("the last model and tonight's are not both of ratings, or of implicit feedback")
    if model.config.model != config.model:
        raise ValueError(f"the last model is a {model.config.model}, tonight's a {config.model}")
    if config.movie_features or config.user_features or model.encodings != NOT_DESCRIBED:
        raise ValueError("a model with side features is not gone on from: they are part of its rows")
    tonight = models.settings(config, y_range=prepared.y_range)
    for name in _SHAPE if model.stars else ():
        before, now = getattr(model.network.settings, name), getattr(tonight, name)
        if before != now:
            raise ValueError(f"the last model has {name} {before}, tonight's {now}")
    if config.rank_by == "rating":
        return
    before, now = (model.ranking.config.n_factors if model.ranking else None), config.ranking_factors
    if before != now:
        raise ValueError(f"the last model has ranking_factors {before}, tonight's {now}")


def _rows(ids: pl.Series, known: pl.DataFrame, column: str) -> torch.Tensor:
    """The earlier row of each id, -1 for one that it had no ratings of."""
    if known[column].dtype != ids.dtype:
        raise InputError(f"the last model's {column} is {known[column].dtype}, tonight's {ids.dtype}")
    rows = torch.from_numpy(ratings.rows_of(ids, known[column]).astype("int64"))
    rated = torch.from_numpy(known["n_ratings"].to_numpy(writable=True) > 0)
    return torch.where((rows >= 0) & rated[rows.clamp(min=0)], rows, -1)


def _with_ids(night: Night, frame: pl.DataFrame) -> pl.DataFrame:
    users, movies = night.frame("users")["user_id"], night.frame("movies")["movie_id"]
    return frame.with_columns(
        users.gather(frame["user_idx"]).alias("user_id"), movies.gather(frame["movie_idx"]).alias("movie_id")
    )
