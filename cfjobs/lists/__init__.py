"""Who gets which movies: lists of a model or by popularity, what may be listed, and how they are written."""

from cfjobs.lists import rules
from cfjobs.lists.because import Reasons
from cfjobs.lists.build import (
    Asked,
    Batch,
    Limits,
    ask,
    best,
    candidates,
    popular,
    rows,
    scores,
    stars,
    stars_factor,
)

__all__ = [
    "Asked",
    "Batch",
    "Limits",
    "Reasons",
    "ask",
    "best",
    "candidates",
    "popular",
    "rows",
    "rules",
    "scores",
    "stars",
    "stars_factor",
]
