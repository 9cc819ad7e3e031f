"""What a GPU gives, in one command of ten minutes: the laws on it, and seconds beside this processor's.

    python bench/gpu.py                         on a machine with CUDA
    python bench/gpu.py --device cpu --quick    the same paths without a GPU, on sizes of seconds
    python bench/gpu.py --json

Laws: lists equal NumPy's brute force, by the Triton kernels, and by torch's operations whatever the
precision of the device's products; each network of
ratings and the ranking network learn the same twice and as well as on the processor; a night's lists are
better than the popularity list; several processes train through NCCL where there are several GPUs. Seconds:
the lists of the MovieLens-25M shape at 64 and 128 factors beside the bare product in float32, TF32 and
bfloat16; each training; a whole night. A part that fails is named, the others go on, and the exit code is 1.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from bench.score import FULL, LIST, QUICK, seen_pairs, vectors
from cfjobs import models, training
from cfjobs.config import Config
from cfjobs.datasets import synthetic
from cfjobs.models.ranker import History, RankingConfig
from cfjobs.topn.engine import Backend, top_n_batches
from cfjobs.topn.problem import Pairs
from cfjobs.training.ranker import fit_ranking

Row = dict[str, Any]
"""part, what, value (seconds where it is a float) and, for a law, whether it holds."""
PRECISIONS = {"float32": "highest", "tf32": "high", "bfloat16": "medium"}


def main() -> int:
    """Run every part; returns 1 where one fails or a law is broken."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true", help="sizes of seconds")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        print("gpu: torch finds no CUDA device here; --device cpu --quick tries the paths", file=sys.stderr)
        return 2
    rows: list[Row] = []
    for part in (lists_are_exact, networks_learn, processes_agree, lists_beside_products, trainings, night):
        began = time.perf_counter()
        try:
            found = list(part(options.device, quick=options.quick))
        except Exception:
            found = [{"what": "failed", "value": traceback.format_exc().splitlines()[-1], "holds": False}]
        for row in found:
            rows.append({"part": part.__name__.replace("_", " ")} | row)
            if not options.json:
                print(line(rows[-1]), flush=True)
        print(f"{part.__name__}: {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
    if options.json:
        print(json.dumps({"device": device_name(options.device), "torch": torch.__version__, "rows": rows}))
    else:
        print(f"\n{device_name(options.device)}, torch {torch.__version__}, {os.cpu_count()} processors")
    return int(any(row.get("holds") is False for row in rows))


def line(row: Row) -> str:
    """A row as text."""
    value = f"{row['value']:.3f}" if isinstance(row["value"], float) else str(row["value"])
    verdict = {None: "", True: "holds", False: "FAILS"}[row.get("holds")]
    return f"{row['part']:<22} {row['what']:<52} {value:>12} {verdict}".rstrip()


def device_name(device: str) -> str:
    """As its driver says it."""
    if not device.startswith("cuda"):
        return device
    found = torch.cuda.get_device_properties(0)
    return f"{torch.cuda.device_count()} x {found.name}, {found.total_memory / 1e9:.0f} GB, CUDA {torch.version.cuda}"


def timed(work: Callable[[], object], *, device: str, repeat: int = 3) -> float:
    """Seconds of the quickest of some runs, the device's queue empty before and after."""
    seconds = []
    for _ in range(repeat):
        synchronize(device)
        began = time.perf_counter()
        work()
        synchronize(device)
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def synchronize(device: str) -> None:
    """Wait for what the device has been told to do."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()


# Laws -----------------------------------------------------------------------------------------------


def lists_are_exact(device: str, *, quick: bool) -> Iterator[Row]:
    """Lists of random vectors, with ties, seen pairs and movies that may not be listed, against NumPy's."""
    ways = [("torch", name, precision) for name, precision in PRECISIONS.items()]
    ways += [("triton", "TF32, three TF32 where needed", "highest")] if device.startswith("cuda") else []
    before = torch.get_float32_matmul_precision()
    try:
        for backend, name, precision in ways:
            torch.set_float32_matmul_precision(precision)
            wrong, n_lists = wrong_lists(device, backend, quick=quick)
            what = f"{n_lists:,} lists by {backend}, products in {name}: wrong"
            yield {"what": what, "value": wrong, "holds": not wrong}
    finally:
        torch.set_float32_matmul_precision(before)


def wrong_lists(device: str, backend: Backend, *, quick: bool) -> tuple[int, int]:
    """Lists that are not the brute force's, and how many were compared."""
    rng = np.random.default_rng(1)
    users, movies = 300, 2_000 if quick else 20_000
    wrong = n_lists = 0
    for n_factors, kind in itertools.product((3, 16, 64, 130), ("trained", "flat", "heavy", "ties")):
        x, q, bias = vectors(
            "flat" if kind == "ties" else kind, users=users, movies=movies, factors=n_factors, rng=rng
        )
        if kind == "ties":
            x, q, bias = np.rint(x), np.rint(q), np.rint(bias)
        seen = seen_pairs(users=users, movies=movies, pairs=users * 40, rng=rng)
        may = rng.random(movies) < 0.7
        options = {"movie_bias": bias, "seen": seen, "candidates": may, "backend": backend, "device": device}
        listed = np.concatenate([batch.movie_idx for batch in top_n_batches(x, q, n=50, **options)])
        wrong += int((listed != brute_force(x, q, bias, seen, may, n=50)).any(axis=1).sum())
        n_lists += users
    return wrong, n_lists


def brute_force(
    x: np.ndarray, q: np.ndarray, bias: np.ndarray, seen: Pairs, may: np.ndarray, *, n: int
) -> np.ndarray:
    """movie_idx [U, n] by sorting every score."""
    total = np.zeros((len(x), len(q)))
    for d in range(x.shape[1]):
        total += x[:, d, None].astype(np.float64) * q[None, :, d].astype(np.float64)
    score = (total + bias.astype(np.float64)).astype(np.float32)
    score[:, ~may] = -np.inf
    for user in range(len(x)):
        score[user, seen.indices[seen.indptr[user] : seen.indptr[user + 1]]] = -np.inf
    return np.argsort(-score, axis=1, kind="stable")[:, :n].astype(np.int32)


def networks_learn(device: str, *, quick: bool) -> Iterator[Row]:
    """Each network by batches: the same twice, and the processor's error within 2 %; the ranking one."""
    data = frame_of(20_000 if quick else 200_000)
    train, valid = (
        data.filter(pl.int_range(pl.len()) % 10 != 0),
        data.filter(pl.int_range(pl.len()) % 10 == 0),
    )
    for name in models.names():
        here, again = (rmse(name, train, valid, device=device) for _ in range(2))
        there = rmse(name, train, valid, device="cpu")
        yield {"what": f"{name}: RMSE twice the same", "value": here, "holds": abs(here - again) < 1e-4}
        yield {"what": f"{name}: RMSE on the processor", "value": there, "holds": here < 1.02 * there}
    losses = {on: ranking_loss(data, device=on, steps=101) for on in (device, "cpu")}
    yield {
        "what": "ranking network: loss, and the processor's",
        "value": f"{losses[device]:.3f} {losses['cpu']:.3f}",
        "holds": losses[device] < 1.02 * losses["cpu"],
    }


def rmse(name: str, train: pl.DataFrame, valid: pl.DataFrame, *, device: str) -> float:
    """Of a network trained by batches with its own recipe."""
    config = Config(model=name, n_factors=16, training="minibatch", epochs=4)
    torch.manual_seed(0)
    low, high = float(train["rating"].min()), float(train["rating"].max())  # type: ignore[arg-type]
    network = models.build(
        name, n_users=n_rows(train, valid, "user_idx"), n_movies=n_rows(train, valid, "movie_idx"),
        settings=models.settings(config, y_range=(low, high)),
    ).to(device)  # fmt: skip
    where = torch.device(device)
    training.fit_rating(network, training.examples(train, where), config=config)
    return float(training.mean_squared_error(network, training.examples(valid, where))) ** 0.5


def n_rows(train: pl.DataFrame, valid: pl.DataFrame, column: str) -> int:
    """Rows that both frames need."""
    return 1 + max(int(frame[column].max()) for frame in (train, valid))  # type: ignore[arg-type]


def ranking_loss(data: pl.DataFrame, *, device: str, steps: int) -> float:
    """The last loss of a ranking network."""
    losses: list[float] = []
    fit_ranking(
        History.of(data, n_users=1 + int(data["user_idx"].max())),  # type: ignore[arg-type]
        n_movies=1 + int(data["movie_idx"].max()),  # type: ignore[arg-type]
        config=RankingConfig(n_steps=steps),
        device=device,
        on_step=lambda step: losses.append(step.loss),
    )
    return losses[-1]


def frame_of(n_ratings: int) -> pl.DataFrame:
    """user_idx, movie_idx, rating of generated ratings, by user and time."""
    made = generated(n_ratings).ratings.sort("user_id", "timestamp")
    return made.select(
        (pl.col("user_id").rank("dense") - 1).cast(pl.Int32).alias("user_idx"),
        (pl.col("movie_id").rank("dense") - 1).cast(pl.Int32).alias("movie_idx"),
        pl.col("rating").cast(pl.Float32),
    )


def generated(n_ratings: int) -> synthetic.Sample:
    """Ratings of few users and movies."""
    return synthetic.generate(
        n_users=max(300, n_ratings // 150), n_movies=max(400, n_ratings // 400), n_ratings=n_ratings, seed=5
    )


def processes_agree(device: str, *, quick: bool) -> Iterator[Row]:
    """One process for each GPU, through NCCL: the night's RMSE is that of one process, within 2 %."""
    n = torch.cuda.device_count() if device.startswith("cuda") else 2
    if n < 2:
        yield {"what": "one GPU: not tried", "value": "-"}
        return
    quick_night = ["--set", "training=minibatch", "--set", "epochs=3", "--set", "ranking_steps=50"]
    one, several = (
        a_night(20_000, device, [*quick_night, "--set", f"processes={k}"])["metrics"]["rmse"] for k in (1, n)
    )
    yield {"what": f"RMSE of {n} processes", "value": several, "holds": abs(several - one) < 0.02 * one}


# Seconds --------------------------------------------------------------------------------------------


def lists_beside_products(device: str, *, quick: bool) -> Iterator[Row]:
    """Top 100 of the MovieLens-25M shape, and the product alone, block after block, nothing kept."""
    shape = QUICK | {"users": 1_536, "pairs": 190_000} if quick else FULL
    rng = np.random.default_rng(7)
    seen = seen_pairs(users=shape["users"], movies=shape["movies"], pairs=shape["pairs"], rng=rng)
    for factors in (64, 128):
        x, q, bias = vectors(
            "trained", users=shape["users"], movies=shape["movies"], factors=factors, rng=rng
        )
        left, right = torch.from_numpy(x).to(device), torch.from_numpy(q).to(device).T
        for name, precision in PRECISIONS.items():
            torch.set_float32_matmul_precision(precision)
            kind = torch.bfloat16 if name == "bfloat16" else torch.float32
            a, b = left.to(kind), right.to(kind)
            product = timed(partial(multiply, a, b), device=device)
            yield {"what": f"{factors} factors: bare product, {name}", "value": product}
        del left, right
        on_gpu = device.startswith("cuda")
        ways = [("triton", "float32")] if on_gpu else []
        for backend, name in [*ways, ("torch", "float32"), ("torch", "tf32")]:
            torch.set_float32_matmul_precision(PRECISIONS[name])
            if on_gpu:
                torch.cuda.reset_peak_memory_stats()
            options = {"backend": backend, "device": device, "memory_gb": 8.0 if on_gpu else 1.0}
            seconds = timed(partial(stream, x, q, bias, seen, **options), device=device, repeat=2)
            way = "fused" if backend == "triton" else f"screen in {name}"
            yield {"what": f"{factors} factors: top {LIST}, {way}", "value": seconds}
            if on_gpu:
                peak = torch.cuda.max_memory_allocated() / 1e9
                yield {"what": f"{factors} factors: its peak of the GPU, GB", "value": peak}
        seconds = timed(partial(stream, x, q, bias, seen), device="cpu", repeat=2)
        yield {"what": f"{factors} factors: top {LIST}, this machine's processor", "value": seconds}
    torch.set_float32_matmul_precision("highest")


def multiply(a: torch.Tensor, b: torch.Tensor) -> None:
    """a @ b, 4,096 rows at a time into one buffer."""
    out = torch.empty((4_096, b.shape[1]), dtype=a.dtype, device=a.device)
    for part in a.split(4_096):
        torch.mm(part, b, out=out[: len(part)])


def stream(x: np.ndarray, q: np.ndarray, bias: np.ndarray, seen: Pairs, **options: Any) -> None:
    """All lists, batch after batch, none kept."""
    for _ in top_n_batches(x, q, n=LIST, movie_bias=bias, seen=seen, **options):
        pass


def trainings(device: str, *, quick: bool) -> Iterator[Row]:
    """Seconds of one epoch of each network by batches, and of 100 ranking steps; the processor's beside."""
    data = frame_of(50_000 if quick else 2_000_000)
    low, high = float(data["rating"].min()), float(data["rating"].max())  # type: ignore[arg-type]
    for name in models.names():
        for on in dict.fromkeys((device, "cpu")):
            config = Config(model=name, training="minibatch", epochs=1)
            network = models.build(
                name, n_users=n_rows(data, data, "user_idx"), n_movies=n_rows(data, data, "movie_idx"),
                settings=models.settings(config, y_range=(low, high)),
            ).to(on)  # fmt: skip
            examples = training.examples(data, torch.device(on))
            seconds = timed(
                lambda network=network, examples=examples, config=config: training.fit_rating(  # type: ignore[misc]
                    network, examples, config=config
                ),
                device=on,
                repeat=1,
            )
            yield {"what": f"{name}: an epoch of {data.height:,} ratings, {on}", "value": seconds}
    for on in dict.fromkeys((device, "cpu")):
        seconds = timed(lambda on=on: ranking_loss(data, device=on, steps=100), device=on, repeat=1)  # type: ignore[misc]
        yield {"what": f"ranking network: 100 steps, {on}", "value": seconds}


def night(device: str, *, quick: bool) -> Iterator[Row]:
    """A whole night through `device = auto`, and on the processor alone."""
    n_ratings = 20_000 if quick else 2_000_000
    for on in dict.fromkeys(("auto" if device.startswith("cuda") else "cpu", "cpu")):
        began = time.perf_counter()
        done = a_night(n_ratings, on, [])
        yield {"what": f"{n_ratings:,} ratings, device = {on}", "value": time.perf_counter() - began}
        yield {
            "what": f"its nDCG@10, above popularity's {done['metrics']['ndcg_at_10_popular']:.4f}",
            "value": done["metrics"]["ndcg_at_10"],
            "holds": done["metrics"]["ndcg_at_10"] > done["metrics"]["ndcg_at_10_popular"],
        }
        for stage, seconds in done["seconds"].items():
            yield {"what": f"  {stage}, {on}", "value": float(seconds)}


def a_night(n_ratings: int, device: str, settings: list[str]) -> Any:
    """What `cfjobs nightly` says of a night of generated ratings."""
    with tempfile.TemporaryDirectory() as folder:
        made = generated(n_ratings)
        made.ratings.write_parquet(Path(folder) / "ratings.parquet")
        command = [sys.executable, "-m", "cfjobs", "-q", "nightly", "--ratings", folder, "--json"]
        command += ["--output", f"{folder}/out", "--run-date", "2026-01-01", "--set", f"device={device}"]
        done = subprocess.run([*command, *settings], stdout=subprocess.PIPE, text=True, check=True)
        return json.loads(done.stdout)


if __name__ == "__main__":
    sys.exit(main())
