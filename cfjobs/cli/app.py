"""What the commands share: the application, its options, and how results and progress are shown."""

import json
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any, TextIO

import typer
from rich.console import Console

from cfjobs import __version__, logs

app = typer.Typer(
    name="cfjobs",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="""A nightly batch recommendation job: rating Parquet in, top-N Delta tables out.

    A first night, on generated data:

        cfjobs sample --output data
        cfjobs nightly --ratings data/ratings --movies data/movies --output out
        cfjobs recs --output out --user 1

    Every URI is a local path or s3://bucket/prefix; AWS credentials come from the standard chain.
    Exit codes: 0 done, 2 wrong input or configuration, 3 the gate refused, 4 the newest night is too old, 1 anything else.
    """,
)

console = Console()
errors = Console(stderr=True)


def _print_version(wanted: bool) -> None:
    if wanted:
        console.print(f"cfjobs {__version__}", highlight=False)
        raise typer.Exit()


@app.callback()
def _root(
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Log what each stage does, in detail.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Log warnings only.")] = False,
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True),
    ] = False,
) -> None:
    log_to_stderr(logging.DEBUG if verbose else logging.WARNING if quiet else logging.INFO)


def log_to_stderr(level: int = logging.INFO) -> None:
    """Show what `cfjobs` logs: plain lines, above progress bars on a terminal, or JSON where asked for."""
    handler: logging.Handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", datefmt="%H:%M:%S"))
    if logs.as_json():
        handler = logs.json_handler()
    elif errors.is_terminal:
        from rich.logging import RichHandler

        handler = RichHandler(
            console=errors, show_path=False, show_level=False, markup=False, log_time_format="%H:%M:%S"
        )
    logger = logging.getLogger("cfjobs")
    logger.handlers, logger.propagate = [handler], False
    logger.setLevel(level)


def plain(value: object) -> str:
    """Text that is safe to print: control characters, such as escape sequences in a title, become '?'."""
    return "".join(c if c.isprintable() else "?" for c in str(value))


def show(result: dict[str, Any], *, as_json: bool) -> None:
    """Print a result: as text, or as one JSON object."""
    if as_json:
        print(json.dumps(result, ensure_ascii=not says_all(sys.stdout)))
        return
    for name, value in result.items():
        if isinstance(value, dict):
            console.print(f"{name}:", markup=False, highlight=False)
            for key, inner in value.items():
                console.print(f"  {key:<20} {_text(inner)}", markup=False, highlight=False, soft_wrap=True)
        else:
            console.print(f"{name}: {_text(value)}", markup=False, highlight=False, soft_wrap=True)


def says_all(stream: TextIO) -> bool:
    """Whether a stream takes every character."""
    return (stream.encoding or "").lower().replace("_", "-").startswith("utf")


def _text(value: object) -> str:
    return f"{value:.4f}" if isinstance(value, float) else plain(value)


@contextmanager
def progress_bars() -> Iterator[Callable[[str, float, str], None]]:
    """A bar for each stage on a terminal; nothing elsewhere, where the log reports progress."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn  # here: look-ups have none

    bars = Progress(
        TextColumn("{task.fields[stage]:>8}"),
        BarColumn(),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
        console=errors,
        disable=not errors.is_terminal or logs.as_json(),
    )
    tasks: dict[str, Any] = {}
    with bars:

        def update(stage: str, fraction: float, message: str) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task("", total=1.0, stage=stage)
            bars.update(tasks[stage], completed=fraction, description=plain(message))

        yield update
