"""Ingest and split of a night on a Ray cluster of several nodes, beside one process: seconds, memory, rows.

    python bench/cluster.py                            # 40 million ratings, nodes of 1 processor and 1 GB
    python bench/cluster.py --ratings 1000000 --nodes 1 2 --kills 2

The nodes are raylets on this machine, each with its own processors and memory to lend, and a head that lends
nothing. The work folder is on the disk that they share. Memory is measured: of each task's process its
high-water mark, of a node the largest sum over its processes at one time. A run with kills loses so many of
these processes to kill -9. The rows are compared with those of one process, byte by byte.
"""

import argparse
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

_GB = 2**30
_KILL_EVERY = 4.0


def main() -> None:
    options = _options()
    if options.child is not None:
        print(json.dumps(_night(options, n_nodes=options.child)))
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        data = Path(options.data or name, f"ratings-{options.ratings}")
        if not data.exists():
            _alone("import sys; from pathlib import Path; sys.path[:0] = [sys.argv[1]]; import ingest; "
                   "ingest.generate(Path(sys.argv[2]), int(sys.argv[3]))", Path(__file__).parent, data, options.ratings)  # fmt: skip
        print(f"{options.ratings:,} ratings in {len(list(data.iterdir()))} files, "
              f"{options.ratings * 20 / _GB:.2f} GB as columns; nodes of 1 processor and {options.node_gb} GB, "
              f"memory_gb {options.memory_gb}\n")  # fmt: skip
        print(f"{'nodes':>6}{'kills':>6}{'seconds':>9}{'cpu s':>8}{'tasks':>7}{'task GB':>9}{'node GB':>9}{'head GB':>9}  rows")  # fmt: skip
        wanted = None
        runs = [(0, 0), *((n, 0) for n in options.nodes), *[(max(options.nodes), options.kills)] * bool(options.kills)]  # fmt: skip
        for n_nodes, kills in runs:
            found = _child(options, data, Path(name), n_nodes=n_nodes, kills=kills)
            wanted = wanted or found["rows"]
            same = "those of one process" if found["rows"] == wanted else "DIFFERENT"
            print(f"{n_nodes or 'none':>6}{found['kills']:>6}{found['seconds']:>9.1f}{found['cpu_s']:>8.1f}{found['tasks']:>7}"
                  f"{found['task_gb']:>9.2f}{found['node_gb']:>9.2f}{found['head_gb']:>9.2f}  {same}", flush=True)  # fmt: skip
            if found["rows"] != wanted:
                sys.exit(1)


def _night(options: argparse.Namespace, *, n_nodes: int) -> dict[str, Any]:
    """Prepare and split a night in this process, or on a cluster of so many nodes."""
    from cfjobs.config import Config
    from cfjobs.night import story
    from cfjobs.night.records import Inputs

    config = Config(memory_gb=options.memory_gb, y_range=(0.5, 5.0))
    run_date = date(2026, 1, 1)
    night = story.start(Inputs(ratings=options.data), output=options.folder, run_date=run_date, config=config)
    if n_nodes == 0:
        started = time.perf_counter()
        prepared = story.prepare(night)
        story.hold_out(night, prepared)
        found = {"seconds": time.perf_counter() - started, "cpu_s": time.process_time(), "kills": 0}
        found |= {"tasks": 0, "task_gb": 0.0, "node_gb": 0.0}
    else:
        with _cluster(n_nodes, options) as (each, watch):
            started = time.perf_counter()
            prepared = story.prepare(night, each=each)
            story.hold_out(night, prepared, each=each)
            found = {"seconds": time.perf_counter() - started} | watch.stop()
            found["cpu_s"] += time.process_time()
    found["head_gb"] = _status(os.getpid(), "VmHWM") / _GB
    return found | {"rows": _fingerprint(night)}


@contextmanager
def _cluster(
    n_nodes: int, options: argparse.Namespace
) -> Iterator[tuple[Callable[..., list[Any]], "_Watch"]]:
    """A way to spread work over a cluster, and the watch over its processes."""
    import ray
    from ray.cluster_utils import Cluster

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    small = {"object_store_memory": 100 * 2**20}
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False} | small
    )
    nodes = [cluster.add_node(num_cpus=1, memory=int(options.node_gb * _GB), **small) for _ in range(n_nodes)]
    environment = {"POLARS_MAX_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    ray.init(
        cluster.address, runtime_env={"env_vars": environment}, log_to_driver=False, logging_level="ERROR"
    )
    needs = {"num_cpus": 1, "memory": int(options.memory_gb * _GB), "max_retries": 10}
    watch = _Watch([node.all_processes["raylet"][0].process.pid for node in nodes], kills=options.kills)

    def each(work: Callable[[Any], Any], orders: Sequence[Any], *, words: str) -> list[Any]:
        del words
        watch.tasks += len(orders)
        task = ray.remote(_with_prefect).options(**needs)
        found: list[Any] = ray.get([task.remote(work, order) for order in orders])
        return found

    try:
        with watch:
            yield each, watch
    finally:
        ray.shutdown()
        cluster.shutdown()


def _with_prefect(work: Callable[[Any], Any], order: Any) -> Any:
    """The work, in a process that has imported what a task of the flow imports."""
    import flows.on_ray  # noqa: F401

    return work(order)


class _Watch(threading.Thread):
    """Looks at the memory of the processes below some raylets, and kills a few."""

    def __init__(self, raylets: Sequence[int], *, kills: int) -> None:
        super().__init__(daemon=True)
        self.tasks = 0
        self._raylets, self._kills = raylets, kills
        self._task, self._node, self._killed = 0, 0, 0
        self._cpu: dict[int, float] = {}
        self._ended = threading.Event()

    def __enter__(self) -> None:
        self.start()

    def __exit__(self, *exception: object) -> None:
        self._ended.set()

    def stop(self) -> dict[str, Any]:
        self._ended.set()
        self.join()
        return {
            "cpu_s": sum(self._cpu.values()), "kills": self._killed, "tasks": self.tasks,
            "task_gb": self._task / _GB, "node_gb": self._node / _GB,
        }  # fmt: skip

    def run(self) -> None:
        rng, due = random.Random(7), time.monotonic() + _KILL_EVERY
        while not self._ended.wait(0.1):
            below = [[pid for pid in _children(raylet) if _works(pid)] for raylet in self._raylets]
            for pids in below:
                self._node = max(self._node, sum(_status(pid, "RssAnon") for pid in pids))
                self._task = max([self._task, *(_status(pid, "VmHWM") for pid in pids)])
                self._cpu |= {pid: _cpu_seconds(pid) for pid in pids}
            busy = [pid for pids in below for pid in pids if b"IDLE" not in _title(pid)]
            if self._killed < self._kills and time.monotonic() > due and busy:
                os.kill(rng.choice(busy), signal.SIGKILL)
                self._killed, due = self._killed + 1, time.monotonic() + _KILL_EVERY


def _children(pid: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _works(pid: int) -> bool:
    return _title(pid).startswith(b"ray::")


def _title(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def _status(pid: int, name: str) -> int:
    """Bytes, 0 for a process that is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(name)), 0)


def _cpu_seconds(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _fingerprint(night: Any) -> str:
    """Of the ratings, what is held out, the ids, the rejected rows and the counts."""
    from cfjobs.night.records import Prepared
    from cfjobs.storage.parquet import TableFile

    columns: dict[str, Any] = {}
    for name in ("ratings", "holdout", "users", "movies", "rejected"):
        files = night.files(name)
        for block in TableFile(files, columns=TableFile(files, columns=[]).names).blocks(1_000_000):
            for column in block:
                columns.setdefault(f"{name}.{column.name}", hashlib.sha256()).update(_bytes(column))
    found = hashlib.sha256("".join(name + of.hexdigest() for name, of in columns.items()).encode())
    prepared = night.load("prepared", Prepared)
    found.update(prepared.model_dump_json().encode())
    return found.hexdigest()


def _bytes(column: Any) -> bytes:
    values = column.to_physical()
    if str(values.dtype) != "String" and not values.null_count():
        data: bytes = values.to_numpy().tobytes()
        return data
    return "".join(f"{value}\n" for value in values).encode()


def _child(
    options: argparse.Namespace, data: Path, folder: Path, *, n_nodes: int, kills: int
) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(dir=folder) as out:
        command = [
            sys.executable,
            __file__,
            "--child",
            n_nodes,
            "--kills",
            kills,
            "--data",
            data,
            "--folder",
            out,
        ]
        command += ["--memory-gb", options.memory_gb, "--node-gb", options.node_gb]
        done = subprocess.run(list(map(str, command)), stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _alone(program: str, *arguments: object) -> None:
    subprocess.run([sys.executable, "-c", program, *map(str, arguments)], check=True)


def _options() -> argparse.Namespace:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--ratings", type=int, default=40_000_000)
    parser.add_argument("--nodes", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument(
        "--kills", type=int, default=3, help="in a last run, on the most nodes; 0 for no such run"
    )
    parser.add_argument("--memory-gb", type=float, default=0.8, help="that a task may take")
    parser.add_argument("--node-gb", type=float, default=1.0, help="that a node lends its tasks")
    parser.add_argument("--data", help="a folder that keeps the generated ratings")
    parser.add_argument("--folder", help="for the work folders (default: the temporary folder)")
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
