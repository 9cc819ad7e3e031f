"""Whether a night may be published: pure rules over its metrics, its counts and its written lists.

    metrics   not worse than the last published night's beyond a tolerance, better than the popularity list
    counts    ratings, users and the share of rejected rows plausible against the last published night
    lists     every rule of `top_n`, row by row

Metrics and counts can be overridden, and the override is recorded; a broken list is never published.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cfjobs.config import Config
from cfjobs.tables.runs import LastNight, Metrics

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


def comparisons(
    config: Config, *, metrics: Metrics, counts: Mapping[str, int], last: LastNight | None
) -> list[Comparison]:
    """Everything the gate looks at before the scoring; a night passes when every line did."""
    lines = _limits(config, metrics) + _popularity(config, metrics)
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


def _popularity(config: Config, metrics: Metrics) -> list[Comparison]:
    ndcg, popular = metrics.get("ndcg_at_10"), metrics.get("ndcg_at_10_popular")
    if not config.gate_beat_popularity or config.rank_by == "rating" or ndcg is None or popular is None:
        return []
    high = max(ndcg, metrics.get("ndcg_at_10_high") or 0.0)
    least = popular * (1 - config.gate_popularity_tolerance)
    reason = (
        f"ndcg_at_10 is {ndcg:.4f}, {high:.4f} at most, not up to {least:.4f} of the popularity list "
        f"(gate_beat_popularity, gate_popularity_tolerance {config.gate_popularity_tolerance})"
    )
    return [Comparison("ndcg_at_10 against popularity", ndcg, least, high >= least, reason)]


def _measured_alike(config: Config, last: LastNight) -> bool:
    tonight = config.model_dump(mode="json")
    return all(last.config.get(key) == tonight[key] for key in HOLDOUT_KEYS)


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
