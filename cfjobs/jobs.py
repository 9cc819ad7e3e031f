"""The stages of a night: each joins I/O to computation, takes and returns small records, and can be run again.

    start -> prepare -> hold_out -> train -> evaluate -> gate -> train (refit) -> score -> publish -> report

A stage leaves its record in the night's work folder (`OUTPUT/_work/KEY`) when it is done. The key is made of
the inputs, the configuration and the date, so that a night that was killed is resumed by running it again:
stages and shards with a record are not computed twice. Publishing removes the folder.
"""

import hashlib
import json
import logging
import math
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict
from datetime import UTC, date, datetime, timedelta
from importlib.metadata import version
from typing import Any, Literal
from uuid import uuid4

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from cfjobs import (
    __version__,
    beside,
    candidates,
    catalogue,
    evaluate,
    fitting,
    lists,
    models,
    nights,
    page,
    previous,
    publish,
    ratings,
    saved,
    split,
    storage,
    tables,
    torchrun,
    train,
    usage,
)
from cfjobs.checking import check
from cfjobs.claim import COMMIT, Claim, claimed
from cfjobs.config import Config
from cfjobs.errors import GateRefused, InputError
from cfjobs.fitting import Progress
from cfjobs.gate import Comparison, comparisons, refusals
from cfjobs.night import Night, Prepared, Published, Scored, Trained
from cfjobs.processes import current, under_torchrun
from cfjobs.publish import Part
from cfjobs.saved import Model
from cfjobs.scoring import score, scored_already, shards, top_n_schema

log = logging.getLogger(__name__)

_LEARNT = ["user_idx", "movie_idx", "rating"]

__all__ = ["check", "score", "scored_already", "shards"]  # the stages of scoring, from `scoring`

# Start ----------------------------------------------------------------------------------------------


def start(
    *,
    ratings_uri: str,
    output: str,
    movies: str | None = None,
    users: str | None = None,
    model: str | None = None,
    run_date: date | None = None,
    config: Config | None = None,
    allow: str | None = None,
    deny: str | None = None,
    exclude: str | None = None,
    now: datetime | None = None,
) -> Night:
    """Check inputs, credentials and the output before anything costly.

    model: URI of an existing model to score or evaluate instead of training one. allow, deny: URIs of tables
    of movie_id, the movies that may be listed alone and those that must not. exclude: URI of a table of user_id,
    movie_id, pairs to leave out beside the seen ones. Raises InputError for whatever a user has to mend.
    """
    config = config or Config()
    models.recipe(config)
    now = now or datetime.now(UTC)
    run_date = run_date or now.date()
    train.resolve_device(config.device)
    uris = _sources(ratings_uri, movies, users)
    limits = {candidates.ALLOW: allow, candidates.DENY: deny, candidates.EXCLUDE: exclude}
    uris |= {what: storage.normal(uri) for what, uri in limits.items() if uri}
    if model is None:
        catalogue.check_tables(config, movies=uris.get("movies"), users=uris.get("users"))
    output = storage.normal(output)
    listings = {what: ratings.list_parquet(uri, what=what) for what, uri in uris.items()}
    storage.check_writable(output)
    inputs = [asdict(file) for what, files in listings.items() if what not in limits for file in files]
    inputs += [asdict(file) | {"as": what} for what in limits for file in listings.get(what, ())]
    model = storage.normal(model) if model else None
    key = _key(inputs, config, run_date, model)
    work = storage.join(output, "_work", f"{run_date.isoformat()}-{key}")
    night = Night(
        ratings=uris["ratings"],
        movies=uris.get("movies"),
        users=uris.get("users"),
        model=model,
        output=output,
        run_date=run_date,
        config=config,
        run_id=f"{run_date.isoformat()}-{uuid4().hex[:12]}",
        work=work,
        started_at=now,
        **{what: uris.get(what) for what in limits},
    )
    log.info(
        "run %s: %d rating files, %d bytes",
        night.run_id,
        len(listings["ratings"]),
        sum(f.size for f in listings["ratings"]),
    )
    return night


def claimed_night(night: Night) -> AbstractContextManager[Claim]:
    """Hold the claim of the night's date, so that one run at a time works on it. Raises Busy while another does.

    Check the claim before the commit.
    """
    return claimed(night.output, night.run_date.isoformat())


def resumed(night: Night) -> Night:
    """The run that was begun on an equal night and not finished, if there is one; this one otherwise."""
    begun = night.load("night", Night)
    if begun is None:
        return night
    log.info("resuming run %s of %s", begun.run_id, begun.run_date)
    return begun.model_copy(update={"config": night.config})


def prepare(night: Night) -> Prepared:
    """Read, clean and index the ratings into the work folder. Nothing is written for an input that is refused."""
    if done := night.load("prepared", Prepared):
        return done
    config = night.config
    files = ratings.list_parquet(night.ratings, what="ratings")
    movies = ratings.read_table(night.movies, key=config.movie_column, name="movie") if night.movies else None
    users = ratings.read_table(night.users, key=config.user_column, name="user") if night.users else None
    until = datetime.combine(night.run_date + timedelta(days=1), datetime.min.time())
    now = night.started_at.astimezone(UTC).replace(tzinfo=None) + timedelta(days=1)
    cleaned = ratings.read_ratings(files, config=config, until=until, now=now, movies=movies, users=users)
    clean = cleaned.ratings
    if night.model:
        model = saved.load_model(night.model)
        clean = ratings.with_rows_of(clean, users=model.users["user_id"], movies=model.movies)
    elif config.movie_features and movies is not None:
        clean = catalogue.with_unrated(clean, movies)
    user_ids = pl.concat([clean.users, clean.cold_users]).alias("user_id")
    user_table = catalogue.users_with_columns(user_ids, None if night.model else users, config)
    if not night.model:
        catalogue.encodings(config, movies=clean.movies, users=user_table)  # what will not do is refused now
    if config.top_n > clean.movies.height:
        raise InputError(
            f"configuration key top_n: got {config.top_n}, but the catalogue has {clean.movies.height} movies; lower top_n"
        )
    publish.check_id_types(
        night.output, tables.TOP_N, top_n_schema(clean.users.dtype, clean.movies["movie_id"].dtype)
    )
    low, high = config.y_range or (float(clean.frame["rating"].min()), float(clean.frame["rating"].max()))  # type: ignore[arg-type]
    if low == high:
        raise InputError(f"ratings: every rating is {low}; give y_range to say what the scale is")
    log.info("ratings: %s; %d users, %d movies", cleaned.counts, clean.users.len(), clean.movies.height)
    prepared = Prepared(
        counts=cleaned.counts
        | {"users": clean.users.len(), "movies": clean.movies.height, "cold_users": clean.cold_users.len()}
        | ({} if night.model else catalogue.unrated_counts(config, found=clean, movies=movies)),
        n_users=clean.users.len(),
        n_movies=clean.movies.height,
        n_cold_users=clean.cold_users.len(),
        y_range=(low, high),
    )
    night.write("inputs.json", json.dumps(_inputs(night, files)).encode())
    night.write("night.json", night.model_dump_json().encode())
    _write_candidates(night, user_ids, clean.movies["movie_id"])
    ratings.write_frame(clean.frame, storage.join(night.work, "ratings.parquet"))
    for name, frame in (
        ("movies", clean.movies),
        ("rejected", cleaned.rejected),
        ("users", user_table),
    ):
        night.write(f"{name}.parquet", saved.parquet_bytes(frame))
    return night.done("prepared", prepared)


def _write_candidates(night: Night, user_ids: pl.Series, movie_ids: pl.Series) -> None:
    """What may be listed, into the work folder, where the night says so."""
    config = night.config
    if night.allow or night.deny:
        listed = candidates.listed_movies(movie_ids, allow=night.allow, deny=night.deny, config=config)
        night.write("listed.parquet", saved.parquet_bytes(pl.DataFrame({"listed": listed})))
    if night.exclude:
        pairs = candidates.excluded_pairs(user_ids, movie_ids, uri=night.exclude, config=config)
        night.write("excluded.parquet", saved.parquet_bytes(pairs))


def _inputs(night: Night, rating_files: Sequence[storage.FileInfo]) -> list[dict[str, Any]]:
    """Every file that the night reads, with what it holds."""
    read = {"ratings": rating_files}
    for what, uri in (("movies", night.movies), ("users", night.users), *night.limits.items()):
        if uri:
            read[what] = ratings.list_parquet(uri, what=what)
    return [{"what": what, **asdict(file)} for what, files in read.items() for file in files]


def hold_out(night: Night, prepared: Prepared) -> int:
    """Choose the ratings that training does not see, into the work folder. Returns how many."""
    config = night.config
    frame = night.frame("ratings", ["user_idx"])
    if config.holdout == "temporal":
        held_out = split.temporal_holdout(frame["user_idx"].to_numpy(), fraction=config.holdout_fraction)
    elif config.holdout == "random":
        held_out = split.random_holdout(frame.height, fraction=config.holdout_fraction, seed=config.seed)
    else:
        held_out = np.zeros(frame.height, dtype=np.bool_)
    n_held_out = int(held_out.sum())
    if config.holdout != "none" and n_held_out == 0:
        raise InputError(
            f"ratings: no user has enough of them for a {config.holdout} holdout of {config.holdout_fraction}; "
            "raise holdout_fraction, or set holdout=none"
        )
    night.write("holdout.parquet", saved.parquet_bytes(pl.DataFrame({"held_out": held_out})))
    log.info("holdout: %d of %d ratings, %s", n_held_out, frame.height, config.holdout)
    return n_held_out


# Train and measure ----------------------------------------------------------------------------------


def fit(
    night: Night,
    prepared: Prepared,
    *,
    on: Literal["train", "all"],
    stop_share: float = 1.0,
    progress: Progress | None = None,
) -> Trained:
    """Train on the ratings outside the holdout, or on all, and save the model."""
    if done := trained_already(night, on=on):
        return done
    config = night.config
    order = _order(night, prepared, on=on, stop_share=stop_share)
    if config.processes > 1 and not under_torchrun():
        torchrun.run(order, processes=config.processes, progress=progress)
        done = trained_already(night, on=on)
        assert done is not None  # torchrun ended well
        return done
    with torchrun.leading(order):
        task, fitted = _fitted(night, prepared, on=on, stop_share=stop_share, progress=progress)
    uri = _model_uri(night, on=on)
    user_table, movie_table, encodings = described(night, prepared)
    users = _with_counts(user_table, task.kept["user_idx"])
    movies = _with_counts(movie_table, task.kept["movie_idx"])
    model = Model(fitted.network, fitted.ranking, config, users, movies, encodings)
    gone_on_from = config.warm_start or (on == "train" and config.refit and config.warm_refit)
    saved.save_model(uri, model, for_warm_start=gone_on_from)
    if config.warm_start and on == "train":
        previous.keep_until(uri, night, task.kept)
    losses = [
        (e.epoch, e.train_loss, None if math.isnan(e.valid_loss) else e.valid_loss) for e in fitted.record
    ]
    return night.done(
        f"trained-{on}",
        Trained(model_uri=uri, share=fitted.share, losses=losses, warm_from=task.start.model_uri),
    )


def _fitted(
    night: Night,
    prepared: Prepared,
    *,
    on: Literal["train", "all"],
    stop_share: float,
    progress: Progress | None = None,
) -> tuple[fitting.Task, fitting.Fitted]:
    """Both networks, fitted by this process and those beside it; rank 0 alone leaves checkpoints."""
    config = night.config
    columns = [*_LEARNT, "timestamp"] if config.warm_start else _LEARNT
    kept = night.frame("ratings", columns)
    valid = kept.clear()
    if on == "train":
        held_out = _held_out(night)
        kept, valid = kept.filter(~held_out), kept.filter(held_out)
    user_table, movie_table, encodings = described(night, prepared)
    task = fitting.Task(
        config,
        n_users=prepared.n_users,
        n_movies=prepared.n_movies,
        y_range=prepared.y_range,
        kept=kept,
        user_features=catalogue.encoded(user_table, encodings.users),
        movie_features=catalogue.encoded(movie_table, encodings.movies),
        valid=valid,
        stop_share=stop_share,
        start=previous.start_of(night, prepared, on=on, valid=valid),
    )
    device, processes = train.resolve_device(config.device), current()
    kit = fitting.Kit(
        device,
        processes=processes,
        rating=night.checkpoints(f"{on}-rating", write=processes.rank == 0),
        ranking=night.checkpoints(f"{on}-ranking", write=processes.rank == 0),
        progress=progress,
    )
    return task, fitting.fit(task, kit)


def described(night: Night, prepared: Prepared) -> tuple[pl.DataFrame, pl.DataFrame, catalogue.Encodings]:
    """The users and movies of the night by row, and how their side features become numbers."""
    users, movies = night.frame("users").head(prepared.n_users), night.frame("movies")
    return users, movies, catalogue.encodings(night.config, movies=movies, users=users)


def _order(
    night: Night, prepared: Prepared, *, on: Literal["train", "all"], stop_share: float
) -> dict[str, Any]:
    """A training as JSON, for another process."""
    return {
        "night": night.model_dump(mode="json"),
        "prepared": prepared.model_dump(mode="json"),
        "on": on,
        "stop_share": stop_share,
    }


def lead(order: dict[str, Any], *, progress: Progress | None = None) -> Trained:
    """Do the training of an order, with the processes beside this one."""
    night, prepared = Night.model_validate(order["night"]), Prepared.model_validate(order["prepared"])
    return fit(night, prepared, on=order["on"], stop_share=order["stop_share"], progress=progress)


def follow(order: dict[str, Any]) -> None:
    """Train beside rank 0, which keeps the result."""
    night, prepared = Night.model_validate(order["night"]), Prepared.model_validate(order["prepared"])
    _fitted(night, prepared, on=order["on"], stop_share=order["stop_share"])


def _model_uri(night: Night, *, on: Literal["train", "all"]) -> str:
    """Where a model goes: beside the tables when it is published or gone on from, else into the work folder."""
    if on == "all" or not night.config.refit:
        return storage.join(night.output, "models", night.run_id)
    return previous.measured_uri(night) if night.config.warm_start else storage.join(night.work, "model")


def trained_already(night: Night, *, on: Literal["train", "all"]) -> Trained | None:
    """The record that a training left, perhaps on another worker; None when there is none."""
    return night.load(f"trained-{on}", Trained)


def measure(night: Night, prepared: Prepared, trained: Trained) -> dict[str, float | None]:
    """Holdout metrics of a model that has not seen the holdout; all None without one."""
    held_out = _held_out(night)
    if not held_out.any():
        return dict.fromkeys(evaluate.NAMES)
    config = night.config
    model = saved.load_model(trained.model_uri).to(train.resolve_device(config.device))
    known = pl.col("user_idx") < prepared.n_users
    every = night.frame("ratings").with_columns(pl.Series("held_out", held_out)).filter(known)
    kept = every.filter(~pl.col("held_out")).select(_LEARNT)
    test = every.filter("held_out").drop("held_out")
    del every
    test_examples = fitting.examples(test, model.device)
    predicted = train.predict(model.network, test_examples.user_idx, test_examples.movie_idx).cpu().numpy()
    asked = lists.ask(model, kept, users=range(prepared.n_users))
    measures = evaluate.measures(
        holdout=evaluate.Holdout.of(test),
        training=evaluate.Holdout.of(kept),
        predicted=predicted,
        lists=lists.best(asked, n=evaluate.K),
        popular=lists.popular(model, asked.seen, n=evaluate.K),
        relevant_rating=fitting.relevant_rating(config, y_range=prepared.y_range),
        candidates=lists.candidates(model),
        n_users=prepared.n_users,
        seed=config.seed,
    )
    beside.keep_measures(night, measures, held_out=test, training=kept, predicted=predicted)
    metrics: dict[str, float | None] = {**evaluate.overall(measures)}
    log.info(
        "holdout: %s",
        ", ".join(f"{name} {value:.4f}" for name, value in metrics.items() if value is not None),
    )
    return metrics


def compared(night: Night, prepared: Prepared, metrics: dict[str, float | None]) -> list[Comparison]:
    """What the gate looks at: metrics and counts against the limits, popularity and the last published night."""
    last = nights.last(night.output, before=night.run_date)
    return comparisons(night.config, metrics=metrics, counts=prepared.counts, last=last)


def gate(night: Night, metrics: dict[str, float | None], compared: Sequence[Comparison]) -> str:
    """The verdict of the gate, for the record. Raises GateRefused when the night must not be published."""
    reasons = refusals(compared)
    if not reasons:
        return (
            "existing model" if night.model else "passed" if metrics.get("rmse") is not None else "no holdout"
        )
    if night.config.gate_override:
        log.warning("the gate refused, overridden: %s", "; ".join(reasons))
        return "overridden: " + "; ".join(reasons)
    raise GateRefused(
        f"the gate refused: {'; '.join(reasons)}; the published tables are as they were (gate_override=true publishes all the same)"
    )


# Score and publish ----------------------------------------------------------------------------------


def commit(
    night: Night,
    prepared: Prepared,
    trained: Trained,
    scored: Sequence[Scored],
    *,
    metrics: dict[str, float | None],
    verdict: str,
    seconds: dict[str, float],
) -> Published:
    """Make the night visible, one commit a table, `runs` last; then drop the work folder."""
    with claimed(night.output, COMMIT, wait_s=120):
        return _commit(night, prepared, trained, scored, metrics=metrics, verdict=verdict, seconds=seconds)


def _commit(
    night: Night,
    prepared: Prepared,
    trained: Trained,
    scored: Sequence[Scored],
    *,
    metrics: dict[str, float | None],
    verdict: str,
    seconds: dict[str, float],
) -> Published:
    user_type, movie_type = (
        night.frame(name, [f"{name[:-1]}_id"]).to_series().dtype for name in ("users", "movies")
    )
    parts = [Part(**part) for record in scored for part in record.parts]
    counts = prepared.counts | {
        "lists": sum(record.lists for record in scored),
        "rows": sum(part.rows for part in parts),
    }
    versions = {
        tables.TOP_N.name: publish.publish_parts(
            night.output,
            tables.TOP_N,
            top_n_schema(user_type, movie_type),
            parts,
            run_date=night.run_date,
            run_id=night.run_id,
        ),
    }
    versions |= beside.publish_all(night, saved.load_model(trained.model_uri, users=range(0)))
    row = {
        tables.RUN_DATE: night.run_date,
        "run_id": night.run_id,
        "started_at": night.started_at,
        "finished_at": datetime.now(UTC),
        "model_uri": trained.model_uri,
        "table_versions": json.dumps(versions),
        "counts": json.dumps(counts),
        "metrics": json.dumps(metrics),
        "seconds": json.dumps(seconds),
        "config": night.config.model_dump_json(),
        "inputs": storage.read_bytes(storage.join(night.work, "inputs.json")).decode(),
        "versions": json.dumps(_versions()),
        "losses": json.dumps((trained_already(night, on="train") or trained).losses),
        "git_commit": beside.git_commit(),
        "report_uri": page.uri(night.output, night.run_date),
        "gate": verdict,
    }
    versions[tables.RUNS.name] = publish.publish_rows(
        night.output,
        tables.RUNS,
        pa.Table.from_pylist([row], schema=_plain_schema(tables.RUNS)),
        run_date=night.run_date,
        run_id=night.run_id,
    )
    page.build_after_publishing(night.output, run_date=night.run_date)
    storage.delete_under(night.work)
    log.info(
        "published run %s of %s: %d lists, %d rows",
        night.run_id,
        night.run_date,
        counts["lists"],
        counts["rows"],
    )
    return Published(
        run_id=night.run_id,
        run_date=night.run_date,
        model_uri=trained.model_uri,
        tables={table.name: storage.join(night.output, table.name) for table in tables.PUBLISHED},
        table_versions=versions,
        metrics=metrics,
        counts=counts,
        seconds=seconds,
        gate=verdict,
        report=page.uri(night.output, night.run_date),
    )


def nightly(night: Night, *, progress: Callable[[str, float, str], None] | None = None) -> Published:
    """The whole night in this process, without Prefect; `flows/nightly.py` tells the same story with it."""
    _check_runner(night)
    seconds: dict[str, float] = {}

    def of(stage: str) -> Progress | None:
        return (lambda share, words: progress(stage, share, words)) if progress else None

    with claimed_night(night) as claim:
        night = resumed(night)
        with _timed(seconds, "prepare"):
            prepared = prepare(night)
        with _timed(seconds, "split"):
            hold_out(night, prepared)
        with _timed(seconds, "train"):
            trained = fit(night, prepared, on="train", progress=of("train"))
        with _timed(seconds, "evaluate"):
            metrics = measure(night, prepared, trained)
        verdict = gate(night, metrics, compared(night, prepared, metrics))
        if night.config.refit:
            with _timed(seconds, "refit"):
                trained = fit(night, prepared, on="all", stop_share=trained.share, progress=of("refit"))
        with _timed(seconds, "score"):
            scored = [
                score(night, prepared, trained, shard, progress=of("score"))
                for shard in shards(night, prepared)
            ]
        with _timed(seconds, "check"):
            check(night, prepared, scored)
        claim.check()
        with _timed(seconds, "publish"):
            return commit(night, prepared, trained, scored, metrics=metrics, verdict=verdict, seconds=seconds)


def _check_runner(night: Night) -> None:
    if night.config.runner != "here":
        log.warning("runner = %s is for the flow; without Prefect the shards run here", night.config.runner)


def train_alone(night: Night, *, progress: Progress | None = None) -> Trained:
    """Prepare, split and train; the model stays, nothing is published."""
    with claimed_night(night):
        night = resumed(night)
        prepared = prepare(night)
        hold_out(night, prepared)
        trained = fit(night, prepared, on="train", progress=progress)
        storage.delete_under(night.work)
        return trained


def evaluate_alone(night: Night) -> dict[str, float | None]:
    """Holdout metrics of the night's existing model."""
    with claimed_night(night):
        night = resumed(night)
        prepared = prepare(night)
        hold_out(night, prepared)
        metrics = measure(night, prepared, existing(night))
        storage.delete_under(night.work)
        return metrics


def score_alone(night: Night, *, progress: Progress | None = None) -> Published:
    """Score with the night's existing model and publish."""
    with claimed_night(night) as claim:
        night = resumed(night)
        prepared = prepare(night)
        verdict = gate(night, {}, compared(night, prepared, {}))
        trained = existing(night)
        seconds: dict[str, float] = {}
        with _timed(seconds, "score"):
            scored = [
                score(night, prepared, trained, shard, progress=progress) for shard in shards(night, prepared)
            ]
        with _timed(seconds, "check"):
            check(night, prepared, scored)
        claim.check()
        return commit(night, prepared, trained, scored, metrics={}, verdict=verdict, seconds=seconds)


def existing(night: Night) -> Trained:
    """The night's existing model, as a training's record."""
    assert night.model is not None
    return Trained(model_uri=night.model, share=1.0, losses=[])


# What the stages share ------------------------------------------------------------------------------


def _sources(ratings_uri: str, movies: str | None, users: str | None) -> dict[str, str]:
    """URIs of the input tables that there are.

    A folder that holds `ratings.parquet` or `ratings/` is a data set: it gives the ratings and, where they are
    not given, the movies and users beside them.
    """
    root = storage.normal(ratings_uri)
    given = {"ratings": root, "movies": movies, "users": users}
    names = {file.uri.removeprefix(root).lstrip("/").partition("/")[0] for file in storage.list_files(root)}
    beside = {
        what: next((name for name in (f"{what}.parquet", what) if name in names), None) for what in given
    }
    if beside["ratings"] is not None:
        given["ratings"] = None
        given = {
            what: uri or (storage.join(root, name) if (name := beside[what]) else None)
            for what, uri in given.items()
        }
    return {what: storage.normal(uri) for what, uri in given.items() if uri}


@contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    seconds[stage] = round(time.perf_counter() - started, 3)
    log.info("%s took %.1f s; %s", stage, seconds[stage], usage.words())


_CHANGE_NO_NUMBER = {"memory_gb", "threads", "runner", "ray_address", "gpus_per_shard"}


def _key(inputs: list[dict[str, Any]], config: Config, run_date: date, model: str | None) -> str:
    """Names equal nights: same inputs, date, version and configuration (gate, checkpoints and where it runs may differ: they change no number)."""
    knobs = {
        name: value
        for name, value in config.model_dump(mode="json").items()
        if not name.startswith(("gate_", "checkpoint_")) and name not in _CHANGE_NO_NUMBER
    }
    text = json.dumps([inputs, knobs, run_date.isoformat(), model, __version__], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _held_out(night: Night) -> NDArray[np.bool_]:
    return night.frame("holdout")["held_out"].to_numpy()


def _with_counts(ids: pl.DataFrame, idx: pl.Series) -> pl.DataFrame:
    return ids.with_columns(pl.Series("n_ratings", np.bincount(idx.to_numpy(), minlength=ids.height)))


def _plain_schema(table: tables.Table) -> pa.Schema:
    """The schema of a table without outside ids."""
    return table.schema(user_type=pa.string(), movie_type=pa.string())


def _versions() -> dict[str, str]:
    packages = ("torch", "polars", "pyarrow", "deltalake", "numpy")
    return {
        "cfjobs": __version__,
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
    }
