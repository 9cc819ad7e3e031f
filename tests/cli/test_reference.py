"""The pages that are printed from the code say what the code says."""

from pathlib import Path

import pytest
import typer

from cfjobs.cli import app, reference
from cfjobs.config import Config

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("name", reference.PAGES)
def test_the_page_is_the_one_that_is_printed(name: str) -> None:
    page = (DOCS / f"{name}.md").read_text(encoding="utf-8")
    assert page == reference.PAGES[name](), f"run `python -m cfjobs.cli.reference {name} > docs/{name}.md`"


def test_every_option_and_every_setting_has_its_row() -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    page = reference.command_line()
    for name, command in commands.items():
        section = page.partition(f"### cfjobs {name}\n")[2].partition("\n### ")[0]
        for parameter in command.params:
            assert parameter.param_type_name == "argument" or parameter.opts[0] in section, (name, parameter)
    rows = reference.configuration().splitlines()
    assert all(sum(row.startswith(f"| `{key}` |") for row in rows) == 1 for key in Config.model_fields)
