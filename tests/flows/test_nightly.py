"""The flows in an installation with two workers: what runs where, what an operator sees, what is refused,
what is retried."""

import json
import os
from collections.abc import Callable
from datetime import date
from pathlib import Path

import polars as pl
import pytest
import yaml
from prefect.client.schemas.objects import FlowRun, StateType

from cfjobs.errors import InputError, StorageFault
from flows import stages
from tests import browser
from tests.installation import QUICK, ROOT, Installation, until


@pytest.fixture(scope="module")
def night(installation: Installation) -> FlowRun:
    """The run of a whole night, of 2026-03-01: the flow on one worker, its two trainings on the other."""
    return installation.completed(
        "nightly/nightly", run_date="2026-03-01", config=QUICK | {"gate_max_rmse": 9}
    )


def lists(installation: Installation) -> pl.DataFrame:
    """The published lists, read with Polars alone."""
    environment = installation.environment
    options = {
        "aws_access_key_id": environment["AWS_ACCESS_KEY_ID"],
        "aws_secret_access_key": environment["AWS_SECRET_ACCESS_KEY"],
        "aws_endpoint_url": environment["AWS_ENDPOINT_URL"],
        "aws_region": environment["AWS_REGION"],
        "aws_allow_http": "true",
    }
    return pl.read_delta(f"{environment['CFJOBS_OUTPUT']}/top_n", storage_options=options)


def test_a_night_runs_on_two_workers_and_shows_what_it_does(
    installation: Installation, night: FlowRun
) -> None:
    assert night.name == "night of 2026-03-01"
    assert night.state is not None
    assert "122 lists, gate passed" in str(night.state.message)
    log = installation.log_of(night, wait_for="published run")
    assert "published run" in log, "the log of cfjobs is in the run's log"
    assert "memory " in log
    trainings = [r for r in installation.runs() if r.name.startswith("train 2026-03-01")]
    assert {r.work_pool_name for r in trainings} == {"cfjobs-gpu"}
    assert sorted(r.name for r in trainings) == [
        "train 2026-03-01 on all ratings",
        "train 2026-03-01 on train ratings",
    ]
    by_key = {artifact.key: artifact for artifact in installation.artifacts()}
    assert {"night", "gate", "scoring-0", "training-train", "training-all"} <= by_key.keys()
    assert by_key["scoring-0"].data == 100.0
    assert "rmse" in str(by_key["gate"].data)
    summary = str(by_key["night"].data)
    assert "ndcg_at_10" in summary
    assert "data:image/svg+xml;base64," in summary
    assert "| 2026-03-01 | passed |" in summary
    published = until(lambda: installation.events("cfjobs.published"), "the event", seconds=20)
    assert published[0]["resource"]["prefect.resource.id"] == "cfjobs.night.2026-03-01"
    assert lists(installation)["run_date"].unique().to_list() == [date(2026, 3, 1)]


def test_a_browser_shows_the_run_its_artifacts_and_the_form(
    installation: Installation, night: FlowRun, tmp_path: Path
) -> None:
    """Pictures go to the folder CFJOBS_PICTURES, for people to look at."""
    executable = browser.chromium()
    if executable is None:
        pytest.skip("there is no Chromium: apt-get install chromium")
    pictures = Path(os.environ.get("CFJOBS_PICTURES", tmp_path))
    ui = installation.environment["PREFECT_API_URL"].removesuffix("/api")
    nightly = installation.client.read_deployment_by_name("nightly/nightly")
    summary = next(artifact for artifact in installation.artifacts() if artifact.key == "night")
    pages = {
        "run": (f"runs/flow-run/{night.id}", "", ["night of 2026-03-01", "Completed", "published run"]),
        "artifacts": (
            f"runs/flow-run/{night.id}",
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
        log_in(tab, ui, installation.environment["PREFECT_API_AUTH_STRING"])
        for name, (path, click, words) in pages.items():
            tab.open(f"{ui}/{path}", width=1400, height=1300, wait=1)
            missing[name] = absent(tab, words, click=click)
            tab.settle(1.5)
            tab.picture(pictures / f"{name}.png")
    assert not any(missing.values()), missing


def log_in(tab: browser.Tab, ui: str, password: str) -> None:
    """Put user and password where Prefect's pages keep what was typed into their login field."""
    tab.open(ui, width=1400, height=1300, wait=1)
    until(lambda: tab.evaluate("location.host"), "Prefect's pages", seconds=60)
    tab.evaluate(f"localStorage.setItem('prefect-password', btoa({json.dumps(password)}))")


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


def test_a_model_that_exists_scores_alone_on_the_worker_of_another_deployment(
    installation: Installation, night: FlowRun
) -> None:
    installation.completed(
        "score/score", run_date="2026-03-02", score_deployment="shards/gpu", config=QUICK | {"top_n": 10}
    )
    scoring = next(r for r in installation.runs() if r.name == "shards of 2026-03-02")
    assert scoring.work_pool_name == "cfjobs-gpu"
    nights = installation.history()
    assert nights[-1]["gate"] == "existing model"
    assert nights[-1]["model_uri"] == nights[0]["model_uri"]
    assert lists(installation).filter(run_date=date(2026, 3, 2))["rank"].max() == 10


def test_a_run_that_comes_too_late_is_skipped(installation: Installation, night: FlowRun) -> None:
    run = installation.run("nightly/nightly", run_date="2026-02-27", config=QUICK)
    assert run.state is not None
    assert (run.state.type, run.state.name) == (StateType.COMPLETED, "Skipped")
    assert "is published already" in str(run.state.message)
    assert "2026-02-27" not in [night["run_date"] for night in installation.history()]
    installation.alert(f"{run.name} was skipped")


def test_a_refusal_is_a_failure_an_event_and_an_alert(installation: Installation, night: FlowRun) -> None:
    published = installation.history()[-1]
    run = installation.run(
        "nightly/nightly",
        run_date="2026-03-03",
        train_deployment=None,
        config=QUICK | {"gate_max_rmse": 0.01},
    )
    assert run.state is not None
    assert run.state.is_failed()
    assert "the gate refused: rmse is" in str(run.state.message)
    assert until(lambda: installation.events("cfjobs.gate.refused"), "the event", seconds=20)
    assert "night of 2026-03-03" in json.loads(installation.alert("the gate refused"))["text"]
    assert installation.history()[-1] == published


def test_a_wrong_configuration_is_refused_before_the_run(installation: Installation) -> None:
    with pytest.raises(Exception, match=r"epochs|validat|409|422"):
        installation.start("nightly/nightly", config={"epochs": -1})


def test_the_schedule_and_the_limit_are_deployed(installation: Installation) -> None:
    wanted = yaml.safe_load((ROOT / "deploy" / "prefect.yaml").read_text())["deployments"][0]["schedules"][0]
    nightly = installation.client.read_deployment_by_name("nightly/nightly")
    schedule = nightly.schedules[0].schedule
    assert (schedule.cron, schedule.timezone) == (wanted["cron"], wanted["timezone"])  # type: ignore[union-attr]  # a cron schedule
    assert nightly.concurrency_options is not None
    assert nightly.concurrency_options.collision_strategy == "CANCEL_NEW"


@pytest.mark.usefixtures("prefect_server")
@pytest.mark.parametrize(
    ("error", "calls"), [(StorageFault("no answer"), 3), (InputError("wrong"), 1), (ValueError("bug"), 1)]
)
def test_only_storage_faults_are_retried(error: Exception, calls: int) -> None:
    from prefect import flow

    seen: list[int] = []

    def fails() -> None:
        seen.append(1)
        raise error

    task: Callable[[], None] = stages.stage(name="fails", retries=2, seconds=0.01)(fails)

    @flow
    def night() -> None:
        task()

    with pytest.raises(type(error)):
        night()
    assert len(seen) == calls
