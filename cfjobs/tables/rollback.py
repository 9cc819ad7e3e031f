"""Going back to a published night: all tables return to the state in which it had just been published."""

import json
import logging
from datetime import UTC, date, datetime

import pyarrow as pa
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError
from deltalake.transaction import CommitProperties

from cfjobs import storage
from cfjobs.errors import InputError
from cfjobs.record import Record
from cfjobs.storage.lease import COMMIT, claimed
from cfjobs.tables import delta
from cfjobs.tables.runs import commits, paths, rows, table_at
from cfjobs.tables.schema import ROLLBACKS, RUN_DATE, RUNS

log = logging.getLogger(__name__)


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


# Rollback -------------------------------------------------------------------------------------------


def rollback(output: str, *, to: str, who: str, why: str, dry_run: bool = False) -> Rollback:
    """Bring all tables to the state in which this night had just been published.

    to: a date, or a version of the `runs` table. The tables get new versions with the old content, so a
    rollback can be rolled back; `runs` goes last. Who and why are in each commit and in the `rollbacks` table.
    """
    output = storage.normal(output)
    runs = table_at(output, RUNS.name)
    version = _version_of(runs, to)
    target = table_at(output, RUNS.name, version=version)
    row = max(rows(target), key=lambda row: row["finished_at"])
    wanted = {**json.loads(row["table_versions"]), RUNS.name: version}
    now_dates, then_dates = ({row["run_date"] for row in rows(table)} for table in (runs, target))
    before = {name: table_at(output, name).version() for name in wanted}
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
    published = commits(runs)
    if to.isdigit():
        found = [int(to)] if int(to) in published else []
    else:
        found = [version for version, run_id in published.items() if run_id.startswith(f"{to}-")]
    if not found:
        raise InputError(
            f"rollback: no night {to!r} was published here; `cfjobs history` lists their dates and versions"
        )
    return max(found)


def _restore(output: str, name: str, version: int, rollback: Rollback) -> None:
    uri = storage.join(output, name)
    table = table_at(output, name)
    if paths(table) == paths(table_at(output, name, version=version)):
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
        RUN_DATE: rollback.to_date,
        "run_id": rollback.to_run,
        "at": datetime.now(UTC),
        "who": rollback.who,
        "why": rollback.why,
        "before": json.dumps(rollback.before),
        "restored": json.dumps(rollback.restored),
    }
    schema = ROLLBACKS.schema(user_type=pa.string(), movie_type=pa.string())
    delta.append_rows(output, ROLLBACKS, pa.Table.from_pylist([row], schema=schema))
