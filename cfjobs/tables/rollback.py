"""Going back to a published night: all tables return to the state in which it had just been published."""

import json
import logging
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from typing import Any

from deltalake import DeltaTable

from cfjobs import storage
from cfjobs.errors import InputError
from cfjobs.record import Record
from cfjobs.storage.lease import COMMIT, leased
from cfjobs.tables import delta, latest, openmetrics
from cfjobs.tables.delta import Seen, paths
from cfjobs.tables.runs import commits, rows, table_at, there
from cfjobs.tables.schema import PUBLISHED, ROLLBACKS, RUN_DATE, RUNS

log = logging.getLogger(__name__)


class Rollback(Record):
    """What a rollback did, or would do. nights_left_out: published then,
    but their models or files are gone since."""

    to_date: date
    to_run: str
    who: str
    why: str
    dry_run: bool
    before: dict[str, int]
    restored: dict[str, int]
    nights_gone: list[date]
    nights_back: list[date]
    nights_left_out: list[date]


# Rollback -------------------------------------------------------------------------------------------


def rollback(output: str, *, to: str, who: str, why: str, dry_run: bool = False) -> Rollback:
    """Bring all tables to the state in which this night had just been published.

    to: a date, or a version of the `runs` table. The tables get new versions with the old content, so a
    rollback can be rolled back; `runs` goes last. Who and why are in each commit and in the `rollbacks`
    table.
    """
    output = storage.normal(output)
    if dry_run:
        now = {table.name: delta.open_table(output, table.name) for table in PUBLISHED}
        return _planned(output, now, to=to, who=who, why=why, dry_run=True)
    with leased(output, COMMIT, wait_s=120) as lease:
        seen = Seen(output, lease)
        done = _planned(output, seen.tables, to=to, who=who, why=why, dry_run=False)
        if lease.taken_over:
            seen.fence()
        lease.renew()
        _record_rollback(output, done)
        for table in PUBLISHED:
            if table.name not in done.restored:
                _empty(seen, table.name, done)
        for name, table_version in done.restored.items():
            _restore(seen, name, table_version, done)
    latest.write(output)
    openmetrics.write(output)
    log.info("rolled back to %s, run %s, by %s: %s", done.to_date, done.to_run, who, why or "no reason given")
    return done


def _planned(
    output: str, now: Mapping[str, DeltaTable | None], *, to: str, who: str, why: str, dry_run: bool
) -> Rollback:
    """What a rollback to this night comes to, with the tables as they are now. InputError when there is no
    such night, or something of it is gone."""
    runs = there(now[RUNS.name], output)
    version = _version_of(runs, to)
    target = table_at(output, RUNS.name, version=version)
    nights = rows(target)
    row = max(nights, key=lambda row: row["finished_at"])
    wanted = {**json.loads(row["table_versions"]), RUNS.name: version}
    before = {name: there(now[name], output) for name in wanted}
    gone = _gone(output, before, wanted, nights)
    if row["run_date"] in gone:
        raise InputError(
            f"rollback: the night of {row['run_date']} cannot come back, {gone[row['run_date']]} is gone (by `cfjobs retain`, or by hand); "
            "roll back to a later night"
        )
    now_dates, then_dates = ({row["run_date"] for row in found} for found in (rows(runs), nights))
    return Rollback(
        to_date=row["run_date"],
        to_run=row["run_id"],
        who=who,
        why=why,
        dry_run=dry_run,
        before={name: table.version() for name, table in before.items()},
        restored=wanted,
        nights_gone=sorted(now_dates - (then_dates - gone.keys())),
        nights_back=sorted(then_dates - now_dates - gone.keys()),
        nights_left_out=sorted(gone),
    )


def _gone(
    output: str,
    now: Mapping[str, DeltaTable],
    wanted: Mapping[str, int],
    nights: Sequence[dict[str, Any]],
) -> dict[date, str]:
    """The nights that cannot come back, because a retention removed them,
    and what of each is missing first."""
    gone = {
        row["run_date"]: str(row["model_uri"])
        for row in nights
        if not storage.exists(storage.join(row["model_uri"], "model.json"))
    }
    for name, version in wanted.items():
        back = paths(table_at(output, name, version=version)) - paths(now[name])
        for path in sorted(back):
            uri = storage.join(output, name, path)
            day = date.fromisoformat(path.partition("/")[0].removeprefix(f"{RUN_DATE}="))
            if day not in gone and not storage.exists(uri):
                gone[day] = uri
    return gone


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


def _restore(seen: Seen, name: str, version: int, rollback: Rollback) -> None:
    uri = storage.join(seen.output, name)
    table = seen.table(name)
    if table is None:
        return
    who = {"rolled_back_to": rollback.to_run, "who": rollback.who, "why": rollback.why}
    left_out = ", ".join(f"'{day}'" for day in rollback.nights_left_out)
    then = paths(table_at(seen.output, name, version=version))
    then = {
        path for path in then if not any(f"{RUN_DATE}={day}/" in path for day in rollback.nights_left_out)
    }
    if paths(table) == then:
        return
    seen.commit(
        name,
        lambda properties: table.restore(version, ignore_missing_files=True, commit_properties=properties),
        **who,
    )
    if left_out:
        seen.look_again(name)
        restored = seen.table(name)
        assert restored is not None
        seen.commit(
            name,
            lambda properties: restored.delete(f"{RUN_DATE} in ({left_out})", commit_properties=properties),
            **who,
        )
    log.info("%s: restored to version %d", uri, version)


def _empty(seen: Seen, name: str, rollback: Rollback) -> None:
    """Take every night out of a table that came later than the night gone back to."""
    table = seen.table(name)
    if table is None or not paths(table):
        return
    seen.commit(
        name,
        lambda properties: table.delete(commit_properties=properties),
        rolled_back_to=rollback.to_run,
        who=rollback.who,
        why=rollback.why,
    )


def _record_rollback(output: str, rollback: Rollback) -> None:
    import pyarrow as pa  # here: saying what would be done does without it

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
