"""One run at a time works on a night, and one at a time commits: claims under `OUTPUT/_work`.

On a disk a claim is a locked file, which the system frees when its process ends, however it ends. In an object
store it is a small object, made by a conditional write and rewritten every few seconds while its owner lives;
one that is not rewritten for a lease is taken over.
"""

import fcntl
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

from cfjobs.errors import CfjobsError, StorageFault
from cfjobs.storage.faults import explained
from cfjobs.storage.files import delete, read_tagged, write_if
from cfjobs.storage.uri import is_s3, join

log = logging.getLogger(__name__)

COMMIT = "commit"
"""The claim of whoever changes the tables: a night's commits, a rollback, a retention."""

LEASE_S = 30.0


class Busy(CfjobsError):
    """Another run holds the claim: wait for it or cancel it."""


class Claim:
    """A claim that is held. `check` raises when it was lost, which only a frozen process or a broken store does."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.lost = False

    def check(self) -> None:
        if self.lost:
            raise StorageFault(
                f"{self.uri}: this run did not reach the store for {LEASE_S:.0f} s and another took its place; nothing was committed, rerun"
            )


@contextmanager
def claimed(output: str, name: str, *, wait_s: float = 0, lease_s: float = LEASE_S) -> Iterator[Claim]:
    """Hold a claim for the time of the block; Busy when another run still holds it after wait_s."""
    uri = join(output, "_work", f"claim-{name}.json")
    if is_s3(uri):
        with _leased(uri, wait_s=wait_s, lease_s=lease_s) as claim:
            yield claim
    else:
        with _locked(Path(uri), wait_s=wait_s):
            yield Claim(uri)


# On a disk ------------------------------------------------------------------------------------------


@contextmanager
def _locked(path: Path, *, wait_s: float) -> Iterator[None]:
    until = time.monotonic() + wait_s
    while (handle := _try_lock(path)) is None:
        if time.monotonic() >= until:
            with suppress(OSError, ValueError):
                raise _busy(str(path), json.loads(path.read_text(encoding="utf-8")))
            raise _busy(str(path), {})
        time.sleep(0.2)
    try:
        os.ftruncate(handle, 0)
        os.pwrite(handle, _owner(), 0)
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(handle)
        for folder in (path.parent, path.parent.parent):
            with suppress(OSError):  # another's work is in it: it stays
                folder.rmdir()


def _try_lock(path: Path) -> int | None:
    """An open, locked file at this path; None when another holds it."""
    with explained(str(path)):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.exists() and os.fstat(handle).st_ino == path.stat().st_ino:
                return handle
        except BlockingIOError:
            pass
        os.close(handle)
        return None


# In an object store ---------------------------------------------------------------------------------


@contextmanager
def _leased(uri: str, *, wait_s: float, lease_s: float) -> Iterator[Claim]:
    tag = _acquire(uri, wait_s=wait_s, lease_s=lease_s)
    claim, stop = Claim(uri), threading.Event()
    renewal = threading.Thread(
        target=_renew, args=(claim, tag, stop, lease_s), name=f"claim {uri}", daemon=True
    )
    renewal.start()
    try:
        yield claim
    finally:
        stop.set()
        renewal.join(lease_s)
        if not claim.lost:
            delete(uri)


def _acquire(uri: str, *, wait_s: float, lease_s: float) -> str:
    """The tag of the object once it is ours."""
    began = time.monotonic()
    last_tag, since, alive = None, began, False
    while True:
        if tag := write_if(uri, _owner(), tag=None):
            return tag
        found = read_tagged(uri)
        now = time.monotonic()
        if found is None:
            continue
        owner = _read(found.data)
        alive = alive or last_tag not in {None, found.tag}
        if found.tag != last_tag:
            last_tag, since = found.tag, now
        if now - since > lease_s or _has_died(owner):
            log.warning("%s: its owner is gone, taken over (%s)", uri, _words(owner))
            if tag := write_if(uri, _owner(), tag=found.tag):
                return tag
        if alive and now - began > wait_s:
            raise _busy(uri, owner)
        time.sleep(min(1.0, lease_s / 10))


def _renew(claim: Claim, tag: str, stop: threading.Event, lease_s: float) -> None:
    renewed = time.monotonic()
    while not stop.wait(lease_s / 4):
        try:
            newer = write_if(claim.uri, _owner(), tag=tag)
        except CfjobsError as error:
            if time.monotonic() - renewed > lease_s:
                log.warning("%s: not renewed since %.0f s (%s)", claim.uri, time.monotonic() - renewed, error)
            continue
        if newer is None:
            found = read_tagged(claim.uri)
            if found and str(_read(found.data).get("token")).startswith(_PROCESS):
                tag, renewed = found.tag, time.monotonic()  # our write arrived, its answer did not
                continue
            claim.lost = True
            log.warning("%s: another run has taken this claim over", claim.uri)
            return
        tag, renewed = newer, time.monotonic()


_PROCESS = uuid4().hex


def _owner() -> bytes:
    owner = {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "token": f"{_PROCESS}-{uuid4().hex}",
    }
    return json.dumps(owner).encode()


def _read(data: bytes) -> dict[str, object]:
    """Who wrote a claim; nothing is known when the write was cut off in the middle."""
    try:
        found = json.loads(data)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _has_died(owner: dict[str, object]) -> bool:
    """Whether the owner was a process of this machine that is no more."""
    if owner.get("host") != socket.gethostname():
        return False
    return not Path(f"/proc/{owner.get('pid')}").exists() and Path("/proc/self").exists()


def _busy(uri: str, owner: dict[str, object]) -> Busy:
    return Busy(
        f"{uri}: another run is at work ({_words(owner)}); wait for it, or cancel it and run this again"
    )


def _words(owner: dict[str, object]) -> str:
    return f"process {owner.get('pid')} on {owner.get('host')}, {owner.get('at')}"
