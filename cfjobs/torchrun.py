"""Training in several processes: torchrun starts them, rank 0 leads, the others follow.

    torchrun --nproc-per-node 2 -m cfjobs train ...    rank 0 runs the command; the others wait for its trainings
    processes = 2                                      the night starts torchrun itself, for the trainings alone

In the second case the night's process is the parent of torchrun, and torchrun of the ranks. None outlives its
parent: the night ends its child on the way out, and where it is killed itself the kernel ends the rest.
"""

import ctypes
import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

import torch

from cfjobs import errors
from cfjobs.errors import CfjobsError
from cfjobs.processes import Processes, current, joined

log = logging.getLogger(__name__)

_LINE, _PROGRESS, _ERROR = "cfjobs-log ", "cfjobs-progress ", "cfjobs-error "
_PR_SET_PDEATHSIG = 1
_SECONDS_TO_END = 10


class ProcessesLost(CfjobsError):
    """torchrun ended without a reason of ours: a process was killed, or found no memory or no GPU."""


# Rank 0 leads, the others follow ----------------------------------------------------------------------


@contextmanager
def leading(order: dict[str, Any]) -> Iterator[None]:
    """Have the other processes do the same training while this block lasts; nothing outside torchrun."""
    processes = current()
    processes.spread(json.dumps(order))
    try:
        yield
    except BaseException:
        _Session.broken = True
        raise


class _Session:
    broken = False  # whether the others may be in the middle of a training that this process left


@contextmanager
def session(follow: Callable[[dict[str, Any]], None]) -> Iterator[bool]:
    """True where this process has to run the command; False for one that followed rank 0 until it was done.

    follow: does a training that rank 0 leads, by its order.
    """
    with joined() as processes:
        if processes.rank == 0:
            try:
                yield True
            finally:
                if not _Session.broken:
                    processes.spread("")
            return
        logging.getLogger("cfjobs").setLevel(logging.CRITICAL)
        _follow(processes, follow)
        yield False


def _follow(processes: Processes, follow: Callable[[dict[str, Any]], None]) -> None:
    while order := processes.spread(""):
        try:
            follow(json.loads(order))
        except CfjobsError as error:  # rank 0 meets the same and tells it
            leave(error.exit_code)


def leave(code: int) -> NoReturn:
    """End this process without its clean-up, in which the threads of gloo abort it now and then; all is written by now."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)


# The night starts torchrun ----------------------------------------------------------------------------


def run(
    order: dict[str, Any], *, processes: int, progress: Callable[[float, str], None] | None = None
) -> None:
    """Start torchrun for one training and wait for its end; what rank 0 logs is logged here.

    Raises the error that rank 0 met, and ProcessesLost when it left none.
    """
    command = [sys.executable, "-m", "cfjobs.torchrun", "start", str(processes), json.dumps(order)]
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, torch.get_num_threads() // processes))
    child = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
        env=os.environ | {"OMP_NUM_THREADS": threads, "PYTHONUNBUFFERED": "1"},
    )
    try:
        error, last = _forward(child, progress)
        child.wait()
    finally:
        _end(child)
    if error is not None:
        raise error
    if child.returncode:
        raise ProcessesLost(
            f"training in {processes} processes ended with code {child.returncode} ({last}); run the night again, it goes on from the last checkpoint"
        )


def _forward(
    child: "subprocess.Popen[str]", progress: Callable[[float, str], None] | None
) -> tuple[CfjobsError | None, str]:
    """Log what rank 0 says until it is silent; returns the error that it told, and the last line of torchrun's own."""
    error: CfjobsError | None = None
    last = "it said nothing"
    assert child.stdout is not None
    for line in map(str.rstrip, child.stdout):
        if line.startswith(_LINE):
            log.info("%s", line.removeprefix(_LINE))
        elif line.startswith(_PROGRESS):
            if progress:
                progress(*json.loads(line.removeprefix(_PROGRESS)))
        elif line.startswith(_ERROR):
            kind, text = json.loads(line.removeprefix(_ERROR))
            error = getattr(errors, kind, CfjobsError)(text)
        elif "Error" in line:
            last = line.strip()[:200]
            log.warning("torchrun: %s", line)
        else:
            log.debug("torchrun: %s", line)
    return error, last


def _end(child: "subprocess.Popen[str]") -> None:
    """End torchrun, which ends the ranks; then whatever is left of its process group."""
    if child.poll() is None:
        child.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            child.wait(_SECONDS_TO_END)
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    if child.stdout is not None:
        child.stdout.close()


def _die_with_parent(with_signal: int) -> None:
    """Ask the kernel to end this process when its parent dies (Linux; elsewhere the parent alone ends it)."""
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(_PR_SET_PDEATHSIG, with_signal)


def _start(processes: str, order: str) -> None:
    """The agent: torchrun, ended with the night."""
    from torch.distributed.run import main as torchrun

    _die_with_parent(signal.SIGTERM)
    torchrun(["--standalone", "--nproc-per-node", processes, "-m", "cfjobs.torchrun", "rank", order])


def _rank(order: str) -> int:
    """One of the processes: trains by the order; rank 0 leaves the record in the night's work folder."""
    from cfjobs import jobs

    _die_with_parent(signal.SIGKILL)
    with session(jobs.follow) as leads:
        if not leads:
            return 0
        handler = logging.StreamHandler(sys.stdout)
        handler.setFormatter(logging.Formatter(_LINE + "%(message)s"))
        logger = logging.getLogger("cfjobs")
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.INFO)
        try:
            jobs.lead(json.loads(order), progress=lambda *told: print(_PROGRESS + json.dumps(told)))
        except CfjobsError as error:
            print(_ERROR + json.dumps([type(error).__name__, str(error)]))
            return error.exit_code
        return 0


def main(role: str, *words: str) -> int:
    """`start PROCESSES ORDER`, which becomes torchrun, and `rank ORDER`, which torchrun starts."""
    if role == "start":
        _start(*words)
        return 0
    leave(_rank(*words))


if __name__ == "__main__":
    from cfjobs import torchrun  # noqa: PLW0406  # under its own name, by which the stages know it

    sys.exit(torchrun.main(*sys.argv[1:]))
