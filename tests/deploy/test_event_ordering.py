"""An event whose predecessor never comes is let go within seconds, and no sooner."""

import asyncio
import importlib
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
import yaml
from prefect.server.events.ordering import CausalOrderingModule, EventArrivedEarly
from prefect.server.events.schemas.events import ReceivedEvent, Resource

from deploy import event_ordering, serve
from tests.installation import ROOT

SETTING = "PREFECT_SERVER_EVENTS_CAUSAL_ORDERING"


def orphan(*, seconds_ago: float) -> ReceivedEvent:
    """An event that follows one that nobody has seen."""
    at = datetime.now(UTC) - timedelta(seconds=seconds_ago)
    return ReceivedEvent(
        occurred=at,
        received=at,
        event="prefect.flow-run.Crashed",
        resource=Resource({"prefect.resource.id": f"prefect.flow-run.{uuid4()}"}),
        payload={},
        id=uuid4(),
        follows=uuid4(),
    )


def test_an_event_waits_for_the_one_before_it_but_not_for_long() -> None:
    async def handled(event: ReceivedEvent) -> bool:
        ordering = event_ordering.CausalOrdering(scope=f"test-{uuid4()}")
        try:
            await ordering.wait_for_leader(event)
        except EventArrivedEarly:
            return event in await ordering.get_lost_followers()
        return True

    assert not asyncio.run(handled(orphan(seconds_ago=2)))
    assert asyncio.run(handled(orphan(seconds_ago=15)))


@pytest.mark.parametrize("where", ["make serve", "compose"])
def test_the_server_orders_by_it(where: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = serve.private_folder(tmp_path_factory.mktemp("serve")).parent
    of = {"make serve": serve.environment_of(folder, port=1, s3_port=2)}
    of["compose"] = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())["services"]["server"][
        "environment"
    ]
    assert isinstance(importlib.import_module(of[where][SETTING]), CausalOrderingModule)
