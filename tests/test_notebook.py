"""The notebook runs from top to bottom and needs nothing but the published tables."""

import json
import re
from pathlib import Path

import pytest

from cfjobs import tables

NOTEBOOK = Path(__file__).parent.parent / "docs" / "a-look-around.ipynb"
CODE = [
    "".join(cell["source"])
    for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    if cell["cell_type"] == "code"
]


def test_every_cell_runs(two_nights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CFJOBS_OUTPUT", str(two_nights / "out"))
    names: dict[str, object] = {}
    for number, cell in enumerate(CODE):
        exec(compile(cell, f"{NOTEBOOK.name}, cell {number}", "exec"), names)


def test_it_reads_every_published_table_and_nothing_else() -> None:
    text = "\n".join(CODE)
    assert "import cfjobs" not in text
    assert "from cfjobs" not in text
    assert set(re.findall(r'table\("(\w+)"\)', text)) == {table.name for table in tables.PUBLISHED}


def test_it_is_committed_without_results() -> None:
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)
