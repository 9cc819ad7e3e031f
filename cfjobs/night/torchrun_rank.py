"""The processes that train together: what torchrun is started by, and what it starts.

python -m cfjobs.night.torchrun_rank start PROCESSES ORDER    becomes torchrun, and ends with the night
python -m cfjobs.night.torchrun_rank rank ORDER               one of the processes
"""

import json
import logging
import os
import signal
import sys

from cfjobs.errors import CfjobsError
from cfjobs.night import train
from cfjobs.night.torchrun import ERROR, LINE, PROGRESS, RANK, die_with_parent, leave, session

_RESTARTS = 3
"""How often torch's agent starts the ranks again when one was killed; they go on from the last checkpoint."""


def _start(processes: str, order: str) -> None:
    """The agent: torchrun, ended with the night."""
    from torch.distributed.run import main as torchrun

    die_with_parent(signal.SIGTERM)
    # A store for each start: in a shared one the ranks would find the addresses of those that were killed.
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    gang = ["--standalone", "--nproc-per-node", processes, "--max-restarts", str(_RESTARTS)]
    torchrun([*gang, "-m", RANK, "rank", order])


def _rank(order: str) -> int:
    """One of the processes: trains by the order; rank 0 leaves the record in the night's work folder."""
    die_with_parent(signal.SIGKILL)
    with session(train.follow) as leads:
        if not leads:
            return 0
        handler = logging.StreamHandler(sys.stdout)
        handler.setFormatter(logging.Formatter(LINE + "%(message)s"))
        logger = logging.getLogger("cfjobs")
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.INFO)
        try:
            train.lead(json.loads(order), progress=lambda *report: print(PROGRESS + json.dumps(report)))
        except CfjobsError as error:
            print(ERROR + json.dumps([type(error).__name__, str(error)]))
            return error.exit_code
        return 0


def main(role: str, *words: str) -> int:
    """`start PROCESSES ORDER`, which becomes torchrun, and `rank ORDER`, which torchrun starts."""
    if role == "start":
        _start(*words)
        return 0
    leave(_rank(*words))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
