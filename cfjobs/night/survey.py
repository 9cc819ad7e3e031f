"""What a night would read of these tables, what it would set aside, and what it would need: told without one.

files -> the columns taken                       (ratings.names)
      -> read and cleaned as a night does        (ratings.read_ratings; its reasons alone where a night
      refuses)
      -> facts: scale, times, users and movies, the question, what the gate says of the scale
      -> an estimate of memory, time and disk
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from cfjobs import models, ratings, resources
from cfjobs.config import Config
from cfjobs.errors import InputError
from cfjobs.evaluation.gate import Scale, scale_alone
from cfjobs.lists import eligible, rules
from cfjobs.night import prepare
from cfjobs.night.records import Inputs
from cfjobs.ratings import catalogue, holdout, scan, validate
from cfjobs.ratings.feedback import as_found
from cfjobs.ratings.question import LEAST_ORDERED, Question, ordered_share, question_of
from cfjobs.ratings.scan import Footer
from cfjobs.storage.uri import FileInfo
from cfjobs.tables import rule_words
from cfjobs.training import footprint

_EXAMPLES = 3
_FEW_VALUES = 25
_BULK_SHARE = 0.2
"""Of all ratings at one moment: more is a load of a table, not people rating."""
_LIBRARIES = 0.7e9  # bytes of a process before it has read anything: docs/scale.md
_READ = 20  # bytes of a rating while it is read: cfjobs/ratings/read.py
_LIST_ROW, _RATING_ROW = (
    7.4,
    8.0,
)  # bytes on the disk of a row of top_n (docs/scale.md); of a rating kept for the night
_ROW_SECONDS = 2e-6  # of a row of top_n_by_value beside its score: bench/by_value.py, on two cores
_FIXED_SECONDS, _MILLION_SECONDS, _SCORE_SECONDS = 5.0, 1.4, 4.4  # bench/README.md: a night, on two cores
_SCORED_THEN = 162_519 * 59_047


def survey(
    inputs: Inputs, *, config: Config | None = None, run_date: date | None = None, now: datetime | None = None
) -> dict[str, Any]:
    """What a night of these inputs would find, as plain values; `problems` are the lines that would end it.

    Raises InputError only where there is nothing to read at all, or the user and the movie cannot be told.
    """
    config, now = config or Config(), now or datetime.now(UTC)
    models.recipe_of(config)
    run_date = run_date or now.date()
    inputs = prepare.found_inputs(inputs)
    catalogue.check_tables(config, movies=inputs.movies, users=inputs.users)
    listings = prepare.listings_of(inputs)
    files = listings["ratings"]
    named = ratings.with_names(files, config)
    footers = scan.read_footers(files, columns=validate.columns_of(named), what="ratings")
    named = as_found(named, footers)
    rows = sum(footer.n_rows for footer in footers)
    found: dict[str, Any] = {
        "inputs": {what: uri for what, uri in inputs.model_dump().items() if uri is not None},
        "files": {
            what: {"files": len(f), "bytes": sum(one.size for one in f)} for what, f in listings.items()
        },
        "rows": rows,
        "columns": _columns(footers, named, config),
        "problems": [],
    }
    moment = now.astimezone(UTC).replace(tzinfo=None) + timedelta(days=1)
    until = datetime.combine(run_date + timedelta(days=1), datetime.min.time())
    try:
        movies = _table(inputs.movies, named.movie_column, "movie")
        users = _table(inputs.users, named.user_column, "user")
        catalogue.check_values(movies, named)
        unavailable = eligible.unavailable(movies, config=named, on=run_date)
        prepare.check_rules(movies, named)
        cleaned = ratings.read_ratings(
            files, config=named, until=until, now=moment, movies=movies, users=users
        )
    except InputError as error:
        found["problems"] = [str(error)]
        return found | _tally(files, named, moment)
    clean = cleaned.ratings
    implicit = cleaned.feedback == "implicit"
    if implicit:
        named = named.model_copy(update={"feedback": "implicit"})
    if named.movie_features and movies is not None:
        clean = catalogue.with_unrated(clean, movies)
    found["counts"] = cleaned.counts
    found["rejected"] = _reasons(cleaned.rejected)
    found |= _people(clean, movies=movies, users=users)
    if unavailable is not None:
        found["movies"]["unavailable"] = unavailable.height
    found["rules"] = _rules(clean, named)
    found["feedback"] = cleaned.feedback
    scale = {"problems": []} if implicit else _scale(clean.frame["rating"], named)
    problems = scale.pop("problems")
    if scale:
        found["scale"] = scale
    found["times"] = _times(clean, now=now) if cleaned.timed else NO_TIMES
    found["question"] = _question(clean, named, found["times"])
    found["lists_per"] = _lists_per(clean, named)
    found["estimate"] = _estimate(clean, named, n_rows=rows, by_value=found["lists_per"])
    if named.popular_days is not None and not cleaned.timed:
        problems.append(prepare.no_times_for_popular_days(named))
    found["problems"] = [
        *problems,
        *_problems(clean, users, config=named, question=found["question"]["question"]),
    ]
    return found


def _table(uri: str | None, key: str, name: str) -> pl.DataFrame | None:
    return ratings.read_table(uri, key=key, name=name) if uri else None


def _columns(footers: Sequence[Footer], named: Config, config: Config) -> dict[str, Any]:
    """Which column each part of a rating is taken from, its types, and why it."""
    schemas: dict[str, list[str]] = {}
    columns = validate.columns_of(named)
    firsts = {footer.types: footer.file for footer in footers if footer.n_rows}
    for file in firsts.values():
        schema = scan.schema_of(file)
        for column in columns:
            types = schemas.setdefault(column, [])
            told = str(schema[column]).partition("(")[0] if column in schema else "absent"
            types += [told] * (told not in types)
    return {
        what: {
            "column": column,
            "types": schemas.get(column, []),
            "recognised": column != getattr(config, setting),
        }
        for setting, column in zip(validate.roles_of(named), columns, strict=True)
        for what in (setting.removesuffix("_column"),)
    }


# Rejected -------------------------------------------------------------------------------------------


def _reasons(rejected: pl.DataFrame) -> list[dict[str, Any]]:
    """Each reason with its rows and the first of them, the most frequent first."""
    groups = rejected.group_by("reason", maintain_order=True)
    found = [
        {"reason": reason, "rows": rows.height, "examples": rows.head(_EXAMPLES).drop("reason").to_dicts()}
        for (reason,), rows in groups
    ]
    return sorted(found, key=lambda line: -int(line["rows"]))


def _tally(files: Sequence[FileInfo], config: Config, now: datetime) -> dict[str, Any]:
    """The reasons of all rows, where a night refuses them as a whole; nothing where not even that can be
    read."""
    try:
        footers = scan.read_footers(files, columns=validate.columns_of(config), what="ratings")
        groups = scan.group_files(footers, config=config)
        ids = validate.id_types(group.types for group in groups)
        n: NDArray[np.int64] = np.zeros(len(validate.REASONS), np.int64)
        examples: list[pl.DataFrame] = []
        for group in groups:
            for batch in scan.validated_batches(group, ids=ids, config=config, now=now):
                before = n.copy()
                n += np.bincount(batch["code"].to_numpy(), minlength=n.size)
                new = [
                    code for code in range(1, n.size) if before[code] < _EXAMPLES and n[code] > before[code]
                ]
                for code in new:
                    bad = batch.filter(pl.col("code") == code).head(_EXAMPLES - int(before[code]))
                    at, rows = group.locate(bad[validate.ROW].to_numpy().astype(np.int64))
                    examples.append(validate.rejected_rows(bad, files=at, rows=rows))
    except InputError:
        return {}
    shown = pl.concat([validate.REJECTED_SCHEMA.to_frame(), *examples])
    lines = _reasons(shown)
    rows_of = dict(zip(validate.REASONS, n.tolist(), strict=True))
    lines = [line | {"rows": rows_of[line["reason"]]} for line in lines]
    return {
        "counts": {"read": int(n.sum()), "rejected": int(n[1:].sum())},
        "rejected": sorted(lines, key=lambda line: -int(line["rows"])),
    }


# Facts ----------------------------------------------------------------------------------------------


def _people(
    clean: ratings.Ratings, *, movies: pl.DataFrame | None, users: pl.DataFrame | None
) -> dict[str, Any]:
    """How many users and movies, and how the ratings are spread over them."""
    n_users, n_movies, kept = clean.users.len(), clean.movies.height, clean.frame.height
    a_user = np.bincount(clean.column("user_idx"), minlength=n_users)
    a_movie = np.bincount(clean.column("movie_idx"), minlength=n_movies)
    about_movies: dict[str, Any] = {
        "n": n_movies,
        "ratings_each": _spread(a_movie),
        "rated_once": int((a_movie == 1).sum()),
    }
    if movies is not None:
        known = clean.movies["movie_id"].is_in(
            movies["movie_id"].cast(clean.movies["movie_id"].dtype, strict=False).implode()
        )
        about_movies |= {"in_movies_table": movies.height, "rated_and_described": int(known.sum())}
        about_movies["titles"] = "title" in movies.columns
    about_users: dict[str, Any] = {
        "n": n_users,
        "ratings_each": _spread(a_user),
        "rated_once": int((a_user == 1).sum()),
    }
    if users is not None:
        about_users |= {"in_users_table": users.height, "without_ratings": clean.cold_users.len()}
    return {"users": about_users, "movies": about_movies, "density": kept / max(1, n_users * n_movies)}


def _spread(counts: NDArray[Any]) -> dict[str, int]:
    return {"least": int(counts.min()), "median": int(np.median(counts)), "most": int(counts.max())}


def _scale(rating: pl.Series, config: Config) -> dict[str, Any]:
    """The ends of the scale, its values where they are few, and what the gate says of outliers."""
    scale = Scale.of(rating, rows=config.gate_scale_rows)
    counts = rating.value_counts(sort=False).sort("rating")
    found: dict[str, Any] = {
        "low": scale.low,
        "high": scale.high,
        "mean": float(rating.to_numpy().mean()),
        "values": counts.height,
    }
    if counts.height <= _FEW_VALUES:
        found["ratings_of_value"] = {f"{value:g}": n for value, n in counts.iter_rows()}
    if (scale.low_rest, scale.high_rest) != (scale.low, scale.high):
        found["without_outliers"] = {
            "low": scale.low_rest,
            "high": scale.high_rest,
            "rows": config.gate_scale_rows,
        }
    found["problems"] = [f"the gate: {line.reason}" for line in scale_alone(config, scale) if not line.passed]
    return found


NO_TIMES = {"first": None, "last": None, "real": False, "why": "no times, or one for all"}


def _times(clean: ratings.Ratings, *, now: datetime) -> dict[str, Any]:
    """First and last, gaps, and whether they are times at which people rated."""
    time = clean.frame["timestamp"]
    if time.null_count() == time.len() or time.min() == time.max():
        return NO_TIMES
    days = time.dt.date().to_frame("day").group_by("day").len().sort("day")
    busiest = days.sort("len")["day"][-1]
    moments = time.filter(time.dt.date() == busiest).value_counts(sort=True, name="n")
    at_once = int(moments["n"][0])
    midnight = float(((time.to_physical() % 86_400_000_000) == 0).mean())  # type: ignore[arg-type]
    ordered = ordered_share(clean.column("user_idx"), clean.column("timestamp"))
    why = "ratings of a user follow each other in time"
    if ordered < LEAST_ORDERED:
        why = f"{100 * (1 - ordered):.0f} % of a user's neighbouring ratings have the same time: a bulk load, or whole days"
    elif at_once > _BULK_SHARE * time.len():
        why = f"{100 * at_once / time.len():.0f} % of the ratings are of one moment, {moments[0, 0]}: a bulk load among real times"
    elif midnight > 0.99:
        why = "dates without a time of day: the order within a day is not known"
    between = days.with_columns(
        gap=(pl.col("day") - pl.col("day").shift(1)).dt.total_days(), since=pl.col("day").shift(1)
    )
    gaps = between.filter(pl.col("gap") > 7).sort("gap", descending=True).head(3)
    last = time.max()
    assert isinstance(last, datetime)
    return {
        "first": str(time.min()),
        "last": str(last),
        "days_since_last": (now.astimezone(UTC).replace(tzinfo=None) - last).days,
        "days_with_ratings": days.height,
        "gaps": [{"from": str(r["since"]), "to": str(r["day"]), "days": r["gap"]} for r in gaps.to_dicts()],
        "ordered_share": ordered,
        "largest_at_once": at_once,
        "real": ordered >= LEAST_ORDERED and at_once <= _BULK_SHARE * time.len(),
        "why": why,
    }


def _question(clean: ratings.Ratings, config: Config, times: Mapping[str, Any]) -> dict[str, str]:
    """The question that a night would train for, and why."""
    if config.question != "auto":
        return {"question": config.question, "why": "the configuration says so"}
    if config.timestamp_column is None:
        return {"question": "any", "why": "the ratings have no times"}
    if config.holdout == "random":
        return {"question": "any", "why": "a random holdout asks it"}
    found = question_of(clean.column("user_idx"), clean.column("timestamp"))
    share = times.get("ordered_share", 0.0)
    return {"question": found, "why": f"{100 * share:.1f} % of neighbouring ratings have different times"}


def _lists_per(clean: ratings.Ratings, config: Config) -> list[dict[str, Any]]:
    """For each column that gives lists: its values that a rated movie has, places, and the lists, rows and
    scores at most, as if nobody had seen any movie and all could be listed."""
    if not config.lists_per:
        return []
    n_users = clean.users.len() + clean.cold_users.len()
    a_value = catalogue.values_of(clean.movies, config).group_by("column", "value").len("movies")
    found = []
    for column, places in sorted(config.lists_per.items()):
        n_movies = a_value.filter(column=column)["movies"]
        rows = n_users * int(n_movies.clip(upper_bound=places).sum())
        lists, scores = n_users * n_movies.len(), n_users * int(n_movies.sum())
        found.append(
            {
                "column": column,
                "places": places,
                "values": n_movies.len(),
                "users": n_users,
                "lists": lists,
                "rows": rows,
                "scores": scores,
            }
        )
    return found


def _rules(clean: ratings.Ratings, config: Config) -> list[str]:
    """The rules of the shop that the lists would go by, in words."""
    n_ratings = np.bincount(clean.column("movie_idx"), minlength=clean.movies.height)
    new = int((n_ratings <= config.new_max_ratings).sum())
    counts = rules.read(clean.movies, config).counts | {"new_movies": new}
    return rule_words.in_force(counts, config.model_dump())


def _problems(
    clean: ratings.Ratings, users: pl.DataFrame | None, *, config: Config, question: Question
) -> list[str]:
    """What a night would refuse once the ratings are read."""
    found = []
    if config.top_n > clean.movies.height:
        found.append(
            f"configuration key top_n: got {config.top_n}, but the catalogue has {clean.movies.height} movies; "
            f"add --set top_n={clean.movies.height}"
        )
    if config.feedback == "implicit" and config.rank_by == "rating":
        found.append("configuration key rank_by: got 'rating', but the ratings have no values to predict")
    kind = holdout.kind_of(config, question)
    if kind != "none":
        user_idx = clean.frame["user_idx"].to_numpy()
        if not holdout.held_out(kind, user_idx, fraction=config.holdout_fraction, seed=config.seed).any():
            found.append(f"ratings: no user has enough of them for a {kind} holdout; set holdout=none")
    try:
        prepare.check_titles(clean.movies)
        user_ids = pl.concat([clean.users, clean.cold_users]).alias("user_id")
        described = catalogue.users_with_columns(user_ids, users, config)
        catalogue.encodings(config, movies=clean.movies, users=described)
        if config.feedback != "implicit":
            models.training_of(config)
        footprint.check_fits(_training(clean, config), there=resources.memory_left(), where="to this process")
    except InputError as error:
        found.append(str(error))
    return found


# Estimate -------------------------------------------------------------------------------------------


def _training(clean: ratings.Ratings, config: Config) -> int:
    return footprint.least(
        config, ratings=clean.frame.height, users=clean.users.len(), movies=clean.movies.height
    )


def _estimate(
    clean: ratings.Ratings, config: Config, *, n_rows: int, by_value: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Memory, time and disk of a night on this machine's processor: rough, from figures of other machines."""
    kept, n_users, n_movies = (
        clean.frame.height,
        clean.users.len() + clean.cold_users.len(),
        clean.movies.height,
    )
    reading = _LIBRARIES + _READ * n_rows
    training = _LIBRARIES + _training(clean, config) + 12 * kept  # beside it, the columns it learns from
    cores = resources.processors()
    scores = n_users * n_movies + sum(one["scores"] for one in by_value)
    rows_by_value = sum(one["rows"] for one in by_value)
    seconds = _MILLION_SECONDS * kept / 1e6 + _SCORE_SECONDS * scores / _SCORED_THEN
    seconds += _ROW_SECONDS * rows_by_value
    seconds = _FIXED_SECONDS + seconds * 2 / cores
    rows = n_users * min(config.top_n, n_movies)
    model = 4 * (
        (config.n_factors + 1) * 3 * (n_users + n_movies) + (2 * config.ranking_factors + 1) * n_movies
    )
    disk = (
        _LIST_ROW * (rows + rows_by_value)
        + _RATING_ROW * kept
        + model
        + n_movies * (4 * config.n_factors + 50 * 10)
    )
    left = resources.memory_left()
    return {
        "memory_gb": round(max(reading, training) / 1e9, 1),
        "memory_left_gb": round(left / 1e9, 1) if np.isfinite(left) else None,
        "scoring_memory_gb": config.memory_gb,
        "seconds": [round(seconds), round(3 * seconds)],
        "processors": cores,
        "disk_gb": round(disk / 1e9, 2),
        "list_rows": rows,
        "source": "an estimate, not a measurement of this machine: memory by cfjobs/training/footprint.py and 20 bytes a "
        "rating read; time by the nights of bench/README.md on two cores with default settings, up to three times as "
        "much elsewhere, more with other settings, and some 20 s more in the first night; disk by the bytes a row of docs/scale.md",
    }


# For people -----------------------------------------------------------------------------------------


def words(found: Mapping[str, Any]) -> list[str]:
    """A survey as lines for people."""
    lines = [
        _line("files", f"{f['files']:,} of {what}, {f['bytes'] / 1e6:,.1f} MB")
        for what, f in found["files"].items()
    ]
    lines.append(_line("rows", f"{found['rows']:,}"))
    for what, about in found["columns"].items():
        how = ", recognised by its name" if about["recognised"] else ""
        lines.append(
            _line(what, f"column {about['column']!r}, {' and '.join(about['types']) or 'no rows'}{how}")
        )
    if counts := found.get("counts"):
        lines.append(
            _line(
                "counts",
                ", ".join(
                    f"{n:,} {name}" for name, n in counts.items() if n or name in {"read", "kept", "rejected"}
                ),
            )
        )
    for line in found.get("rejected", ()):
        example = line["examples"][0]
        lines.append(
            _line(
                "rejected",
                f"{line['rows']:,}: {line['reason']} (first: {example['file']}, row {example['row']}, "
                f"user {example['user_id']}, movie {example['movie_id']}, rating {example['rating']})",
            )
        )
    for what in ("users", "movies"):
        if about := found.get(what):
            each = about["ratings_each"]
            lines.append(
                _line(
                    what,
                    f"{about['n']:,}, with {each['least']:,} to {each['most']:,} ratings, median {each['median']:,}; "
                    f"{about['rated_once']:,} with one{_beside(about)}",
                )
            )
    if found.get("feedback") == "implicit":
        lines.append(_line("feedback", "implicit, without values: lists by affinity, no predicted stars"))
    if scale := found.get("scale"):
        lines.append(_line("scale", _scale_words(scale)))
    if times := found.get("times"):
        lines += _time_words(times)
    if question := found.get("question"):
        meaning = {"next": "what a user chooses next", "any": "what else belongs in a profile"}[
            question["question"]
        ]
        lines.append(_line("question", f"{question['question']}, {meaning}: {question['why']}"))
    lines += [
        _line(
            "lists per",
            f"{one['column']}: {one['values']:,} values x {one['users']:,} users, at most {one['lists']:,} lists of {one['places']:,}, {one['rows']:,} rows",
        )
        for one in found.get("lists_per", ())
    ]
    if shop := found.get("rules"):
        lines.append(_line("rules", "; ".join(shop)))
    if estimate := found.get("estimate"):
        lines += _estimate_words(estimate)
    return lines


def _line(name: str, text: str) -> str:
    return f"{name:<10} {text}"


def _beside(about: Mapping[str, Any]) -> str:
    if "in_movies_table" in about:
        titles = "" if about["titles"] else ", without titles"
        held = f"; {about['unavailable']:,} not available that day" if "unavailable" in about else ""
        return f"; {about['rated_and_described']:,} of them in the movies table of {about['in_movies_table']:,}{titles}{held}"
    if "in_users_table" in about:
        return f"; {about['without_ratings']:,} more in the users table, without ratings"
    return ""


def _scale_words(scale: Mapping[str, Any]) -> str:
    text = f"{scale['low']:g} to {scale['high']:g}, mean {scale['mean']:.2f}, {scale['values']:,} values"
    if counts := scale.get("ratings_of_value"):
        total = sum(counts.values())
        text += f" ({', '.join(f'{value}: {100 * n / total:.1f} %' for value, n in counts.items())})"
    if rest := scale.get("without_outliers"):
        text += f"; without the {rest['rows']} at each end, {rest['low']:g} to {rest['high']:g}"
    return text


def _time_words(times: Mapping[str, Any]) -> list[str]:
    if times["first"] is None:
        return [_line("times", str(times["why"]))]
    real = "real" if times["real"] else "not to be trusted"
    lines = [
        _line(
            "times",
            f"{times['first']} to {times['last']}, {times['days_since_last']:,} days ago; {real}: {times['why']}",
        )
    ]
    if times["gaps"]:
        gaps = "; ".join(f"{gap['days']:,} days from {gap['from']} to {gap['to']}" for gap in times["gaps"])
        lines.append(_line("gaps", gaps))
    return lines


def _estimate_words(estimate: Mapping[str, Any]) -> list[str]:
    left = (
        f" of {estimate['memory_left_gb']:g} GB left here" if estimate["memory_left_gb"] is not None else ""
    )
    low, high = estimate["seconds"]
    return [
        _line(
            "needs",
            f"memory about {estimate['memory_gb']:g} GB{left}; {low:,} to {high:,} s on {estimate['processors']} processors; "
            f"disk about {estimate['disk_gb']:g} GB, {estimate['list_rows']:,} rows of lists",
        ),
        _line("", estimate["source"]),
    ]
