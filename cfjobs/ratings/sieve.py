"""What passes of the validated rows: the good ones of tonight.
All others are counted, rejected ones kept with their reasons."""

from collections.abc import Iterable
from datetime import datetime
from typing import Self

import numpy as np
import polars as pl

from cfjobs.config import Config
from cfjobs.errors import InputError
from cfjobs.ratings import validate
from cfjobs.ratings.scan import Group
from cfjobs.record import Record


class Tally(Record):
    """Rows counted: all of the files, those later than the night, rejected, without weight, and good; and the
    rejected ones by the code of their reason."""

    rows: int = 0
    later: int = 0
    rejected: int = 0
    left_out: int = 0
    good: int = 0
    by_reason: tuple[int, ...] = (0,) * len(validate.REASONS)

    @classmethod
    def total(cls, tallies: Iterable[Self]) -> Self:
        """Of all rows, from the tallies of parts of them."""
        found = list(tallies)
        names = ("rows", "later", "rejected", "left_out", "good")
        sums = {name: sum(getattr(tally, name) for tally in found) for name in names}
        reasons = tuple(map(sum, zip(*(tally.by_reason for tally in found), strict=True)))
        return cls(**sums, by_reason=reasons) if found else cls()

    @property
    def read(self) -> int:
        """Rows that the night has to account for."""
        return self.rows - self.later - self.left_out

    @property
    def rejected_by_rating(self) -> int:
        """Rows set aside for their rating: next to them, one value for all others is no proof of a column
        that says nothing."""
        return sum(n for n, why in zip(self.by_reason, validate.REASONS, strict=True) if "rating" in why)

    def counts(self, config: Config) -> dict[str, int]:
        """As a night's record has them."""
        found = {"read": self.read, "rejected": self.rejected, "later": self.later}
        return found | ({"left_out": self.left_out} if config.feedback == "implicit" else {})

    def check(self, config: Config) -> None:
        """Raise InputError when there is nothing to learn from, or too much was rejected."""
        if self.rows == 0:
            raise InputError("ratings: the files hold no rows; check the export")
        if self.left_out and not self.good and not self.rejected:
            raise InputError(
                f"ratings: all {self.left_out:,} rows weigh 0; check weight_column and event_weights"
            )
        if self.read == 0:
            raise InputError(
                f"ratings: all {self.later:,} rows are later than the night's date; check the date of the run"
            )
        if self.good and self.rejected <= config.max_rejected * self.read:
            return
        reason = int(np.argmax(self.by_reason))
        raise InputError(
            f"ratings: {self.rejected:,} of {self.read:,} rows are rejected, most often because the "
            f"{validate.REASONS[reason]} ({self.by_reason[reason]:,}); "
            f"mend the export, or raise max_rejected (now {config.max_rejected})"
        )


class Sieve:
    """Takes batches of validated rows and lets the good ones pass."""

    def __init__(self, n_rows: int, *, config: Config, until: datetime, of_rows: int | None = None) -> None:
        """n_rows: in the files. of_rows: in all files of the night, where those are a part of them: beyond
        `max_rejected` of these the night ends, and rejected rows are only counted."""
        self._config, self._until = config, validate.microseconds(until)
        self._n_rows, self._n_later, self._n_rejected, self._n_left_out, self._n_good = n_rows, 0, 0, 0, 0
        self._most_rejected = config.max_rejected * (n_rows if of_rows is None else of_rows)
        self._rejected: list[pl.DataFrame] = []
        self._n_reasons = np.zeros(len(validate.REASONS), dtype=np.int64)

    def good(self, batch: pl.DataFrame, group: Group) -> pl.DataFrame:
        """The good rows of a batch of a group's rows."""
        is_good = batch["code"] == validate.GOOD
        if not is_good.all():
            self._set_aside(batch.filter(~is_good), group)
            batch = batch.filter(is_good)
        tonight = batch["timestamp"] < self._until
        if not tonight.all():
            self._n_later += int((~tonight).sum())
            batch = batch.filter(tonight)
        if self._config.feedback == "implicit":
            weighs = batch["rating"] > 0
            self._n_left_out += int((~weighs).sum())
            batch = batch.filter(weighs)
        self._n_good += batch.height
        return batch

    @property
    def tally(self) -> Tally:
        """What was counted so far."""
        return Tally(
            rows=self._n_rows,
            later=self._n_later,
            rejected=self._n_rejected,
            left_out=self._n_left_out,
            good=self._n_good,
            by_reason=tuple(self._n_reasons.tolist()),
        )

    def rejected(self) -> pl.DataFrame:
        """Every rejected row, by file and row."""
        return joined_rejected(self._rejected)

    def _set_aside(self, bad: pl.DataFrame, group: Group) -> None:
        self._n_reasons += np.bincount(bad["code"].to_numpy(), minlength=self._n_reasons.size)
        self._n_rejected += bad.height
        if self._n_rejected <= self._most_rejected:
            files, rows = group.locate(bad[validate.ROW].to_numpy().astype(np.int64))
            self._rejected.append(validate.rejected_rows(bad, files=files, rows=rows))


def joined_rejected(frames: Iterable[pl.DataFrame]) -> pl.DataFrame:
    """Rejected rows of several parts, by file and row."""
    return pl.concat([validate.REJECTED_SCHEMA.to_frame(), *frames]).sort("file", "row")
