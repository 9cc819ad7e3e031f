"""`OUTPUT/latest.json`: the newest published night and the version of each table that belongs to it.

A night is one commit a table, so for the seconds between the first and the last of them the latest versions
of two tables may be of two nights. Who reads at the versions named here, or in the newest row of `runs`, gets
one night.
"""

import json
import logging
from typing import Any

from cfjobs import storage
from cfjobs.errors import CfjobsError
from cfjobs.tables import delta, runs
from cfjobs.tables.schema import RUNS

log = logging.getLogger(__name__)

NAME = "latest.json"
TRIES = 5


def uri(output: str) -> str:
    return storage.join(output, NAME)


def of(output: str) -> dict[str, Any] | None:
    """What the manifest has to say, from `runs`; None where nothing has been published."""
    table = delta.open_table(output, RUNS.name)
    rows = runs.rows(table) if table else []
    if table is None or not rows:
        return None
    row = rows[-1]
    return {
        "run_date": row["run_date"].isoformat(),
        "run_id": row["run_id"],
        "runs_version": table.version(),
        "tables": {**json.loads(row["table_versions"]), RUNS.name: table.version()},
    }


def read(output: str) -> dict[str, Any] | None:
    """The manifest as it is; None where there is none, or half of one."""
    if not storage.exists(uri(output)):
        return None
    try:
        found = json.loads(storage.read_bytes(uri(output)))
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def write(output: str) -> None:
    """Bring the manifest up to `runs`. It follows a commit that stands: what goes wrong is logged.

    In an object store the write is conditional, and made again from `runs` as it is then when another came
    first, so that the manifest never goes back to an older version of `runs`.
    """
    try:
        for _ in range(TRIES):
            before = storage.read_tagged(uri(output)) if storage.is_s3(output) else None
            wanted = of(output)
            if wanted is None:
                return
            data = json.dumps(wanted, indent=1).encode()
            if not storage.is_s3(output):
                storage.write_bytes(uri(output), data)
                return
            if storage.write_if(uri(output), data, tag=before.tag if before else None):
                return
    except CfjobsError as error:
        log.warning("%s: was not written (%s); `cfjobs doctor --repair` makes it again", uri(output), error)
