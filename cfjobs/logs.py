"""The log of `cfjobs` on standard error: lines for people, or one JSON object a line for machines.

`CFJOBS_LOG=json` asks for the latter, on the command line and in the flows: timestamp (UTC), level, logger,
message, run_date and run_id once the night is known, and `exception` with the traceback where there is one.
"""

import logging
import os
from datetime import date
from typing import Any

from cfjobs.errors import InputError

_FIELDS = {"levelname": "level", "name": "logger", "exc_info": "exception", "stack_info": "stack"}
_night: dict[str, Any] = {}


def as_json() -> bool:
    """Whether the environment asks for JSON. Raises InputError for a word that means nothing here."""
    asked = os.environ.get("CFJOBS_LOG", "") or "text"
    if asked not in {"text", "json"}:
        raise InputError(f"CFJOBS_LOG: got {asked!r}, expected text or json")
    return asked == "json"


def about(*, run_date: date, run_id: str) -> None:
    """Say which night this process works on from now on: every line of JSON tells it."""
    _night.update(run_date=run_date.isoformat(), run_id=run_id)


def json_handler() -> logging.Handler:
    """A handler that writes JSON to standard error."""
    from pythonjsonlogger.json import JsonFormatter  # here: look-ups have no use for it

    handler = logging.StreamHandler()
    handler.addFilter(_with_night)
    handler.setFormatter(
        JsonFormatter(
            ["levelname", "name", "message"],
            style=",",
            rename_fields=_FIELDS,
            rename_fields_keep_missing=True,
            timestamp=True,
            json_ensure_ascii=False,
        )
    )
    return handler


def _with_night(record: logging.LogRecord) -> bool:
    """The night's fields join a record; all are let through."""
    record.__dict__ |= {name: value for name, value in _night.items() if name not in record.__dict__}
    return True
