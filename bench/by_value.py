"""What lists per value cost a night: nights with `lists_per` and without, in turn, on the same ratings.

    python bench/by_value.py --ratings data            three nights of each, a list of 20 for each genre
    python bench/by_value.py --ratings data --per director=5 --repeat 5

A night is a process of its own; its processor seconds are those of all its threads. The last two figures are
of the table alone: the seconds by which publishing takes longer, and the bytes of its files.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path


def main() -> None:
    options = _options()
    runs: dict[str, list[dict[str, float]]] = {"without": [], "with": []}
    for _ in range(options.repeat):
        for what, setting in (("without", None), ("with", "lists_per={{{} = {}}}".format(*options.per))):
            with tempfile.TemporaryDirectory(dir=options.folder) as folder:
                runs[what].append(night(options.ratings, Path(folder), setting))
    middle = {
        what: {name: statistics.median(run[name] for run in of) for name in of[0]}
        for what, of in runs.items()
    }
    if options.json:
        print(json.dumps({"runs": runs, "median": middle}, indent=1))
        return
    print(
        f"{'':8} {'cpu s':>7} {'least':>7} {'score s':>8} {'publish s':>10} {'peak GB':>8} {'rows':>10} {'MB':>6}"
    )
    for what, of in middle.items():
        least = min(run["cpu"] for run in runs[what])
        print(
            f"{what:8} {of['cpu']:7.1f} {least:7.1f} {of['score']:8.2f} {of['publish']:10.2f} {of['peak_gb']:8.2f} "
            f"{of['rows']:10,.0f} {of['bytes'] / 1e6:6.1f}"
        )


def night(ratings: str, output: Path, setting: str | None) -> dict[str, float]:
    """A night in a process of its own: its processor seconds, peak memory, and the rows and bytes of the
    table."""
    command = [sys.executable, "-m", "cfjobs", "-q", "nightly", "--ratings", ratings, "--output", str(output)]
    command += ["--json", *(["--set", setting] if setting else [])]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    told = json.loads(process.stdout.read())
    _, status, used = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"the night ended with {os.waitstatus_to_exitcode(status)}")
    files = (output / "top_n_by_value").glob("run_date=*/*.parquet")
    return {
        "cpu": used.ru_utime + used.ru_stime,
        "peak_gb": used.ru_maxrss * 1024 / 1e9,
        "score": told["seconds"]["score"],
        "publish": told["seconds"]["publish"],
        "rows": told["counts"].get("rows_by_value", 0),
        "bytes": sum(file.stat().st_size for file in files),
    }


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ratings", required=True, help="a data set: ratings and movies in one folder")
    parser.add_argument("--per", default="genres=20", type=lambda text: text.split("="), metavar="COLUMN=N")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--folder", help="where the nights write; a temporary folder by default")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
