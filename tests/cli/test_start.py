"""Look-ups start at once: they import no library that they do not need."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

LOOK = "import json, sys; from cfjobs import cli; code = cli.run(); print(json.dumps([code, sorted(sys.modules)]))"

HEAVY = {"torch", "numba", "numpy", "polars", "pyarrow", "boto3", "prefect", "sympy"}
"""What takes a tenth of a second or more to import. `bench/lookups.py` says what a look-up takes in all."""


def modules(*words: str) -> set[str]:
    """What a command has imported when it is done."""
    script = f"import sys; sys.argv = ['cfjobs', '-q', *{list(words)!r}]; {LOOK}"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    code, found = json.loads(done.stdout.splitlines()[-1])
    assert code == 0, done.stderr
    return {name.partition(".")[0] for name in found}


@pytest.mark.parametrize(
    "words",
    [
        ["history"],
        ["history", "--json"],
        ["rollback", "--to", "2026-02-28", "--dry-run"],
        ["retain", "--nights", "1", "--dry-run"],
        ["recs", "--user", "1"],
        ["recs", "--user", "1", "--per", "genres", "--value", "drama"],
        ["movies", "the"],
    ],
    ids=" ".join,
)
def test_a_look_up_imports_deltalake_and_nothing_else_that_is_heavy(
    two_nights: Path, words: list[str]
) -> None:
    assert not HEAVY & modules(*words, "--output", str(two_nights / "out"))


def test_help_imports_no_library_of_numbers() -> None:
    assert not (HEAVY | {"deltalake", "pydantic"}) & modules("--help")
