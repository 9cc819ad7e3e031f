"""Runs that were under way when the whole installation stopped: marked as crashed, which frees their slot.

    python -m deploy.leftovers

Only right while no worker runs, as at the start of `make serve`; elsewhere the zombie automation finds them.
"""

import sys

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterState, FlowRunFilterStateType
from prefect.client.schemas.objects import StateType
from prefect.states import Crashed

_UNDER_WAY = [StateType.PENDING, StateType.RUNNING, StateType.CANCELLING]


def main() -> int:
    """Mark them; returns the exit code."""
    under_way = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=_UNDER_WAY)))
    with get_client(sync_client=True) as client:
        for run in client.read_flow_runs(flow_run_filter=under_way):
            client.set_flow_run_state(
                run.id, Crashed(message="the installation was stopped while this ran"), force=True
            )
            print(f"{run.name}: crashed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
