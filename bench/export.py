"""What handing on a night costs, as files and into Postgres: seconds, processor seconds, memory.

    python bench/export.py                                # writes 10 million generated rows first
    python bench/export.py --lists 100000 --forms csv postgres

Each form is a process of its own, the command as a person runs it; Postgres is one of its own on this
machine, and is exported to twice: into no table, and over one. Processor seconds and memory are those of the
command alone.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, date, datetime
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
from deltalake import WriterProperties, write_deltalake

from bench import postgres
from cfjobs import tables
from cfjobs.lists.writer import GROUP_ROWS

NIGHT, MOVIES, TOP, CHUNK = date(2026, 3, 1), 10_000, 10, 100_000
FORMS = ("csv", "jsonl", "parquet", "sqlite", "postgres")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("--lists", type=int, default=1_000_000, help="lists of ten movies")
    options.add_argument("--forms", nargs="+", choices=FORMS, default=FORMS)
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="export-") as folder, ExitStack() as servers:
        output = Path(folder) / "out"
        publishing = get_context("spawn").Process(target=publish, args=(output, chosen.lists))
        publishing.start()  # a child's peak memory counts that of who started it
        publishing.join()
        print(f"{f'{chosen.lists:,} lists of {TOP}':<24} seconds  processor  peak MB")
        for form in chosen.forms:
            if form != "postgres":
                told(form, output, str(Path(folder) / f"lists.{form}"))
            elif postgres.command("initdb"):
                uri = servers.enter_context(postgres.running())
                told("postgres, no table", output, uri)
                told("postgres, over one", output, uri)


def publish(output: Path, n_lists: int) -> None:
    """An output with one night of generated lists, written as the night writes them: sorted, with titles."""
    write_deltalake(
        str(output / "top_n"),
        pa.RecordBatchReader.from_batches(*lists(n_lists)),
        partition_by=["run_date"],
        writer_properties=WriterProperties(max_row_group_size=GROUP_ROWS),
    )
    movies = pl.DataFrame({"run_date": NIGHT, "movie_id": np.arange(MOVIES)}).with_columns(
        pl.format("The Long Road, Part {} (1994)", "movie_id").alias("title")
    )
    write_deltalake(str(output / "movie_embeddings"), movies.to_arrow(), partition_by=["run_date"])
    schema = tables.RUNS.schema(user_type=pa.int64(), movie_type=pa.int64())
    row = dict.fromkeys(schema.names, "{}") | {
        "run_date": NIGHT,
        "run_id": "bench",
        "started_at": datetime.now(UTC),
        "finished_at": datetime.now(UTC),
        "table_versions": '{"top_n": 0, "movie_embeddings": 0}',
    }
    write_deltalake(
        str(output / "runs"), pa.Table.from_pylist([row], schema=schema), partition_by=["run_date"]
    )


def lists(n_lists: int) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    """The schema of `top_n`, and batches of so many lists."""
    schema = tables.TOP_N.schema(user_type=pa.int64(), movie_type=pa.int64())
    rng = np.random.default_rng(0)

    def batches() -> Iterator[pa.RecordBatch]:
        for start in range(0, n_lists, CHUNK):
            users = np.arange(start, min(start + CHUNK, n_lists))
            n = len(users) * TOP
            columns = {
                "run_date": pa.array([NIGHT] * n, pa.date32()),
                "user_id": pa.array(np.repeat(users, TOP)),
                "rank": pa.array(np.tile(np.arange(1, TOP + 1, dtype=np.int16), len(users))),
                "movie_id": pa.array(rng.integers(0, MOVIES, n)),
                "score": pa.array(rng.normal(size=n).astype(np.float32)),
                "predicted_rating": pa.array(rng.uniform(0.5, 5, n).astype(np.float32)),
                "source": pa.array(["model"] * n),
            }
            yield pa.record_batch([columns.get(f.name, pa.nulls(n, f.type)) for f in schema], schema=schema)

    return schema, batches()


def told(form: str, output: Path, to: str) -> None:
    """Export once, and print what it took."""
    command = [sys.executable, "-m", "cfjobs", "-q", "export", "--output", str(output), "--to", to]
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, "cfjobs export")
    seconds = (time.perf_counter() - start, used.ru_utime + used.ru_stime)
    print(f"{form:<24} {seconds[0]:7.1f}  {seconds[1]:9.1f}  {used.ru_maxrss / 1024:7.0f}", flush=True)


if __name__ == "__main__":
    main()
