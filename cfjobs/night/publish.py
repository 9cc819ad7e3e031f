"""The end of a night: it becomes visible, one commit a table, and its work folder goes."""

import json
import logging
import platform
import time
from collections.abc import Sequence
from datetime import UTC, date, datetime
from importlib.metadata import version
from typing import Any

import pyarrow as pa

from cfjobs import __version__, model_store, report, storage, tables
from cfjobs.night import side_tables
from cfjobs.night.audience import write_audience
from cfjobs.night.by_value import write_by_value
from cfjobs.night.records import (
    Described,
    Night,
    Prepared,
    Published,
    Scored,
    Trained,
    as_decided,
    trained_already,
)
from cfjobs.night.score import top_n_schema
from cfjobs.storage.lease import COMMIT, Lease, leased
from cfjobs.tables import latest, openmetrics
from cfjobs.tables.delta import Overtaken, Seen
from cfjobs.tables.parts import Part, Ready, write_part
from cfjobs.tables.schema import OF_PUBLISHED

log = logging.getLogger(__name__)


TRIES = 3
"""How often a night commits anew when a writer that had lost its lease slipped a commit between."""


def commit(
    night: Night,
    prepared: Prepared,
    trained: Trained,
    scored: Sequence[Scored],
    *,
    metrics: dict[str, float | None],
    verdict: str,
    seconds: dict[str, float],
    night_lease: Lease | None = None,
) -> Published:
    """Make the night visible, one commit a table, `runs` last; then drop the work folder.

    seconds: of the stages before; those of the publish up to the row of `runs` join them, and of them
    `window`, from the first commit on. night_lease: the night's own, which must still be held. All that can
    fail is done before the first commit: every file is written and read back, every schema compared. Each
    commit is conditional on the lease and on the version of its table (`tables/delta.py`), so that a run that
    was paused meanwhile ends with LeaseLost or Overtaken.
    """
    started = time.perf_counter()
    parts = tuple(Part(**part) for record in scored for part in record.parts)
    described = night.load("described", Described) or Described()
    metrics = metrics | {f"{name}{OF_PUBLISHED}": value for name, value in described.figures.items()}
    metrics |= {
        "scale_low": None if prepared.implicit else prepared.y_range[0],
        "scale_high": None if prepared.implicit else prepared.y_range[1],
        "churn_published": described.churn,
    }
    metrics |= {row["metric"]: row["value"] for row in described.churns}
    if described.overridden:
        before = f"{verdict}; " if verdict.startswith("overridden: ") else "overridden: "
        verdict = before + "; ".join(described.overridden)
    model = model_store.load_model(trained.model_uri, users=range(0))
    if model.ranking is not None and model.stars is not None:
        metrics["stars_weight"] = model.stars_weight
    ready = [Ready(tables.TOP_N, _top_n_schema(night), parts), side_tables.users_ready(night)]
    ready += side_tables.write_all(night, model)
    ready.append(write_audience(night, prepared, trained))
    by_value, lists_by_value = write_by_value(night, prepared, trained, model)
    ready.append(by_value)
    counts = prepared.counts | {
        "lists": sum(record.lists for record in scored),
        "rows": sum(part.rows for part in parts),
    }
    if night.config.lists_per:
        counts |= {
            "lists_by_value": lists_by_value,
            "rows_by_value": sum(part.rows for part in by_value.parts),
        }
    config = as_decided(night, prepared)
    if model.training is not None:
        config = config.model_copy(update={"training": model.training})
    row = {
        tables.RUN_DATE: night.run_date,
        "run_id": night.run_id,
        "started_at": night.started_at,
        "model_uri": trained.model_uri,
        "counts": json.dumps(counts),
        "metrics": json.dumps(metrics),
        "config": config.model_dump_json(),
        "inputs": storage.read_bytes(storage.join(night.work, "inputs.json")).decode(),
        "versions": json.dumps(_versions()),
        "losses": json.dumps((trained_already(night, on="train") or trained).losses),
        "git_commit": side_tables.git_commit(),
        "report_uri": report.uri(night.output, night.run_date),
        "gate": verdict,
    }
    with leased(night.output, COMMIT, wait_s=120) as lease:
        versions, seconds = make_visible(
            night.output,
            ready,
            row,
            run_date=night.run_date,
            run_id=night.run_id,
            seconds=seconds,
            started=started,
            lease=lease,
            own=night_lease,
        )
    latest.write(night.output)
    openmetrics.write(night.output)
    report.build_after_publishing(night.output, run_date=night.run_date)
    storage.delete_under(night.work)
    log.info(
        "published run %s of %s: %d lists, %d rows, %d commits in %.2f s",
        night.run_id,
        night.run_date,
        counts["lists"],
        counts["rows"],
        len(versions),
        seconds["window"],
    )
    return Published(
        run_id=night.run_id,
        run_date=night.run_date,
        model_uri=trained.model_uri,
        tables={table.name: storage.join(night.output, table.name) for table in tables.PUBLISHED},
        table_versions=versions,
        metrics=metrics,
        counts=counts,
        seconds=seconds,
        gate=verdict,
        report=report.uri(night.output, night.run_date),
    )


def make_visible(
    output: str,
    ready: Sequence[Ready],
    row: dict[str, Any],
    *,
    run_date: date,
    run_id: str,
    seconds: dict[str, float],
    started: float,
    lease: Lease,
    own: Lease | None = None,
) -> tuple[dict[str, int], dict[str, float]]:
    """The commits, again from the start when another writer was still on its way; versions by table,
    and the seconds.

    row: of `runs`, without what the commits tell. own: the night's own lease. seconds: of the stages;
    returned with `publish`, since `started`, and `window`, since the first commit.
    """
    for attempt in range(1, TRIES + 1):
        seen = Seen(output, lease)
        for one in ready:
            seen.check(one)
        try:
            if own is not None:
                own.renew()
            if lease.taken_over:
                seen.fence()
            began = time.perf_counter()
            versions = {one.table.name: seen.publish(one, run_date=run_date, run_id=run_id) for one in ready}
            versions[tables.RUNS.name] = seen.next_version(tables.RUNS.name)
            now = time.perf_counter()
            spent = seconds | {"publish": round(now - started, 3), "window": round(now - began, 3)}
            told = {
                "finished_at": datetime.now(UTC),
                "table_versions": json.dumps(versions),
                "seconds": json.dumps(spent),
            }
            last = _row_of_runs(output, row | told, run_date=run_date, run_id=run_id)
            seen.publish(last, run_date=run_date, run_id=run_id)
            return versions, spent
        except Overtaken as error:
            if attempt == TRIES:
                raise
            log.warning("%s; committing anew", error)
    raise AssertionError("unreachable")


def _row_of_runs(output: str, row: dict[str, Any], *, run_date: date, run_id: str) -> Ready:
    schema = side_tables.plain_schema(tables.RUNS)
    rows = pa.Table.from_pylist([row], schema=schema).drop_columns(tables.RUN_DATE)
    return Ready(
        tables.RUNS, schema, (write_part(output, tables.RUNS, rows, run_date=run_date, name=run_id),)
    )


def _top_n_schema(night: Night) -> pa.Schema:
    user_type, movie_type = (
        night.frame(name, [f"{name[:-1]}_id"]).to_series().dtype for name in ("users", "movies")
    )
    return top_n_schema(user_type, movie_type)


def _versions() -> dict[str, str]:
    packages = ("torch", "polars", "pyarrow", "deltalake", "numpy")
    return {
        "cfjobs": __version__,
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
    }
