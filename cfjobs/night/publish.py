"""The end of a night: it becomes visible, one commit a table, and its work folder goes."""

import json
import logging
import platform
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version

import pyarrow as pa

from cfjobs import __version__, model_store, report, storage, tables
from cfjobs.night import side_tables
from cfjobs.night.records import Described, Night, Prepared, Published, Scored, Trained, trained_already
from cfjobs.night.score import top_n_schema
from cfjobs.storage.lease import COMMIT, claimed
from cfjobs.tables import delta
from cfjobs.tables.delta import Part
from cfjobs.tables.schema import OF_PUBLISHED

log = logging.getLogger(__name__)


def commit(
    night: Night,
    prepared: Prepared,
    trained: Trained,
    scored: Sequence[Scored],
    *,
    metrics: dict[str, float | None],
    verdict: str,
    seconds: dict[str, float],
) -> Published:
    """Make the night visible, one commit a table, `runs` last; then drop the work folder.

    seconds: of the stages before; those of the publish up to the row of `runs` join them.
    """
    started = time.perf_counter()
    with claimed(night.output, COMMIT, wait_s=120):
        user_type, movie_type = (
            night.frame(name, [f"{name[:-1]}_id"]).to_series().dtype for name in ("users", "movies")
        )
        parts = [Part(**part) for record in scored for part in record.parts]
        counts = prepared.counts | {
            "lists": sum(record.lists for record in scored),
            "rows": sum(part.rows for part in parts),
        }
        versions = {
            tables.TOP_N.name: delta.publish_parts(
                night.output,
                tables.TOP_N,
                top_n_schema(user_type, movie_type),
                parts,
                run_date=night.run_date,
                run_id=night.run_id,
            ),
        }
        described = (night.load("described", Described) or Described()).figures
        metrics = metrics | {f"{name}{OF_PUBLISHED}": value for name, value in described.items()}
        model = model_store.load_model(trained.model_uri, users=range(0))
        if model.ranking is not None:
            metrics["stars_weight"] = model.stars_weight
        versions |= side_tables.publish_all(night, model, described=described)
        seconds = seconds | {"publish": round(time.perf_counter() - started, 3)}
        row = {
            tables.RUN_DATE: night.run_date,
            "run_id": night.run_id,
            "started_at": night.started_at,
            "finished_at": datetime.now(UTC),
            "model_uri": trained.model_uri,
            "training": model.training,
            "table_versions": json.dumps(versions),
            "counts": json.dumps(counts),
            "metrics": json.dumps(metrics),
            "seconds": json.dumps(seconds),
            "config": night.config.model_dump_json(),
            "inputs": storage.read_bytes(storage.join(night.work, "inputs.json")).decode(),
            "versions": json.dumps(_versions()),
            "losses": json.dumps((trained_already(night, on="train") or trained).losses),
            "git_commit": side_tables.git_commit(),
            "report_uri": report.uri(night.output, night.run_date),
            "gate": verdict,
        }
        versions[tables.RUNS.name] = delta.publish_rows(
            night.output,
            tables.RUNS,
            pa.Table.from_pylist([row], schema=_plain_schema(tables.RUNS)),
            run_date=night.run_date,
            run_id=night.run_id,
        )
        report.build_after_publishing(night.output, run_date=night.run_date)
        storage.delete_under(night.work)
        log.info(
            "published run %s of %s: %d lists, %d rows",
            night.run_id,
            night.run_date,
            counts["lists"],
            counts["rows"],
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


def _plain_schema(table: tables.Table) -> pa.Schema:
    """The schema of a table without outside ids."""
    return table.schema(user_type=pa.string(), movie_type=pa.string())


def _versions() -> dict[str, str]:
    packages = ("torch", "polars", "pyarrow", "deltalake", "numpy")
    return {
        "cfjobs": __version__,
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
    }
