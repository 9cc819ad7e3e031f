"""Ingest beside pandas: read, clean, keep the latest of duplicates, index, split by time.

    python bench/ingest.py                          25 and 100 million generated ratings
    python bench/ingest.py --rows 1000000 --json    another size, as JSON

Each system runs in a process of its own on the same Parquet files. Memory is the high-water mark of the
process less what it had after its imports. cfjobs runs once before on a few rows, in another process, so
that its compiled kernels are in Numba's cache, where they are on every night but an installation's first;
what that costs is printed.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

FASTER, LEANER, BYTES = 5, 1 / 3, 24
"""The bars: times as fast as pandas, share of its memory, peak bytes a rating from 100 million on."""
FILE_ROWS = 1_000_000
PANDAS_BYTES = 180
"""What pandas takes for a rating at its peak: where that does not fit the memory, it is left out."""
UNTIL = datetime(2030, 1, 1)
Y_RANGE = (0.5, 5.0)


def main() -> None:
    options = _options()
    if options.child:
        print(json.dumps(SYSTEMS[options.child](options.folder)))
        return
    results = []
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        small = generate(Path(folder) / "small", 1_000)
        first = _run("cfjobs", small)
        for n_rows in options.rows:
            files = generate(Path(folder) / str(n_rows), n_rows)
            results += [_run(system, files) | {"rows": n_rows} for system in SYSTEMS if _fits(system, n_rows)]
            for path in files.iterdir():
                path.unlink()
    report = {"first_seconds": first["seconds"], "results": results, "verdict": verdict(results)}
    print(json.dumps(report, indent=1) if options.json else _as_text(report))
    sys.exit(0 if all(line["holds"] for line in report["verdict"]) else 1)


def generate(folder: Path, n_rows: int) -> Path:
    """Ratings in the order of time, a million a file; few users and movies have most, 1 of 1,000 is NaN."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir(parents=True)
    rng = np.random.default_rng(n_rows)
    n_users, n_movies = max(1, n_rows * 162_519 // 25_000_000), 59_047
    seconds = 9_000_000_000 // max(1, n_rows)
    for number, first in enumerate(range(0, n_rows, FILE_ROWS)):
        n = min(FILE_ROWS, n_rows - first)
        rating = rng.integers(1, 11, n) / 2
        rating[rng.random(n) < 0.001] = np.nan
        pq.write_table(
            pa.table(
                {
                    "user_id": (rng.random(n) ** 2 * n_users).astype(np.int64) * 7 + 13,
                    "movie_id": (rng.random(n) ** 3 * n_movies).astype(np.int64) * 3 + 1,
                    "rating": rating,
                    "timestamp": 789_652_009 + (first + np.sort(rng.integers(0, n, n))) * seconds // 10,
                }
            ),
            folder / f"part-{number:05d}.parquet",
            row_group_size=1 << 19,
            compression="zstd",
        )
    return folder


# Systems: each returns the seconds it took, its peak bytes, and what came out -----------------------


def cfjobs(folder: str) -> dict[str, Any]:
    from cfjobs import ratings
    from cfjobs.config import Config
    from cfjobs.ratings import holdout

    with _measured() as measured:
        files = ratings.list_parquet(folder, what="ratings")
        cleaned = ratings.read_ratings(files, config=Config(y_range=Y_RANGE), until=UNTIL, now=UNTIL)
        held_out = holdout.temporal_holdout(cleaned.ratings.frame["user_idx"].to_numpy(), fraction=0.2)
    return measured | {"kept": cleaned.counts["kept"], "held_out": int(held_out.sum())}


def pandas(folder: str) -> dict[str, Any]:
    import numpy as np
    import pandas as pd
    import pyarrow.parquet  # noqa: F401 - what pandas imports at its first read belongs to the baseline

    with _measured() as measured:
        frame = pd.read_parquet(folder, columns=["user_id", "movie_id", "rating", "timestamp"])
        frame = frame[frame["rating"].between(*Y_RANGE) & frame["timestamp"].notna()]
        frame = frame.sort_values("timestamp").drop_duplicates(["user_id", "movie_id"], keep="last")
        _, frame["user_idx"] = np.unique(frame["user_id"], return_inverse=True)
        _, frame["movie_idx"] = np.unique(frame["movie_id"], return_inverse=True)
        frame = frame[["user_idx", "movie_idx", "rating", "timestamp"]].astype(
            {"user_idx": "int32", "movie_idx": "int32", "rating": "float32"},
        )
        frame = frame.sort_values(["user_idx", "timestamp", "movie_idx"])
        by_user = frame.groupby("user_idx")["movie_idx"]
        size = by_user.transform("size")
        n_held_out = np.minimum(np.ceil(size * 0.2 - 1e-9), size - 1)
        held_out = by_user.cumcount(ascending=False) < n_held_out
    return measured | {"kept": len(frame), "held_out": int(held_out.sum())}


SYSTEMS: dict[str, Callable[[str], dict[str, Any]]] = {"cfjobs": cfjobs, "pandas": pandas}


class _measured:
    """Fills a dict with the seconds and the peak bytes of a block, above what the process held before it."""

    def __enter__(self) -> dict[str, Any]:
        self._found: dict[str, Any] = {}
        self._before = _status("VmRSS")
        self._started = time.perf_counter()
        return self._found

    def __exit__(self, *exception: object) -> None:
        self._found["seconds"] = round(time.perf_counter() - self._started, 2)
        self._found["peak_bytes"] = _status("VmHWM") - self._before


def _status(name: str) -> int:
    return _kilobytes("/proc/self/status", name) * 1024


def _kilobytes(file: str, name: str) -> int:
    line = next(line for line in Path(file).read_text().splitlines() if line.startswith(name))
    return int(line.split()[1])


# Report ---------------------------------------------------------------------------------------------


def verdict(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each bar with the figure that was reached, where the sizes allow to tell."""
    by = {(result["rows"], result["system"]): result for result in results}
    return [*_against_pandas(by), *_against_memory(by)]


def _against_pandas(by: dict[tuple[int, str], dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for n_rows, system in by:
        if system != "pandas":
            continue
        ours, theirs = by[n_rows, "cfjobs"], by[n_rows, "pandas"]
        if (ours["kept"], ours["held_out"]) != (theirs["kept"], theirs["held_out"]):
            raise SystemExit(f"the systems disagree: {ours} {theirs}")
        speed, memory = theirs["seconds"] / ours["seconds"], ours["peak_bytes"] / theirs["peak_bytes"]
        yield _line(n_rows, f"times as fast as pandas, at least {FASTER}", got=speed, holds=speed >= FASTER)
        yield _line(n_rows, f"of pandas's memory, at most {LEANER:.2f}", got=memory, holds=memory <= LEANER)


def _against_memory(by: dict[tuple[int, str], dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for (n_rows, system), result in by.items():
        if system == "cfjobs" and n_rows >= 100_000_000:
            got = result["peak_bytes"] / n_rows
            yield _line(n_rows, f"peak bytes a rating, at most {BYTES}", got=got, holds=got <= BYTES)


def _line(n_rows: int, bar: str, *, got: float, holds: bool) -> dict[str, Any]:
    return {"rows": n_rows, "bar": bar, "got": got, "holds": holds}


def _as_text(report: dict[str, Any]) -> str:
    heads = ("seconds", "rows/s", "peak MB", "bytes/row", "kept")
    lines = [f"{'rows':>13} {'system':8} " + " ".join(f"{head:>12}" for head in heads)]
    for r in report["results"]:
        lines.append(
            f"{r['rows']:13,} {r['system']:8} {r['seconds']:12.2f} {r['rows'] / r['seconds']:12,.0f} "
            f"{r['peak_bytes'] / 1e6:12,.0f} {r['peak_bytes'] / r['rows']:12.1f} {r['kept']:12,}"
        )
    for line in report["verdict"]:
        word = "holds" if line["holds"] else "MISSED"
        lines.append(f"{line['rows']:13,} {word}: {line['got']:.2f} {line['bar']}")
    lines.append(f"first run, 1,000 rows, with compilation where it is due: {report['first_seconds']:.1f} s")
    return "\n".join(lines)


def _run(system: str, folder: Path) -> dict[str, Any]:
    command = [sys.executable, __file__, "--child", system, "--folder", str(folder)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return {"system": system} | json.loads(output)


def _fits(system: str, n_rows: int) -> bool:
    if system != "pandas":
        return True
    available = _kilobytes("/proc/meminfo", "MemAvailable") * 1024
    if n_rows * PANDAS_BYTES > available:
        print(
            f"pandas is left out at {n_rows:,} rows: it takes some {n_rows * PANDAS_BYTES / 1e9:.0f} GB, "
            f"{available / 1e9:.0f} GB are free",
            file=sys.stderr,
        )
        return False
    return True


def _options() -> argparse.Namespace:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    sizes = [25_000_000, 100_000_000]
    parser.add_argument("--rows", type=int, nargs="+", default=sizes, help="sizes to measure")
    parser.add_argument("--folder", help="where the files are generated (default: the temporary folder)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--child", choices=list(SYSTEMS), help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
