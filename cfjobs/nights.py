"""The nights of an output: which are published, going back to one, and removing old ones.

A night is named by its date, or by the version of the `runs` table that its last commit made. That row names the
versions of the other tables, so all of them go back together.
"""

import json
import logging
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError
from deltalake.transaction import CommitProperties

from cfjobs import publish, storage, tables
from cfjobs.claim import COMMIT, claimed
from cfjobs.errors import InputError
from cfjobs.gate import LastNight
from cfjobs.night import Record
from cfjobs.storage import FileInfo

log = logging.getLogger(__name__)


class PublishedNight(Record):
    """A row of `runs`. version: of the `runs` table, which names this state of all tables."""

    run_date: date
    run_id: str
    version: int | None
    finished_at: datetime
    gate: str
    model_uri: str
    table_versions: dict[str, int]
    metrics: dict[str, float | None]
    counts: dict[str, int]


class Rollback(Record):
    """What a rollback did, or would do."""

    to_date: date
    to_run: str
    who: str
    why: str
    dry_run: bool
    before: dict[str, int]
    restored: dict[str, int]
    nights_gone: list[date]
    nights_back: list[date]


class Retention(Record):
    """What a retention removed, or would remove."""

    dry_run: bool
    kept: list[date]
    removed_nights: list[date]
    files: int
    bytes: int
    models: list[str]
    pages: list[str]
    work_folders: list[str]


# History --------------------------------------------------------------------------------------------


def published(output: str) -> list[PublishedNight]:
    """The nights that readers can see, by date; empty where nothing has been published."""
    runs = publish.open_table(output, tables.RUNS.name)
    if runs is None:
        return []
    versions = {run_id: version for version, run_id in sorted(_commits(runs).items())}
    return [_night_of(row, versions.get(row["run_id"])) for row in _rows(runs)]


def newest(output: str) -> date | None:
    """The newest published date."""
    return max((night.run_date for night in published(output)), default=None)


def last(output: str, *, before: date) -> LastNight | None:
    """The newest published night before a date: what the gate compares with. A date that runs again replaces itself."""
    runs = publish.open_table(output, tables.RUNS.name)
    rows = [row for row in _rows(runs) if row["run_date"] < before] if runs else []
    if not rows:
        return None
    row = rows[-1]
    metrics, counts, config = (json.loads(row[name]) for name in ("metrics", "counts", "config"))
    return LastNight(row["run_date"], metrics, counts, config)


def stale(output: str, run_date: date) -> str | None:
    """Why a night of this date would come too late; None when it would not."""
    published_last = newest(output)
    if published_last is None or published_last <= run_date:
        return None
    return f"the night of {run_date} is stale: {published_last} is published already; `cfjobs backfill` publishes it all the same"


# Rollback -------------------------------------------------------------------------------------------


def rollback(output: str, *, to: str, who: str, why: str, dry_run: bool = False) -> Rollback:
    """Bring all tables to the state in which this night had just been published.

    to: a date, or a version of the `runs` table. The tables get new versions with the old content, so a
    rollback can be rolled back; `runs` goes last. Who and why are in each commit and in the `rollbacks` table.
    """
    output = storage.normal(output)
    runs = _table(output, tables.RUNS.name)
    version = _version_of(runs, to)
    target = _table(output, tables.RUNS.name, version=version)
    row = max(_rows(target), key=lambda row: row["finished_at"])
    wanted = {**json.loads(row["table_versions"]), tables.RUNS.name: version}
    now_dates, then_dates = ({row["run_date"] for row in _rows(table)} for table in (runs, target))
    before = {name: _table(output, name).version() for name in wanted}
    done = Rollback(
        to_date=row["run_date"],
        to_run=row["run_id"],
        who=who,
        why=why,
        dry_run=dry_run,
        before=before,
        restored=wanted,
        nights_gone=sorted(now_dates - then_dates),
        nights_back=sorted(then_dates - now_dates),
    )
    if dry_run:
        return done
    with claimed(output, COMMIT, wait_s=120):
        _record_rollback(output, done)
        for name, table_version in wanted.items():
            _restore(output, name, table_version, done)
    log.info("rolled back to %s, run %s, by %s: %s", done.to_date, done.to_run, who, why or "no reason given")
    return done


def _version_of(runs: DeltaTable, to: str) -> int:
    commits = _commits(runs)
    if to.isdigit():
        found = [int(to)] if int(to) in commits else []
    else:
        found = [version for version, run_id in commits.items() if run_id.startswith(f"{to}-")]
    if not found:
        raise InputError(
            f"rollback: no night {to!r} was published here; `cfjobs history` lists their dates and versions"
        )
    return max(found)


def _restore(output: str, name: str, version: int, rollback: Rollback) -> None:
    uri = storage.join(output, name)
    table = _table(output, name)
    if _paths(table) == _paths(_table(output, name, version=version)):
        return
    metadata = {"rolled_back_to": rollback.to_run, "who": rollback.who, "why": rollback.why}
    with storage.explained(uri):
        try:
            table.restore(version, commit_properties=CommitProperties(custom_metadata=metadata))
        except DeltaError as error:
            raise InputError(
                f"table {uri}: version {version} cannot be restored ({str(error).splitlines()[0][:200]}); "
                "its files may be gone by `cfjobs retain`: roll back to a later night"
            ) from error


def _record_rollback(output: str, rollback: Rollback) -> None:
    row = {
        tables.RUN_DATE: rollback.to_date,
        "run_id": rollback.to_run,
        "at": datetime.now(UTC),
        "who": rollback.who,
        "why": rollback.why,
        "before": json.dumps(rollback.before),
        "restored": json.dumps(rollback.restored),
    }
    schema = tables.ROLLBACKS.schema(user_type=pa.string(), movie_type=pa.string())
    publish.append_rows(output, tables.ROLLBACKS, pa.Table.from_pylist([row], schema=schema))


# Retention ------------------------------------------------------------------------------------------


def retain(
    output: str, *, nights: int, min_age: timedelta, dry_run: bool = False, now: datetime | None = None
) -> Retention:
    """Keep the newest nights; remove the others, and whatever no kept night needs.

    A file stays while the latest version of its table holds it, or the version that a kept night names, and
    while it is younger than min_age: the parts of a night under way are named by no commit yet.
    """
    output = storage.normal(output)
    with claimed(output, COMMIT, wait_s=120):
        found = published(output)
        kept, gone = found[-nights:], found[:-nights]
        if gone and not dry_run:
            for table in tables.PUBLISHED:
                _delete_before(output, table.name, kept[0].run_date)
        before = (now or datetime.now(UTC)) - min_age
        files = [
            file
            for table in tables.PUBLISHED
            for file in _unreferenced(output, table.name, kept, gone={night.run_date for night in gone})
            if storage.modified(file.uri) < before
        ]
        models = [
            folder
            for folder in _old_folders(output, "models", before)
            if kept
            and folder.rpartition("/")[2] < kept[0].run_date.isoformat()
            and folder not in {night.model_uri for night in kept}
        ]
        pages = [
            folder
            for folder in _old_folders(output, "reports", before)
            if kept and folder.rpartition("run_date=")[2] < kept[0].run_date.isoformat()
        ]
        work = _old_folders(output, "_work", before)
        if not dry_run:
            for file in files:
                storage.delete(file.uri)
            for folder in (*models, *pages, *work):
                storage.delete_under(folder)
    log.info("%d nights kept, %d removed, %d files", len(kept), len(gone), len(files))
    return Retention(
        dry_run=dry_run,
        kept=[night.run_date for night in kept],
        removed_nights=[night.run_date for night in gone],
        files=len(files),
        bytes=sum(file.size for file in files),
        models=models,
        pages=pages,
        work_folders=work,
    )


def _delete_before(output: str, name: str, oldest: date) -> None:
    table = publish.open_table(output, name)
    if table is None:
        return
    with storage.explained(table.table_uri), publish.commits(table.table_uri):
        table.delete(
            f"{tables.RUN_DATE} < '{oldest.isoformat()}'",
            commit_properties=CommitProperties(custom_metadata={"retained_from": oldest.isoformat()}),
        )


def _unreferenced(
    output: str, name: str, kept: Sequence[PublishedNight], *, gone: set[date]
) -> list[FileInfo]:
    """Files of a table that neither its latest version nor the version of a kept night holds."""
    latest = publish.open_table(output, name)
    if latest is None:
        return []
    held = {uri for uri in _paths(latest) if not any(f"{tables.RUN_DATE}={day}/" in uri for day in gone)}
    for night in kept:
        version = night.version if name == tables.RUNS.name else night.table_versions.get(name)
        if version is not None:
            held |= _paths(_table(output, name, version=version))
    root = storage.join(output, name)
    return [file for file in storage.list_files(root) if file.uri.removeprefix(root).lstrip("/") not in held]


def _old_folders(output: str, name: str, before: datetime) -> list[str]:
    """Folders right under OUTPUT/name in which nothing is younger than this."""
    root = storage.join(output, name)
    if not storage.is_s3(root) and not Path(root).is_dir():
        return []
    newest_of: dict[str, datetime] = {}
    for file in storage.list_files(root, suffix=""):
        folder, inside, _ = file.uri.removeprefix(root).lstrip("/").partition("/")
        if inside:
            newest_of[folder] = max(newest_of.get(folder, before), storage.modified(file.uri))
    return [storage.join(root, folder) for folder, at in sorted(newest_of.items()) if at <= before]


# What they share ------------------------------------------------------------------------------------


def _table(output: str, name: str, *, version: int | None = None) -> DeltaTable:
    table = publish.open_table(output, name, version=version)
    if table is None:
        raise InputError(
            f"output {output}: no night has been published there; run `cfjobs nightly` first or check the URI"
        )
    return table


def _rows(runs: DeltaTable) -> list[dict[str, Any]]:
    """The rows of a version of `runs`, by date."""
    with storage.explained(runs.table_uri):
        rows = runs.to_pyarrow_table().sort_by(tables.RUN_DATE)
    return rows.to_pylist()  # type: ignore[no-any-return]


def _commits(runs: DeltaTable) -> dict[int, str]:
    """Version of `runs` -> the run that it published; a rollback or a retention publishes none."""
    with storage.explained(runs.table_uri):
        history = runs.history()
    return {entry["version"]: entry["run_id"] for entry in history if entry.get("run_id")}


def _night_of(row: dict[str, Any], version: int | None) -> PublishedNight:
    values = row | {name: json.loads(row[name]) for name in ("table_versions", "metrics", "counts")}
    return PublishedNight(
        version=version, **{name: values[name] for name in PublishedNight.model_fields if name != "version"}
    )


def _paths(table: DeltaTable) -> set[str]:
    """The files of a version, below the table."""
    return set(pa.table(table.get_add_actions(flatten=True))["path"].to_pylist())
