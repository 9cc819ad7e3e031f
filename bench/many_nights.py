"""Night after night in one process: what grows, and what does not.

    python bench/many_nights.py [--nights 400] [--output s3://bucket/x] [--json]

A tiny night a day on generated ratings, with retention of the newest 30 nights once a week, into a folder or
an object store (its keys and endpoint from the environment). Prints, at the first night and at each tenth of
the way: seconds of the night, of its commits, of `history` and of a user's list; open files, threads at work
once the idle ones have ended, temporary files, memory.
"""

import argparse
import json
import logging
import os
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from cfjobs import storage
from cfjobs.config import Config
from cfjobs.datasets import synthetic
from cfjobs.night import story
from cfjobs.night.records import Inputs
from cfjobs.query import lookup
from cfjobs.tables import retention, runs

CONFIG = Config(
    epochs=1,
    top_n=10,
    n_factors=4,
    ranking_factors=4,
    ranking_steps=3,
    refit=False,
    gate_beat_popularity=False,
    threads=1,
)
FIRST = date(2024, 1, 1)
IDLE_SECONDS = 11
"""Tokio, which reads and writes the files of Delta tables, keeps an idle thread for ten seconds."""


def held() -> dict[str, int]:
    """What this process holds: open files, threads, temporary files, memory in MB."""
    memory = Path("/proc/self/statm").read_text(encoding="utf-8").split()[1]
    return {
        "files": len(os.listdir("/proc/self/fd")),
        "threads": len(os.listdir("/proc/self/task")),
        "temporary": len([name for name in os.listdir(tempfile.gettempdir()) if "cfjobs" in name]),
        "memory_mb": int(memory) * os.sysconf("SC_PAGE_SIZE") >> 20,
    }


def sample(folder: Path) -> str:
    """The URI of a small generated data set."""
    data = synthetic.generate(n_users=60, n_movies=150, n_ratings=2_000, seed=7)
    data.ratings.write_parquet(folder / "ratings.parquet")
    return str(folder)


def publish(ratings: str, output: str, number: int) -> dict[str, float]:
    """Publish the night of this number, counted from 0: the seconds of its stages."""
    run_date = FIRST + timedelta(days=number)
    night = story.start(Inputs(ratings=ratings), output=output, run_date=run_date, config=CONFIG)
    return story.nightly(night).seconds


def timed(work: Callable[[], object]) -> float:
    """Seconds of the quickest of three."""
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def look(ratings: str, output: str, number: int) -> dict[str, Any]:
    """Publish a night and say what it took and what the process holds after it."""
    began = time.perf_counter()
    seconds = publish(ratings, output, number)
    row: dict[str, Any] = {
        "night": number + 1,
        "seconds": time.perf_counter() - began,
        "commits": seconds["window"],
        "history": timed(lambda: runs.published(output)),
        "list": timed(lambda: lookup.user_list(output, "1")),
    }
    time.sleep(IDLE_SECONDS)
    return row | held()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--nights", type=int, default=400)
    parser.add_argument("--output", help="folder or s3:// URI; a temporary folder by default")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        ratings, output = sample(Path(folder)), storage.normal(arguments.output or f"{folder}/out")
        for number in range(arguments.nights):
            if number in {0, arguments.nights - 1} or (number + 1) % max(1, arguments.nights // 10) == 0:
                rows.append(look(ratings, output, number))
                if not arguments.json:
                    print("  ".join(f"{name} {value:.3g}" for name, value in rows[-1].items()), flush=True)
            else:
                publish(ratings, output, number)
            if number % 7 == 6:
                retention.retain(output, nights=30, min_age=timedelta(0))
    if arguments.json:
        print(json.dumps(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
