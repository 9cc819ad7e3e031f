"""`OUTPUT/metrics.prom`: the newest published night's figures as OpenMetrics text, for Prometheus.

node_exporter's textfile collector takes it as it is, once it is copied into its folder; so does anything that
serves a file by HTTP. The same figures are in the tables `runs` and `metrics`.
"""

import json
import logging
from datetime import UTC, datetime, time
from typing import Any

from cfjobs import storage
from cfjobs.errors import CfjobsError
from cfjobs.tables import delta, runs
from cfjobs.tables.schema import RUN_DATE, RUNS

log = logging.getLogger(__name__)

NAME = "metrics.prom"


def text(row: dict[str, Any]) -> bytes:
    """A row of `runs` as OpenMetrics."""
    from prometheus_client import CollectorRegistry, Gauge, Info  # here: look-ups have no use for it
    from prometheus_client.openmetrics.exposition import generate_latest

    registry = CollectorRegistry()
    night = Info("cfjobs_night", "The newest published night", registry=registry)
    night.info(
        {"run_date": str(row[RUN_DATE]), "run_id": row["run_id"], "gate": row["gate"].partition(":")[0]}
    )
    moments = {
        "cfjobs_night_date_seconds": ("Midnight (UTC) of the night's date", datetime.combine(row[RUN_DATE], time())),
        "cfjobs_night_started_seconds": ("When the night began", row["started_at"]),
        "cfjobs_night_published_seconds": ("When the night was published", row["finished_at"]),
    }  # fmt: skip
    for name, (meaning, moment) in moments.items():
        at = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        Gauge(name, f"{meaning}, in seconds since 1970", registry=registry).set(at.timestamp())
    families = {
        "seconds": ("cfjobs_night_stage_seconds", "Seconds that a stage took", "stage"),
        "counts": ("cfjobs_night_count", "What was counted in the night", "name"),
        "metrics": ("cfjobs_night_metric", "Metrics of the night, as in its row of `runs`", "name"),
        "table_versions": ("cfjobs_night_table_version", "Version of each table", "table"),
    }
    for column, (name, meaning, label) in families.items():
        gauge = Gauge(name, meaning, [label], registry=registry)
        for key, value in json.loads(row[column]).items():
            if isinstance(value, (int, float)):
                gauge.labels(key).set(value)
    found: bytes = generate_latest(registry)  # type: ignore[no-untyped-call]
    return found


def write(output: str) -> None:
    """Bring the file up to `runs`. It follows a commit that stands: what goes wrong is logged."""
    uri = storage.join(output, NAME)
    try:
        table = delta.open_table(output, RUNS.name)
        rows = runs.rows(table) if table else []
        if rows:
            storage.write_bytes(uri, text(rows[-1]))
        else:
            storage.delete(uri)
    except CfjobsError as error:
        log.warning("%s: was not written (%s); the next night makes it again", uri, error)
