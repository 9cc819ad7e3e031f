"""Removing old nights, and whatever no kept night needs."""

import logging
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from deltalake.transaction import CommitProperties

from cfjobs import storage
from cfjobs.record import Record
from cfjobs.storage.lease import COMMIT, claimed
from cfjobs.storage.uri import FileInfo
from cfjobs.tables import delta
from cfjobs.tables.runs import PublishedNight, paths, published, table_at
from cfjobs.tables.schema import PUBLISHED, RUN_DATE, RUNS

log = logging.getLogger(__name__)


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
            for table in PUBLISHED:
                _delete_before(output, table.name, kept[0].run_date)
        before = (now or datetime.now(UTC)) - min_age
        files = [
            file
            for table in PUBLISHED
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
    table = delta.open_table(output, name)
    if table is None:
        return
    with storage.explained(table.table_uri), delta.commits(table.table_uri):
        table.delete(
            f"{RUN_DATE} < '{oldest.isoformat()}'",
            commit_properties=CommitProperties(custom_metadata={"retained_from": oldest.isoformat()}),
        )


def _unreferenced(
    output: str, name: str, kept: Sequence[PublishedNight], *, gone: set[date]
) -> list[FileInfo]:
    """Files of a table that neither its latest version nor the version of a kept night holds."""
    latest = delta.open_table(output, name)
    if latest is None:
        return []
    held = {uri for uri in paths(latest) if not any(f"{RUN_DATE}={day}/" in uri for day in gone)}
    for night in kept:
        version = night.version if name == RUNS.name else night.table_versions.get(name)
        if version is not None:
            held |= paths(table_at(output, name, version=version))
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
