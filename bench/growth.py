"""What a night takes at a tenth of a million ratings, a million, ten millions and 25: seconds, memory, bytes,
and how each grows.

    python -m bench.growth
    python -m bench.growth --ratings 100000 1000000

The data are those of `bench/night.py`, in the shape of MovieLens 25M, so users and movies grow with the
ratings. Each night is a process of its own with its defaults, after a small one that compiles what a machine
compiles once. The last column is the power of the ratings by which a line grew between the last two sizes: 1
in proportion, 0 not at all.
"""

import argparse
import json
import math
import sys
import tempfile
from pathlib import Path

from bench.night import generated, our_night

SIZES = (100_000, 1_000_000, 10_000_000, 24_800_000)
MB = 2**20


def measured(folder: Path, *, n_ratings: int) -> dict[str, float]:
    """Lines of the table by name, of one night."""
    folder.mkdir()
    ratings = generated(folder / "data", n_ratings=n_ratings)
    night = our_night(ratings, folder)
    out = folder / "out"
    tables = {path.name: _bytes(path) for path in sorted(out.iterdir()) if (path / "_delta_log").is_dir()}
    lines = {"seconds": night["seconds"], "processor seconds": night["processor"]}
    lines |= {f"seconds of {stage}": float(seconds) for stage, seconds in night["stages"].items()}
    lines |= {"peak memory, MB": night["peak"] / MB, "ratings file, MB": ratings.stat().st_size / MB}
    lines |= {"model, MB": _bytes(out / "models") / MB, "tables, MB": sum(tables.values()) / MB}
    return lines | {f"table {name}, MB": size / MB for name, size in tables.items() if size > MB}


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _power(sizes: list[int], values: list[float]) -> str:
    if len(sizes) < 2 or min(values[-2:]) <= 0:
        return ""
    return f"{math.log(values[-1] / values[-2]) / math.log(sizes[-1] / sizes[-2]):.1f}"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--ratings", type=int, nargs="+", default=list(SIZES), help="the sizes, ascending")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "first").mkdir()
        our_night(generated(folder / "first" / "data", n_ratings=SIZES[0]), folder / "first")
        found = []
        for n in options.ratings:
            found.append(measured(folder / str(n), n_ratings=n))
            print(f"{n:,} ratings: {found[-1]['seconds']:.1f} s", file=sys.stderr)
    if options.json:
        print(json.dumps(dict(zip(map(str, options.ratings), found, strict=True))))
        return 0
    print("| | " + " | ".join(f"{n:,}" for n in options.ratings) + " | grows by |")
    print("|---|" + "---:|" * (len(options.ratings) + 1))
    for name in found[-1]:
        values = [lines.get(name, 0.0) for lines in found]
        print(f"| {name} | {' | '.join(f'{v:,.1f}' for v in values)} | {_power(options.ratings, values)} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
