"""What the top-N engine costs, beside the bare matrix product and the peers.

    python bench/score.py            the MovieLens-25M shape: 162,519 users, 59,047 movies, 64 factors, n 100
    python bench/score.py --quick    a shape of seconds
    python bench/score.py --torch    with the backend of GPUs, which a machine with one runs anyway
    python bench/score.py --json     the same as one JSON object

Every engine gets the same vectors and the same seen pairs in the same run. Runs are interleaved and the
fastest of --repeat is reported. `vs product` is the time over that of the bare float32 product, whose tiling
is the best of those tried here. Peers that are not installed are named and left out.

Unset OPENBLAS_CORETYPE and OPENBLAS_L2_SIZE first where they are set: they hold numpy and implicit down.
"""

import argparse
import importlib.util
import json
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch

from cfjobs.topn import kernel
from cfjobs.topn.engine import top_n_batches
from cfjobs.topn.problem import Net, Pairs

FULL = {"users": 162_519, "movies": 59_047, "factors": 64, "pairs": 24_800_000}
QUICK = {"users": 12_288, "movies": 20_000, "factors": 64, "pairs": 1_500_000}
LIST = 100
KINDS = ("trained", "flat", "positive", "heavy")


# ---------------------------------------------------------------------------------------------------
# Generated input


def vectors(
    kind: str, *, users: int, movies: int, factors: int, rng: np.random.Generator
) -> tuple[np.ndarray, ...]:
    """x, q, bias. Movie 0 is the most popular.

    trained:  falling spectrum, norm and bias rise with popularity, users' norms vary
    flat:     standard normal, nothing to exploit
    positive: no negative entries, so all scores of a user lie close together
    heavy:    norms spread over two decades
    """
    x = rng.standard_normal((users, factors))
    q = rng.standard_normal((movies, factors))
    popularity = np.arange(1, movies + 1) ** -0.15
    bias = 0.3 * rng.standard_normal(movies)
    if kind == "trained":
        spectrum = np.arange(1, factors + 1) ** -0.5
        x, q = (
            x * spectrum * np.exp(0.3 * rng.standard_normal((users, 1))),
            q * spectrum * popularity[:, None],
        )
        bias += 0.5 * np.log(popularity)
    elif kind == "positive":
        x, q = np.abs(x), np.abs(q)
    elif kind == "heavy":
        x, q = x * np.exp(1.5 * rng.standard_normal((users, 1))), q * np.exp(rng.standard_normal((movies, 1)))
    return x.astype(np.float32), q.astype(np.float32), bias.astype(np.float32)


def seen_pairs(*, users: int, movies: int, pairs: int, rng: np.random.Generator) -> Pairs:
    """Users of unequal diligence, movies by a power law; about `pairs` different ones."""
    per_user = np.exp(rng.standard_normal(users))
    per_user = np.minimum(20 + (pairs / users - 20) * 1.25 * per_user / per_user.mean(), movies // 4).astype(
        np.int64
    )
    law = ((np.arange(movies) + 50.0) ** -1.0).cumsum()
    keys = np.repeat(np.arange(users) * movies, per_user)
    for at in range(0, len(keys), 1 << 22):
        part = keys[at : at + (1 << 22)]
        part += np.minimum(np.searchsorted(law, rng.random(len(part)) * law[-1]), movies - 1)
    keys = np.unique(keys)
    counts = np.bincount(keys // movies, minlength=users)
    return Pairs(np.append(0, counts.cumsum()), (keys % movies).astype(np.int32))


def random_net(hidden: int, factors: int, rng: np.random.Generator) -> Net:
    def array(*shape: int) -> np.ndarray:
        return (rng.standard_normal(shape) / math.sqrt(factors)).astype(np.float32)

    return Net(
        user_weight=array(hidden, factors), movie_weight=array(hidden, factors), hidden_bias=array(hidden),
        output_weight=array(hidden),
    )  # fmt: skip


# ---------------------------------------------------------------------------------------------------
# The engines


def bare_product(x: np.ndarray, q: np.ndarray, *, tile: tuple[int, int], library: str, threads: int) -> None:
    """x @ q.T, float32, tile by tile into reused buffers; nothing else.

    library "torch" or "numpy"; threads 1: the library's own threads; more: one tile per Python thread.
    """
    import torch
    from threadpoolctl import threadpool_limits

    users, movies = tile
    torch.set_num_threads(1 if threads > 1 else os.cpu_count() or 1)
    xt, qt = torch.from_numpy(x), torch.from_numpy(q)

    def run(firsts: range) -> None:
        torch.set_num_threads(1 if threads > 1 else os.cpu_count() or 1)
        out = np.empty((users, movies), np.float32)
        out_t = torch.from_numpy(out)
        for u in firsts:
            n = min(users, len(x) - u)
            for m in range(0, len(q), movies):
                k = min(movies, len(q) - m)
                if library == "torch":
                    buffer = out_t if (n, k) == tile else torch.empty(n, k)
                    torch.mm(xt[u : u + n], qt[m : m + k].T, out=buffer)
                else:
                    buffer = out if (n, k) == tile else np.empty((n, k), np.float32)
                    np.matmul(x[u : u + n], q[m : m + k].T, out=buffer)

    with threadpool_limits(1 if threads > 1 else None, user_api="blas"):
        if threads == 1:
            run(range(0, len(x), users))
        else:
            with ThreadPoolExecutor(threads) as pool:
                list(pool.map(run, [range(t * users, len(x), threads * users) for t in range(threads)]))


def best_tiling(x: np.ndarray, q: np.ndarray) -> dict[str, Any]:
    cores = os.cpu_count() or 1
    x = x[:4096]
    tiles = (
        (64, 2048),
        (128, 1024),
        (128, 4096),
        (256, 1024),
        (256, 2048),
        (512, 512),
        (1024, 2048),
        (2048, 4096),
    )
    tried = [
        {"tile": tile, "library": library, "threads": threads}
        for library in ("torch", "numpy") for threads in sorted({1, cores}) for tile in tiles
    ]  # fmt: skip
    runs = {str(i): (lambda o=options: bare_product(x, q, **o)) for i, options in enumerate(tried)}
    best = interleaved(runs, repeat=4)
    return tried[int(min(best, key=lambda i: best[i][0]))]


def ours(x: np.ndarray, q: np.ndarray, **options: Any) -> None:
    for _ in top_n_batches(x, q, n=LIST, **options):
        pass


def implicit_recommend(x: np.ndarray, q: np.ndarray, bias: np.ndarray, seen: Pairs) -> None:
    """implicit's recommend for all users, seen movies removed; the bias as one more factor."""
    from implicit.cpu.als import AlternatingLeastSquares
    from scipy.sparse import csr_matrix

    model = AlternatingLeastSquares(factors=x.shape[1] + 1)
    model.user_factors = np.concatenate([x, np.ones((len(x), 1), np.float32)], axis=1)
    model.item_factors = np.concatenate([q, bias[:, None]], axis=1)
    liked = csr_matrix((np.ones(len(seen.indices), np.float32), seen.indices, seen.indptr), (len(x), len(q)))
    for first in range(0, len(x), 16_384):
        users = np.arange(first, min(first + 16_384, len(x)))
        model.recommend(users, liked[users], N=LIST, filter_already_liked_items=True)


def faiss_flat(x: np.ndarray, q: np.ndarray, bias: np.ndarray) -> None:
    """faiss IndexFlatIP: exact in float32, but it cannot leave out a user's seen movies."""
    import faiss

    index = faiss.IndexFlatIP(x.shape[1] + 1)
    index.add(np.concatenate([q, bias[:, None]], axis=1))
    for first in range(0, len(x), 16_384):
        part = x[first : first + 16_384]
        index.search(np.concatenate([part, np.ones((len(part), 1), np.float32)], axis=1), LIST)


def timed(run: Callable[[], None]) -> tuple[float, float]:
    """Seconds on the clock, and seconds of processor over all threads: the latter shows a busy machine."""
    clock, processor = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - clock, time.process_time() - processor


def interleaved(runs: dict[str, Callable[[], None]], *, repeat: int) -> dict[str, tuple[float, float]]:
    best = dict.fromkeys(runs, (math.inf, math.inf))
    for _ in range(repeat):
        for name, run in runs.items():
            best[name] = min(best[name], timed(run))
    return best


# ---------------------------------------------------------------------------------------------------
# The table


def fresh_process(code: str, environment: dict[str, str]) -> str:
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=True)
    return done.stdout.strip().splitlines()[-1]


def compile_seconds() -> dict[str, float]:
    """Importing and the first call in a fresh process, with nothing cached and with everything cached."""
    code = "import time; a = time.perf_counter(); import numpy as np; from cfjobs.topn.engine import top_n_batches; x = np.ones((6, 64), np.float32)\n"
    code += "list(top_n_batches(x, x, n=2)); print(time.perf_counter() - a)"
    with tempfile.TemporaryDirectory() as cache:
        first, second = (float(fresh_process(code, {"NUMBA_CACHE_DIR": cache})) for _ in range(2))
    return {"cold": first, "cached": second}


def peak_memory_gb(shape: dict[str, int], kind: str) -> float:
    """Of a process of its own that makes the input and streams through all lists."""
    with tempfile.TemporaryDirectory() as folder:
        rng = np.random.default_rng(7)
        x, q, bias = vectors(kind, **{k: shape[k] for k in ("users", "movies", "factors")}, rng=rng)
        pairs = seen_pairs(**{k: shape[k] for k in ("users", "movies", "pairs")}, rng=rng)
        for name, array in zip(("x", "q", "bias", "indptr", "indices"), (x, q, bias, *pairs), strict=True):
            np.save(f"{folder}/{name}.npy", array)
        code = "import numpy as np; from cfjobs.topn.problem import Pairs; from cfjobs.topn.engine import top_n_batches\n"
        code += f"x, q, b, p, i = (np.load('{folder}/' + n + '.npy') for n in ('x', 'q', 'bias', 'indptr', 'indices'))\n"
        code += f"for _ in top_n_batches(x, q, n={LIST}, movie_bias=b, seen=Pairs(p, i)): pass\n"
        code += "print([int(s.split()[1]) / 2**20 for s in open('/proc/self/status') if s.startswith('VmHWM')][0])"
        return float(fresh_process(code, {}))


def measure(
    shape: dict[str, int], *, repeat: int, kinds: tuple[str, ...], peers: bool, backend_of_gpus: bool = False
) -> dict[str, Any]:
    rng = np.random.default_rng(7)
    size = {k: shape[k] for k in ("users", "movies", "factors")}
    seen = seen_pairs(**{k: shape[k] for k in ("users", "movies", "pairs")}, rng=rng)
    rows, missing = [], []
    tiling: dict[str, Any] = {}
    for kind in kinds:
        x, q, bias = vectors(kind, **size, rng=rng)
        tiling = tiling or best_tiling(x, q)
        runs: dict[str, Callable[[], None]] = {
            "bare float32 product": lambda x=x, q=q, t=tiling: bare_product(x, q, **t)
        }
        for screen in ("int8", "float32") if kernel.HAS_VNNI else ("float32",):
            runs[f"top-N, {screen} screen"] = lambda x=x, q=q, b=bias, s=screen: ours(
                x, q, movie_bias=b, seen=seen, screen=s
            )
        if kind == kinds[0]:
            device = "cuda" if torch.cuda.is_available() else "cpu"
            if backend_of_gpus or device == "cuda":
                runs[f"top-N, torch on {device}"] = lambda x=x, q=q, b=bias, d=device: ours(
                    x, q, movie_bias=b, seen=seen, backend="torch", device=d
                )
            for hidden in (10, 32, 64):
                net = random_net(hidden, x.shape[1], rng)
                runs[f"net, {hidden} hidden"] = lambda x=x, q=q, net=net: ours(x, q, seen=seen, net=net)
            for name, run in (
                ("implicit", lambda x=x, q=q, b=bias: implicit_recommend(x, q, b, seen)),
                ("faiss", lambda x=x, q=q, b=bias: faiss_flat(x, q, b)),
            ):
                if importlib.util.find_spec(name) is None:
                    missing.append(name)
                elif peers:
                    runs[name + (" recommend" if name == "implicit" else " flat (seen kept)")] = run
        for options in (
            {"movie_bias": bias},
            {"movie_bias": bias, "screen": "float32"},
            {"net": random_net(10, x.shape[1], rng)},
        ):
            ours(x[:512], q, **options)  # compile
        best = interleaved(runs, repeat=repeat)
        product = best["bare float32 product"]
        for name, (seconds, cpu) in best.items():
            rows.append({"vectors": kind, "engine": name, "seconds": seconds, "cpu_s": cpu, "users_per_s": len(x) / seconds,
                         "vs_product": seconds / product[0], "cpu_vs_product": cpu / product[1]})  # fmt: skip
    return {
        "shape": size | {"seen_pairs": len(seen.indices), "n": LIST}, "cores": os.cpu_count(), "tiling": tiling,
        "rows": rows, "missing": missing, "compile_s": compile_seconds(), "peak_gb": peak_memory_gb(shape, kinds[0]),
        "bench_peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--users", type=int, help="fewer users, for a look; figures are not scaled up")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument(
        "--torch", action="store_true", help="the backend of GPUs too, on a CPU if there is no GPU"
    )
    options = parser.parse_args()
    shape = dict(QUICK if options.quick else FULL)
    if options.users:
        shape |= {"users": options.users, "pairs": shape["pairs"] * options.users // shape["users"]}
    result = measure(
        shape,
        repeat=options.repeat,
        kinds=tuple(options.kinds),
        peers=not options.no_peers,
        backend_of_gpus=options.torch,
    )
    if options.json:
        print(json.dumps(result))
        return
    size = result["shape"]
    print(f"{size['users']:,} users x {size['movies']:,} movies, {size['factors']} factors and a bias, top {size['n']}, "
          f"{size['seen_pairs']:,} seen pairs removed, {result['cores']} cores")  # fmt: skip
    print(
        f"\n{'vectors':<10}{'engine':<26}{'seconds':>9}{'users/s':>10}{'vs product':>12}{'cpu s':>9}{'vs product':>12}"
    )
    for row in result["rows"]:
        print(f"{row['vectors']:<10}{row['engine']:<26}{row['seconds']:>9.2f}{row['users_per_s']:>10,.0f}"
              f"{row['vs_product']:>12.2f}{row['cpu_s']:>9.2f}{row['cpu_vs_product']:>12.2f}")  # fmt: skip
    print(f"\nproduct's tiling: {result['tiling']}")
    print(
        f"first call: {result['compile_s']['cold']:.1f} s uncached, {result['compile_s']['cached']:.1f} s cached, with import"
    )
    print(f"peak memory of a process that streams all lists, its input included: {result['peak_gb']:.2f} GB")
    if result["missing"]:
        print(f"not installed, so not compared: {', '.join(result['missing'])}")


if __name__ == "__main__":
    main()
