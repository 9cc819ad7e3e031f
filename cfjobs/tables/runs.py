"""The nights of an output: which are published, going back to one, and removing old ones.

A night is named by its date, or by the version of the `runs` table that its last commit made. That row names
the versions of the other tables, so all of them go back together.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any

from deltalake import DeltaTable

from cfjobs import storage
from cfjobs.errors import InputError, TooOld
from cfjobs.record import Record
from cfjobs.tables import delta
from cfjobs.tables.schema import RUN_DATE, RUNS, TOP_N, Table

if TYPE_CHECKING:
    import polars as pl

Metrics = Mapping[str, float | None]

FIRST = 10
"""The places of a list that people look at."""


class PublishedNight(Record):
    """A row of `runs`. training: how the rating network was trained, None where it is not known. feedback:
    ratings, or implicit, which trains no such network. version: of the `runs` table, which names this state
    of all tables."""

    run_date: date
    run_id: str
    version: int | None
    finished_at: datetime
    gate: str
    model_uri: str
    training: str | None
    feedback: str = "ratings"
    table_versions: dict[str, int]
    metrics: dict[str, float | None]
    counts: dict[str, int]


@dataclass(frozen=True)
class LastNight:
    """What the `runs` table keeps of the last published night. row: as it stands there."""

    run_date: date
    metrics: Metrics
    counts: Mapping[str, int]
    config: Mapping[str, Any]
    row: Mapping[str, Any] = field(default_factory=dict)


# History --------------------------------------------------------------------------------------------


def published(output: str) -> list[PublishedNight]:
    """The nights that readers can see, by date; empty where nothing has been published."""
    runs = delta.open_table(output, RUNS.name)
    if runs is None:
        return []
    nights = [_night_of(row) for row in rows(runs)]
    if all(night.version is not None for night in nights):
        return nights
    versions = {run_id: version for version, run_id in sorted(commits(runs).items())}
    return [
        night.model_copy(
            update={"version": night.version if night.version is not None else versions.get(night.run_id)}
        )
        for night in nights
    ]


def newest(output: str) -> date | None:
    """The newest published date."""
    return max((night.run_date for night in published(output)), default=None)


def last(output: str, *, before: date) -> LastNight | None:
    """The newest published night before a date: what the gate compares with.
    A date that runs again replaces itself."""
    runs = delta.open_table(output, RUNS.name)
    earlier = [row for row in rows(runs) if row["run_date"] < before] if runs else []
    if not earlier:
        return None
    row = earlier[-1]
    metrics, counts, config = (json.loads(row[name]) for name in ("metrics", "counts", "config"))
    return LastNight(row["run_date"], metrics, counts, config, row)


def check_age(nights: Sequence[PublishedNight], output: str, longest: timedelta, *, now: datetime) -> None:
    """Raises TooOld when none of these nights of an output was published within this time,
    whatever its date."""
    latest = max((night.finished_at for night in nights), default=None)
    if latest is None:
        raise TooOld(f"output {output}: no night has been published there")
    if latest.tzinfo is None:
        latest = latest.replace(tzinfo=UTC)
    if now - latest > longest:
        hours = [time.total_seconds() / 3600 for time in (now - latest, longest)]
        raise TooOld(
            f"output {output}: the last night was published {hours[0]:.1f} hours ago, more than {hours[1]:g}; see deploy/README.md: no night was published"
        )


def stale(output: str, run_date: date) -> str | None:
    """Why a night of this date would come too late; None when it would not."""
    published_last = newest(output)
    if published_last is None or published_last <= run_date:
        return None
    return f"the night of {run_date} is stale: {published_last} is published already; force, or `cfjobs backfill`, publishes it all the same"


def is_implicit(config: Mapping[str, Any]) -> bool:
    """Whether a configuration, as `runs` keeps it, is of implicit feedback; nights of before version 1.2 are
    of ratings and do not say so."""
    return bool(config.get("feedback") == "implicit")


# What they share ------------------------------------------------------------------------------------


def table_at(output: str, name: str, *, version: int | None = None) -> DeltaTable:
    """A table of an output, the newest version by default. InputError where there is none."""
    return there(delta.open_table(output, name, version=version), output)


def there(table: DeltaTable | None, output: str) -> DeltaTable:
    """A table that was looked for in an output. InputError where there is none."""
    if table is None:
        raise InputError(
            f"output {output}: no night has been published there; run `cfjobs nightly` first or check the URI"
        )
    return table


def rows(runs: DeltaTable) -> list[dict[str, Any]]:
    """The rows of a version of `runs`, by date."""
    return delta.select(f"select * from runs order by {RUN_DATE}", runs=runs)


def commits(runs: DeltaTable) -> dict[int, str]:
    """Version of `runs` -> the run that it published; a rollback or a retention publishes none."""
    with storage.explained(runs.table_uri):
        history = runs.history()
    return {entry["version"]: entry["run_id"] for entry in history if entry.get("run_id")}


def _night_of(row: dict[str, Any]) -> PublishedNight:
    """A row of `runs`; nights of before version 1.1 do not name the version of `runs` itself."""
    values = row | {name: json.loads(row[name]) for name in ("table_versions", "metrics", "counts")}
    values["version"] = values["table_versions"].pop(RUNS.name, None)
    config = json.loads(row["config"])
    values |= {"training": config.get("training"), "feedback": config.get("feedback", "ratings")}
    return PublishedNight(**{name: values.get(name) for name in PublishedNight.model_fields})


@dataclass(frozen=True)
class Source:
    """The tables of one night, at the versions that its run published."""

    output: str
    run: dict[str, Any]

    @property
    def is_implicit(self) -> bool:
        """Whether the night had implicit feedback, and so predicted no ratings."""
        return is_implicit(json.loads(self.run["config"]))

    @property
    def is_timed(self) -> bool:
        """Whether the night's ratings had times."""
        return json.loads(self.run["config"]).get("timestamp_column", "") is not None

    def version(self, table: Table) -> int | None:
        """The version of a table that the run published."""
        found: int | None = json.loads(self.run["table_versions"]).get(table.name)
        return found

    def table(self, table: Table) -> DeltaTable:
        """A table as the run published it."""
        return table_at(self.output, table.name, version=self.version(table))

    def scan(self, table: Table) -> "pl.LazyFrame":
        """The night's rows of a table."""
        import polars as pl  # here: look-ups do without it

        uri = storage.join(self.output, table.name)
        scan = pl.scan_delta(uri, version=self.version(table), storage_options=storage.options(uri))
        return scan.filter(pl.col(RUN_DATE) == self.run["run_date"]).drop(RUN_DATE)

    def first_lists(self) -> "pl.LazyFrame":
        """The first places of every list: user_id, rank, movie_id, source."""
        import polars as pl

        first = self.scan(TOP_N).filter(pl.col("rank") <= FIRST)
        return first.select("user_id", "rank", "movie_id", "source")


def published_nights(output: str) -> list[dict[str, Any]]:
    """Every row of `runs`, by date. InputError when nothing has been published there."""
    return rows(table_at(output, RUNS.name))


def night_of(output: str, run_date: date | None = None) -> Source:
    """The tables of a published night, the latest by default."""
    output = storage.normal(output)
    return Source(output, chosen_night(published_nights(output), output, run_date))


def chosen_night(nights: Sequence[dict[str, Any]], output: str, run_date: date | None) -> dict[str, Any]:
    """The row of a date, the latest by default; InputError for a date without one."""
    found = [night for night in nights if run_date in (None, night["run_date"])]
    if found:
        return found[-1]
    there = ", ".join(str(night["run_date"]) for night in nights)
    raise InputError(f"output {output}: no night of {run_date} is published; there are {there}")
