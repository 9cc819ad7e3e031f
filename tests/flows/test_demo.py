"""The demo, as a new user starts it."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest


@pytest.mark.long
def test_the_demo_ends_with_a_list_and_leaves_no_server(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "demo"
    command = [sys.executable, "-m", "flows.demo", "--folder", str(folder)]
    done = subprocess.run(
        command,
        check=False,
        capture_output=True,
        text=True,
        env=os.environ | {"PREFECT_API_URL": "http://127.0.0.1:1/api"},
    )
    assert done.returncode == 0, done.stderr
    assert "Ask for another user" in done.stdout
    assert "Traceback" not in done.stderr
    assert "Warning" not in done.stderr
    time.sleep(1)
    assert not [pid for pid in Path("/proc").glob("[0-9]*") if str(folder) in environment(pid)]


def environment(process: Path) -> str:
    try:
        return (process / "environ").read_text(errors="replace")
    except OSError:
        return ""
