"""Whether a night may be published: pure rules over its metrics, its counts and its written lists.

    metrics   not worse than the last published night's beyond a tolerance,
              better than the popularity list and stronger rules
    counts    ratings, users and the share of rejected rows plausible against the last published night
    input     ratings or implicit feedback, with times or without, as last night, unless it is said
    scale     its ends held by more than a handful of far-away ratings, and where they were last night
    lists     as many and as long, of as many movies, as popular, and as alike,
              as the last published night's; never none
    rows      every rule of `top_n`, row by row

All but the last, and lists that are none, can be overridden, and the override is recorded.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import polars as pl

from cfjobs.config import Config
from cfjobs.tables.runs import LastNight, Metrics, is_implicit
from cfjobs.tables.schema import OF_PUBLISHED

LOWER_IS_BETTER = ("rmse", "mae")
HIGHER_IS_BETTER = ("ndcg_at_10", "recall_at_10")
HOLDOUT_KEYS = ("question", "holdout", "holdout_fraction", "relevant_rating", "y_range")
"""Configuration that decides what is measured: metrics of nights that differ in it are not compared."""


@dataclass(frozen=True)
class Comparison:
    """One line of the gate's reasoning: what was got, the limit it had to keep, and whether it did."""

    what: str
    got: float
    limit: float
    passed: bool
    reason: str


@dataclass(frozen=True)
class Scale:
    """The ends of the rating scale, and where they would be without the few ratings that are farthest out."""

    low: float
    high: float
    low_rest: float
    high_rest: float

    @classmethod
    def of(cls, ratings: pl.Series, *, rows: int) -> Self:
        """Of a night's ratings; rows: how many at each end are few, at most a tenth of them."""
        few = min(rows, ratings.len() // 10)
        low, high = ratings.bottom_k(few + 1).sort(), ratings.top_k(few + 1).sort()
        return cls(float(low[0]), float(high[-1]), float(low[-1]), float(high[0]))


@dataclass(frozen=True)
class Written:
    """What the written lists are like. churn: of the first ten places of users who had a list last night, the
    share with a movie that was not in it; None without such users."""

    lists: int
    rows: int
    figures: Mapping[str, float]
    churn: float | None = None


def none_at_all(written: Written) -> str | None:
    """Why lists must not be published whatever the configuration says: there are none."""
    return None if written.lists and written.rows else "not one list was written"


def list_comparisons(config: Config, written: Written, last: LastNight | None) -> list[Comparison]:
    """Everything the gate looks at once the lists are written."""
    if last is None:
        return []
    tonight = config.model_dump(mode="json")
    lines = _fewer(config, "lists", written.lists, last.counts.get("lists"), last)
    if all(last.config.get(key) == tonight[key] for key in ("top_n", "min_score")):
        lines += _fewer(config, "rows of lists", written.rows, last.counts.get("rows"), last)
    if all(last.config.get(key, LIST_KEYS[key]) == tonight[key] for key in LIST_KEYS):
        lines += _variety(config, written, last)
    return lines


LIST_KEYS = dict.fromkeys(("rank_by", "model", "top_n", "min_ratings", "min_score")) | {
    name: Config.model_fields[name].get_default(call_default_factory=True)
    for name in ("max_per", "rule_places", "new_places", "new_max_ratings")
}
"""Configuration that decides which movies are listed, and what nights had that do not say:
the variety of nights that differ in it is not compared."""


def _fewer(config: Config, words: str, got: int, before: int | None, last: LastNight) -> list[Comparison]:
    tolerance = config.gate_max_lists_shrink
    if tolerance is None or not before:
        return []
    limit = before * (1 - tolerance)
    reason = f"{got:,} {words} were written, {before:,} on {last.run_date}: fewer than gate_max_lists_shrink {tolerance:g} allows"
    return [Comparison(f"{words} against {last.run_date}", got, limit, got >= limit, reason)]


def _variety(config: Config, written: Written, last: LastNight) -> list[Comparison]:
    lines = []
    got, before = (
        f.get(f"coverage{end}") for f, end in ((written.figures, ""), (last.metrics, OF_PUBLISHED))
    )
    if config.gate_max_coverage_drop is not None and got is not None and before is not None:
        limit = before * (1 - config.gate_max_coverage_drop)
        reason = f"{got:.2%} of the movies are in anybody's first ten, {before:.2%} on {last.run_date}: fewer than gate_max_coverage_drop {config.gate_max_coverage_drop:g} allows"
        lines.append(
            Comparison(f"published coverage against {last.run_date}", got, limit, got >= limit, reason)
        )
    name = "popular_share_at_10"
    got, before = written.figures.get(name), last.metrics.get(f"{name}{OF_PUBLISHED}")
    if config.gate_max_popular_rise is not None and got is not None and before is not None:
        limit = before + config.gate_max_popular_rise
        reason = f"{got:.1%} of the first ten places go to the most rated movies, {before:.1%} on {last.run_date}: more than gate_max_popular_rise {config.gate_max_popular_rise:g} allows"
        lines.append(
            Comparison(f"published popular share against {last.run_date}", got, limit, got <= limit, reason)
        )
    if config.gate_max_churn is not None and written.churn is not None:
        reason = f"{written.churn:.1%} of the first ten places show a movie that was not there on {last.run_date}: more than gate_max_churn {config.gate_max_churn:g}"
        lines.append(
            Comparison(
                f"churn since {last.run_date}",
                written.churn,
                config.gate_max_churn,
                written.churn <= config.gate_max_churn,
                reason,
            )
        )
    return lines


def scale_alone(config: Config, scale: Scale) -> list[Comparison]:
    """The ends of the scale against what they would be without a handful of ratings."""
    width = scale.high_rest - scale.low_rest
    if config.y_range is not None or not config.gate_scale_rows or width <= 0:
        return []
    lines = []
    for end, at, rest in (("highest", scale.high, scale.high_rest), ("lowest", scale.low, scale.low_rest)):
        stretch = abs(at - rest) / width
        reason = (
            f"the {end} rating, {at:g}, hangs on {config.gate_scale_rows} ratings or fewer; without them the scale ends at {rest:g} "
            f"(gate_scale_rows, gate_scale_stretch {config.gate_scale_stretch:g}); mend them, or give y_range"
        )
        passed = stretch <= config.gate_scale_stretch
        lines.append(
            Comparison(
                f"stretch of the scale by its {end}", stretch, config.gate_scale_stretch, passed, reason
            )
        )
    return lines


def _against_scale(config: Config, scale: Scale, last: LastNight | None) -> list[Comparison]:
    tolerance = config.gate_max_scale_change
    if last is None or tolerance is None:
        return []
    before = {end: last.metrics.get(f"scale_{end}") for end in ("low", "high")}
    if before["low"] is None or before["high"] is None:
        return []
    room = tolerance * (before["high"] - before["low"])
    lines = []
    for end, got in (("low", scale.low), ("high", scale.high)):
        was = before[end]
        assert was is not None
        reason = f"the {end} end of the rating scale is {got:g}, {was:g} on {last.run_date}: further than gate_max_scale_change {tolerance:g} allows"
        lines.append(
            Comparison(
                f"{end} end of the scale against {last.run_date}", got, was, abs(got - was) <= room, reason
            )
        )
    return lines


def comparisons(
    config: Config,
    *,
    metrics: Metrics,
    counts: Mapping[str, int],
    last: LastNight | None,
    scale: Scale | None = None,
) -> list[Comparison]:
    """Everything the gate looks at before the scoring; a night passes when every line did."""
    lines = _limits(config, metrics) + _baselines(config, metrics)
    if scale is not None:
        lines += scale_alone(config, scale) + _against_scale(config, scale, last)
    if last is not None:
        if _measured_alike(config, last):
            lines += _against_metrics(config, metrics, last)
        lines += _against_counts(config, counts, last)
    return lines


def refusals(lines: Sequence[Comparison]) -> list[str]:
    """The reasons of the lines that did not pass."""
    return [line.reason for line in lines if not line.passed]


def _limits(config: Config, metrics: Metrics) -> list[Comparison]:
    lines = []
    rmse, ndcg = metrics.get("rmse"), metrics.get("ndcg_at_10")
    if config.gate_max_rmse is not None and rmse is not None:
        reason = f"rmse is {rmse:.4f}, above gate_max_rmse {config.gate_max_rmse}"
        lines.append(Comparison("rmse", rmse, config.gate_max_rmse, not rmse > config.gate_max_rmse, reason))
    if config.gate_min_ndcg is not None and ndcg is not None:
        reason = f"ndcg_at_10 is {ndcg:.4f}, below gate_min_ndcg {config.gate_min_ndcg}"
        lines.append(
            Comparison("ndcg_at_10", ndcg, config.gate_min_ndcg, not ndcg < config.gate_min_ndcg, reason)
        )
    return lines


RIVALS = {
    "popular": "the popularity list",
    "popular_7_days": "the most popular of 7 days",
    "popular_30_days": "the most popular of 30 days",
    "ease": "EASE",
    "slit": "SLIT",
}
"""Baselines of the lists by their ending, and what they are called. All but the first are measured on a
sample."""


def _baselines(config: Config, metrics: Metrics) -> list[Comparison]:
    if not config.gate_beat_popularity or config.rank_by == "rating":
        return []
    lines = []
    for name, words in RIVALS.items():
        own = "ndcg_at_10" if name == "popular" else "ndcg_at_10_sampled"
        ndcg, rival = metrics.get(own), metrics.get(f"ndcg_at_10_{name}")
        if ndcg is None or rival is None:
            continue
        high = max(ndcg, metrics.get(f"{own}_high") or 0.0)
        least = rival * (1 - config.gate_popularity_tolerance)
        reason = (
            f"ndcg_at_10 is {ndcg:.4f}, {high:.4f} at most, not up to {least:.4f} of {words} "
            f"(gate_beat_popularity, gate_popularity_tolerance {config.gate_popularity_tolerance})"
        )
        what = "popularity" if name == "popular" else words
        lines.append(Comparison(f"ndcg_at_10 against {what}", ndcg, least, high >= least, reason))
    return lines


def _measured_alike(config: Config, last: LastNight) -> bool:
    tonight = config.model_dump(mode="json")
    alike = all(last.config.get(key) == tonight[key] for key in HOLDOUT_KEYS)
    return alike and is_implicit(last.config) == is_implicit(tonight)


def input_comparisons(asked: Config, decided: Config, last: LastNight | None) -> list[Comparison]:
    """Whether the ratings are what they were last night, where tonight's own configuration leaves it open: a
    column that is gone is more often lost than meant.

    asked: as it was given; decided: as the files settled it.
    """
    if last is None:
        return []
    lines = []
    implicit = decided.feedback == "implicit"
    if asked.feedback == "auto" and not asked.weight_column and not asked.event_column:
        before = is_implicit(last.config)
        kinds = {True: "implicit feedback", False: "ratings"}
        reason = (
            f"the files hold {kinds[implicit]}, and held {kinds[before]} on {last.run_date}; "
            f"mend the export, or set feedback = {'implicit' if implicit else 'ratings'}"
        )
        lines.append(_same(f"feedback against {last.run_date}", implicit == before, reason))
    timed, had_times = (
        decided.timestamp_column is not None,
        last.config.get("timestamp_column", "") is not None,
    )
    if asked.timestamp_column is not None and had_times:
        reason = (
            f"no file has a column {asked.timestamp_column!r}, and there were times on {last.run_date}; "
            "mend the export, or set timestamp_column = null to say that there are none"
        )
        lines.append(_same(f"times against {last.run_date}", timed, reason))
    return lines


def _same(what: str, passed: bool, reason: str) -> Comparison:
    return Comparison(what, float(passed), 1.0, passed, reason)


def _against_metrics(config: Config, metrics: Metrics, last: LastNight) -> list[Comparison]:
    lines = []
    for names, key, sign in (
        (LOWER_IS_BETTER, "gate_rating_tolerance", 1),
        (HIGHER_IS_BETTER, "gate_ranking_tolerance", -1),
    ):
        tolerance = getattr(config, key)
        for name in names:
            got, before = metrics.get(name), last.metrics.get(name)
            if tolerance is None or got is None or before is None:
                continue
            limit = before * (1 + sign * tolerance)
            reason = f"{name} is {got:.4f}, worse than {before:.4f} of {last.run_date} by more than {key} {tolerance:g}"
            lines.append(
                Comparison(
                    f"{name} against {last.run_date}", got, limit, not sign * (got - limit) > 0, reason
                )
            )
    return lines


def _against_counts(config: Config, counts: Mapping[str, int], last: LastNight) -> list[Comparison]:
    lines = []
    for name, words in (("kept", "ratings"), ("users", "users")):
        got, before = counts.get(name), last.counts.get(name)
        if not got or not before:
            continue
        for key, sign in (("gate_max_shrink", -1), ("gate_max_growth", 1)):
            tolerance = getattr(config, key)
            if tolerance is None:
                continue
            limit = before * (1 + sign * tolerance)
            reason = f"{got:,} {words}, {before:,} on {last.run_date}: {'fewer' if sign < 0 else 'more'} than {key} {tolerance:g} allows"
            lines.append(
                Comparison(
                    f"{words} against {last.run_date}", got, limit, not sign * (got - limit) > 0, reason
                )
            )
    return lines + _against_rejected(config, counts, last)


def _against_rejected(config: Config, counts: Mapping[str, int], last: LastNight) -> list[Comparison]:
    rise = config.gate_max_rejected_rise
    if rise is None or not counts.get("read") or not last.counts.get("read"):
        return []
    got, before = (c["rejected"] / c["read"] for c in (counts, last.counts))
    reason = f"{got:.2%} of the rows were rejected, {before:.2%} on {last.run_date}: more than gate_max_rejected_rise {rise:g} allows"
    return [
        Comparison(
            f"rejected share against {last.run_date}", got, before + rise, got <= before + rise, reason
        )
    ]
