"""OpenLineage events of a night: what it read, what it wrote, how it ended.

Off unless OPENLINEAGE_URL names a server; needs the extra `openlineage`, whose client takes its other
settings, such as OPENLINEAGE_API_KEY and OPENLINEAGE_NAMESPACE, from the environment too. A server that does
not answer delays a night by seconds and fails none.
"""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import NAMESPACE_URL, uuid5

from cfjobs import __version__, storage, tables
from cfjobs.errors import CfjobsError
from cfjobs.night.records import Night, Published

if TYPE_CHECKING:
    from openlineage.client.event_v2 import InputDataset, OutputDataset

log = logging.getLogger(__name__)

PRODUCER = f"cfjobs/{__version__}"


@contextmanager
def reported(night: Night) -> Iterator[Callable[[Published], None]]:
    """START now, then COMPLETE with what the result was called with, FAIL for an error, ABORT for an end from
    outside."""
    if not os.environ.get("OPENLINEAGE_URL"):
        yield lambda _published: None
        return
    done: list[Published] = []
    _emit("START", night)
    try:
        yield done.append
    except CfjobsError as error:
        _emit("FAIL", night, message=str(error))
        raise
    except Exception as error:
        _emit("FAIL", night, message=f"{type(error).__name__}: {error}")
        raise
    except BaseException as error:
        _emit("ABORT", night, message=type(error).__name__)
        raise
    for published in done:
        _emit("COMPLETE", night, published=published)


def _emit(kind: str, night: Night, *, published: Published | None = None, message: str = "") -> None:
    """Send one event; what goes wrong is logged."""
    try:
        from openlineage.client import OpenLineageClient
        from openlineage.client.event_v2 import Job, Run, RunEvent, RunState
        from openlineage.client.facet_v2 import error_message_run, job_type_job, nominal_time_run
    except ImportError:
        log.warning(
            "OPENLINEAGE_URL is set, but its client is not installed; pip install 'cfjobs[openlineage]'"
        )
        return
    facets: dict[str, Any] = {
        "nominalTime": nominal_time_run.NominalTimeRunFacet(f"{night.run_date}T00:00:00Z")
    }
    if message:
        facets["errorMessage"] = error_message_run.ErrorMessageRunFacet(message, "python")
    job = Job(
        os.environ.get("OPENLINEAGE_NAMESPACE", "cfjobs"),
        "score" if night.inputs.model else "nightly",
        facets={"jobType": job_type_job.JobTypeJobFacet("BATCH", "CFJOBS", "JOB")},
    )
    event = RunEvent(
        eventType=RunState[kind],
        eventTime=datetime.now(UTC).isoformat(),
        run=Run(str(uuid5(NAMESPACE_URL, f"cfjobs:{night.run_id}")), facets=facets),
        job=job,
        producer=PRODUCER,
        inputs=_inputs(night),
        outputs=_outputs(night, published),
    )
    try:
        OpenLineageClient().emit(event)
    except Exception as error:  # whatever the client and its transports raise
        log.warning("OpenLineage: the event %s was not taken (%s)", kind, type(error).__name__)


def _named(uri: str) -> tuple[str, str]:
    """Namespace and name of a data set, as OpenLineage names those of stores and disks."""
    uri, *_ = storage.split_version(storage.normal(uri))
    if not storage.is_s3(uri):
        return "file", uri
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return f"s3://{bucket}", key or "/"


def _inputs(night: Night) -> "list[InputDataset]":
    from openlineage.client.event_v2 import InputDataset

    return [InputDataset(*_named(uri)) for uri in night.inputs.model_dump().values() if uri]


def _outputs(night: Night, published: Published | None) -> "list[OutputDataset]":
    """Every published table: with its columns, and once it is committed its version and rows."""
    from openlineage.client.event_v2 import OutputDataset
    from openlineage.client.facet_v2 import (
        dataset_version_dataset,
        output_statistics_output_dataset,
        schema_dataset,
    )

    found = []
    for table in tables.PUBLISHED:
        fields = [
            schema_dataset.SchemaDatasetFacetFields(
                name=column.name, type=column.kind, description=column.meaning
            )
            for column in table.columns
        ]
        facets: dict[str, Any] = {"schema": schema_dataset.SchemaDatasetFacet(fields=fields)}
        sizes: dict[str, Any] = {}
        if published is not None:
            version = str(published.table_versions[table.name])
            facets["version"] = dataset_version_dataset.DatasetVersionDatasetFacet(version)
            if table is tables.TOP_N:
                rows = published.counts["rows"]
                sizes["outputStatistics"] = (
                    output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet(rows)
                )
        namespace, name = _named(storage.join(night.output, table.name))
        found.append(OutputDataset(namespace, name, facets=facets, outputFacets=sizes))
    return found
