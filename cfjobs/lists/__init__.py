"""Who gets which movies: lists of a model or by popularity, what may be listed, and how they are written."""

from cfjobs.lists import rules
from cfjobs.lists.because import Reasons
from cfjobs.lists.build import (
    Batch,
    Limits,
    Request,
    best,
    candidates,
    popular,
    request_of,
    rows,
    scores,
    stars,
    stars_factor,
)

__all__ = [
    "Request",
    "Batch",
    "Limits",
    "Reasons",
    "request_of",
    "best",
    "candidates",
    "popular",
    "rows",
    "rules",
    "scores",
    "stars",
    "stars_factor",
]
