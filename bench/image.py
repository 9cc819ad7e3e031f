"""The image, built from nothing and lived in: `make image-test`.

    python -m bench.image [--folder FOLDER] [--build-only]

Needs root, buildah and debootstrap, and registries of Debian's packages and of Python's, none of images:
a Debian tree is committed under the base image's name and stands in for it. Then

    it is built by `make image`'s own command, pip's settings and this machine's certificates mounted
    its size is at most LARGEST, and a change of the source is built within seconds
    server and workers run from it, as its user; it is deployed from inside; two nights come by the schedule

The table says what holds; the exit code is 1 where something does not.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from deltalake import DeltaTable

from bench.soak import FIRST, SETTINGS, Soak, schedule
from deploy import serve
from deploy.image import ROOT, commit

LARGEST = 1.6e9
"""Bytes of the CPU variant, all layers."""
BASE = "docker.io/library/python:3.11-slim"
HOME = "/home/cfjobs"
_PACKAGES = "python3,python3-venv,python3-pip,ca-certificates"
_CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"

Row = tuple[str, bool, str]
"""What, whether it holds, and the figures."""


def main() -> int:
    """Build and live in it; returns 1 where something does not hold."""
    parser = argparse.ArgumentParser(prog="python -m bench.image", description="Build the image, live in it.")
    parser.add_argument("--folder", default="", help="of the layers, kept; without it, a temporary one")
    parser.add_argument("--build-only", action="store_true", help="do not live in it")
    arguments = parser.parse_args()
    if missing := [name for name in ("buildah", "debootstrap") if not shutil.which(name)]:
        print(f"image: there is no {missing[0]}; apt-get install {missing[0]}", file=sys.stderr)
        return 2
    folder = Path(arguments.folder or tempfile.mkdtemp(prefix="cfjobs-image-")).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    configuration = folder / "storage.conf"
    configuration.write_text(
        f'[storage]\ndriver = "overlay"\ngraphroot = "{folder}/layers"\nrunroot = "{folder}/run"\n'
    )
    os.environ["CONTAINERS_STORAGE_CONF"] = str(configuration)
    of = commit()  # now: the source may change while the image is lived in
    try:
        rows = [*built(folder), *([] if arguments.build_only else lived_in(folder, of=of))]
    finally:
        if not arguments.folder:
            buildah("rm", "--all")
            buildah("rmi", "--all", "--force")
            shutil.rmtree(folder, ignore_errors=True)
    print("\n| | holds | |\n|---|---|---|")
    for what, holds, words in rows:
        print(f"| {what} | {'yes' if holds else 'NO'} | {words} |")
    return int(not all(holds for _, holds, _ in rows))


def buildah(*words: str) -> str:
    """What it prints. Raises CalledProcessError."""
    return subprocess.run(["buildah", *words], stdout=subprocess.PIPE, text=True, check=True).stdout.strip()


# Building -------------------------------------------------------------------------------------------


def built(folder: Path) -> Iterator[Row]:
    """The image, from nothing, and once more after a change of the source."""
    if BASE not in buildah("images", "--format", "{{.Name}}:{{.Tag}}"):
        make_base(folder / "tree")
    yield "`make image` builds it", True, f"{build(ROOT):.0f} s"
    size = size_of_files()
    yield f"at most {LARGEST / 1e9:.1f} GB", size <= LARGEST, f"{size / 1e9:.2f} GB"
    changed = folder / "source"
    shutil.rmtree(changed, ignore_errors=True)
    shutil.copytree(
        ROOT, changed, ignore=shutil.ignore_patterns(".git", ".venv", ".serve", ".demo", "*_cache")
    )
    with (changed / "cfjobs" / "__init__.py").open("a") as file:
        file.write("# changed\n")
    seconds = build(changed)
    yield "a change of the source within a minute", seconds < 60, f"{seconds:.0f} s"
    build(ROOT)


def make_base(tree: Path) -> None:
    """A Debian tree with Python under the base image's name."""
    subprocess.run(
        ["debootstrap", "--variant=minbase", f"--include={_PACKAGES}", "bookworm", str(tree)],
        stdout=subprocess.DEVNULL,
        check=True,
    )
    for pattern in (
        "var/cache/apt/archives/*.deb",
        "var/lib/apt/lists/*",
        "usr/share/doc/*",
        "usr/share/locale/*",
        "usr/share/man/*",
    ):
        for path in tree.glob(pattern):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    (tree / "usr" / "bin" / "python").symlink_to("python3")
    container = buildah("from", "scratch")
    # debootstrap may leave /proc mounted in the tree, and /proc/kcore is as large as a disk
    subprocess.run(
        ["cp", "--archive", "--one-file-system", f"{tree}/.", buildah("mount", container)], check=True
    )
    buildah("config", "--env", "PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin", container)
    buildah("commit", "--quiet", "--rm", container, BASE)
    for name in ("proc", "sys"):
        subprocess.run(["umount", "--quiet", str(tree / name)], check=False)
    shutil.rmtree(tree)


def build(source: Path) -> float:
    """What `make image` does, of a source; returns the seconds that it took."""
    began = time.monotonic()
    arguments = ["--pull-never", "--isolation", "chroot", "--network", "host", *mounts()]
    if source == ROOT:
        command = [sys.executable, "-m", "deploy.image", "--engine", "buildah", "--", *arguments]
    else:
        command = ["buildah", "build", "--layers", "--tag", "changed", "--build-arg", f"GIT_COMMIT={commit()}",
                   "--build-arg", "TORCH_INDEX_URL=", *arguments, str(source)]  # fmt: skip
    subprocess.run(command, cwd=ROOT, check=True, stdout=sys.stderr)
    return time.monotonic() - began


def mounts() -> Sequence[str]:
    """pip's settings on this machine, the certificates, and the folders of wheels: mounted, read-only."""
    links = os.environ.get("PIP_FIND_LINKS", "")
    here = [
        _CERTIFICATES,
        "/etc/pip.conf",
        "/etc/xdg/pip",
        str(Path.home() / ".config" / "pip"),
        "/opt",
        links,
    ]
    found = [path for path in dict.fromkeys(here) if path.startswith("/") and Path(path).exists()]
    passed = ["--env", f"PIP_FIND_LINKS={links}"] if links else []
    return [*passed, *(word for path in found for word in ("--volume", f"{path}:{path}:ro"))]


@contextmanager
def container() -> Iterator[tuple[str, Path]]:
    """A container of the image: its name, and where its files are."""
    name = buildah("from", "--pull-never", "cfjobs")
    try:
        yield name, Path(buildah("mount", name))
    finally:
        buildah("rm", name)


def size_of_files() -> int:
    """Bytes of all files of the image, each counted once."""
    with container() as (_, root):
        seen = {(s.st_dev, s.st_ino): s.st_size for p in root.rglob("*") if (s := p.lstat()) and p.is_file()}
    return sum(seen.values())


# Living ---------------------------------------------------------------------------------------------


def lived_in(folder: Path, *, of: str) -> Iterator[Row]:
    """Server and workers from the image; deployed from inside; two nights by the schedule. of: the commit."""
    port = serve.free_port(0)
    environment = {
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_SERVER_UI_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_API_AUTH_STRING": "operator:of-the-image",
        "PREFECT_SERVER_EVENTS_CAUSAL_ORDERING": "deploy.event_ordering",
        "CFJOBS_RATINGS": f"{HOME}/data",
        "CFJOBS_OUTPUT": f"{HOME}/out",
        "PREFECT_WORKER_QUERY_SECONDS": "2",
        "OMP_NUM_THREADS": "1",
    }
    logs = folder / "logs"
    logs.mkdir(exist_ok=True)
    parts = serve.Parts(logs)
    with container() as (name, root):
        quick = root / HOME.lstrip("/") / "quick.toml"
        quick.write_text("\n".join(f"{key} = {str(value).lower()}" for key, value in SETTINGS.items()))

        def inside(*command: str, **more: str) -> list[str]:
            named = environment | more | dict([parts.mark.split("=")])
            told = [word for key, value in named.items() for word in ("--env", f"{key}={value}")]
            return [
                "buildah",
                "run",
                "--isolation",
                "chroot",
                "--network",
                "host",
                *told,
                name,
                "--",
                *command,
            ]

        def said(*command: str) -> str:
            done = subprocess.run(inside(*command), stdout=subprocess.PIPE, text=True, check=True)
            return done.stdout.strip()

        try:
            uid = said("id", "-u")
            yield "its user is not root", uid != "0", f"uid {uid}"
            said("cfjobs", "-q", "sample", "--output", f"{HOME}/data")
            start = ("prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port))
            parts.start(
                "server", inside(*start, PREFECT_SERVER_API_AUTH_STRING="operator:of-the-image"), os.environ
            )
            parts.wait_for("server", f"http://127.0.0.1:{port}/api/health", seconds=400)
            healthy = inside("python", "-m", "deploy.health", f"http://127.0.0.1:{port}")
            code = subprocess.run(healthy, check=False).returncode
            yield "its health check finds API and UI", code == 0, f"exit code {code}"
            told = said("python", "-m", "deploy.apply", "--config", f"{HOME}/quick.toml")
            yield "deployed from inside", "next night: " in told, told.splitlines()[-1]
            soak = Soak(parts, folder, environment, [], folder, dates=[FIRST, FIRST + timedelta(days=1)])
            schedule(soak, every=120, first=datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=75))
            for pool in serve.POOLS:
                parts.start(
                    f"worker-{pool}", inside("prefect", "worker", "start", "--pool", pool), os.environ
                )
            states = ends(soak, seconds=900)
            yield "two nights by the schedule", states == ["Completed"] * 2, ", ".join(states)
            rows = DeltaTable(f"{root}{HOME}/out/runs").to_pyarrow_table().to_pylist()
            commits = {str(row["git_commit"]) for row in rows}
            yield "the commit is in `runs`", commits == {of} and len(rows) == 2, ", ".join(commits)
        finally:
            parts.end()


def ends(soak: Soak, *, seconds: float) -> list[str]:
    """The states of the nights once they have ended, or after so many seconds."""
    until = time.monotonic() + seconds
    while True:
        runs = [soak.api("GET", f"/flow_runs/{soak.runs[of]}") for of in soak.dates]
        if time.monotonic() > until or all(
            run["state_type"] not in {"SCHEDULED", "PENDING", "RUNNING"} for run in runs
        ):
            return [str(run["state_name"]) for run in runs]
        time.sleep(3)


if __name__ == "__main__":
    sys.exit(main())
