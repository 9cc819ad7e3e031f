"""A Postgres of its own for benches and tests: on loopback, with a password, ended with its context."""

import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deploy.serve import free_port


@contextmanager
def running() -> Iterator[str]:
    """The URI of a fresh database, password included. RuntimeError where there is no Postgres."""
    if not command("initdb"):
        raise RuntimeError("there is no Postgres here; install Debian's postgresql")
    # Postgres does not run as root, nor in a folder that it cannot reach.
    folder = Path(tempfile.mkdtemp(prefix="cfjobs-postgres-"))
    as_owner: list[str] = []
    if os.getuid() == 0:
        as_owner = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", "--"]
    password, port = f"p:/{secrets.token_hex(8)}", free_port(0)
    (folder / "password").write_text(password)
    if as_owner:
        for path in (folder, folder / "password"):
            shutil.chown(path, "postgres", "postgres")
    data = str(folder / "data")
    initdb = [command("initdb"), "--pgdata", data, "--username=night", "--no-sync", "--encoding=UTF8"]
    initdb += [f"--pwfile={folder / 'password'}", "--auth=scram-sha-256", "--locale=C.UTF-8"]
    subprocess.run([*as_owner, *initdb], check=True, capture_output=True)
    server = [command("postgres"), "-D", data, "-p", str(port), "-c", "listen_addresses=127.0.0.1"]
    server += ["-c", "unix_socket_directories=", "-c", "fsync=off"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([*as_owner, *server], stdout=log, stderr=log)
    try:
        ready = [command("pg_isready"), "--host=127.0.0.1", f"--port={port}", "--quiet"]
        until = time.monotonic() + 60
        while subprocess.run(ready, check=False).returncode:
            assert time.monotonic() < until, (folder / "log").read_text()
            time.sleep(0.1)
        yield f"postgresql://night:{password.replace(':', '%3A').replace('/', '%2F')}@127.0.0.1:{port}/postgres"
    finally:
        process.send_signal(signal.SIGINT)  # fast: it waits for no client
        process.wait(20)
        shutil.rmtree(folder, ignore_errors=True)


def command(name: str) -> str:
    """The path of one of Postgres' commands; empty when there is none."""
    folders = [str(path) for path in sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)]
    return shutil.which(name, path=os.pathsep.join([*folders, os.environ["PATH"]])) or ""
