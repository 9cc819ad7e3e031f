"""What a look-up costs: processor seconds of the whole command, on an output of 30 nights.

    python bench/lookups.py                      # makes the nights first, some two minutes
    python bench/lookups.py --output OUT         # on an output that there is; nothing in it is changed

A command is run as a person runs it, `python -m cfjobs ...`; user and system time of the process are added
up, and the least and the median of the runs are printed.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from datetime import date, timedelta
from pathlib import Path

FIRST_NIGHT = date(2026, 1, 1)
SMALL = ("epochs=1", "ranking_steps=20", "n_factors=8", "ranking_factors=8", "gate_beat_popularity=false")
FREE = ("gate_rating_tolerance=1", "gate_ranking_tolerance=1", "gate_max_churn=1")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("--output", metavar="URI", help="an output with nights in it")
    options.add_argument("--nights", type=int, default=30, help="nights to make where there is no --output")
    options.add_argument("--runs", type=int, default=5, help="runs of each command")
    options.add_argument("--user", default="1", help="whose list is looked up")
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="lookups-") as folder:
        output = chosen.output or nights_in(Path(folder), chosen.nights)
        oldest = first_night(output)
        print(f"{'processor seconds':<40} least  median")
        for words in (
            ("--help",),
            ("history",),
            ("rollback", "--to", oldest, "--dry-run"),
            ("retain", "--nights", "7", "--dry-run"),
            ("recs", "--user", chosen.user),
            ("movies", "the"),
        ):
            where = () if words == ("--help",) else ("--output", output)
            seconds = [processor_seconds("-q", *words, *where) for _ in range(chosen.runs)]
            print(f"{' '.join(words):<40} {min(seconds):5.2f}  {statistics.median(seconds):6.2f}")


def nights_in(folder: Path, n: int) -> str:
    """The URI of an output with so many nights of 30,000 generated ratings."""
    data, output, last = folder / "data", folder / "out", FIRST_NIGHT + timedelta(days=n - 1)
    run("sample", "--output", str(data), "--movies", "500", "--ratings", "30000")
    settings = [word for setting in SMALL + FREE for word in ("--set", setting)]
    dates = ("--from", str(FIRST_NIGHT), "--to", str(last))
    run("backfill", "--ratings", str(data), "--output", str(output), *dates, *settings)
    return str(output)


def first_night(output: str) -> str:
    """The date of the oldest published night."""
    from cfjobs.tables import runs

    return str(runs.published(output)[0].run_date)


def run(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "cfjobs", "-q", *words], check=True, stdout=subprocess.DEVNULL)


def processor_seconds(*words: str) -> float:
    """User and system time of one run of a command, of all its threads."""
    process = subprocess.Popen([sys.executable, "-m", "cfjobs", *words], stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, words)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
