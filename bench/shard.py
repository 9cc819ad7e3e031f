"""What scoring one shard of a night costs: users per second, peak memory, bytes, at several numbers of users.

    python bench/shard.py                                    # 60,000 and 240,000 users, 20,000 movies
    python bench/shard.py --users 60000 --movies 100000      # a slice of 10 million users x 100,000 movies

A night with random networks is laid out in a temporary folder; a process of its own then scores all its users
as one shard, as `cfjobs nightly` does, and says its peak memory (VmHWM). --json prints one object a line.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from cfjobs import model_store, models
from cfjobs.config import Config
from cfjobs.model_store.files import Model
from cfjobs.models.ranker import RankingConfig, RankingModel
from cfjobs.night import score as scoring
from cfjobs.night.records import Inputs, Night, Prepared, Shard, Trained

BLOCK = 50_000


def lay_out(folder: Path, *, n_users: int, n_movies: int, per_user: int, config: Config) -> None:
    """The work folder and the model of a night."""
    rng = np.random.default_rng(7)
    law = ((np.arange(n_movies) + 50.0) ** -1.0).cumsum()
    counts = np.zeros(n_movies, dtype=np.int64)
    n_ratings = np.maximum(1, rng.lognormal(np.log(per_user) - 0.5, 1.0, n_users)).astype(np.int64)
    n_ratings = np.minimum(n_ratings, n_movies // 4)
    schema = pa.schema({"user_idx": pa.int32(), "movie_idx": pa.int32(), "rating": pa.float32()})
    work = folder / "work"
    work.mkdir(parents=True)
    with pq.ParquetWriter(work / "ratings.parquet", schema, compression="zstd") as writer:
        for start in range(0, n_users, BLOCK):
            users = np.repeat(np.arange(start, min(start + BLOCK, n_users)), n_ratings[start : start + BLOCK])
            movies = np.minimum(np.searchsorted(law, rng.random(users.size) * law[-1]), n_movies - 1)
            pairs = np.unique(users * n_movies + movies)
            counts += np.bincount(pairs % n_movies, minlength=n_movies)
            rating = rng.integers(1, 11, pairs.size) / 2
            columns = [pairs // n_movies, pairs % n_movies, rating]
            arrays = [pa.array(c).cast(t) for c, t in zip(columns, schema.types, strict=True)]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema), row_group_size=250_000)
    users_table = pl.DataFrame({"user_id": np.arange(n_users) * 3 + 1})
    users_table.write_parquet(work / "users.parquet")
    movies_table = pl.DataFrame({"movie_id": np.arange(n_movies) + 1, "n_ratings": np.maximum(counts, 1)})
    torch.manual_seed(7)
    network = models.build(
        config.model,
        n_users=n_users,
        n_movies=n_movies,
        settings=models.settings(config, y_range=(0.5, 5.0)),
    )
    scale = torch.from_numpy(np.arange(1, n_movies + 1) ** -0.15)[:, None].float()
    vectors = [torch.randn(n_movies, config.ranking_factors) * 0.1 * scale for _ in range(2)]
    ranking = RankingModel(
        history_vectors=vectors[0],
        movie_vectors=vectors[1],
        movie_bias=torch.log(torch.arange(1, n_movies + 1) ** -0.5),
        config=RankingConfig(n_factors=config.ranking_factors),
    )
    users_table = users_table.with_columns(pl.Series("n_ratings", n_ratings))
    model_store.save_model(str(folder / "model"), Model(network, ranking, config, users_table, movies_table))


def score(folder: Path, *, n_users: int, n_movies: int, config: Config) -> dict[str, float]:
    """Score the whole night as one shard, in this process."""
    night = Night(
        inputs=Inputs(ratings=""), output=str(folder / "out"), run_date=date(2026, 1, 1),
        config=config, run_id="bench", work=str(folder / "work"), started_at=datetime.now(UTC),
    )  # fmt: skip
    prepared = Prepared(counts={}, n_users=n_users, n_movies=n_movies, n_cold_users=0, y_range=(0.5, 5.0))
    trained = Trained(model_uri=str(folder / "model"), fraction=1, losses=[])
    started, cpu = time.perf_counter(), time.process_time()
    scored = scoring.score(night, prepared, trained, Shard(number=0, start=0, stop=n_users))
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line)
    return {
        "users": n_users,
        "movies": n_movies,
        "ratings": pq.read_metadata(folder / "work" / "ratings.parquet").num_rows,
        "seconds": seconds,
        "cpu_s": cpu,
        "users_per_s": n_users / seconds,
        "rows": sum(part["rows"] for part in scored.parts),
        "bytes": sum(part["size"] for part in scored.parts),
        "files": len(scored.parts),
        "peak_gb": int(peak.split()[1]) / 2**20,
        "ratings_bytes": (folder / "work" / "ratings.parquet").stat().st_size,
        "model_bytes": sum(file.stat().st_size for file in (folder / "model").iterdir()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--users", type=int, nargs="+", default=[60_000, 240_000])
    parser.add_argument("--movies", type=int, default=20_000)
    parser.add_argument("--per-user", type=int, default=100, help="ratings a user, on average")
    parser.add_argument("--factors", type=int, default=128, help="of the ranking network")
    parser.add_argument("--memory-gb", type=float, default=2.0)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    config = Config(ranking_factors=options.factors, memory_gb=options.memory_gb)
    if options.folder:
        n_users = options.users[0]
        print(json.dumps(score(options.folder, n_users=n_users, n_movies=options.movies, config=config)))
        return
    if not options.json:
        print(f"{options.movies:,} movies, {options.factors} factors, top {config.top_n}, memory_gb {options.memory_gb}, "
              f"{os.cpu_count()} cores\n")  # fmt: skip
        print(f"{'users':>10}{'ratings':>13}{'seconds':>9}{'users/s':>9}{'cpu s':>8}{'rows':>13}{'MB':>7}{'files':>6}{'peak GB':>9}")  # fmt: skip
    for n_users in options.users:
        with tempfile.TemporaryDirectory() as name:
            made = [sys.executable, __file__, "--folder", name, "--users", str(n_users), "--json"]
            made += ["--movies", str(options.movies), "--factors", str(options.factors), "--memory-gb", str(options.memory_gb)]  # fmt: skip
            lay_out(Path(name), n_users=n_users, n_movies=options.movies, per_user=options.per_user, config=config)  # fmt: skip
            line = subprocess.run(made, capture_output=True, text=True, check=True).stdout.splitlines()[-1]
        if options.json:
            print(line)
            continue
        f = json.loads(line)
        print(f"{f['users']:>10,}{f['ratings']:>13,}{f['seconds']:>9.1f}{f['users_per_s']:>9,.0f}{f['cpu_s']:>8.1f}"
              f"{f['rows']:>13,}{f['bytes'] / 2**20:>7.0f}{f['files']:>6}{f['peak_gb']:>9.2f}")  # fmt: skip


if __name__ == "__main__":
    main()
