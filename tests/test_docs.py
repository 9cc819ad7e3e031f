"""The commands of docs/training.md run, on a small data set and with less work than they ask for."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parent.parent / "docs"
QUICK = [
    "ranking_steps=10",
    "epochs=1",
    "n_factors=4",
    "ranking_factors=4",
    "top_n=5",
    "gate_beat_popularity=false",
]


def commands(page: str) -> list[str]:
    """The indented lines of a page that call cfjobs or torchrun, without their comments."""
    text = (DOCS / page).read_text(encoding="utf-8")
    found = re.findall(r"^    ((?:cfjobs|torchrun) .*)$", text, flags=re.MULTILINE)
    return [command.split("    #")[0].strip() for command in found]


def runnable(command: str) -> list[str]:
    """The command for this interpreter, with quick settings where it takes any."""
    words = shlex.split(command.replace("--trials 50", "--trials 1"))
    if words[0] == "cfjobs":
        words = [sys.executable, "-m", "cfjobs", *words[1:]]
    else:
        words = [sys.executable, "-m", "torch.distributed.run", *words[1:]]
    return words + [word for setting in QUICK for word in ("--set", setting)]


@pytest.mark.long
def test_the_commands_of_the_page_on_training_run(data_set: Path, tmp_path: Path) -> None:
    found = commands("training.md")
    assert len(found) >= 6
    (tmp_path / "data").symlink_to(data_set)
    environment = os.environ | {"PYTHONPATH": str(DOCS.parent), "OMP_NUM_THREADS": "1"}
    for command in found:
        done = subprocess.run(
            runnable(command), cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            pytest.fail(f"{command}\n{done.stdout[-500:]}\n{done.stderr[-1500:]}")


SMALL = {
    "shard.py": ["--users", "1000", "--movies", "400"],
    "kill.py": ["--kills", "1"],
    "score.py": ["--quick", "--users", "64", "--kinds", "trained", "--repeat", "1", "--no-peers"],
}
"""A bench that the pages name, at a small size;
the others train for minutes and only say here what they take."""


def named_benches() -> list[str]:
    pages = [page.read_text(encoding="utf-8") for page in DOCS.rglob("*.md")]
    return sorted({name for page in pages for name in re.findall(r"python bench/([a-z_]+\.py)", page)})


@pytest.mark.parametrize("name", named_benches())
def test_the_benches_that_the_pages_name_say_what_they_take(name: str) -> None:
    ran(name, "--help")


@pytest.mark.long
@pytest.mark.parametrize("name", SMALL)
def test_the_benches_run_at_a_small_size(name: str) -> None:
    ran(name, *SMALL[name])


def ran(name: str, *arguments: str) -> None:
    command = [sys.executable, str(DOCS.parent / "bench" / name), *arguments]
    environment = os.environ | {"PYTHONPATH": str(DOCS.parent)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-500:] + done.stderr[-1500:]


def test_the_bench_of_ingest_agrees_with_pandas() -> None:
    """On what is kept and what is held out; at this size it is no match for speed."""
    command = [sys.executable, str(DOCS.parent / "bench" / "ingest.py"), "--rows", "20000"]
    environment = os.environ | {"PYTHONPATH": str(DOCS.parent)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert "pandas" in done.stdout
    assert "disagree" not in done.stdout + done.stderr
