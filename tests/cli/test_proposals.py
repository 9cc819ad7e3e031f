"""Whatever a help text, a page or an error message proposes to type can be typed."""

import ast
import re
import shlex
from pathlib import Path
from typing import get_args

import click
import pytest
import typer

from cfjobs import cli
from cfjobs.cli import app
from cfjobs.config import Config, load_config

ROOT = Path(__file__).parents[2]
GROUP = typer.main.get_command(app)
assert isinstance(GROUP, click.Group) or hasattr(GROUP, "commands")


def texts() -> dict[str, str]:
    """Every page, and every string in the code, by where it stands."""
    pages = [ROOT / "README.md", ROOT / "deploy" / "README.md", *(ROOT / "docs").rglob("*.md")]
    found = {str(page.relative_to(ROOT)): page.read_text(encoding="utf-8") for page in pages}
    for folder in ("cfjobs", "flows", "deploy"):
        for path in (ROOT / folder).rglob("*.py"):
            nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            strings = [n.value for n in nodes if isinstance(n, ast.Constant) and isinstance(n.value, str)]
            found[str(path.relative_to(ROOT))] = "\n\n".join(strings)
    return found


def proposed() -> list[str]:
    """Command lines in backticks, and indented ones on a line of their own; only whole ones."""
    found = set()
    for text in texts().values():
        found |= set(re.findall(r"`(cfjobs [a-z][^`\n]*)`", text))
        found |= set(re.findall(r"^(?: {4,}|\.venv/bin/)(cfjobs [a-z-]+ [^\n]*)$", text, flags=re.MULTILINE))
    lines = {re.split(r"\s{2,}#| \.\.\. | \\\\$|\s+\|\s", line)[0].strip() for line in found}
    return sorted(line for line in lines if "{" not in line)


@pytest.mark.parametrize("line", proposed())
def test_a_proposed_command_line_is_understood(line: str) -> None:
    _, name, *words = shlex.split(line)
    command = GROUP.commands[name]  # type: ignore[attr-defined]  # a Typer of several commands is a group
    options = {
        option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)
    }
    given = {
        word.partition("=")[0]
        for word in words
        if word.startswith("-") and not word.lstrip("-")[:1].isdigit()
    }
    assert given <= options | {"--help"}


def test_a_proposed_setting_is_accepted() -> None:
    known = "|".join(Config.model_fields)
    found = set()
    for text in texts().values():
        found |= set(
            re.findall(
                rf"(?<![\w.`])({known})\s?=\s?(true|false|none|[0-9][0-9.]*\b(?!x))(?=[\s,;`)\"']|$)",
                text,
            )
        )
    assert len(found) > 5
    for key, value in sorted(found):
        assert load_config(None, [f"{key}={value}"])


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (key, value)
        for key, field in Config.model_fields.items()
        for value in get_args(field.annotation)
        if isinstance(value, str)
    ],
)
def test_every_choice_of_a_setting_can_be_set(key: str, value: str) -> None:
    assert getattr(load_config(None, [f"{key}={value}"]), key) == value


def test_the_examples_of_the_help_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A first night, as `cfjobs --help` shows it."""
    monkeypatch.chdir(tmp_path)
    examples = re.findall(r"^ {4,}cfjobs (.*)$", app.info.help or "", flags=re.MULTILINE)
    assert len(examples) == 3
    quick = ["--set", "epochs=1", "--set", "ranking_steps=20", "--set", "gate_beat_popularity=false"]
    for example in examples:
        words = shlex.split(example)
        more = quick if words[0] == "nightly" else ["--ratings", "3000"] * (words[0] == "sample")
        monkeypatch.setattr("sys.argv", ["cfjobs", "-q", *words, *more])
        assert cli.run() == 0, example


def test_training_on_all_ratings_as_the_help_advises(
    data_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [
        "train",
        "--ratings",
        str(data_set),
        "--output",
        str(tmp_path),
        "--users",
        str(data_set / "users.parquet"),
    ]
    for setting in ("holdout=none", "epochs=1", "ranking_steps=10"):
        words += ["--set", setting]
    monkeypatch.setattr("sys.argv", ["cfjobs", "-q", *words])
    assert cli.run() == 0
