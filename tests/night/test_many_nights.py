"""Many nights in one process hold no more files, threads or temporary files than a few.

The long form, with seconds and memory, on a disk or an object store: `python bench/many_nights.py`.
"""

import time
from pathlib import Path

from bench import many_nights


def test_nothing_is_left_open_after_many_nights(tmp_path: Path) -> None:
    ratings, output = many_nights.sample(tmp_path), str(tmp_path / "out")
    for number in range(2):
        many_nights.publish(ratings, output, number)
    few = many_nights.held()
    for number in range(2, 7):
        many_nights.publish(ratings, output, number)
    end = time.monotonic() + 3 * many_nights.IDLE_SECONDS
    while (many := many_nights.held())["threads"] > few["threads"] and time.monotonic() < end:
        time.sleep(0.5)  # idle threads end
    for name in ("files", "threads", "temporary"):
        assert many[name] <= few[name], (name, few, many)
