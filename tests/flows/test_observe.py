"""What people see of a run fails no run: the server may be away while it is shown."""

import logging
from typing import Any
from uuid import uuid4

import httpx
import pytest

from flows import observe


@pytest.mark.parametrize("away", ["create_progress_artifact", "update_progress_artifact"])
def test_a_server_that_is_away_costs_the_pictures_and_not_the_night(
    away: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise httpx.ConnectError("connection refused")

    for name in ("create_table_artifact", "create_markdown_artifact", away):
        monkeypatch.setattr(observe, name, refuse)
    if away.startswith("update"):
        monkeypatch.setattr(observe, "create_progress_artifact", lambda **_: uuid4())
    with caplog.at_level(logging.INFO, logger="cfjobs.flows"):
        bar = observe.progress_artifact("training", "Training")
        bar(0.5, "half")
        bar(1.0, "all")
        observe.table_artifact("gate", [], "the gate")
        observe.summary_artifact("# The night")
    assert caplog.text.count("is not shown") >= 3
    assert "all, done in" in caplog.text
