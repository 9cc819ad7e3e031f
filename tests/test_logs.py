"""The log as JSON: an object a line, with the night in it, on the command line."""

import json
import os
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import pytest

from cfjobs import logs
from cfjobs.errors import InputError
from tests.faults import SETTINGS


def command(*arguments: str, log: str = "json") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cfjobs", *arguments],
        env=os.environ | {"CFJOBS_LOG": log},
        capture_output=True,
        text=True,
        check=False,
    )


def test_every_line_of_a_night_is_an_object_that_names_the_night(data_set: Path, tmp_path: Path) -> None:
    arguments = ["nightly", "--ratings", str(data_set), "--output", str(tmp_path), "--run-date", "2026-03-01"]
    done = command(*arguments, *(word for setting in SETTINGS for word in ("--set", setting)))
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert len(lines) > 5
    for line in lines:
        assert {"timestamp", "level", "logger", "message", "run_date", "run_id"} <= set(line), line
        assert line["run_date"] == "2026-03-01"
        assert line["logger"].startswith("cfjobs.")
        assert datetime.fromisoformat(line["timestamp"]).tzinfo is not None
    assert len({line["run_id"] for line in lines}) == 1


def test_an_end_with_a_reason_is_an_object_too(tmp_path: Path) -> None:
    done = command("nightly", "--ratings", "s3://KEY:planted@lake/x", "--output", str(tmp_path))
    assert done.returncode == 2
    (line,) = [json.loads(line) for line in done.stderr.splitlines()]
    assert (line["level"], line["exit_code"]) == ("ERROR", 2)
    assert "credentials" in line["message"]
    assert "planted" not in done.stderr


def test_a_word_that_means_nothing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CFJOBS_LOG", "xml")
    with pytest.raises(InputError, match="expected text or json"):
        logs.as_json()
    assert command("history", "--output", "nowhere", log="xml").returncode == 2


def test_an_exception_stays_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    import logging

    logger = logging.Logger("cfjobs.test")
    logger.addHandler(logs.json_handler())
    try:
        raise ValueError("two\nlines")
    except ValueError:
        logger.exception("it failed: %s", "é")
    (line,) = capsys.readouterr().err.splitlines()
    assert "ValueError: two\nlines" in json.loads(line)["exception"]
    assert json.loads(line)["message"] == "it failed: é"
