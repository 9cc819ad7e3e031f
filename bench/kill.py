"""Kill -9 in mid-scoring, again and again:
what is published at last is what a run that nobody killed publishes.

    python bench/kill.py              # ten kills
    python bench/kill.py --kills 3
    python bench/kill.py --flow       # the Prefect flow, on a server of its own; a few seconds a start

A night runs in a process of its own that is killed at a random moment of its scoring and started again.
Readers poll the published table meanwhile. Then: the files of the table hold the same bytes as those of the
unkilled run (their names differ), no finished shard was redone, and a reader saw the night before or this
one, nothing between.
"""

import argparse
import hashlib
import multiprocessing
import os
import random
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import polars as pl
from deltalake import DeltaTable
from deltalake.exceptions import TableNotFoundError

from cfjobs.config import Config
from cfjobs.night import story
from cfjobs.night.records import Inputs, Scored
from deploy import serve

DATE = date(2026, 3, 1)
CONFIG = Config(
    gate_beat_popularity=False,
    epochs=1, top_n=20, n_factors=8, ranking_factors=8, ranking_steps=5, refit=False, shard_users=6, part_rows=1_000
)  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """What came of it. kept: finished shards at the kills; redone: those of them that were computed again."""

    kills: int
    kept: int
    redone: int
    equal_files: bool
    n_files: int
    seen: int
    foreign: int


def run_night(ratings: str, output: str, config: Config) -> None:
    """One night; what `cfjobs nightly` does."""
    story.nightly(story.start(Inputs(ratings=ratings), output=output, run_date=DATE, config=config))


def run_flow(ratings: str, output: str, config: Config) -> None:
    """The same as a run of the Prefect flow."""
    from flows.nightly import nightly

    nightly(ratings=ratings, output=output, run_date=DATE, config=config)


@contextmanager
def prefect_server(folder: Path) -> Iterator[None]:
    """A Prefect server, which the flows of this process's children report to."""
    folder.mkdir()
    parts = serve.Parts(folder)
    environment = serve.environment_of(folder, port=serve.free_port(0), s3_port=0)
    told = {name: value for name, value in environment.items() if name.startswith("PREFECT_")}
    before = {name: os.environ.get(name) for name in told}
    os.environ |= told | {"PREFECT_LOGGING_LEVEL": "ERROR"}
    try:
        serve.start_server(parts, environment)
        yield
    finally:
        parts.end()
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


def contents(output: str) -> tuple[str, ...]:
    """The published lists: a digest of each file, in order."""
    files = DeltaTable(f"{output}/top_n").file_uris()
    return tuple(sorted(hashlib.sha256(Path(file).read_bytes()).hexdigest() for file in files))


def kill_and_compare(ratings: str, folder: Path, *, kills: int, seed: int, flow: bool = False) -> Outcome:
    """Publish a night without a kill, and one with them over another; hold them against each other."""
    if flow:
        with prefect_server(folder / "prefect"):
            return _kill_and_compare(ratings, folder, kills=kills, seed=seed, night=run_flow)
    return _kill_and_compare(ratings, folder, kills=kills, seed=seed, night=run_night)


def _kill_and_compare(
    ratings: str, folder: Path, *, kills: int, seed: int, night: Callable[[str, str, Config], None]
) -> Outcome:
    # Imports once, each night is a fork of that; but Prefect does not take being forked.
    processes = multiprocessing.get_context("forkserver" if night is run_night else "spawn")
    if night is run_night:
        multiprocessing.set_forkserver_preload(["cfjobs.night.story", "bench.kill"])
    random_ = random.Random(seed)
    unkilled, killed = str(folder / "unkilled"), str(folder / "killed")

    def begin(output: str, config: Config = CONFIG) -> multiprocessing.process.BaseProcess:
        process = processes.Process(target=night, args=(ratings, output, config))
        process.start()
        return process

    before = CONFIG.model_copy(update={"seed": 1})
    for output, config in ((unkilled, CONFIG), (killed, before)):
        process = begin(output, config)
        process.join()
        assert process.exitcode == 0, f"the night of {output} failed"
    old, new = contents(killed), contents(unkilled)
    assert old != new
    stop, seen = threading.Event(), []
    reader = threading.Thread(target=_poll, args=(killed, stop, seen))
    reader.start()
    finished: dict[str, str] = {}
    n_shards = _n_shards(ratings)
    try:
        for number in range(kills):
            if number and night is run_flow:
                print(f"killed {number} of {kills}", file=sys.stderr)
            process = begin(killed)
            wanted = len(finished) + random_.randint(1, max(1, (n_shards - 2) // kills))
            while process.is_alive() and len(_records(killed)) < wanted:
                time.sleep(0.002)
            time.sleep(random_.random() * 0.05)
            process.kill()
            process.join()
            assert process.exitcode == -9, f"night {number} ended before it was killed"
            finished = _records(killed)
        process = begin(killed)
        kept = finished
        process.join()
        assert process.exitcode == 0
    finally:
        stop.set()
        reader.join()
    published = {Path(file).name for file in DeltaTable(f"{killed}/top_n").file_uris()}
    paths = {s: [Path(p["path"]).name for p in Scored.model_validate_json(t).parts] for s, t in kept.items()}
    redone = sum(not published.issuperset(names) for names in paths.values())
    foreign = sum(found not in (old, new) for found in seen)
    return Outcome(
        kills, len(kept), redone, contents(killed) == new, len(new), len(seen), foreign
    )  # fmt: skip


def _poll(output: str, stop: threading.Event, seen: list[tuple[str, ...]]) -> None:
    while not stop.is_set():
        try:
            seen.append(contents(output))
        except (TableNotFoundError, FileNotFoundError):
            seen.append(("nothing",))
        time.sleep(0.2)


def _records(output: str) -> dict[str, str]:
    """The records of finished shards."""
    return {file.name: file.read_text() for file in Path(output).glob("_work/*/scored-*.json")}


def _n_shards(ratings: str) -> int:
    """Shards of users with ratings."""
    n_users = pl.read_parquet(f"{ratings}/ratings.parquet", columns=["user_id"])["user_id"].n_unique()
    assert CONFIG.shard_users is not None
    return n_users // CONFIG.shard_users


def main() -> None:
    from cfjobs.datasets import synthetic

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--flow", action="store_true", help="kill runs of the Prefect flow")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        data = synthetic.generate(n_users=200, n_movies=300, n_ratings=6_000, seed=7)
        data.ratings.write_parquet(f"{name}/ratings.parquet")
        found = kill_and_compare(name, Path(name), kills=options.kills, seed=options.seed, flow=options.flow)
    print(
        f"{found.kills} kills in mid-scoring; {found.kept} shards were finished at the last, {found.redone} of them redone"
    )
    print(f"{found.n_files} published files, same bytes as the unkilled run's: {found.equal_files}")
    print(f"{found.seen} looks at the table meanwhile, {found.foreign} of them saw neither night whole")


if __name__ == "__main__":
    main()
