"""Runs that were under way when the whole installation stopped: ended as lost, told of, and their slot freed.

    python -m deploy.leftovers                  while no worker runs, as at the start of `make serve`
    python -m deploy.leftovers --pool cfjobs    while none of this pool runs, as at the start of its container

Wrong where runs outlive their worker, as jobs on Kubernetes do; there the zombie automation finds the dead.
"""

import argparse
import sys

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
    FlowRunFilterTags,
    WorkPoolFilter,
    WorkPoolFilterName,
)
from prefect.client.schemas.objects import State, StateType
from prefect.events import emit_event
from prefect.states import Crashed

from deploy.automations import LOST, NIGHT, OURS

_UNDER_WAY = [StateType.PENDING, StateType.RUNNING, StateType.CANCELLING]


def main() -> int:
    """Mark them; returns the exit code.

    The state has a name of its own, and a night's alert an event of its own: a server that was restarted
    holds the event of a state back for 15 minutes, since it waits for the event before it, which died with
    its predecessor.
    """
    parser = argparse.ArgumentParser(prog="python -m deploy.leftovers", description="End what was lost.")
    parser.add_argument("--pool", help="runs of this work pool only")
    pool = parser.parse_args().pool
    of_pool = WorkPoolFilter(name=WorkPoolFilterName(any_=[pool])) if pool else None
    ours = FlowRunFilter(
        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=_UNDER_WAY)),
        tags=FlowRunFilterTags(all_=[OURS]),
    )
    with get_client(sync_client=True) as client:
        for run in client.read_flow_runs(flow_run_filter=ours, work_pool_filter=of_pool):
            lost: State[None] = Crashed(
                name="Lost", message="the installation was stopped while this ran; run it again"
            )
            client.set_flow_run_state(run.id, lost, force=True)
            if NIGHT in run.tags:
                resource = {
                    "prefect.resource.id": f"prefect.flow-run.{run.id}",
                    "prefect.resource.name": run.name,
                }
                emit_event(LOST, resource=resource)
            print(f"{run.name}: lost")
    return 0


if __name__ == "__main__":
    sys.exit(main())
