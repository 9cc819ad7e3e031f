"""Removing old nights, and whatever no kept night needs."""

import itertools
import logging
import os
import re
import tempfile
from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from deltalake.exceptions import DeltaError

from cfjobs import storage
from cfjobs.errors import DamagedFile
from cfjobs.record import Record
from cfjobs.storage import lease
from cfjobs.storage.faults import first_line
from cfjobs.storage.lease import COMMIT, leased
from cfjobs.storage.uri import FileInfo
from cfjobs.tables import delta, latest
from cfjobs.tables.delta import Seen, paths
from cfjobs.tables.runs import PublishedNight, published, table_at
from cfjobs.tables.schema import PUBLISHED, RUN_DATE, RUNS

log = logging.getLogger(__name__)


class Retention(Record):
    """What a retention removed, or would remove. temporary: files that killed writers left half-written."""

    dry_run: bool
    kept: list[date]
    removed_nights: list[date]
    files: int
    bytes: int
    models: list[str]
    pages: list[str]
    work_folders: list[str]
    temporary: list[str]


class Leftovers(Record):
    """What no kept night, version, living night or work folder needs, and is older than a moment."""

    files: list[str]
    bytes: int
    models: list[str]
    pages: list[str]
    work_folders: list[str]
    temporary: list[str]


# Retention ------------------------------------------------------------------------------------------


def retain(
    output: str, *, nights: int, min_age: timedelta, dry_run: bool = False, now: datetime | None = None
) -> Retention:
    """Keep the newest nights; remove the others, and whatever no kept night needs.

    A file stays while the latest version of its table holds it, or the version that a kept night names; while
    a night of its date is under way, or a work folder that stays names it; and while it is younger than
    min_age.
    """
    output = storage.normal(output)
    with leased(output, COMMIT, wait_s=120) as ours:
        found = published(output)
        kept, gone = found[-nights:], found[:-nights]
        before = (now or datetime.now(UTC)) - min_age
        if gone and not dry_run:
            seen = Seen(output, ours)
            for table in PUBLISHED:
                _delete_before(seen, table.name, kept[0].run_date)
        left = leftovers(output, kept=kept, gone=gone, before=before)
        if not dry_run:
            remove(output, left, before=before)
    if gone and not dry_run:
        latest.write(output)
    log.info("%d nights kept, %d removed, %d files", len(kept), len(gone), len(left.files))
    return Retention(
        dry_run=dry_run,
        kept=[night.run_date for night in kept],
        removed_nights=[night.run_date for night in gone],
        **left.model_dump() | {"files": len(left.files)},
    )


def leftovers(
    output: str, *, kept: Sequence[PublishedNight], gone: Sequence[PublishedNight] = (), before: datetime
) -> Leftovers:
    """What may go. kept, gone: the nights that stay, and those that go with it."""
    living = lease.living(output)
    work = [
        folder
        for folder in _old_folders(output, "_work", before)
        if not any(folder.rpartition("/")[2].startswith(f"{day}-") for day in living)
    ]
    needed = _needed_by_work(output, besides=set(work))
    files = [
        file
        for table in PUBLISHED
        for file in _unreferenced(output, table.name, kept, gone={night.run_date for night in gone})
        if not _of_living(file.uri, living) and file.uri not in needed and storage.modified(file.uri) < before
    ]
    models = [
        folder
        for folder in _old_folders(output, "models", before)
        if kept
        and folder.rpartition("/")[2] < kept[0].run_date.isoformat()
        and folder not in {night.model_uri for night in kept}
        and folder not in needed
        and not any(folder.rpartition("/")[2].startswith(f"{day}-") for day in living)
    ]
    pages = [
        folder
        for folder in _old_folders(output, "reports", before)
        if kept and folder.rpartition("run_date=")[2] < kept[0].run_date.isoformat()
    ]
    return Leftovers(
        files=[file.uri for file in files],
        bytes=sum(file.size for file in files),
        models=models,
        pages=pages,
        work_folders=work,
        temporary=_temporary(output, before),
    )


def remove(output: str, left: Leftovers, *, before: datetime) -> None:
    """Remove what is left over."""
    for uri in (*left.files, *left.temporary):
        storage.delete(uri)
    for folder in (*left.models, *left.pages, *left.work_folders):
        storage.delete_under(folder)
    lease.forget_given_back(output, before=before)


def _delete_before(seen: Seen, name: str, oldest: date) -> None:
    table = seen.table(name)
    if table is None:
        return
    seen.commit(
        name,
        lambda properties: table.delete(f"{RUN_DATE} < '{oldest.isoformat()}'", commit_properties=properties),
        retained_from=oldest.isoformat(),
    )


def _unreferenced(
    output: str, name: str, kept: Sequence[PublishedNight], *, gone: set[date]
) -> list[FileInfo]:
    """Files of a table that neither its latest version nor the version of a kept night holds."""
    named = (night.version if name == RUNS.name else night.table_versions.get(name) for night in kept)
    versions = sorted({version for version in named if version is not None})
    first = versions[0] if versions else None
    # The oldest first: it holds most of what the newest does not, and the newest then goes on from its log.
    try:
        table = delta.open_table(output, name, version=first)
    except DamagedFile:  # it matters where files are left that it might hold
        table, first = delta.open_table(output, name), None
    if table is None:
        return []
    oldest = set[str]() if first is None else paths(table)
    try:
        with storage.explained(table.table_uri):
            table.update_incremental()
    except DeltaError as error:
        raise DamagedFile(f"table {name}: its log cannot be read ({first_line(error)})") from error
    root = storage.join(output, name)
    held = {path for path in paths(table) if not any(f"{RUN_DATE}={day}/" in path for day in gone)}
    there = {file.uri.removeprefix(root).lstrip("/"): file for file in storage.list_files(root)}
    left = there.keys() - held - oldest
    for version in versions if first is None else versions[1:]:
        if not left:
            break
        left -= paths(table_at(output, name, version=version))
    return [file for path, file in there.items() if path in left]


def _of_living(uri: str, living: set[str]) -> bool:
    return any(f"/{RUN_DATE}={day}/" in uri for day in living)


_NAMES = re.compile(r'"(?:path|model_uri)":\s*"([^"]+)"')


def _needed_by_work(output: str, *, besides: set[str]) -> set[str]:
    """What the records of the work folders that stay name: parts of tables, and models."""
    root = storage.join(output, "_work")
    if not storage.is_s3(root) and not Path(root).is_dir():
        return set()
    needed: set[str] = set()
    for file in storage.list_files(root, suffix=".json"):
        if any(file.uri.startswith(f"{folder}/") for folder in besides):
            continue
        for name in _NAMES.findall(storage.read_bytes(file.uri).decode("utf-8", errors="replace")):
            needed.add(name.removesuffix("/measured"))
            needed |= {storage.join(output, table.name, name) for table in PUBLISHED}
    return needed


def _temporary(output: str, before: datetime) -> list[str]:
    """Half-written files of killed writers on this disk: those of the output,
    and those on their way to a store."""
    folders: Iterable[tuple[str, list[str], list[str]]] = os.walk(output)
    if storage.is_s3(output):
        folders = itertools.islice(os.walk(tempfile.gettempdir()), 1)  # the folder itself
    found = [
        os.path.join(folder, name)
        for folder, _, names in folders
        for name in names
        if name.startswith("._") and name.endswith(".part")
    ]
    return sorted(path for path in found if storage.modified(path) < before)


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
