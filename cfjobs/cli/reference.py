"""The pages that are printed from the code: `python -m cfjobs.cli.reference command-line` or `configuration`.

They are docs/command-line.md and docs/configuration.md; a test holds them to what is printed.
"""

import inspect
import sys
from collections.abc import Callable
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

import typer

from cfjobs.cli.app import app
from cfjobs.config import GROUPS, Config, toml_text

_UNITS = {int: "N", float: "X", str: "TEXT"}


def command_line() -> str:
    """Every command with its arguments and options, by the groups of the help, as Markdown."""
    commands: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    panels: dict[str, list[str]] = {}
    for name, command in commands.items():
        panels.setdefault(command.rich_help_panel, []).append(_command(name, command))
    sections = [f"## {panel}\n\n" + "\n".join(texts) for panel, texts in panels.items()]
    return "\n".join([_COMMAND_LINE, *sections])


def configuration() -> str:
    """Every setting with its default and its meaning, in the order of `Config`, as Markdown."""
    lines = [_CONFIGURATION]
    for name, field in Config.model_fields.items():
        if name in GROUPS:
            lines.append(f"\n## {GROUPS[name]}\n\n| setting | default | meaning |\n|---|---|---|")
        default = "" if field.default is None else f"`{toml_text(field.default)}`"
        meaning = str(field.description) + _choices(field.annotation)
        lines.append(f"| `{name}` | {_cell(default)} | {_cell(meaning)} |")
    return "\n".join(lines) + "\n"


PAGES: dict[str, Callable[[], str]] = {"command-line": command_line, "configuration": configuration}
"""What prints docs/NAME.md, by NAME."""


def _command(name: str, command: Any) -> str:
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option"]
    required = [p for p in options if p.required]
    usage = [
        name,
        *(p.metavar or p.name.upper() for p in arguments),
        *(_option(p) for p in required),
        "[OPTIONS]",
    ]
    rows = [f"| {_code(p.metavar or p.name.upper())} | {_meaning(p)} |" for p in arguments]
    rows += [f"| {_code(_option(p))} | {_meaning(p)} |" for p in options]
    words = inspect.cleandoc(command.help).replace("\\[", "[")
    table = "\n".join(["| argument or option | meaning |", "|---|---|", *rows])
    return f"### cfjobs {name}\n\n{words}\n\n    cfjobs {' '.join(usage)}\n\n{table}\n"


def _option(option: Any) -> str:
    """Its names, and what follows them."""
    names = [*option.opts, *option.secondary_opts]
    if option.is_flag:
        return ", ".join(names)
    return f"{', '.join(names)} {option.metavar or _unit(option.type_descriptor.annotation)}"


def _unit(annotation: Any) -> str:
    kinds = [kind for kind in (get_args(annotation) or (annotation,)) if kind is not type(None)]
    return _UNITS.get(kinds[0], "DATE")


def _meaning(parameter: Any) -> str:
    text = str(parameter.help).replace("\\[", "[")
    if parameter.required:
        text += " Required."
    elif parameter.default not in (None, (), "") and not isinstance(parameter.default, bool):
        text += f" Default: {parameter.default}."
    if parameter.envvar:
        text += f" `{parameter.envvar}` stands for it."
    return _cell(text)


def _choices(annotation: Any) -> str:
    """The words that a setting takes, where it takes one of some."""
    kinds = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    words = [f"`{word}`" for kind in kinds if get_origin(kind) is Literal for word in get_args(kind)]
    return f" One of {', '.join(words)}." if len(words) > 1 else ""


def _code(text: str) -> str:
    """Code in a cell of a table; GitHub and mkdocs do not agree on how a | is escaped in backticks."""
    return f"<code>{text.replace('|', '&#124;')}</code>" if "|" in text else f"`{text}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


_COMMAND_LINE = """# The command line

Every command, with its arguments and options. Each also has `--help`. Before the command may stand `--verbose`
or `--quiet`; `cfjobs --version` prints the version. Results go to standard output, logs and progress to standard
error; with `--json` the result is one JSON object.

Every URI is a local path or `s3://bucket/prefix`; AWS credentials come from the standard chain. Exit codes: 0
done, 2 wrong input or configuration, 3 the gate refused, 4 the newest night is too old, 1 anything else.

This page is printed by `python -m cfjobs.cli.reference command-line`.
"""

_CONFIGURATION = """# Configuration

Every setting of a night. A file of them is given by `--config FILE.toml`, one by `--set KEY=VALUE`, which goes over
the file; both also stand in the form of a Prefect run. `cfjobs config` prints this as a TOML file to start from. A
setting without a default is decided by the night, or left out, as its meaning says.

This page is printed by `python -m cfjobs.cli.reference configuration`."""


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1] not in PAGES:
        sys.exit(f"usage: python -m cfjobs.cli.reference {'|'.join(PAGES)}")
    print(PAGES[sys.argv[1]](), end="")
