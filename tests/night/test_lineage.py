"""OpenLineage's events of a night, as a server receives them; and the night's figures for Prometheus."""

import json
import threading
from collections.abc import Iterator
from datetime import date
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from cfjobs import tables
from cfjobs.config import Config
from cfjobs.errors import GateRefused
from cfjobs.night import story
from cfjobs.night.records import Inputs, Published
from cfjobs.tables import openmetrics, rollback

CONFIG = Config(
    epochs=1, top_n=10, n_factors=8, ranking_factors=8, ranking_steps=5, gate_beat_popularity=False, refit=False
)  # fmt: skip


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, Any]]]:
    """What a loopback server received as events."""
    received: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(201)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            return None

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("OPENLINEAGE_URL", f"http://127.0.0.1:{server.server_port}")
    yield received
    server.shutdown()


def night(data_set: Path, output: Path, *, config: Config = CONFIG, day: int = 1) -> Published:
    inputs = Inputs(ratings=str(data_set / "ratings.parquet"), movies=str(data_set / "movies.parquet"))
    return story.nightly(story.start(inputs, output=str(output), run_date=date(2026, 3, day), config=config))


def test_a_night_tells_its_beginning_and_its_end_with_what_it_read_and_wrote(
    data_set: Path, tmp_path: Path, events: list[dict[str, Any]]
) -> None:
    published = night(data_set, tmp_path / "out")
    assert [event["eventType"] for event in events] == ["START", "COMPLETE"]
    assert len({event["run"]["runId"] for event in events}) == 1
    done = events[-1]
    assert (done["job"]["namespace"], done["job"]["name"]) == ("cfjobs", "nightly")
    assert done["run"]["facets"]["nominalTime"]["nominalStartTime"] == "2026-03-01T00:00:00Z"
    read = {(one["namespace"], one["name"]) for one in done["inputs"]}
    assert {("file", str(data_set / name)) for name in ("ratings.parquet", "movies.parquet")} <= read
    wrote = {one["name"]: one for one in done["outputs"]}
    assert set(wrote) == {str(tmp_path / "out" / table.name) for table in tables.PUBLISHED}
    lists = wrote[published.tables["top_n"]]
    assert lists["outputFacets"]["outputStatistics"]["rowCount"] == published.counts["rows"]
    assert lists["facets"]["version"]["datasetVersion"] == str(published.table_versions["top_n"])
    assert "predicted_rating" in {field["name"] for field in lists["facets"]["schema"]["fields"]}


def test_a_refused_night_has_failed_and_says_why(
    data_set: Path, tmp_path: Path, events: list[dict[str, Any]]
) -> None:
    with pytest.raises(GateRefused):
        night(data_set, tmp_path, config=CONFIG.model_copy(update={"gate_max_rmse": 0.01}))
    assert [event["eventType"] for event in events] == ["START", "FAIL"]
    assert "rmse is" in events[-1]["run"]["facets"]["errorMessage"]["message"]


@pytest.mark.long  # its client tries again for some ten seconds an event
def test_a_server_that_is_not_there_costs_no_night(
    data_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OPENLINEAGE_URL", "http://127.0.0.1:9")
    assert night(data_set, tmp_path).gate == "passed"
    assert "COMPLETE was not taken" in caplog.text


def test_the_newest_night_s_figures_are_openmetrics_beside_the_tables(data_set: Path, tmp_path: Path) -> None:
    first, second = night(data_set, tmp_path), night(data_set, tmp_path, day=2)
    for published in (second, first):
        families = {
            family.name: {tuple(sample.labels.values()): sample.value for sample in family.samples}
            for family in text_string_to_metric_families((tmp_path / openmetrics.NAME).read_text())
        }
        (about,) = families["cfjobs_night"]
        assert set(about) == {"passed", published.run_date.isoformat(), published.run_id}
        assert families["cfjobs_night_count"][("lists",)] == published.counts["lists"]
        assert families["cfjobs_night_metric"][("rmse",)] == published.metrics["rmse"]
        assert families["cfjobs_night_stage_seconds"][("publish",)] > 0
        assert families["cfjobs_night_table_version"][("top_n",)] == published.table_versions["top_n"]
        if published is second:
            rollback.rollback(str(tmp_path), to="2026-03-01", who="ada", why="a test")
