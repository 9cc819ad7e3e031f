"""The notebook runs from top to bottom on any output, and is committed with what generated nights show."""

import ast
import inspect
import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from cfjobs import tables
from cfjobs.report import pictures
from docs import run_notebook, site_hooks

COMMITTED = json.loads(run_notebook.NOTEBOOK.read_text(encoding="utf-8"))
CODE = [cell for cell in COMMITTED["cells"] if cell["cell_type"] == "code"]
SOURCE = "\n".join("".join(cell["source"]) for cell in CODE)
SVG = "image/svg+xml"


@pytest.fixture(scope="module")
def executed(two_nights: Path) -> dict[str, Any]:
    return run_notebook.executed(COMMITTED, str(two_nights / "out"))


def results(notebook: dict[str, Any]) -> list[tuple[str, str]]:
    """(kind, text) of everything that the cells show."""
    return [
        (kind, "".join(lines))
        for cell in notebook["cells"]
        for output in cell.get("outputs", ())
        for kind, lines in output["data"].items()
    ]


def test_every_cell_runs_and_every_picture_is_whole_whatever_titles_say(executed: dict[str, Any]) -> None:
    drawn = [ET.fromstring(text) for kind, text in results(executed) if kind == SVG]
    assert len(drawn) >= 7
    assert not any(element.tag.endswith("script") for svg in drawn for element in svg.iter())


def test_the_same_output_gives_the_same_results(executed: dict[str, Any], two_nights: Path) -> None:
    assert run_notebook.executed(executed, str(two_nights / "out")) == executed


def test_it_reads_every_published_table_and_draws_every_picture() -> None:
    assert re.findall(r".*\bcfjobs\b.*", SOURCE) == ["from cfjobs.report import pictures"]
    assert set(re.findall(r'table\("(\w+)"\)', SOURCE)) == {table.name for table in tables.PUBLISHED}
    public = {name for name, _ in inspect.getmembers(pictures, inspect.isfunction) if name[0] != "_"}
    assert set(re.findall(r"pictures\.(\w+)\(", SOURCE)) == {
        name for name in public if getattr(pictures, name).__module__ == pictures.__name__
    }


def test_it_is_committed_with_the_results_of_every_cell() -> None:
    assert [cell["execution_count"] for cell in CODE] == list(range(1, len(CODE) + 1))
    for cell in CODE:
        shows = isinstance(ast.parse("".join(cell["source"])).body[-1], ast.Expr)
        kinds = [output["output_type"] for output in cell["outputs"]]
        assert kinds == ["execute_result"] * shows, cell["id"]
    assert len(run_notebook.NOTEBOOK.read_bytes()) < 600_000


def test_its_results_name_no_machine_and_nothing_that_changes() -> None:
    for _, text in results(COMMITTED):
        plain = text.replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"\w+://|/(?:tmp|home|root|work|usr|Users|var)/|\b0x[0-9a-f]{6}", plain)
        assert not re.search(r"\d\d:\d\d:\d\d", plain)


def test_its_page_of_the_site_has_its_tables_and_pictures() -> None:
    page, drawn = site_hooks.page_of(COMMITTED)
    kinds = [kind for kind, _ in results(COMMITTED)]
    assert re.findall(r"!\[[^\]]+\]\(([^)]+)\)", page) == list(drawn)
    assert len(drawn) == kinds.count(SVG) > 0
    assert page.count("<table>") == kinds.count("text/html") > 0
    assert "<style" not in page
