"""The soak's short form: nights by the schedule on Postgres, one of them killed, and its judge;
then none of the installation's secrets is anywhere."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import polars as pl
import pytest

from bench import soak
from bench.soak import Hit, Soak
from deploy import serve
from tests.conftest import free_port

pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(900),
]  # test_judge.py has the laws that need no installation
PLANTED = {"webhook": "planted-token-of-the-webhook", "smtp": "planted-password-of-the-mail"}


@pytest.fixture(scope="module")
def lived_in(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Soak]:
    """An installation after two nights, of which the first was killed."""
    if not soak.postgres_command("initdb"):
        pytest.skip("there is no Postgres here")
    folder = tmp_path_factory.mktemp("soak")
    mail = {
        "CFJOBS_SMTP": f"smtp://night:{PLANTED['smtp']}@127.0.0.1:{free_port()}",  # nobody listens
        "CFJOBS_EMAIL_FROM": "night@example.org",
        "CFJOBS_EMAIL_TO": "operator@example.org",
        "CFJOBS_LOG": "json",
    }
    with soak.installed(folder, token=PLANTED["webhook"], **mail) as installation:
        soak.live(installation, [Hit(0, "the night killed")], nights=2, every=45)
        soak.settle(installation, seconds=240)
        yield installation


def test_nights_come_by_the_schedule_and_the_judge_finds_no_fault(lived_in: Soak) -> None:
    assert [fault["kind"] for fault in lived_in.caused] == ["the night killed"]
    assert soak.judge(lived_in) == 0
    assert not lived_in.at_work()


def test_the_server_has_metrics_and_the_night_too(lived_in: Soak) -> None:
    api = lived_in.environment["PREFECT_API_URL"]
    user, _, password = lived_in.environment["PREFECT_API_AUTH_STRING"].partition(":")
    answer = httpx.get(f"{api}/metrics", auth=(user, password))
    assert "# HELP" in answer.text
    figures = lived_in.store.get_object(Bucket=serve.BUCKET, Key="recommendations/metrics.prom")
    assert b"cfjobs_night_metric" in figures["Body"].read()


def test_a_night_s_log_is_json_in_its_worker_too(lived_in: Soak) -> None:
    lines = [
        json.loads(line)
        for line in (lived_in.parts.logs / "worker-cfjobs.log").read_text().splitlines()
        if line.startswith("{")
    ]
    assert any(line["logger"] == "cfjobs.night.publish" and line["run_date"] for line in lines)


def test_no_secret_is_anywhere(lived_in: Soak) -> None:
    keys = json.loads((lived_in.folder / "keys.json").read_text())
    url = lived_in.environment["PREFECT_SERVER_DATABASE_CONNECTION_URL"]
    secrets = [*keys.values(), str(urlsplit(url).password), *PLANTED.values()]
    assert all(len(secret) > 15 for secret in secrets)
    places = {**of_prefect(lived_in), **of_the_store(lived_in), **of_the_machine(lived_in)}
    places["database"] = dump(lived_in)
    assert len(places) > 60
    assert not {name for name, text in places.items() if any(secret in text for secret in secrets)}


def of_prefect(lived_in: Soak) -> dict[str, str]:
    """Everything that the server tells: runs with their states, logs, events, artifacts, blocks and so on."""
    found = {}
    for kind in ("flow_runs", "task_runs", "logs", "events", "artifacts", "deployments", "automations",
                 "block_documents", "work_pools", "variables"):  # fmt: skip
        for offset in range(0, 10_000, 200):
            if kind == "events":
                body: dict[str, Any] = {"filter": {"event": {"prefix": ["prefect.", "cfjobs."]}}, "limit": 50}
                page = lived_in.api("POST", "/events/filter", json=body)
                found[f"{kind} {offset}"] = json.dumps(page)
                break
            page = lived_in.api("POST", f"/{kind}/filter", json={"limit": 200, "offset": offset})
            found[f"{kind} {offset}"] = json.dumps(page)
            if len(page) < 200:
                break
    for run in lived_in.runs.values():
        found[f"states of {run}"] = json.dumps(lived_in.api("GET", f"/flow_run_states/?flow_run_id={run}"))
    return found | {"alerts": json.dumps(lived_in.alerts)}


def of_the_store(lived_in: Soak) -> dict[str, str]:
    """Every object of the output, as bytes and, where it is a table, as rows: page, tables, logs, models."""
    found, store = {}, lived_in.store
    for page in store.get_paginator("list_objects_v2").paginate(
        Bucket=serve.BUCKET, Prefix="recommendations/"
    ):
        for item in page["Contents"]:
            data = store.get_object(Bucket=serve.BUCKET, Key=item["Key"])["Body"].read()
            found[item["Key"]] = data.decode("latin-1")
            if item["Key"].endswith(".parquet"):
                found[f"rows of {item['Key']}"] = pl.read_parquet(data).write_ndjson()
    assert any(name.endswith(".html") for name in found)
    return found


def of_the_machine(lived_in: Soak) -> dict[str, str]:
    """Logs and whatever lies in the installation's folder, but for its keys; and what `ps` shows."""
    kept = ("keys.json", "prefect", "cfjobs")
    found = {
        str(path): path.read_text(errors="replace")
        for path in lived_in.folder.rglob("*")
        if path.is_file()
        and path.name not in kept
        and path.relative_to(lived_in.folder).parts[0] not in {"ui", "s3"}
    }
    for process in Path("/proc").glob("[0-9]*"):
        try:
            found[f"process {process.name}"] = (process / "cmdline").read_text(errors="replace")
        except OSError:
            continue
    return found


def dump(lived_in: Soak) -> str:
    """Prefect's database, as SQL."""
    parts = urlsplit(lived_in.environment["PREFECT_SERVER_DATABASE_CONNECTION_URL"])
    done = subprocess.run(
        [
            soak.postgres_command("pg_dump"),
            "--host=127.0.0.1",
            f"--port={parts.port}",
            "--username=prefect",
            "postgres",
        ],
        env=os.environ | {"PGPASSWORD": str(parts.password)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "flow_run" in done.stdout
    return done.stdout
