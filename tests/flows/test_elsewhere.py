"""A stage on another worker begins once, also when Prefect's server is away at that moment."""

from typing import Any
from uuid import uuid4

import httpx
import pytest
from prefect.client.schemas.objects import FlowRun

from flows import elsewhere

RUN = FlowRun(flow_id=uuid4(), name="train")


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The idempotency keys of a server that does not answer twice and then does."""
    asked: list[str] = []

    def run_deployment(_name: str, *, idempotency_key: str, **_: Any) -> FlowRun:
        asked.append(idempotency_key)
        if len(asked) < 3:
            raise httpx.ConnectError("connection refused")
        return RUN

    monkeypatch.setattr(elsewhere, "run_deployment", run_deployment)
    monkeypatch.setattr(elsewhere, "_SECONDS_BETWEEN_LOOKS", 0.0)
    return asked


def test_a_server_that_is_away_is_waited_for_and_asked_for_the_same_run(keys: list[str]) -> None:
    assert elsewhere._begun("train/gpu", "training", {}) is RUN
    assert len(keys) == 3
    assert len(set(keys)) == 1


def test_a_server_that_stays_away_ends_the_night_with_a_remedy(
    keys: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(elsewhere, "SERVER_AWAY_S", -1.0)
    with pytest.raises(elsewhere.RunFailed, match="start it, then run the night again"):
        elsewhere._begun("train/gpu", "training", {})
    assert len(keys) == 1
