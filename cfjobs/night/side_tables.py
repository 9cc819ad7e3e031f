"""The tables beside `top_n`: what the model learnt, how it was measured, and what was set aside.

Each function writes the night's rows of one table, in parts of bounded size, and reads them back;
no commit names them yet (`publish.py`).
"""

import logging
import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import asdict, fields
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
from deltalake.exceptions import DeltaError
from numpy.typing import NDArray

from cfjobs import storage, tables
from cfjobs.compiled import counted
from cfjobs.errors import CfjobsError, DamagedFile, InputError
from cfjobs.evaluation import interpret
from cfjobs.evaluation.bootstrap import ALL
from cfjobs.evaluation.character import Traits
from cfjobs.evaluation.genres import genre_matrix
from cfjobs.evaluation.metrics import Measure
from cfjobs.model_store.files import Model
from cfjobs.models.network import DotScores
from cfjobs.night.records import Described, Night, Prepared, Written
from cfjobs.night.score import listable
from cfjobs.ratings import catalogue
from cfjobs.storage.faults import first_line
from cfjobs.storage.parquet import parquet_bytes
from cfjobs.tables import delta, runs
from cfjobs.tables.parts import Part, Ready, is_whole, write_part
from cfjobs.tables.runs import LastNight, Source
from cfjobs.tables.schema import OF_PUBLISHED
from cfjobs.topn.problem import NO_MOVIE

log = logging.getLogger(__name__)

PART_ROWS = 1_000_000


def keep_measures(
    night: Night,
    measures: list[Measure],
    *,
    held_out: pl.DataFrame,
    training: pl.DataFrame,
    predicted: NDArray[np.float32] | None,
) -> None:
    """Leave what was measured in the work folder, for publishing.

    held_out, training: ratings with user_idx, movie_idx, rating, timestamp. predicted [R]:
    for the held-out ones; None for implicit feedback, which has no rating either.
    """
    rows = pl.DataFrame(
        [asdict(row) for row in measures], schema=[field.name for field in fields(Measure)], orient="row"
    )
    night.write("measures.parquet", parquet_bytes(rows))
    users = held_out["user_idx"].to_numpy()
    n_users = 1 + int(max(training["user_idx"].max() or 0, users.max(initial=-1)))
    activity = counted(training["user_idx"].to_numpy(), n_users)
    stars = pl.Series("predicted_rating", [None] * users.size if predicted is None else predicted, pl.Float32)
    frame = held_out.with_columns(stars, pl.Series("user_ratings", activity[users]))
    if predicted is None:
        frame = frame.with_columns(pl.lit(None, pl.Float32).alias("rating"))
    night.write("predicted.parquet", parquet_bytes(frame))


def write_all(night: Night, model: Model) -> list[Ready]:
    """Every table beside `top_n` but `runs`. What a killed run had finished is taken from its record."""
    done = night.load("written", Written)
    schemas = {table: _schema(table, model) for table in _WRITERS} | {tables.MOVIES: movies_schema(night)}
    found = [_whole(night, done, table, schema) if done else None for table, schema in schemas.items()]
    ready = [ready or write(night, model) for ready, write in zip(found, _WRITERS.values(), strict=True)]
    if None in found:
        parts = {one.table.name: [asdict(part) for part in one.parts] for one in ready}
        night.done("written", Written(tables=parts))
    return ready


def _whole(night: Night, done: Written, table: tables.Table, schema: pa.Schema) -> Ready | None:
    """What a record says was written, if it is all there."""
    parts = tuple(Part(**part) for part in done.tables.get(table.name, ()))
    if table.name not in done.tables or not all(is_whole(night.output, table, part) for part in parts):
        log.warning(
            "%s of %s: is not there as it was written, so it is written again", table.name, night.run_date
        )
        return None
    return Ready(table, schema, parts)


def users_ready(night: Night) -> Ready:
    """`users`, which `check` has written while it read the lists."""
    described = night.load("described", Described) or Described()
    parts = tuple(Part(**part) for part in described.users or ())
    for part in parts:
        if not is_whole(night.output, tables.USERS, part):
            raise DamagedFile(f"{part.path}: is gone or cut off; nothing was published, run the night again")
    return Ready(tables.USERS, schema_of(night, tables.USERS), parts)


def write_movies(night: Night, model: Model) -> Ready:
    """`movies`: what `check` counted and which may be listed, beside the columns of the input."""
    movies, told = night.frame("movies"), night.frame("reach")
    described, schema = input_columns(night.output, movies), movies_schema(night)
    before = _reach_before(night, movies["movie_id"].dtype)
    reach_change = pl.lit(None, pl.Float64)
    frame = movies.select("movie_id", _title(movies)).hstack(told)
    if before is not None:
        frame = frame.join(before, on="movie_id", how="left", maintain_order="left")
        reach_change = pl.col("reach") - pl.col("reach_before")
    prepared = night.load("prepared", Prepared)
    may = [None] * frame.height if prepared is None else listable(night, prepared, model)
    frame = frame.with_columns(reach_change.alias("reach_change"), pl.Series("listable", may, pl.Boolean))
    frame = frame.hstack(described)
    return write_table(night, tables.MOVIES, schema, frame.iter_slices(PART_ROWS))


def _reach_before(night: Night, id_type: pl.DataType) -> pl.DataFrame | None:
    """movie_id, reach_before of the last night's table; None where there is none."""
    last = runs.last(night.output, before=night.run_date)
    found = rows_of_last(night.output, last, tables.MOVIES, ["movie_id", "reach"])
    if found is None or found["movie_id"].dtype != id_type:
        return None
    return found.rename({"reach": "reach_before"})


def rows_of_last(
    output: str, last: LastNight | None, table: tables.Table, columns: list[str]
) -> pl.DataFrame | None:
    """The last night's rows of a table, for what compares with them; None where there are none to read: a
    night does not fail for one of before."""
    source = Source(output, dict(last.row)) if last else None
    if source is None or source.version(table) is None:
        return None
    try:
        return source.scan(table).select(columns).collect()
    except (CfjobsError, pl.exceptions.PolarsError, OSError, DeltaError) as error:
        log.warning("nothing is compared with last night's %s: %s", table.name, first_line(error))
        return None


def input_columns(output: str, movies: pl.DataFrame) -> pl.DataFrame:
    """The columns of the input movies table as `movies` publishes them: names that Delta takes, types that
    it has.

    InputError for a column that is published with another type, which its values do not fit.
    """
    found = catalogue.publishable(movies, taken=[column.name for column in tables.MOVIES.columns])
    existing = delta.open_table(output, tables.MOVIES.name)
    if existing is None:
        return found
    published = pl.DataFrame(pa.schema(delta.columns(existing)).empty_table()).schema
    for name in found.columns:
        kind = published.get(name, found.schema[name])
        if kind == found.schema[name]:
            continue
        try:
            fitted = found[name].cast(kind)
            if found.schema[name].is_float() and not fitted.cast(pl.Float64).equals(found[name]):
                raise pl.exceptions.InvalidOperationError("a fraction would be cut off")
            found = found.with_columns(fitted)
        except pl.exceptions.PolarsError as error:
            raise InputError(
                f"movies: column {name!r} is {found.schema[name]}, and {kind} in the published table {tables.MOVIES.name}, "
                "whose columns keep their types; cast it on export, or give it another name"
            ) from error
    return found


def movies_schema(night: Night) -> pa.Schema:
    """The schema of `movies` for tonight's input columns."""
    schema = schema_of(night, tables.MOVIES)
    described = input_columns(night.output, night.frame("movies"))
    for name, kind in described.schema.items():
        schema = schema.append(pa.field(name, catalogue.arrow_type(kind)))
    return schema


def schema_of(night: Night, table: tables.Table) -> pa.Schema:
    """The schema of a table for the ids of the night."""
    arrow = {True: pa.string(), False: pa.int64()}
    user_type, movie_type = (
        arrow[night.frame(name, [f"{name[:-1]}_id"]).to_series().dtype == pl.String]
        for name in ("users", "movies")
    )
    return table.schema(user_type=user_type, movie_type=movie_type)


def traits(model: Model) -> Traits:
    """What is known of the movies, for the figures of their lists."""
    return Traits.of(movie_vectors(model), genre_matrix(model.movies))


def write_embeddings(night: Night, model: Model) -> Ready:
    """`movie_embeddings`: one row for each movie that the model knows."""
    rows = _known_rows(model)
    movies = model.movies[rows]
    vectors, bias = movie_vectors(model)[rows], movie_bias(model)
    places = interpret.principal_components(vectors, weight=np.sqrt(movies["n_ratings"].to_numpy()))
    frame = movies.select(
        pl.lit(night.run_date).alias(tables.RUN_DATE), "movie_id", _title(movies), "n_ratings"
    ).with_columns(
        pl.Series("bias", [None] * rows.size if bias is None else bias[rows], pl.Float32),
        pl.Series("vector", vectors, dtype=pl.Array(pl.Float32, vectors.shape[1])).cast(pl.List(pl.Float32)),
        pl.Series("pc1", places[:, 0]),
        pl.Series("pc2", places[:, 1]),
    )
    schema = _schema(tables.MOVIE_EMBEDDINGS, model)
    return write_table(night, tables.MOVIE_EMBEDDINGS, schema, iter([frame.drop(tables.RUN_DATE)]))


def write_similar(night: Night, model: Model) -> Ready:
    """`similar_movies`: the nearest movies of each movie with enough ratings."""
    rows = _known_rows(model)
    ids = model.movies["movie_id"][rows]
    candidates = model.movies["n_ratings"].to_numpy()[rows] >= night.config.similar_min_ratings
    schema = _schema(tables.SIMILAR_MOVIES, model)

    def blocks() -> Iterator[pl.DataFrame]:
        n, of = min(interpret.N_SIMILAR, len(rows)), np.flatnonzero(candidates)
        for lists in interpret.similar_movies(movie_vectors(model)[rows], candidates=candidates, of=of, n=n):
            place, column = np.nonzero(lists.movie_idx != NO_MOVIE)
            yield pl.DataFrame(
                {
                    "movie_id": ids[of[place + lists.first_user]],
                    "rank": (column + 1).astype(np.int16),
                    "similar_movie_id": ids[lists.movie_idx[place, column]],
                    "cosine": lists.score[place, column],
                }
            )

    return write_table(night, tables.SIMILAR_MOVIES, schema, blocks())


def write_holdout(night: Night, model: Model) -> Ready:
    """`holdout_predictions`: what `keep_measures` left, with outside ids."""
    schema = _schema(tables.HOLDOUT_PREDICTIONS, model)

    def blocks() -> Iterator[pl.DataFrame]:
        if not _there(night, "predicted"):
            return
        frame, timed = night.frame("predicted"), _is_timed(night)
        users, movies = night.frame("users", ["user_id"]), night.frame("movies", ["movie_id"])
        for part in frame.iter_slices(PART_ROWS):
            yield part.select(
                users["user_id"][part["user_idx"]].alias("user_id"),
                movies["movie_id"][part["movie_idx"]].alias("movie_id"),
                "rating",
                "predicted_rating",
                (pl.col("rating") - pl.col("predicted_rating")).alias("residual"),
                pl.when(timed).then(pl.col("timestamp")).dt.replace_time_zone("UTC").alias("rated_at"),
                pl.col("user_ratings").cast(pl.Int64),
            )

    return write_table(night, tables.HOLDOUT_PREDICTIONS, schema, blocks())


def write_metrics(night: Night, _model: Model) -> Ready:
    """`metrics`: one row a metric and band, and one for each figure of the published lists,
    beside the measured lists'."""
    schema = plain_schema(tables.METRICS)
    if not _there(night, "measures"):
        return write_table(night, tables.METRICS, schema, iter([]))
    told = night.load("described", Described) or Described()
    frame = night.frame("measures")
    every = [frame, pl.DataFrame(told.churns, schema=frame.schema)]
    if told.figures:
        of_all = frame.filter(pl.col("metric").is_in(list(told.figures)), band=ALL)
        published = of_all.with_columns(
            pl.col("metric") + OF_PUBLISHED,
            pl.col("metric").replace_strict(told.figures, return_dtype=pl.Float64).alias("value"),
            pl.col("value").alias("baseline"),
            pl.lit(None, pl.Float64).alias("low"),
            pl.lit(None, pl.Float64).alias("high"),
        )
        every.insert(1, published.select(frame.columns))
    return write_table(night, tables.METRICS, schema, iter([_with_last_night(night, pl.concat(every))]))


def _with_last_night(night: Night, frame: pl.DataFrame) -> pl.DataFrame:
    """Rows of `metrics` beside the same of the last night."""
    last = runs.last(night.output, before=night.run_date)
    before = rows_of_last(night.output, last, tables.METRICS, ["metric", "band", "value"])
    if before is None:
        return frame.with_columns(pl.lit(None, pl.Float64).alias("last_night"))
    before = before.rename({"value": "last_night"})
    return frame.join(before, on=["metric", "band"], how="left", maintain_order="left")


def write_rejected(night: Night, _model: Model) -> Ready:
    """`rejected_ratings`: the rows that were set aside."""
    return write_table(night, tables.REJECTED, plain_schema(tables.REJECTED), iter([night.frame("rejected")]))


_WRITERS: dict[tables.Table, Callable[[Night, Model], Ready]] = {
    tables.MOVIES: write_movies,
    tables.MOVIE_EMBEDDINGS: write_embeddings,
    tables.SIMILAR_MOVIES: write_similar,
    tables.HOLDOUT_PREDICTIONS: write_holdout,
    tables.METRICS: write_metrics,
    tables.REJECTED: write_rejected,
}


def movie_vectors(model: Model) -> NDArray[np.float32]:
    """The movies' embeddings [M, D] in the rating network: taste,
    not who watched what when (docs/decisions); of implicit feedback in the ranking network."""
    if model.stars is None and model.ranking is not None:
        ranked: NDArray[np.float32] = model.ranking.movie_vectors.float().cpu().numpy()
        return ranked
    vectors: NDArray[np.float32] = model.network.scores().movie.float().cpu().numpy()
    return vectors


def movie_bias(model: Model) -> NDArray[np.float32] | None:
    """The movies' biases [M] in the rating network; 0 in a network without them, None without a network."""
    if model.stars is None:
        return None
    scores = model.network.scores()
    if not isinstance(scores, DotScores):
        return np.zeros(scores.movie.shape[0], dtype=np.float32)
    bias: NDArray[np.float32] = scores.bias.float().cpu().numpy()
    return bias


def git_commit() -> str | None:
    """The commit of the running code: CFJOBS_GIT_COMMIT, or that of the checkout it runs from;
    None for neither."""
    if named := os.environ.get("CFJOBS_GIT_COMMIT"):
        return named
    root = Path(__file__).parent.parent
    if not (root / ".git").exists():
        return None
    try:
        asked = subprocess.run(
            ["git", "-C", str(root), "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            check=False,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return asked.stdout.strip() or None


def _title(movies: pl.DataFrame) -> pl.Expr:
    title = pl.col("title").cast(pl.String) if "title" in movies.columns else pl.lit(None, pl.String)
    return title.alias("title")


def _known_rows(model: Model) -> NDArray[np.int64]:
    rows: NDArray[np.int64] = np.flatnonzero(model.knows_movies())
    return rows


def _is_timed(night: Night) -> bool:
    prepared = night.load("prepared", Prepared)
    return prepared is None or prepared.timed


def _there(night: Night, name: str) -> bool:
    return storage.exists(storage.join(night.work, f"{name}.parquet"))


def write_table(
    night: Night, table: tables.Table, schema: pa.Schema, blocks: Iterator[pl.DataFrame]
) -> Ready:
    """Write frames without the date as the night's rows of a table, in parts of about PART_ROWS rows."""
    in_file = schema.remove(schema.get_field_index(tables.RUN_DATE))
    parts = []
    for number, rows in enumerate(_gathered(blocks)):
        name = f"{night.run_id}-{number:05d}"
        columns = rows.select(in_file.names).to_arrow().cast(in_file)
        parts.append(write_part(night.output, table, columns, run_date=night.run_date, name=name))
    return Ready(table, schema, tuple(parts))


def _gathered(blocks: Iterator[pl.DataFrame]) -> Iterator[pl.DataFrame]:
    waiting: list[pl.DataFrame] = []
    for block in blocks:
        waiting.append(block)
        if sum(frame.height for frame in waiting) >= PART_ROWS:
            yield pl.concat(waiting)
            waiting = []
    if waiting and any(frame.height for frame in waiting):
        yield pl.concat(waiting)


def _schema(table: tables.Table, model: Model) -> pa.Schema:
    arrow = {True: pa.string(), False: pa.int64()}
    return table.schema(
        user_type=arrow[model.users["user_id"].dtype == pl.String],
        movie_type=arrow[model.movies["movie_id"].dtype == pl.String],
    )


def plain_schema(table: tables.Table) -> pa.Schema:
    """The schema of a table without outside ids."""
    return table.schema(user_type=pa.string(), movie_type=pa.string())
