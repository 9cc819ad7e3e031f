"""Whether an installation is sound: its tables, models, leases, leftovers and clock,
and what would mend what is not.

A finding is a fault (something is wrong for readers or for the next night) or a note. Nothing is changed
without `repair`, and what is repaired is looked at again.
"""

import json
import logging
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

import polars as pl
from deltalake import DeltaTable

from cfjobs import model_store, report, storage, tables
from cfjobs.errors import CfjobsError, DamagedFile, InputError
from cfjobs.record import Record
from cfjobs.storage import lease
from cfjobs.storage.faults import first_line
from cfjobs.storage.lease import COMMIT, leased
from cfjobs.storage.parquet import TableFile
from cfjobs.tables import delta, latest, retention, rollback, runs
from cfjobs.tables.rules import OF_VALUE, list_faults
from cfjobs.tables.runs import PublishedNight

log = logging.getLogger(__name__)

MIN_AGE = timedelta(hours=48)
"""Leftovers younger than this may be a night's under way."""

MAX_SKEW_S = 60.0
BLOCK_ROWS = 500_000


class Finding(Record):
    """What is wrong with a part of the installation, and what would mend it. repaired: it has been."""

    what: str
    kind: Literal["fault", "note"]
    words: str
    remedy: str
    repaired: bool = False


class Diagnosis(Record):
    """All findings. checked: how many nights, files and models were looked at."""

    output: str
    findings: list[Finding]
    checked: dict[str, int]

    @property
    def sound(self) -> bool:
        """Whether no fault is left."""
        return all(finding.repaired or finding.kind == "note" for finding in self.findings)


def examine(output: str, *, repair: bool = False, now: datetime | None = None) -> Diagnosis:
    """Look at everything under an output. InputError where nothing has ever been published.

    repair: bring half a night back to the one that `runs` names, write the manifest, remove leftovers older
    than MIN_AGE. What only another night, or a person, can mend is said.
    """
    output = storage.normal(output)
    now = now or datetime.now(UTC)
    examination = _Examination(output, now)
    findings = list(examination.findings())
    if repair and any(finding.remedy.startswith(_REPAIR) for finding in findings):
        try:
            _repair(output, findings, now)
        except CfjobsError as error:
            log.warning("not all could be mended: %s", error)
        left = {finding.what + finding.words for finding in _Examination(output, now).findings()}
        findings = [
            finding.model_copy(update={"repaired": finding.what + finding.words not in left})
            for finding in findings
        ]
    return Diagnosis(output=output, findings=findings, checked=examination.checked)


_REPAIR = "`cfjobs doctor --repair`"


def _repair(output: str, findings: list[Finding], now: datetime) -> None:
    half = [finding for finding in findings if finding.what in _TABLES and _REPAIR in finding.remedy]
    found = runs.published(output)
    if half and found:
        version = max(night.version for night in found if night.version is not None)
        words = "; ".join(finding.words for finding in half)
        rollback.rollback(output, to=str(version), who="cfjobs doctor", why=words[:500])
        report.build_nights(output)
    latest.write(output)
    with leased(output, COMMIT, wait_s=120):
        left = retention.leftovers(output, kept=found, before=now - MIN_AGE)
        retention.remove(output, left, before=now - MIN_AGE)


_TABLES = {table.name for table in tables.PUBLISHED}
_FROM_THE_START = {table.name for table in tables.PUBLISHED if not table.added}


class _Examination:
    def __init__(self, output: str, now: datetime) -> None:
        self._output, self._now = output, now
        self.checked = {"nights": 0, "files": 0, "models": 0}

    def findings(self) -> Iterator[Finding]:
        """Everything that is wrong, the tables first."""
        yield from self._clock()
        yield from self._leases()
        opened = {table.name: self._opened(table.name) for table in tables.PUBLISHED}
        yield from (found for found in opened.values() if isinstance(found, Finding))
        there = {name: table for name, table in opened.items() if isinstance(table, DeltaTable)}
        if tables.RUNS.name not in there:
            if opened[tables.RUNS.name] is None:
                yield Finding(
                    what="runs",
                    kind="note" if not there else "fault",
                    words="no night has been published",
                    remedy="run `cfjobs nightly`",
                )
            return
        try:
            nights = runs.published(self._output)
        except (CfjobsError, ValueError, KeyError, TypeError, OSError) as error:
            yield _fault(
                "runs",
                f"its rows cannot be read ({first_line(error)})",
                f"{_ROLLBACK}, or run the night again",
            )
            return
        self.checked["nights"] = len(nights)
        for name in _TABLES - there.keys():
            named = name in _FROM_THE_START or any(name in night.table_versions for night in nights)
            if opened[name] is None and nights and named:
                yield _fault(name, "the table is missing, and `runs` names it", _AGAIN)
        for name, table in there.items():
            yield from self._table(name, table, nights)
        for night in nights:
            yield from self._model(night)
        for of in (tables.TOP_N, tables.TOP_N_BY_VALUE):
            if nights and of.name in there:
                yield from self._lists(of, there[of.name], nights[-1])
        yield from self._dates(nights)
        yield from self._manifest()
        yield from self._leftovers(nights)

    # The parts of the installation ------------------------------------------------------------------

    def _opened(self, name: str) -> DeltaTable | Finding | None:
        try:
            return delta.open_table(self._output, name)
        except Exception as error:  # whatever a library says of a broken log is a finding
            return _fault(
                name,
                f"its log cannot be read ({first_line(error)})",
                f"bring {name}/_delta_log back from a backup, or publish to another output",
            )

    def _table(self, name: str, table: DeltaTable, nights: list[PublishedNight]) -> Iterator[Finding]:
        """A table against its log, its columns, and the versions that `runs` names."""
        wanted = next(one for one in tables.PUBLISHED if one.name == name)
        columns = [column.name for column in wanted.columns]
        needed = {column.name for column in wanted.columns if not column.nullable}
        got = [field.name for field in table.schema().fields]
        if needed - set(got) or (not wanted.described and set(got) - set(columns)):
            yield _fault(
                name,
                f"has the columns {', '.join(got)}, expected {', '.join(columns)}",
                "publish to another output",
            )
        sizes = self._sizes(name, table)
        yield from self._files(name, table, sizes)
        for night in nights:
            version = night.version if name == tables.RUNS.name else night.table_versions.get(name)
            if version is None and wanted.added and not delta.partition(table, night.run_date):
                continue  # a night of before the table
            try:
                then = delta.open_table(self._output, name, version=version) if version is not None else None
            except Exception as error:
                yield _fault(
                    name,
                    f"version {version} of {night.run_date} cannot be read ({first_line(error)})",
                    _AGAIN_OF.format(night.run_date),
                )
                continue
            if then is None:
                yield _fault(
                    name, f"`runs` names no version for {night.run_date}", _AGAIN_OF.format(night.run_date)
                )
            elif name != tables.RUNS.name and delta.partition(then, night.run_date) != delta.partition(
                table, night.run_date
            ):
                yield _fault(
                    name,
                    f"the newest version has other files of {night.run_date} than version {version}, which `runs` names: half a night",
                    f"{_REPAIR}, or run the night again",
                )
        known = {night.run_date.isoformat() for night in nights}
        for path in sorted(
            {path.partition("/")[0].removeprefix(f"{tables.RUN_DATE}=") for path in delta.paths(table)}
            - known
        ):
            yield _fault(
                name,
                f"holds a night of {path} that `runs` does not know: half a night",
                f"{_REPAIR}, or run the night again",
            )

    def _files(self, name: str, table: DeltaTable, sizes: dict[str, int]) -> Iterator[Finding]:
        for row in pl.DataFrame(table.get_add_actions(flatten=True)).to_dicts():
            self.checked["files"] += 1
            day = row["path"].partition("/")[0].removeprefix(f"{tables.RUN_DATE}=")
            if row["path"] not in sizes:
                yield _fault(name, f"{row['path']} is gone", _AGAIN_OF.format(day))
            elif sizes[row["path"]] != row["size_bytes"]:
                yield _fault(
                    name,
                    f"{row['path']} has {sizes[row['path']]:,} bytes, its log says {row['size_bytes']:,}",
                    _AGAIN_OF.format(day),
                )
            else:
                yield from self._content(name, row["path"], row.get("num_records"), day)

    def _content(self, name: str, path: str, n_rows: int | None, day: str) -> Iterator[Finding]:
        """A file read with its checksums, and its rows counted."""
        try:
            file = TableFile(storage.join(self._output, name, path), columns=_columns(name))
            found = sum(block.height for block in file.blocks(BLOCK_ROWS))
        except (DamagedFile, InputError, OSError) as error:
            yield _fault(name, f"{path} cannot be read ({first_line(error)})", _AGAIN_OF.format(day))
            return
        if n_rows is not None and found != n_rows:
            yield _fault(name, f"{path} has {found:,} rows, its log says {n_rows:,}", _AGAIN_OF.format(day))

    def _sizes(self, name: str, _table: DeltaTable) -> dict[str, int]:
        root = storage.join(self._output, name)
        return {file.uri.removeprefix(root).lstrip("/"): file.size for file in storage.list_files(root)}

    def _lists(self, of: tables.Table, table: DeltaTable, night: PublishedNight) -> Iterator[Finding]:
        """The guarantees of the newest night's lists, file by file, but for the seen movies and the values
        that movies have."""
        n_rows = n_lists = 0
        key, end = (("user_id",), "") if of is tables.TOP_N else (OF_VALUE, "_by_value")
        low, high = (night.metrics.get(f"scale_{end}") for end in ("low", "high"))
        y_range = (-1e30, 1e30) if low is None or high is None else (low, high)
        of_stars = None if night.feedback == "implicit" else y_range
        for path in sorted(delta.partition(table, night.run_date)):
            uri = storage.join(self._output, of.name, path)
            try:
                for rows in TableFile(uri, columns=_columns(of.name)).blocks(BLOCK_ROWS):
                    n_rows, n_lists = n_rows + rows.height, n_lists + rows.select(key).n_unique()
                    seen = rows.select("user_id", "movie_id").clear()
                    for words in list_faults(rows, seen=seen, top_n=32_767, y_range=of_stars, key=key):
                        yield _fault(of.name, f"{path}: {words}", _AGAIN_OF.format(night.run_date))
            except (DamagedFile, InputError):
                return  # said already
        for what, got in (("rows", n_rows), ("lists", n_lists)):
            if (told := night.counts.get(what + end)) is not None and told != got:
                yield _fault(
                    of.name,
                    f"{got:,} {what} of {night.run_date}, `runs` tells of {told:,}",
                    _AGAIN_OF.format(night.run_date),
                )

    def _model(self, night: PublishedNight) -> Iterator[Finding]:
        self.checked["models"] += 1
        try:
            model_store.check(night.model_uri)
        except InputError:
            words = f"the model of {night.run_date}, {night.model_uri}, is gone"
            yield _fault(
                "models",
                words,
                f"{_AGAIN_OF.format(night.run_date)}; until then it cannot be gone back to or explained",
            )
        except DamagedFile as error:
            yield _fault("models", str(error), _AGAIN_OF.format(night.run_date))

    def _dates(self, nights: list[PublishedNight]) -> Iterator[Finding]:
        tomorrow = self._now.date() + timedelta(days=1)
        far = [night.run_date for night in nights if night.run_date > tomorrow]
        if far:
            before: list[date] = [night.run_date for night in nights if night.run_date <= tomorrow]
            remedy = f"`cfjobs rollback --to {before[-1]}`" if before else "publish to another output"
            yield _fault(
                "runs",
                f"{far[-1]} is published, later than tomorrow: it stays the newest night until then",
                remedy,
            )

    def _manifest(self) -> Iterator[Finding]:
        if latest.read(self._output) != latest.of(self._output):
            yield _fault(latest.NAME, "does not name the newest night of `runs`", _REPAIR)

    def _leftovers(self, nights: list[PublishedNight]) -> Iterator[Finding]:
        try:
            left = retention.leftovers(self._output, kept=nights, before=self._now - MIN_AGE)
        except DamagedFile:  # of a table, which has been said
            return
        for what, found in left.model_dump().items():
            if isinstance(found, list) and found:
                yield Finding(
                    what="leftovers", kind="note", remedy=f"{_REPAIR}, or `cfjobs retain`",
                    words=f"{len(found)} {what.replace('_', ' ')} that nothing needs, older than {MIN_AGE.days} days, such as {found[0]}",
                )  # fmt: skip

    def _leases(self) -> Iterator[Finding]:
        for held in lease.held(self._output):
            words = f"{held.name} is held by {held.owner}"
            if held.alive:
                yield Finding(
                    what="leases",
                    kind="note",
                    words=words,
                    remedy="a night or a command is under way; look again when it has ended",
                )
            else:
                yield Finding(
                    what="leases",
                    kind="note",
                    words=f"{words}, who is gone",
                    remedy="the next run takes it over",
                )

    def _clock(self) -> Iterator[Finding]:
        skew = _skew(self._output)
        if abs(skew) > MAX_SKEW_S:
            yield _fault(
                "clock",
                f"this machine's clock is {abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} the storage's",
                "set it, by NTP: dates, ages and signed requests depend on it",
            )


_AGAIN = "run the night again"
_AGAIN_OF = "`cfjobs nightly --run-date {0}` (or `cfjobs backfill --force`) makes it again; `cfjobs rollback` goes back to a night before"
_ROLLBACK = "`cfjobs rollback` to a night that is whole"


def _fault(what: str, words: str, remedy: str) -> Finding:
    return Finding(what=what, kind="fault", words=words, remedy=remedy)


def _columns(name: str) -> list[str]:
    table = next(one for one in tables.PUBLISHED if one.name == name)
    return [column.name for column in table.columns if column.name != tables.RUN_DATE]


def _skew(output: str) -> float:
    """Seconds by which this machine's clock is ahead of the storage's, seen by writing a file."""
    probe = storage.join(output, f"_clock-{uuid4().hex}")
    if not storage.is_s3(output) and not Path(output).is_dir():
        raise InputError(f"output {output}: there is no such folder; check the URI")
    began = datetime.now(UTC)
    try:
        storage.write_bytes(probe, b"")
        written = storage.modified(probe)
    except InputError:  # a place that may only be read
        return 0.0
    ended = datetime.now(UTC)
    storage.delete(probe)
    if began - timedelta(seconds=2) <= written <= ended + timedelta(seconds=2):
        return 0.0
    return (ended - written).total_seconds()


def as_text(found: Diagnosis) -> list[str]:
    """The findings for people."""
    checked = ", ".join(f"{n:,} {what}" for what, n in found.checked.items())
    lines = [f"{found.output}: {checked}"]
    for finding in found.findings:
        mark = "mended" if finding.repaired else finding.kind
        lines += [f"{mark:>6}  {finding.what}: {finding.words}", f"        {finding.remedy}"]
    return [*lines, "sound" if found.sound else "not sound"]


def as_json(found: Diagnosis) -> dict[str, Any]:
    return {**json.loads(found.model_dump_json()), "sound": found.sound}
