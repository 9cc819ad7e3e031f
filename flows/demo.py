"""The demo: one night through the real flow, on a generated sample or on real data, with nothing set up.

    python -m flows.demo [--ratings PATH-OR-URI] [--folder .demo]

The Prefect server runs inside the process and keeps its state under the folder.
"""

import argparse
import hashlib
import os
import sys
from pathlib import Path

SERVERLESS = {
    "PREFECT_SERVER_EPHEMERAL_ENABLED": "true",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "90",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_LOGGING_LEVEL": "WARNING",
    # Its SQLite may be locked for a moment, on a busy machine: it tries again, and would print a traceback.
    "PREFECT_SERVER_LOGGING_LEVEL": "CRITICAL",
    "DO_NOT_TRACK": "1",
}


def main() -> int:
    """Run the demo; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m flows.demo", description="One night through the real Prefect flow, in this process."
    )
    parser.add_argument(
        "--ratings",
        default="",
        help="Parquet prefix, or a download as `cfjobs import` takes it; without it, a generated sample",
    )
    parser.add_argument("--folder", default=".demo", help="where data, tables and Prefect's state go")
    arguments = parser.parse_args()
    folder = Path(arguments.folder).absolute()
    # Prefect reads its settings when it is imported, so they come first.
    os.environ |= SERVERLESS | {"PREFECT_HOME": str(folder / "prefect")}
    os.environ.pop("PREFECT_API_URL", None)
    from cfjobs.errors import CfjobsError

    try:
        show(arguments.ratings, folder)
    except CfjobsError as error:
        print(f"demo: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def show(source: str, folder: Path) -> None:
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
    print("starting Prefect in this process; its first start takes some 20 seconds", file=sys.stderr)
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
