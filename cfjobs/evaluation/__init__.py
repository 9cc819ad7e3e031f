"""How good a model is on the ratings that were held out, and whether the night may be published."""

from cfjobs.evaluation.baselines import Holdout
from cfjobs.evaluation.metrics import (
    BASELINES,
    NAMES,
    OF_STARS,
    K,
    Measure,
    list_metrics,
    measures,
    overall,
)

__all__ = [
    "BASELINES",
    "NAMES",
    "OF_STARS",
    "Holdout",
    "K",
    "Measure",
    "list_metrics",
    "measures",
    "overall",
]
