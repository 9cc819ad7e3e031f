"""Training in several processes: torchrun starts them, rank 0 leads, the others follow.

    torchrun --nproc-per-node 2 -m cfjobs train ...    rank 0 runs the command, the others train along
    processes = 2                                      the night starts torchrun itself, for trainings alone

In the second case the night's process is the parent of torchrun, and torchrun of the ranks. Where one is
killed torchrun starts them again, and they go on from the last checkpoint. None outlives its parent: the
night ends its child on the way out, and where it is killed itself the kernel ends the rest.
"""

import ctypes
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

import torch

from cfjobs import errors
from cfjobs.errors import CfjobsError
from cfjobs.training.distributed import Processes, current, joined

log = logging.getLogger(__name__)

LINE, PROGRESS, ERROR = "cfjobs-log ", "cfjobs-progress ", "cfjobs-error "
"""How a line of rank 0's output begins, by what it says."""

RANK = "cfjobs.night.torchrun_rank"
_PR_SET_PDEATHSIG = 1
_SECONDS_TO_END = 10
_SECONDS_TO_TELL = 20


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
        except CfjobsError as error:
            # Rank 0 meets the same and tells it; torchrun ends every rank as soon as the first one ends.
            time.sleep(_SECONDS_TO_TELL)
            leave(error.exit_code)


def leave(code: int) -> NoReturn:
    """End this process without its clean-up, in which the threads of gloo abort it now and then;
    all is written by now."""
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
    command = [sys.executable, "-m", RANK, "start", str(processes), json.dumps(order)]
    threads = str(max(1, torch.get_num_threads() // processes))
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
        if error is None:
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
    """Log what rank 0 says until it is silent, or tells an error, which would come again after a restart;
    returns this, and the last line of torchrun's own."""
    last = "it said nothing"
    assert child.stdout is not None
    for line in map(str.rstrip, child.stdout):
        if line.startswith(LINE):
            log.info("%s", line.removeprefix(LINE))
        elif line.startswith(PROGRESS):
            if progress:
                progress(*json.loads(line.removeprefix(PROGRESS)))
        elif line.startswith(ERROR):
            kind, text = json.loads(line.removeprefix(ERROR))
            return getattr(errors, kind, CfjobsError)(text), last
        elif "Error" in line:
            last = line.strip()[:200]
            log.warning("torchrun: %s", line)
        else:
            log.debug("torchrun: %s", line)
    return None, last


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


def die_with_parent(with_signal: int) -> None:
    """Ask the kernel to end this process when its parent dies (Linux; elsewhere the parent alone ends it)."""
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(_PR_SET_PDEATHSIG, with_signal)
