"""The beginning of a night: what is asked for is checked, the ratings are read and cleaned,
some are held out."""

import hashlib
import json
import logging
from contextlib import AbstractContextManager
from datetime import UTC, date, datetime, timedelta
from functools import partial
from typing import Any
from uuid import uuid4

import numpy as np
import polars as pl

from cfjobs import __version__, logs, model_store, models, ratings, storage, tables
from cfjobs.config import Config
from cfjobs.device import resolve_device
from cfjobs.errors import DamagedFile, InputError, Stale
from cfjobs.lists import eligible, rules
from cfjobs.models.network import MlpScores
from cfjobs.night import pieces, side_tables
from cfjobs.night.pieces import Each
from cfjobs.night.records import Inputs, Night, Prepared
from cfjobs.night.score import top_n_schema
from cfjobs.ratings import catalogue
from cfjobs.ratings.facts import Facts
from cfjobs.ratings.question import Question, question_by
from cfjobs.storage.lease import Lease, leased
from cfjobs.storage.parquet import TableFile, parquet_bytes
from cfjobs.tables import delta, runs

log = logging.getLogger(__name__)


def start(
    inputs: Inputs,
    *,
    output: str,
    run_date: date | None = None,
    config: Config | None = None,
    force: bool = True,
    now: datetime | None = None,
) -> Night:
    """Check inputs, credentials and the output before anything costly.

    force: also when a newer date is published already. Raises InputError for whatever a user has to mend, and
    Stale for a date that comes too late.
    """
    config = config or Config()
    models.recipe_of(config)
    now = now or datetime.now(UTC)
    run_date = run_date or now.date()
    ahead = config.gate_max_days_ahead
    if ahead is not None and run_date > now.astimezone(UTC).date() + timedelta(days=ahead):
        raise InputError(
            f"run date {run_date}: is more than {ahead} days after today, {now.astimezone(UTC).date()}, and would be the newest night until then; "
            "give another date, or raise gate_max_days_ahead"
        )
    resolve_device(config.device)
    output = storage.normal(output)
    storage.check_holds_tables(output, what="output")
    inputs = found_inputs(inputs)
    if inputs.model is None:
        catalogue.check_tables(config, movies=inputs.movies, users=inputs.users)
    _check_apart(inputs, output)
    listings = listings_of(inputs)
    storage.check_writable(output)
    if not force and (reason := runs.stale(output, run_date)):
        raise Stale(reason)
    config = ratings.with_names(listings["ratings"], config)
    plain = (found for what, found in listings.items() if what not in inputs.limits)
    files = [file.as_record() for found in plain for file in found]
    files += [file.as_record() | {"as": what} for what in inputs.limits for file in listings.get(what, ())]
    key = _key(files, config, run_date, inputs.model)
    night = Night(
        inputs=inputs,
        output=output,
        run_date=run_date,
        config=config,
        run_id=f"{run_date.isoformat()}-{uuid4().hex[:12]}",
        work=storage.join(output, "_work", f"{run_date.isoformat()}-{key}"),
        started_at=now,
    )
    logs.about(run_date=run_date, run_id=night.run_id)
    log.info(
        "run %s: %d rating files, %d bytes",
        night.run_id,
        len(listings["ratings"]),
        sum(f.size for f in listings["ratings"]),
    )
    return night


def _check_apart(inputs: Inputs, output: str) -> None:
    """InputError when tonight's tables would be read as tomorrow's input, or the input lies among the tables.

    A single file right beside the tables' folders does no harm.
    """
    for what in ("ratings", "movies", "users", *inputs.limits):
        uri, *_ = storage.split_version(getattr(inputs, what) or "")
        beside = uri.endswith(".parquet") and uri.rpartition("/")[0] == output
        if uri and not beside and (storage.within(output, uri) or storage.within(uri, output)):
            raise InputError(
                f"output {output}: lies in the {what} {uri}, or they in it; the tables would be read as {what}: give them folders of their own"
            )


def leased_night(night: Night) -> AbstractContextManager[Lease]:
    """Hold the lease of the night's date, so that one run at a time works on it.
    Raises Busy while another does.

    Check the lease before the commit.
    """
    return leased(night.output, night.run_date.isoformat())


def resumed(night: Night) -> Night:
    """The run that was begun on an equal night and not finished, if there is one; this one otherwise."""
    begun = night.load("night", Night)
    if begun is None:
        return night
    logs.about(run_date=begun.run_date, run_id=begun.run_id)
    log.info("resuming run %s of %s", begun.run_id, begun.run_date)
    return begun.model_copy(update={"config": night.config})


def prepare(night: Night, *, each: Each | None = None) -> Prepared:
    """Read, clean and index the ratings into the work folder.
    Nothing is written for an input that is refused.

    each: does the work in pieces, which are written meanwhile, so that no process holds all ratings; those
    for an existing model are read here all the same.
    """
    if (done := night.load("prepared", Prepared)) and _is_whole(night, done):
        return done
    config = night.config
    files = ratings.list_parquet(night.inputs.ratings, what="ratings")
    movies = (
        ratings.read_table(night.inputs.movies, key=config.movie_column, name="movie")
        if night.inputs.movies
        else None
    )
    users = (
        ratings.read_table(night.inputs.users, key=config.user_column, name="user")
        if night.inputs.users
        else None
    )
    known = model_store.load_model(night.inputs.model) if night.inputs.model else None
    if known is not None:
        config = _like_model(config, known)
    described = _described_movies(movies, known, config)
    limits = eligible.read(night.inputs.limits, config=config)
    unavailable = eligible.unavailable(described, config=config, on=night.run_date)
    until = datetime.combine(night.run_date + timedelta(days=1), datetime.min.time())
    now = night.started_at.astimezone(UTC).replace(tzinfo=None) + timedelta(days=1)
    given: dict[str, Any] = {"config": config, "until": until, "now": now, "movies": movies, "users": users}
    if each is not None and known is None:
        cleaned = pieces.read_in_pieces(night, files, **given, each=each)
    else:
        cleaned = ratings.read_ratings(files, **given)
    clean = _indexed(cleaned, movies, known=known, config=config)
    rated = cleaned.ratings.movies["movie_id"]
    user_ids = pl.concat([clean.users, clean.cold_users]).alias("user_id")
    user_table = catalogue.users_with_columns(user_ids, None if night.inputs.model else users, config)
    implicit = cleaned.feedback == "implicit"
    _check_clean(night, clean, config, users=user_table, implicit=implicit)
    facts = cleaned.facts or Facts.of(clean.frame, ends=config.gate_scale_rows + 1)
    y_range = _y_range(facts, config, implicit=implicit)
    log.info("feedback: %s%s", cleaned.feedback, "" if cleaned.timed else ", without times")
    log.info("ratings: %s; %d users, %d movies", cleaned.counts, clean.users.len(), clean.movies.height)
    prepared = Prepared(
        counts=cleaned.counts
        | {"users": clean.users.len(), "movies": clean.movies.height, "cold_users": clean.cold_users.len()}
        | (
            {}
            if night.inputs.model
            else catalogue.unrated_counts(config, found=clean, rated=rated, movies=movies)
        )
        | ({} if unavailable is None else {"unavailable_movies": unavailable.height})
        | rules.read(clean.movies, config).counts,
        n_users=clean.users.len(),
        n_movies=clean.movies.height,
        n_cold_users=clean.cold_users.len(),
        y_range=y_range,
        question=_question(facts, config, timed=cleaned.timed),
        scale=None if implicit else facts.scale(config.gate_scale_rows),
        feedback=cleaned.feedback,
        timed=cleaned.timed,
        limited=bool(night.inputs.allow or night.inputs.deny) or unavailable is not None,
    )
    listings = listings_of(night.inputs) | {"ratings": files}
    read = [{"what": what, **file.as_record()} for what, found in listings.items() for file in found]
    night.write("inputs.json", json.dumps(read).encode())
    night.write("night.json", night.model_dump_json().encode())
    _write_candidates(night, limits, user_ids, clean.movies["movie_id"], unavailable=unavailable)
    _write_values(night, clean.movies if known is None else described, clean.movies["movie_id"])
    if cleaned.facts is None:
        storage.delete_under(storage.join(night.work, "ratings.parquet"))
        ratings.write_frame(clean.frame, storage.join(night.work, "ratings.parquet"))
    _write_recent(night, facts, n_movies=clean.movies.height, each=each or pieces.in_turn)
    for name, frame in (
        ("movies", clean.movies),
        ("rejected", cleaned.rejected),
        ("users", user_table),
    ):
        night.write(f"{name}.parquet", parquet_bytes(frame))
    night.done("prepared", prepared)
    if cleaned.facts is not None:
        pieces.clear(night)
    return prepared


def _check_clean(
    night: Night, clean: ratings.Ratings, config: Config, *, users: pl.DataFrame, implicit: bool
) -> None:
    """InputError for what the clean ratings, or what is known of their movies and users, do not allow."""
    check_titles(clean.movies)
    if implicit and config.rank_by == "rating":
        raise InputError(
            "configuration key rank_by: got 'rating', but the ratings have no values to predict; set rank_by=affinity"
        )
    if not night.inputs.model:
        if not implicit:
            models.training_of(config)
        catalogue.encodings(config, movies=clean.movies, users=users)  # what will not do is refused now
    if config.top_n > clean.movies.height:
        raise InputError(
            f"configuration key top_n: got {config.top_n}, but the catalogue has {clean.movies.height} movies; lower top_n"
        )
    delta.check_id_types(
        night.output, tables.TOP_N, top_n_schema(clean.users.dtype, clean.movies["movie_id"].dtype)
    )
    side_tables.input_columns(night.output, clean.movies)


def _y_range(facts: Facts, config: Config, *, implicit: bool) -> tuple[float, float]:
    """The ends of the scale, as configured or as found. InputError where they are one, which is no scale."""
    low, high = config.y_range or (facts.lowest[0], facts.highest[-1])
    if low == high and not implicit:
        raise InputError(
            f"ratings: every rating is {low}; give y_range to say what the scale is, or set feedback=implicit to leave the values aside"
        )
    return low, high


def _indexed(
    cleaned: ratings.Cleaned,
    movies: pl.DataFrame | None,
    *,
    known: model_store.Model | None,
    config: Config,
) -> ratings.Ratings:
    """The clean ratings by the rows of the model, where there is one, else with those of unrated movies."""
    if known is not None:
        _check_like_model(cleaned, known)
        rows = _with_tonights_rules(known.movies, movies, config)
        return ratings.with_rows_of(cleaned.ratings, users=known.users["user_id"], movies=rows)
    if config.movie_features and movies is not None:
        return catalogue.with_unrated(cleaned.ratings, movies)
    return cleaned.ratings


def _described_movies(
    movies: pl.DataFrame | None, model: model_store.Model | None, config: Config
) -> pl.DataFrame | None:
    """The movies table that is given, or that an existing model was trained with; None for neither.

    Raises InputError for columns of `lists_per` and of the rules of the shop that will not do.
    """
    described = movies if movies is not None or model is None else model.movies
    catalogue.check_values(described, config)
    check_rules(described, config, model=model)
    return described


def check_rules(
    movies: pl.DataFrame | None, config: Config, *, model: model_store.Model | None = None
) -> None:
    """InputError for rules of the shop that a movies table, or the network, does not allow.

    movies: None where there is no table. model: an existing one, which is not trained.
    """
    found = rules.read(movies, config)
    if found.boost is None or not found.boost.any():
        return
    if model is not None:
        scores = None if model.ranking else model.network.scores()
    elif config.rank_by == "rating":
        settings = models.settings(config, y_range=config.y_range or (1.0, 5.0))
        scores = models.build(config.model, n_users=1, n_movies=1, settings=settings).scores()
    else:
        scores = None
    if isinstance(scores, MlpScores):
        raise InputError(rules.NOT_A_SUM)


def _with_tonights_rules(known: pl.DataFrame, tonight: pl.DataFrame | None, config: Config) -> pl.DataFrame:
    """The movies of an existing model with the columns of tonight's movies table that rules go by, where
    there is one."""
    if tonight is None:
        return known
    names = rules.named(config)
    there = [name for name in names if name in tonight.columns]
    ids = pl.col("movie_id").cast(known["movie_id"].dtype, strict=False)
    table = tonight.select(ids, *there).drop_nulls("movie_id").unique("movie_id", keep="first")
    kept = known.drop(names, strict=False)
    return kept.join(table, on="movie_id", how="left", maintain_order="left") if there else kept


def _like_model(config: Config, model: model_store.Model) -> Config:
    """The configuration by which ratings are read for an existing model: of implicit feedback for one that
    learnt from it."""
    if config.feedback != "auto":
        return config
    return config.model_copy(update={"feedback": "ratings" if model.stars else "implicit"})


def _check_like_model(cleaned: ratings.Cleaned, model: model_store.Model) -> None:
    """InputError for ratings that the existing model cannot rank by."""
    if (cleaned.feedback == "implicit") != (model.stars is None):
        raise InputError(
            f"ratings: feedback is {cleaned.feedback}, but the model was trained on "
            f"{'implicit feedback' if model.stars is None else 'ratings'}; leave feedback at auto, or train again"
        )
    if not cleaned.timed and model.profile is not None:
        raise InputError(
            "ratings: have no times, but the model goes by each user's latest; export the times, or train again"
        )


def _question(facts: Facts, config: Config, *, timed: bool) -> Question:
    """What the ratings are asked: as configured, as a random holdout asks, or as their times allow."""
    if not timed:
        if config.popular_days is not None:
            raise InputError(no_times_for_popular_days(config))
        for key, wrong, right in (("question", "next", "any"), ("holdout", "temporal", "random")):
            if getattr(config, key) == wrong:
                raise InputError(
                    f"configuration key {key}: got {wrong!r}, but the ratings have no times; set {key}={right}, or leave it at auto"
                )
        log.info("question: any; the ratings have no times, and all belong to this night whatever its date")
        return "any"
    if config.question != "auto":
        return config.question
    if config.holdout == "random":
        log.info("question: any, which a random holdout asks")
        return "any"
    found = question_by(facts.ordered_share)
    log.info(
        "question: %s; %.1f %% of neighbouring ratings have different times", found, 100 * facts.ordered_share
    )
    return found


def check_titles(movies: pl.DataFrame) -> None:
    """InputError for titles that are not text: a table of the night would need them as text in the end."""
    kind = movies.schema.get("title", pl.String())
    if kind.is_nested() or kind in {pl.Binary, pl.Object}:
        raise InputError(f"movies: column 'title' is {kind}, expected text; cast it on export")


def no_times_for_popular_days(config: Config) -> str:
    """What to say of a window that ratings without times cannot have."""
    return (
        f"configuration key popular_days: got {config.popular_days}, but the ratings have no times; "
        "leave the key out, or export the times"
    )


def _is_whole(night: Night, prepared: Prepared) -> bool:
    """Whether what a run has prepared is still there, its Parquet footers whole."""
    names = ["ratings", "movies", "rejected", "users"]
    names += ["listed"] * prepared.limited
    names += ["recent"] * (night.config.popular_days is not None)
    names += ["excluded"] * bool(night.inputs.exclude)
    names += ["values"] * bool(night.config.lists_per)
    try:
        for name in names:
            TableFile(night.files(name), columns=[])
    except (InputError, DamagedFile) as error:
        log.warning("%s: so the night is prepared anew", error)
        return False
    return storage.exists(storage.join(night.work, "inputs.json"))


def _write_candidates(
    night: Night,
    limits: dict[str, pl.DataFrame],
    user_ids: pl.Series,
    movie_ids: pl.Series,
    *,
    unavailable: pl.DataFrame | None,
) -> None:
    """What may be listed, into the work folder, where the night says so."""
    allow, deny, exclude = (limits.get(what) for what in (eligible.ALLOW, eligible.DENY, eligible.EXCLUDE))
    if any(table is not None for table in (allow, deny, unavailable)):
        listed = eligible.listed_movies(movie_ids, allow=allow, deny=deny, unavailable=unavailable)
        night.write("listed.parquet", parquet_bytes(pl.DataFrame({"listed": listed})))
    if exclude is not None:
        night.write("excluded.parquet", parquet_bytes(eligible.excluded_pairs(user_ids, movie_ids, exclude)))


def _write_recent(night: Night, facts: Facts, *, n_movies: int, each: Each) -> None:
    """The ratings by which popularity lists go, into the work folder, where they are those of a window."""
    if night.config.popular_days is None:
        return
    n_recent = np.zeros(n_movies, np.int64)
    work = partial(pieces.recent, facts.newest, night.config.popular_days, n_movies)
    for movies, counted in each(work, night.files("ratings"), words="recent ratings"):
        n_recent[movies] += counted
    night.write("recent.parquet", parquet_bytes(pl.DataFrame({"n_recent": n_recent})))


def _write_values(night: Night, movies: pl.DataFrame | None, movie_ids: pl.Series) -> None:
    """column, value and movie_idx of every value that gives lists, into the work folder."""
    if movies is None or not night.config.lists_per:
        return
    found = catalogue.values_of(movies, night.config)
    rows = pl.Series("movie_idx", ratings.rows_of(found["movie_id"], movie_ids))
    found = found.select("column", "value", rows).filter(pl.col("movie_idx") >= 0)
    night.write("values.parquet", parquet_bytes(found))


def listings_of(inputs: Inputs) -> dict[str, list[storage.FileInfo]]:
    """The files of every input table that there is, by what it is."""
    tables = {"ratings": inputs.ratings, "movies": inputs.movies, "users": inputs.users, **inputs.limits}
    return {what: ratings.list_parquet(uri, what=what) for what, uri in tables.items() if uri}


def found_inputs(inputs: Inputs) -> Inputs:
    """The same inputs by their full URIs, and tables at their newest version, which the whole night reads.

    A folder that holds `ratings.parquet` or `ratings/` is a data set: it gives the ratings and, where they
    are not given, the movies and users beside them.
    """
    given = {what: uri for what, uri in inputs.model_dump().items() if uri is not None}
    if empty := [what for what, uri in given.items() if not uri.strip()]:
        raise InputError(
            f"{', '.join(empty)}: an empty URI; leave it out if there is none (is a variable unset that should name it?)"
        )
    given = {what: storage.normal(uri) for what, uri in given.items()}
    root = given["ratings"]
    names = {file.uri.removeprefix(root).lstrip("/").partition("/")[0] for file in storage.walk(root)}
    beside = {
        what: storage.join(root, name)
        for what in ("ratings", "movies", "users")
        for name in (what, f"{what}.parquet")
        if name in names
    }
    if "ratings" in beside:
        given = beside | given | {"ratings": beside["ratings"]}
    read = {what: ratings.pinned(uri, what=what) for what, uri in given.items() if what != "model"}
    return Inputs(**given | read)


_CHANGE_NO_NUMBER = {"memory_gb", "threads", "runner", "ray_address", "gpus_per_shard"}


def _key(inputs: list[dict[str, Any]], config: Config, run_date: date, model: str | None) -> str:
    """Names equal nights: same inputs, date, version and configuration (gate, checkpoints and where it runs
    may differ: they change no number)."""
    settings = {
        name: value
        for name, value in config.model_dump(mode="json").items()
        if not name.startswith(("gate_", "checkpoint_")) and name not in _CHANGE_NO_NUMBER
    }
    text = json.dumps([inputs, settings, run_date.isoformat(), model, __version__], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
