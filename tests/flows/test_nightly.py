"""The flows under a real Prefect server and real workers: what runs, what an operator sees,
what is retried."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import ArtifactFilter, LogFilter, LogFilterFlowRunId
from prefect.client.schemas.objects import FlowRun
from prefect.settings import PREFECT_API_URL, temporary_settings

from cfjobs.errors import InputError, StorageFault
from flows import stages
from tests import browser
from tests.conftest import ENVIRONMENT, ROOT, end

POOL, GPU_POOL = "cfjobs", "cfjobs-gpu"


@pytest.fixture(scope="module")
def environment(
    prefect_server: str, tmp_path_factory: pytest.TempPathFactory, data_set: Path
) -> dict[str, str]:
    """The environment of everything that talks to the server, workers included."""
    folder = tmp_path_factory.mktemp("deployed")
    return {
        **os.environ,
        **ENVIRONMENT,
        "PREFECT_API_URL": prefect_server,
        "PREFECT_HOME": str(folder / "home"),
        "PREFECT_WORKER_QUERY_SECONDS": "1",
        "CFJOBS_RATINGS": str(data_set),
        "CFJOBS_OUTPUT": str(folder / "output"),
    }


@pytest.fixture(scope="module")
def deployed(
    environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, str]]:
    """Everything of deploy/prefect.yaml deployed, with a worker on each pool."""

    def prefect(*arguments: str) -> None:
        command = [sys.executable, "-m", "prefect", "--no-prompt", *arguments]
        done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    for pool in (POOL, GPU_POOL):
        prefect("work-pool", "create", pool, "--type", "process")
    prefect("deploy", "--all", "--prefect-file", "deploy/prefect.yaml")
    folder = tmp_path_factory.mktemp("workers")
    workers = []
    for pool in (POOL, GPU_POOL):
        command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", pool]
        with (folder / pool).open("wb") as log:
            workers.append(subprocess.Popen(command, env=environment, cwd=ROOT, stdout=log, stderr=log))
    try:
        yield environment
    finally:
        for worker in workers:
            end(worker)


@contextmanager
def client_of(environment: dict[str, str]) -> Iterator[SyncPrefectClient]:
    with (
        temporary_settings({PREFECT_API_URL: environment["PREFECT_API_URL"]}),
        get_client(sync_client=True) as client,
    ):
        yield client


def run_deployment(client: SyncPrefectClient, name: str, parameters: dict[str, Any]) -> FlowRun:
    """Start a deployment and wait until its run is over."""
    deployment = client.read_deployment_by_name(name)
    run = client.create_flow_run_from_deployment(deployment.id, parameters=parameters)
    until = time.monotonic() + 150
    while time.monotonic() < until:
        run = client.read_flow_run(run.id)
        if run.state is not None and run.state.is_final():
            return run
        time.sleep(0.5)
    pytest.fail(f"{name} is still {run.state} after 150 s")


def log_of(client: SyncPrefectClient, run: FlowRun, *, until: str) -> str:
    """The log of a run, which arrives some seconds late: waits for these words, not for long."""
    for _ in range(20):
        lines = client.read_logs(LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run.id])))
        text = "\n".join(line.message for line in lines)
        if until in text:
            break
        time.sleep(0.5)
    return text


def test_the_deployed_night_runs_on_two_workers_and_shows_what_it_does(deployed: dict[str, str]) -> None:
    config = {"epochs": 2, "top_n": 20, "n_factors": 8, "ranking_steps": 20}
    with client_of(deployed) as client:
        run = run_deployment(client, "nightly/nightly", {"run_date": "2026-03-01", "config": config})
        assert run.state is not None
        log = log_of(client, run, until="published run")
        assert run.state.is_completed(), log
        assert run.name == "night of 2026-03-01"
        trainings = [r for r in client.read_flow_runs() if r.name.startswith("train ")]
        artifacts = client.read_artifacts(artifact_filter=ArtifactFilter())
    assert {r.work_pool_name for r in trainings} == {GPU_POOL}
    assert sorted(r.name for r in trainings) == [
        "train 2026-03-01 on all ratings",
        "train 2026-03-01 on train ratings",
    ]
    assert "published run" in log, "the log of cfjobs is in the run's log"
    by_key = {artifact.key: artifact for artifact in artifacts}
    assert {"night", "scoring-0", "training-train", "training-all"} <= by_key.keys()
    assert "ndcg_at_10" in str(by_key["night"].data)
    assert by_key["scoring-0"].data == 100.0
    lists = pl.read_delta(f"{deployed['CFJOBS_OUTPUT']}/top_n")
    assert lists["run_date"].unique().to_list() == [date(2026, 3, 1)]


def test_a_browser_shows_the_run_its_artifacts_and_the_form(deployed: dict[str, str], tmp_path: Path) -> None:
    """Pictures go to the folder CFJOBS_PICTURES, for people to look at."""
    executable = browser.chromium()
    if executable is None:
        pytest.skip("there is no Chromium: apt-get install chromium")
    pictures = Path(os.environ.get("CFJOBS_PICTURES", tmp_path))
    ui = deployed["PREFECT_API_URL"].removesuffix("/api")
    with client_of(deployed) as client:
        run = next(r for r in client.read_flow_runs() if r.name == "night of 2026-03-01")
        nightly = client.read_deployment_by_name("nightly/nightly")
        found = client.read_artifacts(artifact_filter=ArtifactFilter())
    summary = next(artifact for artifact in found if artifact.key == "night")
    pages = {
        "run": (f"runs/flow-run/{run.id}", "", ["night of 2026-03-01", "Completed", "published run"]),
        "artifacts": (
            f"runs/flow-run/{run.id}",
            "Artifacts",
            ["gate", "scoring-0", "What the gate compared"],
        ),
        "summary": (
            f"artifacts/artifact/{summary.id}",
            "",
            ["ndcg_at_10", "Loss by epoch", "Previous nights"],
        ),
        "form": (f"deployments/deployment/{nightly.id}/run", "", ["Rating files", "Where tables and models"]),
    }
    missing: dict[str, list[str]] = {}
    with browser.browser(executable, tmp_path) as tab:
        for name, (path, click, words) in pages.items():
            tab.open(f"{ui}/{path}", width=1400, height=1300, wait=1)
            missing[name] = absent(tab, words, click=click)
            tab.settle(1.5)
            tab.picture(pictures / f"{name}.png")
    assert not any(missing.values()), missing


def absent(tab: browser.Tab, words: list[str], *, click: str) -> list[str]:
    """The words that a page does not show within 20 s; its tab of the name `click` is opened first."""
    missing = [*words, click]
    for _ in range(40):
        text = tab.evaluate("document.body.innerText + document.body.innerHTML")
        missing = [word for word in words if word not in text]
        if not missing:
            break
        if click:
            words_of = "[...document.querySelectorAll('*')].filter(e => !e.children.length)"
            tab.evaluate(f"{words_of}.filter(e => e.textContent.trim() === '{click}').pop()?.click()")
        tab.settle(0.5)
    return missing


def test_the_worker_of_another_deployment_scores(deployed: dict[str, str]) -> None:
    parameters = {
        "run_date": "2026-03-01",
        "score_deployment": "shards/gpu",
        "config": {"top_n": 10},
        "force": True,
    }
    with client_of(deployed) as client:
        run = run_deployment(client, "score/score", parameters)
        assert run.state is not None
        assert run.state.is_completed(), log_of(client, run, until="published run")
        scoring = next(r for r in client.read_flow_runs() if r.name == "shards of 2026-03-01")
    assert scoring.work_pool_name == GPU_POOL
    assert pl.read_delta(f"{deployed['CFJOBS_OUTPUT']}/top_n")["rank"].max() == 10


def test_a_night_that_cannot_be_fails_with_the_reason_in_its_state(deployed: dict[str, str]) -> None:
    with client_of(deployed) as client:
        run = run_deployment(client, "nightly/nightly", {"ratings": "/absent", "run_date": "2026-03-02"})
    assert run.state is not None
    assert run.state.is_failed()
    assert "holds no .parquet file" in str(run.state.message)


def test_a_wrong_configuration_is_refused_before_the_run(deployed: dict[str, str]) -> None:
    with client_of(deployed) as client:
        deployment = client.read_deployment_by_name("nightly/nightly")
        with pytest.raises(Exception, match=r"epochs|validat|409|422"):
            client.create_flow_run_from_deployment(deployment.id, parameters={"config": {"epochs": -1}})


def test_the_schedule_and_the_limit_are_deployed(deployed: dict[str, str]) -> None:
    wanted = yaml.safe_load((ROOT / "deploy" / "prefect.yaml").read_text())["deployments"][0]["schedules"][0]
    with client_of(deployed) as client:
        nightly = client.read_deployment_by_name("nightly/nightly")
    schedule = nightly.schedules[0].schedule
    assert (schedule.cron, schedule.timezone) == (wanted["cron"], wanted["timezone"])  # type: ignore[union-attr]  # a cron schedule
    assert nightly.concurrency_options is not None
    assert nightly.concurrency_options.collision_strategy == "CANCEL_NEW"


@pytest.mark.parametrize(
    ("error", "calls"), [(StorageFault("no answer"), 3), (InputError("wrong"), 1), (ValueError("bug"), 1)]
)
def test_only_storage_faults_are_retried(environment: dict[str, str], error: Exception, calls: int) -> None:
    from prefect import flow

    seen: list[int] = []

    def fails() -> None:
        seen.append(1)
        raise error

    task: Callable[[], None] = stages.stage(name="fails", retries=2, seconds=0.01)(fails)

    @flow
    def night() -> None:
        task()

    with temporary_settings({PREFECT_API_URL: environment["PREFECT_API_URL"]}), pytest.raises(type(error)):
        night()
    assert len(seen) == calls
