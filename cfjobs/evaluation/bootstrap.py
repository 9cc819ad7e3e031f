"""Metrics as sums over users, and their bootstrap intervals by activity band."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

ALL = "all"
BANDS = ("light", "medium", "heavy")
"""Thirds of the measured users by their number of training ratings; equal numbers stay in one band."""

RESAMPLES = 1_000
_MOST_GROUPS = 10_000
_LEVEL = 0.95


@dataclass(frozen=True)
class Metric:
    """A mean over users, or over their ratings: the sum of total [U] over the sum of weight [U],
    or its root."""

    name: str
    total: NDArray[np.float64]
    weight: NDArray[np.float64]
    root: bool = False


def intervals(
    metrics: Sequence[Metric], bands: NDArray[np.int8], *, seed: int
) -> dict[str, list[tuple[float, float]]]:
    """A percentile bootstrap interval of each metric, for all users and for each band.

    Users are drawn with replacement. Beyond _MOST_GROUPS users they are first thrown at random into that many
    groups of equal size, which are drawn instead: the spread of a sum is the same and the work is bounded.
    """
    rng = np.random.default_rng(seed)
    n_users, n_metrics = bands.size, len(metrics)
    sums_UX = np.stack([part for m in metrics for part in (m.total * (m.weight > 0), m.weight)], axis=1)
    counted = np.flatnonzero(sums_UX[:, 1::2].any(axis=1))
    n_groups = min(counted.size, _MOST_GROUPS)
    group = np.zeros(n_users, dtype=np.int64)
    group[counted] = rng.permutation(counted.size) % max(n_groups, 1)
    cell = group * len(BANDS) + bands
    n_cells = n_groups * len(BANDS)
    sums_GX = np.stack([sums(cell, x, n_cells) for x in sums_UX.T], axis=1)
    drawn = _resampled(sums_GX.reshape(n_groups, len(BANDS) * 2 * n_metrics), rng)
    of_band = drawn.reshape(RESAMPLES, len(BANDS), n_metrics, 2)
    found = {ALL: _percentiles(of_band.sum(axis=1), metrics)}
    return found | {band: _percentiles(of_band[:, place], metrics) for place, band in enumerate(BANDS)}


def _resampled(sums_GX: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """Column sums of rows drawn with replacement, as often as there are rows; RESAMPLES times."""
    n_groups, at_once = len(sums_GX), 50
    found = []
    for _ in range(0, RESAMPLES, at_once):
        drawn = rng.integers(0, n_groups, (at_once, n_groups)) + np.arange(at_once)[:, None] * n_groups
        times = np.bincount(drawn.ravel(), minlength=at_once * n_groups).reshape(at_once, n_groups)
        found.append(times.astype(np.float64) @ sums_GX)
    return np.concatenate(found)


def _percentiles(sums: NDArray[np.float64], metrics: Sequence[Metric]) -> list[tuple[float, float]]:
    """sums [RESAMPLES, metrics, 2]: totals and weights."""
    tail = 50 * (1 - _LEVEL)
    found = []
    for number, metric in enumerate(metrics):
        total, weight = sums[:, number, 0], sums[:, number, 1]
        if not (weight > 0).any():
            found.append((float("nan"), float("nan")))
            continue
        value = total[weight > 0] / weight[weight > 0]
        low, high = np.percentile(np.sqrt(value) if metric.root else value, [tail, 100 - tail])
        found.append((float(low), float(high)))
    return found


def sums(
    idx: NDArray[np.int32] | NDArray[np.int64], values: NDArray[np.float64], size: int
) -> NDArray[np.float64]:
    """Sum of the values of each row [size]."""
    return np.bincount(idx, weights=values, minlength=size).astype(np.float64)
