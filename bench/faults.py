"""Every fault of tests/faults.py, caused on real parts while a reader polls the published tables.

    python -m bench.faults [--only WORDS]

For each: whether the night was published whole after it, seconds from the rerun's start to its end, rows lost
against an undisturbed night, and reads that saw a part of a night. Rows lost and partial reads must be 0.
Faults of Prefect's own parts (a killed worker, a restarted server, a cancelled run) are in
tests/flows/test_operations.py.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import boto3

from cfjobs.datasets import synthetic
from deploy import serve
from tests import faults
from tests.faults import Outcome

MEMORY_OR_DISK = ("the disk is full", "no memory")


def main() -> int:
    """Print the table; returns 1 when a fault was not survived."""
    parser = argparse.ArgumentParser(prog="python -m bench.faults", description="Cause every fault.")
    parser.add_argument("--only", default="", help="faults whose name has these words")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, store(Path(folder)):
        data = Path(folder) / "data"
        data.mkdir()
        made = synthetic.generate(n_users=120, n_movies=300, n_ratings=4_500, seed=7)
        made.ratings.write_parquet(data / "ratings.parquet")
        made.movies.write_parquet(data / "movies.parquet")
        outcomes = list(run(data, Path(folder), arguments.only))
    print(table(outcomes))
    return int(any(not o.survived or o.rows_lost or o.partial_reads for o in outcomes))


def run(data: Path, folder: Path, only: str) -> Iterator[Outcome]:
    """Cause the faults one after the other, each on an output of its own with a night before it."""
    reference = str(folder / "undisturbed")
    for run_date in (faults.BEFORE, faults.NIGHT):  # a night goes on from the one before
        assert faults.start(data, reference, run_date=run_date).end() == 0
    undisturbed = faults.rows(reference)
    for name, fault in every_fault(data).items():
        if only not in name:
            continue
        here = str(folder / uuid4().hex) if name in MEMORY_OR_DISK else f"s3://{serve.BUCKET}/{uuid4().hex}"
        assert faults.start(data, here, run_date=faults.BEFORE).end() == 0
        yield faults.disturbed(name, fault(here), data=data, output=here, undisturbed=undisturbed)
        print(f"{name}: done", file=sys.stderr)


def every_fault(data: Path) -> dict[str, Callable[[str], Callable[[], str]]]:
    """Name -> what makes the fault for an output."""
    found: dict[str, Callable[[str], Callable[[], str]]] = {
        "kill -9 in training": lambda here: faults.killed_at("training ", data, here),
        "kill -9 in scoring": lambda here: faults.killed_at("shard 0:", data, here),
        "two nights at once": lambda here: faults.two_at_once(data, here),
        MEMORY_OR_DISK[0]: lambda here: faults.disk_full(data, here),
        MEMORY_OR_DISK[1]: lambda here: faults.out_of_memory(data, here),
    }
    for name in ("top_n", "metrics", "rejected_ratings", "runs"):
        found[f"kill -9 in the commit of {name}"] = lambda here, name=name: faults.killed_in_commit(
            name, data, here
        )
    for name, (rule, words, _) in faults.FAILURES.items():
        found[f"the store {name}"] = lambda here, rule=rule, words=words: faults.store_fails(
            rule(), data, here, from_words=words
        )
    return found


def table(outcomes: list[Outcome]) -> str:
    """The outcomes as a Markdown table."""
    header = "| fault | survived | seconds to recover | rows lost | partial reads | what the disturbed run said |\n|---|---|---:|---:|---:|---|"
    lines = [
        f"| {o.name} | {'yes' if o.survived else 'NO'} | {o.seconds:.1f} | {o.rows_lost} | {o.partial_reads} of {o.reads} | {o.message[:160]} |"
        for o in outcomes
    ]
    return "\n".join([header, *lines])


@contextmanager
def store(folder: Path) -> Iterator[None]:
    """An object store of its own, and its keys in the environment."""
    (folder / "logs").mkdir()
    parts = serve.Parts(folder / "logs")
    environment = serve.environment_of(folder, port=serve.free_port(0), s3_port=serve.free_port(0))
    os.environ |= {name: value for name, value in environment.items() if name.startswith("AWS_")}
    try:
        serve.start_store(parts, folder, environment)
        serve.make_bucket(boto3.client("s3"))
        yield
    finally:
        parts.end()


if __name__ == "__main__":
    sys.exit(main())
