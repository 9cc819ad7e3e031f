"""What the ratings files hold: ratings or implicit feedback, with times or without.

ratings    a user gave a movie a value
implicit   a user chose a movie: clicked, bought, played; a pair's rows are added up, by their weights
"""

import logging
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cfjobs.config import Config
from cfjobs.ratings.scan import Footer

log = logging.getLogger(__name__)

Feedback = Literal["ratings", "implicit"]


def as_found(config: Config, footers: Sequence[Footer]) -> Config:
    """The configuration, settled by what the files have: `feedback` is implicit where it is said or no file
    has the rating column, and `timestamp_column` None where no file has it.

    Still `auto` where values are there and have to be looked at, see `is_one_value`. A column that only some
    files have, or that a folder's name gives, is left to be missed.
    """
    changes: dict[str, Any] = {}
    if config.feedback == "auto":
        if config.weight_column or config.event_column:
            changes["feedback"] = "implicit"
        elif config.y_range is None and _absent(footers, config.rating_column):
            log.warning(
                "ratings: no file has a column %r (got %s), so they are implicit feedback and no stars are "
                "predicted; if they have values, rename their column on export or set rating_column",
                *(config.rating_column, _names(footers)),
            )
            changes["feedback"] = "implicit"
    if config.timestamp_column is not None and _absent(footers, config.timestamp_column):
        log.warning(
            "ratings: no file has a column %r (got %s), so they have no times; "
            "if they do, rename their column on export or set timestamp_column",
            *(config.timestamp_column, _names(footers)),
        )
        changes["timestamp_column"] = None
    return config.model_copy(update=changes)


def is_one_value(rating: NDArray[np.float32], config: Config) -> bool:
    """Whether a configuration that leaves it open takes ratings [R] for implicit feedback: they have one
    value."""
    if config.feedback != "auto" or config.y_range is not None or not rating.size:
        return False
    return bool(rating.min() == rating.max())


def _absent(footers: Sequence[Footer], column: str) -> bool:
    with_rows = [footer for footer in footers if footer.n_rows]
    in_folder = any(f"/{column}=" in footer.file.uri for footer in with_rows)
    return bool(with_rows) and not in_folder and all(column not in footer.names for footer in with_rows)


def _names(footers: Sequence[Footer]) -> str:
    return ", ".join(next(footer.names for footer in footers if footer.n_rows))
