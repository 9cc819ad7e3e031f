"""The gate: each rule refuses what breaks it, says why, and lets the rest pass."""

from dataclasses import replace
from datetime import date
from typing import Any

import polars as pl
import pytest

from cfjobs.config import Config
from cfjobs.evaluation.gate import Scale, Written, comparisons, list_comparisons, none_at_all, refusals
from cfjobs.tables.rules import list_faults
from cfjobs.tables.runs import LastNight

METRICS: dict[str, float | None] = {
    "rmse": 0.9,
    "mae": 0.7,
    "ndcg_at_10": 0.2,
    "recall_at_10": 0.3,
    "ndcg_at_10_popular": 0.15,
}
COUNTS = {"read": 1000, "kept": 950, "rejected": 10, "users": 100}
LAST = LastNight(date(2026, 3, 1), METRICS, COUNTS, Config().model_dump(mode="json"))

LISTS = pl.DataFrame(
    {
        "user_id": [1, 1, 1, 2, 2],
        "rank": pl.Series([1, 2, 3, 1, 2], dtype=pl.Int16),
        "movie_id": [10, 11, 12, 10, 13],
        "score": pl.Series([3.0, 2.0, 2.0, 1.0, 0.5], dtype=pl.Float32),
        "predicted_rating": pl.Series([5.0, 4.0, 4.5, 0.5, 1.0], dtype=pl.Float32),
        "source": ["model"] * 3 + ["popular"] * 2,
    }
)
SEEN = pl.DataFrame({"user_id": [1, 2], "movie_id": [13, 12]})


def judged(
    *,
    config: Config = Config(),
    metrics: dict[str, Any] | None = None,
    counts: dict[str, int] | None = None,
    last: LastNight | None = LAST,
) -> list[str]:
    return refusals(
        comparisons(config, metrics=METRICS | (metrics or {}), counts=COUNTS | (counts or {}), last=last)
    )


def test_an_equal_night_passes_and_so_does_the_first() -> None:
    assert judged() == []
    assert judged(last=None) == []


@pytest.mark.parametrize(
    ("metrics", "reason"),
    [
        ({"rmse": 0.9 * 1.06}, "rmse is 0.9540, worse than 0.9000 of 2026-03-01"),
        ({"mae": 0.7 * 1.06}, "gate_rating_tolerance 0.05"),
        ({"ndcg_at_10": 0.2 * 0.84}, "ndcg_at_10 is 0.1680, worse than 0.2000"),
        ({"recall_at_10": 0.3 * 0.84}, "gate_ranking_tolerance 0.15"),
        ({"ndcg_at_10_popular": 0.4}, "not up to 0.3600 of the popularity list"),
        ({"ndcg_at_10_sampled": 0.2, "ndcg_at_10_ease": 0.4}, "not up to 0.3600 of EASE"),
        ({"ndcg_at_10_sampled": 0.2, "ndcg_at_10_slit": 0.4}, "not up to 0.3600 of SLIT"),
        ({"ndcg_at_10_sampled": 0.2, "ndcg_at_10_popular_7_days": 0.4}, "of the most popular of 7 days"),
    ],
)
def test_a_worse_metric_is_refused_with_both_figures(metrics: dict[str, float], reason: str) -> None:
    refused = judged(metrics=metrics)
    assert len(refused) == 1
    assert reason in refused[0]


@pytest.mark.parametrize(
    "metrics",
    [{"rmse": 0.9 * 1.04}, {"rmse": 0.1}, {"ndcg_at_10": 0.2 * 0.86}, {"ndcg_at_10": 0.9}, {"rmse": None}],
)
def test_within_the_tolerance_or_better_passes(metrics: dict[str, float | None]) -> None:
    assert judged(metrics=metrics) == []


@pytest.mark.parametrize(
    ("counts", "reason"),
    [
        ({"kept": 800}, "800 ratings, 950 on 2026-03-01: fewer than gate_max_shrink 0.1"),
        ({"users": 89}, "89 users, 100"),
        ({"kept": 2000}, "more than gate_max_growth 1"),
        ({"rejected": 30}, "3.00% of the rows were rejected, 1.00%"),
    ],
)
def test_implausible_counts_are_refused(counts: dict[str, int], reason: str) -> None:
    refused = judged(counts=counts)
    assert len(refused) == 1
    assert reason in refused[0]


def test_every_comparison_can_be_switched_off() -> None:
    off = Config(
        gate_rating_tolerance=None,
        gate_ranking_tolerance=None,
        gate_beat_popularity=False,
        gate_max_shrink=None,
        gate_max_growth=None,
        gate_max_rejected_rise=None,
    )
    bad = {"rmse": 9.0, "mae": 9.0, "ndcg_at_10": 0.0, "recall_at_10": 0.0}
    assert judged(config=off, metrics=bad, counts={"kept": 1, "users": 10**6, "rejected": 999}) == []


def test_nights_that_were_measured_otherwise_are_not_compared_by_metrics() -> None:
    other = replace(LAST, config=Config(holdout="random").model_dump(mode="json"))
    assert judged(metrics={"rmse": 2.0}, last=other) == []
    assert judged(counts={"kept": 1}, last=other)


def test_fixed_limits_hold_without_a_last_night() -> None:
    limits = Config(gate_max_rmse=0.8, gate_min_ndcg=0.3)
    assert len(judged(config=limits, last=None)) == 2


def test_sound_lists_have_no_fault() -> None:
    assert list_faults(LISTS, seen=SEEN, top_n=3, y_range=(0.5, 5.0)) == []
    assert list_faults(LISTS.head(0), seen=SEEN, top_n=3, y_range=(0.5, 5.0)) == []


@pytest.mark.parametrize(
    ("column", "values", "fault"),
    [
        ("rank", [1, 2, 4, 1, 2], "break the ranks"),
        ("rank", [2, 3, 4, 1, 2], "break the ranks"),
        ("rank", [1, 2, 3, 4, 5], "break the ranks"),
        ("score", [3.0, 2.0, 2.5, 1.0, 0.5], "higher score"),
        ("score", [3.0, 2.0, float("nan"), 1.0, 0.5], "not finite"),
        ("score", [3.0, 2.0, None, 1.0, 0.5], "null"),
        ("score", [3.0, 2.0, float("-inf"), 1.0, 0.5], "not finite"),
        ("movie_id", [10, 11, 11, 10, 13], "repeat a movie"),
        ("movie_id", [10, 11, 13, 10, 13], "has rated"),
        ("movie_id", [10, 11, None, 10, 13], "null"),
        ("predicted_rating", [5.1, 4.0, 4.5, 0.5, 1.0], "outside 0.5 to 5"),
        ("source", ["model", "model", "model", "popular", "guess"], "unknown source"),
    ],
)
def test_each_broken_rule_of_the_lists_is_found(column: str, values: list[Any], fault: str) -> None:
    broken = LISTS.with_columns(pl.Series(column, values, dtype=LISTS[column].dtype))
    found = list_faults(broken, seen=SEEN, top_n=3, y_range=(0.5, 5.0))
    assert any(fault in words for words in found), found


def test_lists_that_are_too_long_or_come_twice_or_show_what_is_withheld_are_found() -> None:
    assert list_faults(LISTS, seen=SEEN, top_n=2, y_range=(0.5, 5.0)) == ["1 rows are beyond rank 2"]
    held = list_faults(LISTS, seen=SEEN, top_n=3, y_range=(0.5, 5.0), withheld=pl.Series([13, 99]))
    assert held == ["1 rows show a movie that may not be listed"]
    again = pl.concat([LISTS, LISTS.head(2).with_columns(pl.col("movie_id") + 50)])
    assert any("second list" in words for words in list_faults(again, seen=SEEN, top_n=3, y_range=(0.5, 5.0)))


def test_popularity_is_not_missed_by_chance_alone() -> None:
    """Below the popularity list, but no more than the interval and the tolerance:
    a night on ratings without taste."""
    metrics = {"ndcg_at_10": 0.14, "ndcg_at_10_high": 0.16, "ndcg_at_10_popular": 0.17}
    assert judged(metrics=metrics, last=None) == []
    assert judged(config=Config(gate_popularity_tolerance=0), metrics=metrics, last=None)


def test_a_rival_is_held_against_the_lists_of_its_own_users() -> None:
    """Not against those of all users, of which it is a sample."""
    metrics = {"ndcg_at_10_sampled": 0.2, "ndcg_at_10_sampled_high": 0.35, "ndcg_at_10_ease": 0.36}
    assert judged(metrics=metrics, last=None) == []
    assert judged(metrics=metrics | {"ndcg_at_10_sampled_high": 0.3}, last=None)
    assert judged(config=Config(gate_beat_popularity=False), metrics=metrics | {"ndcg_at_10_ease": 1.0}) == []


# What goes out --------------------------------------------------------------------------------------

FIGURES = {"coverage": 0.2, "popular_share_at_10": 0.5}
LISTED = replace(
    LAST,
    metrics=METRICS | {"coverage_published": 0.2, "popular_share_at_10_published": 0.5, "scale_low": 0.5, "scale_high": 5.0},
    counts=COUNTS | {"lists": 100, "rows": 2000},
)  # fmt: skip


def judged_lists(
    *,
    lists: int = 100,
    rows: int = 2000,
    churn: float | None = 0.4,
    config: Config = Config(),
    **figures: float,
) -> list[str]:
    written = Written(lists, rows, FIGURES | figures, churn)
    return refusals(list_comparisons(config, written, LISTED))


def test_lists_like_those_of_last_night_pass_and_so_do_the_first() -> None:
    assert judged_lists() == []
    assert list_comparisons(Config(), Written(1, 1, {}), None) == []


@pytest.mark.parametrize(
    ("worse", "setting"),
    [
        ({"lists": 50}, "gate_max_lists_shrink"),
        ({"rows": 1000}, "gate_max_lists_shrink"),
        ({"coverage": 0.05}, "gate_max_coverage_drop"),
        ({"popular_share_at_10": 0.95}, "gate_max_popular_rise"),
        ({"churn": 0.99}, "gate_max_churn"),
    ],
)
def test_lists_unlike_those_of_last_night_are_refused_by_a_setting_that_can_be_switched_off(
    worse: dict[str, Any], setting: str
) -> None:
    refused = judged_lists(**worse)
    assert len(refused) == 1
    assert setting in refused[0]
    assert judged_lists(**worse, config=Config(**{setting: None})) == []


def test_variety_is_not_compared_with_lists_of_another_kind() -> None:
    assert judged_lists(churn=1.0, config=Config(rank_by="rating")) == []
    assert judged_lists(rows=200, config=Config(top_n=10)) == []
    assert judged_lists(lists=50, config=Config(top_n=10)) != []


def test_no_list_at_all_is_refused_whatever_the_configuration() -> None:
    assert none_at_all(Written(0, 0, {}))
    assert none_at_all(Written(1, 5, {})) is None


def judged_scale(
    values: list[float], *, config: Config = Config(), last: LastNight | None = None
) -> list[str]:
    scale = Scale.of(pl.Series("rating", values), rows=config.gate_scale_rows)
    return refusals(comparisons(config, metrics={}, counts={}, last=last, scale=scale))


STARS = [value / 2 for value in range(1, 11)] * 50


@pytest.mark.parametrize(
    ("wild", "end"), [([500.0], "highest"), ([11.0] * 3, "highest"), ([-99.0], "lowest")]
)
def test_a_few_wild_ratings_do_not_set_the_scale(wild: list[float], end: str) -> None:
    refused = judged_scale(STARS + wild)
    assert len(refused) == 1
    assert f"the {end} rating" in refused[0]
    assert judged_scale(STARS + wild, config=Config(gate_scale_rows=0)) == []
    assert judged_scale(STARS + wild, config=Config(y_range=(0.5, 5.0))) == []
    assert judged_scale(STARS + wild * 20) == [], "many are no accident"


@pytest.mark.parametrize(
    "values", [STARS, [*STARS, 0.0], [1.0] * 500 + [5.0], [1.0, 5.0], [1.0, 2.0, 3.0, 4.0, 5.0] * 3]
)
def test_a_scale_whose_ends_are_rare_but_near_passes(values: list[float]) -> None:
    assert judged_scale(values) == []


def test_a_scale_five_times_smaller_is_no_better_night() -> None:
    assert judged_scale(STARS, last=LISTED) == []
    assert "gate_max_scale_change" in judged_scale([value / 5 for value in STARS], last=LISTED)[-1]
    assert judged_scale([v / 5 for v in STARS], last=LISTED, config=Config(gate_max_scale_change=None)) == []
