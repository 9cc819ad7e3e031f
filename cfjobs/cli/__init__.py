"""The command line `cfjobs`: every stage of the night without Prefect.

Results go to standard output, as text or with --json as one object; logs and progress to standard error. Exit
codes: 0 done, 2 wrong input or configuration, 3 the gate refused, 4 the newest night is too old, 1 anything
else.
"""

import io
import json
import logging
import os
import sys
from typing import NoReturn

from cfjobs import logs, resources
from cfjobs.cli.app import app, log_to_stderr, plain, says_all
from cfjobs.errors import CfjobsError

import cfjobs.cli.night  # isort: skip  # the commands join the application, and its help, in this order
import cfjobs.cli.query  # isort: skip
import cfjobs.cli.history  # isort: skip
import cfjobs.cli.export  # isort: skip
import cfjobs.cli.data  # noqa: F401  # isort: skip

PANELS = {
    "cfjobs.cli.night": "Make a night",
    "cfjobs.cli.query": "Look at what was published",
    "cfjobs.cli.export": "Hand it on, and compare",
    "cfjobs.cli.history": "Keep the nights in order",
    "cfjobs.cli.data": "Data and settings",
}
"""The groups of commands in the help, by module."""

for command in app.registered_commands:
    command.rich_help_panel = PANELS[getattr(command.callback, "__module__", "")]

__all__ = ["app", "log_to_stderr", "main", "plain", "run"]


_NO_MEMORY = ("memory", "failed to map segment", "can't start new thread")
"""What libraries say, other than MemoryError, when there is none left."""


def main() -> NoReturn:
    """Run the command line and end at once: the threads of native libraries were seen to abort an interpreter
    that takes itself apart under them."""
    code = run()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:  # whoever read it has gone
        code = code or 1
    os._exit(code)


def run() -> int:
    """Run the command line; every explained end is one line and an exit code."""
    code: str | int | None = 0
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and not says_all(stream):
            stream.reconfigure(errors="replace")  # a terminal that cannot say é says ?
    try:
        if "TORCHELASTIC_RUN_ID" in os.environ:
            _among_processes()
        else:
            app()
    except SystemExit as ended:
        code = ended.code
    except CfjobsError as error:
        code = _explain(error)
    except (MemoryError, RuntimeError, ImportError) as error:
        if not isinstance(error, MemoryError) and not any(sign in str(error) for sign in _NO_MEMORY):
            raise
        _tell(
            f"out of memory ({resources.words()}): {plain(error)[:200]}; finished work is kept: rerun with more memory, or a lower shard_users or batch_size",
            1,
        )
        code = 1
    return code if isinstance(code, int) else int(bool(code))


def _among_processes() -> NoReturn:
    """Run the command as rank 0 of torchrun, or follow its trainings."""
    from cfjobs.night import story, torchrun

    code: str | int | None = 0
    try:
        with torchrun.session(story.follow) as leads:
            if leads:
                app()
    except SystemExit as ended:
        code = ended.code
    except CfjobsError as error:
        code = _explain(error)
    torchrun.leave(code if isinstance(code, int) else 0)


def _explain(error: CfjobsError) -> int:
    """Print an explained end as one line; returns its exit code."""
    _tell(plain(error), error.exit_code)
    if "--json" in sys.argv:
        print(json.dumps({"error": str(error), "exit_code": error.exit_code}))
    return error.exit_code


def _tell(message: str, exit_code: int) -> None:
    """The last line on standard error: why the command ends."""
    if os.environ.get("CFJOBS_LOG") == "json":
        logger = logging.getLogger("cfjobs")
        if not logger.handlers:  # it ended before it had a log
            logger.addHandler(logs.json_handler())
        logger.error(message, extra={"exit_code": exit_code})
    else:
        print(f"cfjobs: {message}", file=sys.stderr)
