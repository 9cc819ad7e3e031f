"""The demo: one night through the real flow, on a generated sample or on real data, with nothing set up.

    python -m flows.demo [--ratings PATH-OR-URI] [--folder .demo]

A Prefect server of its own runs beside it, keeps its state under the folder, and ends with it.
"""

import argparse
import atexit
import hashlib
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

QUIET = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_LOGGING_LEVEL": "WARNING",
    # Its SQLite may be locked for a moment, on a busy machine: it tries again, and would print a traceback.
    "PREFECT_SERVER_LOGGING_LEVEL": "CRITICAL",
    "DO_NOT_TRACK": "1",
}
_SECONDS_TO_START = 120
_SECONDS_TO_END = 10


def main() -> int:
    """Run the demo; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m flows.demo",
        description="One night through the real Prefect flow, with a server of its own.",
    )
    parser.add_argument(
        "--ratings",
        default="",
        help="Parquet prefix, or a download as `cfjobs import` takes it; without it, a generated sample",
    )
    parser.add_argument("--folder", default=".demo", help="where data, tables and Prefect's state go")
    arguments = parser.parse_args()
    folder = Path(arguments.folder).absolute()
    ready = start_server(folder / "prefect")
    from cfjobs.errors import CfjobsError

    try:
        show(arguments.ratings, folder, ready)
    except CfjobsError as error:
        print(f"demo: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def start_server(home: Path) -> Callable[[], None]:
    """Start a server that ends with this process, and tell its clients by the environment; what is returned
    waits until it answers.

    It makes its database while a night's modules are imported.
    """
    home.mkdir(parents=True, exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # Prefect reads its settings when it is imported, so they come first.
    os.environ |= QUIET | {"PREFECT_HOME": str(home), "PREFECT_API_URL": f"http://127.0.0.1:{port}/api"}
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    log = home / "server.log"
    with log.open("wb") as out:
        environment = os.environ | {"PREFECT_UI_ENABLED": "false"}
        process = subprocess.Popen(command, stdout=out, stderr=out, env=environment)
    atexit.register(end, process)  # before Prefect is imported, so after it has sent its last

    def ready() -> None:
        until = time.monotonic() + _SECONDS_TO_START
        while time.monotonic() < until and process.poll() is None:
            with (
                suppress(OSError),
                urllib.request.urlopen(f"{os.environ['PREFECT_API_URL']}/health", timeout=5),
            ):
                return
            time.sleep(0.1)
        raise SystemExit(f"demo: the Prefect server did not start; {log} says why")

    return ready


def end(process: "subprocess.Popen[bytes]") -> None:
    """End the server; insist after a while."""
    process.terminate()
    try:
        process.wait(_SECONDS_TO_END)
    except subprocess.TimeoutExpired:
        process.kill()


def show(source: str, folder: Path, ready: Callable[[], None]) -> None:
    """Run the night and print its metrics, its tables, and one user's list."""
    from cfjobs import cli
    from cfjobs.cli import query
    from cfjobs.night import story
    from cfjobs.night.records import Inputs, Published
    from cfjobs.query import lookup
    from cfjobs.tables import delta
    from flows.nightly import nightly

    cli.log_to_stderr()
    folder = folder / name_of(source)  # a night is compared with the one before it: each data set has its own
    output = str(folder / "output")
    ratings = data_set(source, folder)
    story.start(Inputs(ratings=ratings), output=output)
    print("waiting for a Prefect server, whose first start takes some 10 seconds", file=sys.stderr)
    ready()
    published = nightly(ratings=ratings, output=output, force=True)
    assert isinstance(published, Published)  # forced: not skipped
    print(f"\nThe night of {published.run_date}, run {published.run_id}, gate: {published.gate}")
    for title, values in (("metrics", published.metrics), ("tables", published.tables)):
        print(f"\n{title}")
        for name, value in values.items():
            print(f"  {name:<20} {value:.4f}" if isinstance(value, float) else f"  {name:<20} {value}")
    users = delta.open_table(output, "top_n")
    assert users is not None
    first = users.to_pyarrow_dataset().head(1, columns=["user_id"])["user_id"][0].as_py()
    print()
    query.print_list(lookup.user_list(output, str(first)), n=10)
    print(f"\nAsk for another user: .venv/bin/cfjobs recs --output {os.path.relpath(output)} --user ID")


def data_set(source: str, folder: Path) -> str:
    """The URI of the ratings: as given, imported from a download, or generated."""
    from cfjobs import storage
    from cfjobs.datasets import importing, synthetic
    from cfjobs.storage.parquet import parquet_bytes

    if not source:
        data = synthetic.generate(n_users=1_000, n_movies=2_000, n_ratings=100_000, seed=42)
        for name, frame in (("ratings", data.ratings), ("movies", data.movies)):
            storage.write_bytes(str(folder / "data" / f"{name}.parquet"), parquet_bytes(frame))
        return str(folder / "data")
    if is_download(source):
        target = str(folder / "imported")
        storage.delete_under(target)
        importing.import_to(source, target)
        return target
    return source


def name_of(source: str) -> str:
    """A folder's name for a data set."""
    if not source:
        return "sample"
    return f"{Path(source.rstrip('/')).stem}-{hashlib.sha256(source.encode()).hexdigest()[:6]}"


def is_download(source: str) -> bool:
    """Whether this has to be imported first: it holds nothing that a night reads as it is."""
    from cfjobs import ratings, storage
    from cfjobs.errors import InputError

    uri = storage.normal(source)
    if not storage.is_folder(storage.split_version(uri)[0]):
        return storage.read_range(uri, 0, 4) != b"PAR1"
    try:
        ratings.list_parquet(uri, what="ratings")
    except InputError:
        return True
    return False


if __name__ == "__main__":
    sys.exit(main())
