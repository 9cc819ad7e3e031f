"""Two nights side by side, of one output or of two: what one looks at before a setting is changed."""

import json
import re
from dataclasses import dataclass
from datetime import date
from typing import Any

import polars as pl

from cfjobs import tables
from cfjobs.errors import InputError
from cfjobs.evaluation import churn
from cfjobs.record import Record
from cfjobs.report import metric_names
from cfjobs.tables.runs import FIRST, Source, night_of
from cfjobs.tables.schema import OF_PUBLISHED

MOVIES_SHOWN = 10


class Metric(Record):
    """A metric on both sides over all users. low, high: of the 95 % interval where there is one. verdict: of
    b against a: better, worse, or nothing where a lies inside b's interval or neither way is better."""

    metric: str
    a: float | None
    b: float | None
    a_low: float | None
    a_high: float | None
    b_low: float | None
    b_high: float | None
    difference: float | None
    verdict: str


class ListsCompared(Record):
    """Ten against ten, for the users who have a list on both sides.

    same: the share of them whose first ten are the same in the same order. overlap: movies of a's ten that
    are among b's, on average. first_changed: share whose first movie is another. users_by_new: how many users
    have 0, 1, ... 10 movies among b's ten that are not among a's.
    """

    users: int
    only_a: int
    only_b: int
    same: float | None
    overlap: float | None
    first_changed: float | None
    users_by_new: list[int]


class MovieMoved(Record):
    """In how many of those first tens a movie is, on each side."""

    movie_id: int | str
    title: str | None
    a: int
    b: int


class Compared(Record):
    """Everything that is told of two nights. settings: name -> (a's, b's) of those that differ."""

    a: str
    b: str
    a_date: date
    b_date: date
    settings: dict[str, tuple[Any, Any]]
    metrics: list[Metric]
    lists: ListsCompared
    gained: list[MovieMoved]
    lost: list[MovieMoved]


@dataclass(frozen=True)
class _Sides:
    a: Source
    b: Source


def compare(a: str, b: str) -> Compared:
    """Two nights, each an output URI for its latest night or `URI@2026-03-01` for a published date.

    InputError where a night is not there, or the ids of the two are of different types.
    """
    sides = _Sides(_night(a), _night(b))
    for column in ("user_id", "movie_id"):
        kinds = [night.first_lists().collect_schema()[column] for night in (sides.a, sides.b)]
        if kinds[0] != kinds[1]:
            raise InputError(
                f"{a} and {b}: {column} is {kinds[0]} in one and {kinds[1]} in the other; compare outputs of the same ratings"
            )
    moved = churn.moved(sides.b.first_lists(), sides.a.first_lists()).collect(engine="streaming")
    gained, lost = _movies(sides, moved)
    return Compared(
        a=_label(sides.a),
        b=_label(sides.b),
        a_date=sides.a.run["run_date"],
        b_date=sides.b.run["run_date"],
        settings=_settings(sides),
        metrics=_metrics(sides),
        lists=_lists(sides, moved),
        gained=gained,
        lost=lost,
    )


def _night(text: str) -> Source:
    """The night that `URI` or `URI@DATE` names."""
    dated = re.fullmatch(r"(.+)@(\d{4}-\d{2}-\d{2})", text)
    if not dated:
        return night_of(text)
    try:
        day = date.fromisoformat(dated[2])
    except ValueError as error:
        raise InputError(f"{text}: {dated[2]} is no date; give URI@YYYY-MM-DD") from error
    return night_of(dated[1], day)


def _label(night: Source) -> str:
    return f"{night.output}@{night.run['run_date']}"


def _settings(sides: _Sides) -> dict[str, tuple[Any, Any]]:
    configs = [json.loads(night.run["config"]) for night in (sides.a, sides.b)]
    names = sorted(configs[0].keys() | configs[1].keys())
    values = {name: (configs[0].get(name), configs[1].get(name)) for name in names}
    return {name: pair for name, pair in values.items() if pair[0] != pair[1]}


def _metrics(sides: _Sides) -> list[Metric]:
    """The metrics of all users with their intervals, then those of the published lists."""
    measured = [_measured(night) for night in (sides.a, sides.b)]
    of_runs = [json.loads(night.run["metrics"]) for night in (sides.a, sides.b)]
    names = list(dict.fromkeys(name for side in measured for name in side))
    more = {name for side in of_runs for name in side if name.endswith(OF_PUBLISHED)}
    names += sorted(more - set(names))
    found = []
    for name in names:
        a, b = (
            measured[side].get(name) or {"value": of_runs[side].get(name), "low": None, "high": None}
            for side in (0, 1)
        )
        both = a["value"] is not None and b["value"] is not None
        verdict = ""
        if both:
            verdict = metric_names.of(name).verdict(b["value"], a["value"], (b["low"], b["high"]))
        found.append(
            Metric(
                metric=name,
                a=a["value"],
                b=b["value"],
                a_low=a["low"],
                a_high=a["high"],
                b_low=b["low"],
                b_high=b["high"],
                difference=b["value"] - a["value"] if both else None,
                verdict="" if verdict == "muted" else verdict,
            )
        )
    return found


def _measured(night: Source) -> dict[str, dict[str, Any]]:
    rows = night.scan(tables.METRICS).filter(band="all").select("metric", "value", "low", "high").collect()
    return {row["metric"]: row for row in rows.to_dicts()}


def _lists(sides: _Sides, moved: pl.DataFrame) -> ListsCompared:
    per_user = (
        moved.lazy()
        .group_by("user_id")
        .agg(
            (churn.in_tonight() & churn.is_new()).sum().alias("new"),
            (churn.in_tonight() & ~churn.is_new()).sum().alias("shared"),
            (pl.col("rank").eq_missing(pl.col("rank_before"))).all().alias("same"),
            (pl.col("rank").eq_missing(1) & pl.col("rank_before").eq_missing(1)).any().alias("same_first"),
        )
        .collect(engine="streaming")
    )
    n_lists = [
        night.first_lists().filter(pl.col("rank") == 1).select(pl.len()).collect().item()
        for night in (sides.a, sides.b)
    ]
    by_new = dict(per_user["new"].value_counts().iter_rows())
    return ListsCompared(
        users=per_user.height,
        only_a=n_lists[0] - per_user.height,
        only_b=n_lists[1] - per_user.height,
        same=_mean(per_user["same"]),
        overlap=_mean(per_user["shared"]),
        first_changed=_mean(~per_user["same_first"]),
        users_by_new=[by_new.get(number, 0) for number in range(FIRST + 1)],
    )


def _mean(column: pl.Series) -> float | None:
    return float(column.mean()) if column.len() else None  # type: ignore[arg-type]  # of numbers


def _movies(sides: _Sides, moved: pl.DataFrame) -> tuple[list[MovieMoved], list[MovieMoved]]:
    """The movies that gain, and that lose, most places from a to b."""
    titles = pl.concat(
        night.scan(tables.MOVIE_EMBEDDINGS).select("movie_id", "title").collect()
        for night in (sides.b, sides.a)
    ).unique("movie_id", keep="first", maintain_order=True)
    counts = (
        moved.group_by("movie_id")
        .agg(
            pl.col("rank_before").count().cast(pl.Int64).alias("a"),
            pl.col("rank").count().cast(pl.Int64).alias("b"),
        )
        .with_columns((pl.col("b") - pl.col("a")).alias("more"))
        .join(titles, on="movie_id", how="left")
    )

    def first(sign: int) -> list[MovieMoved]:
        rows = counts.filter(pl.col("more") * sign > 0)
        rows = rows.sort(pl.col("more") * -sign, "movie_id").head(MOVIES_SHOWN)
        return [MovieMoved(**row) for row in rows.select("movie_id", "title", "a", "b").to_dicts()]

    return first(1), first(-1)
