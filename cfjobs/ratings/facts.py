"""What a night has to know of its clean ratings beside the rows: exact figures, that add up over parts."""

from collections.abc import Sequence
from typing import Self

import numpy as np
import polars as pl

from cfjobs.ratings.question import neighbours
from cfjobs.record import Record


class Facts(Record):
    """Of R clean ratings, sorted by user and time.

    lowest, highest: the ratings at each end of the scale, ascending, a few of them. neighbours: pairs of a
    user's neighbouring ratings, different: those at different times. newest: the latest time, microseconds
    since 1970.
    """

    rows: int
    lowest: tuple[float, ...]
    highest: tuple[float, ...]
    neighbours: int
    different: int
    newest: int

    @classmethod
    def of(cls, frame: pl.DataFrame, *, ends: int) -> Self:
        """frame: user_idx, rating, timestamp; not empty. ends: how many ratings of each end."""
        user, time = frame["user_idx"].to_numpy(), frame["timestamp"].to_physical().to_numpy()
        pairs, different = neighbours(user, time)
        return cls(
            rows=frame.height,
            lowest=_ascending(frame["rating"].bottom_k(ends)),
            highest=_ascending(frame["rating"].top_k(ends)),
            neighbours=pairs,
            different=different,
            newest=int(time.max()),
        )

    @classmethod
    def total(cls, parts: Sequence[Self], *, ends: int) -> Self:
        """Of all ratings, from the facts of parts with whole users."""
        return cls(
            rows=sum(part.rows for part in parts),
            lowest=tuple(sorted(value for part in parts for value in part.lowest)[:ends]),
            highest=tuple(sorted(value for part in parts for value in part.highest)[-ends:]),
            neighbours=sum(part.neighbours for part in parts),
            different=sum(part.different for part in parts),
            newest=max(part.newest for part in parts),
        )

    @property
    def ordered_share(self) -> float:
        """Of the neighbours, those at different times; 0 without any."""
        return self.different / self.neighbours if self.neighbours else 0.0

    def scale(self, few: int) -> tuple[float, float, float, float]:
        """The ends of the scale, low and high, and where they would be without `few` ratings at each, at most
        a tenth of all and fewer than are known."""
        few = min(few, self.rows // 10)
        return self.lowest[0], self.highest[-1], self.lowest[few], self.highest[-1 - few]


def _ascending(values: pl.Series) -> tuple[float, ...]:
    return tuple(np.sort(values.to_numpy()).tolist())
