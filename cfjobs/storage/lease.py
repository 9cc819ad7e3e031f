"""One run at a time works on a night, and one at a time commits: leases under `OUTPUT/_work`.

On a disk a lease is a locked file, which the system frees when its process ends, however it ends. In an
object store it is a small object, made by a conditional write and rewritten every few seconds while its owner
lives; one that is not rewritten for LEASE_S is taken over.

A lease alone fences nothing: its owner may be paused, and go on after it was taken over. So whoever commits
renews it just before (`Lease.renew`, a conditional write), and makes the commit itself conditional on the
table's version (`tables/delta.py`). It is given back by a conditional write too, so that what another holds
is never removed.
"""

import fcntl
import functools
import json
import logging
import os
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

from cfjobs.errors import CfjobsError, StorageFault
from cfjobs.storage.faults import explained
from cfjobs.storage.files import delete, modified, read_tagged, write_if
from cfjobs.storage.s3 import list_s3
from cfjobs.storage.uri import is_s3, join

log = logging.getLogger(__name__)

COMMIT = "commit"
"""The lease of whoever changes the tables: a night's commits, a rollback, a retention."""

LEASE_S = 30.0

Owner = dict[str, Any]


class Busy(CfjobsError):
    """Another run holds the lease: wait for it or cancel it."""


class LeaseLost(StorageFault):
    """Another run has taken the place of this one, which was frozen or cut off: it must not commit."""


class Lease:
    """A lease that is held.

    taken_over: it was another's, who never gave it back and may still believe that it is his.
    """

    def __init__(self, uri: str, *, taken_over: bool = False) -> None:
        self.uri = uri
        self.lost = False
        self.taken_over = taken_over

    def check(self) -> None:
        """Raises LeaseLost when the lease is known to be lost."""
        if self.lost:
            raise LeaseLost(
                f"{self.uri}: this run was frozen or did not reach the store for longer than a lease and another took its place; "
                "it commits nothing more, rerun"
            )

    def renew(self) -> None:
        """Make sure now that the lease is ours, just before a commit. Raises LeaseLost when it is not."""
        self._renew()
        self.check()

    def _renew(self) -> None:
        raise NotImplementedError


@contextmanager
def leased(output: str, name: str, *, wait_s: float = 0, lease_s: float | None = None) -> Iterator[Lease]:
    """Hold a lease for the time of the block; Busy when another run still holds it after wait_s."""
    uri = _uri(output, name)
    if is_s3(uri):
        with _leased_object(uri, wait_s=wait_s, lease_s=lease_s or LEASE_S) as lease:
            yield lease
    else:
        with _locked(Path(uri), wait_s=wait_s) as lease:
            yield lease


@dataclass(frozen=True)
class Held:
    """A lease as others see it. alive: whether its owner still renews it; at: when it last did."""

    name: str
    uri: str
    alive: bool
    at: datetime
    owner: str


def living(output: str) -> set[str]:
    """The names of the leases that somebody holds and renews: dates of nights under way, and COMMIT."""
    return {lease.name for lease in held(output) if lease.alive}


def held(output: str) -> list[Held]:
    """Every lease of an output that was not given back."""
    folder = join(output, "_work")
    if is_s3(folder):
        with explained(folder):
            names = [
                file.uri.rpartition("/")[2]
                for file in list_s3(folder, ".json")
                if file.uri.rpartition("/")[0] == folder
            ]
    else:
        names = [path.name for path in Path(folder).glob("claim-*.json")]
    found = (re.fullmatch(r"claim-(.+)\.json", name) for name in sorted(names))
    every = (_seen(join(folder, match[0]), match[1]) for match in found if match)
    return [lease for lease in every if lease is not None]


def _seen(uri: str, name: str) -> Held | None:
    if is_s3(uri):
        found = read_tagged(uri)
        owner = _read(found.data) if found else {}
        if found is None or _given_back(owner):
            return None
        at = modified(uri)
        alive = (datetime.now(UTC) - at).total_seconds() < 4 * LEASE_S and not _has_died(owner)
        return Held(name, uri, alive, at, _words(owner))
    path = Path(uri)
    with suppress(OSError), path.open("rb") as file:
        owner, at = _read(file.read()), modified(uri)
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return Held(name, uri, True, at, _words(owner))
        return Held(name, uri, False, at, _words(owner))
    return None


def forget_given_back(output: str, *, before: datetime) -> int:
    """Remove the objects of leases that were given back before this; returns how many. A disk keeps none."""
    folder = join(output, "_work")
    if not is_s3(folder):
        return 0
    gone = 0
    with explained(folder):
        files = list(list_s3(folder, ".json"))
    for file in files:
        above, _, name = file.uri.rpartition("/")
        if above != folder or not name.startswith("claim-") or name == f"claim-{COMMIT}.json":
            continue
        found = read_tagged(file.uri)
        if found and _given_back(_read(found.data)) and modified(file.uri) < before:
            delete(file.uri)  # an owner who takes it just now finds out when it renews
            gone += 1
    return gone


def _uri(output: str, name: str) -> str:
    return join(output, "_work", f"claim-{name}.json")


# On a disk ------------------------------------------------------------------------------------------


class _Lock(Lease):
    """A locked file. It is lost only when the file was removed or replaced by hand."""

    def __init__(self, path: Path, handle: int, *, taken_over: bool) -> None:
        super().__init__(str(path), taken_over=taken_over)
        self._path, self._handle = path, handle

    def _renew(self) -> None:
        self.lost = self.lost or not _is_at(self._handle, self._path)

    def give_back(self) -> None:
        if _is_at(self._handle, self._path):
            self._path.unlink(missing_ok=True)
        os.close(self._handle)
        for folder in (self._path.parent, self._path.parent.parent):
            with suppress(OSError):  # another's work is in it: it stays
                folder.rmdir()


@contextmanager
def _locked(path: Path, *, wait_s: float) -> Iterator[Lease]:
    until = time.monotonic() + wait_s
    while (handle := _try_lock(path)) is None:
        if time.monotonic() >= until:
            with suppress(OSError):
                raise _busy(str(path), _read(path.read_bytes()))
            raise _busy(str(path), {})
        time.sleep(0.2)
    lock = _Lock(path, handle, taken_over=os.fstat(handle).st_size > 0)
    try:
        os.ftruncate(handle, 0)
        os.pwrite(handle, _owner(), 0)
        yield lock
    finally:
        lock.give_back()


def _try_lock(path: Path) -> int | None:
    """An open, locked file at this path; None when another holds it."""
    with explained(str(path)):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(handle, path):
                return handle
        except BlockingIOError:
            pass
        os.close(handle)
        return None


def _is_at(handle: int, path: Path) -> bool:
    """Whether the open file is the one that has this name."""
    try:
        there, ours = path.stat(), os.fstat(handle)
    except FileNotFoundError:
        return False
    return (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino)


# In an object store ---------------------------------------------------------------------------------


class _StoredLease(Lease):
    """An object that is ours as long as it has the tag of our last write."""

    def __init__(self, uri: str, tag: str, *, taken_over: bool) -> None:
        super().__init__(uri, taken_over=taken_over)
        self._tag = tag
        self._lock = threading.Lock()
        self._unanswered: set[str] = (
            set()
        )  # tokens of our writes of which we do not know whether they arrived

    def _renew(self) -> None:
        with self._lock:
            if not self.lost:
                self._write()

    def _write(self, **more: object) -> None:
        token = uuid4().hex
        self._unanswered.add(token)
        while (tag := write_if(self.uri, _owner(token, **more), tag=self._tag)) is None:
            found = read_tagged(self.uri)
            if found is None or _read(found.data).get("token") not in self._unanswered:
                self.lost = True
                log.warning("%s: another run has taken this lease over", self.uri)
                return
            self._tag = found.tag  # our write arrived, its answer did not
        self._tag = tag
        self._unanswered.clear()

    def give_back(self) -> None:
        """Mark it as free, if it is still ours: a removal could not be conditional on every store."""
        with self._lock:
            if self.lost:
                return
            try:
                self._write(given_back=True)
            except CfjobsError as error:
                log.warning("%s: was not given back and runs out by itself (%s)", self.uri, error)


@contextmanager
def _leased_object(uri: str, *, wait_s: float, lease_s: float) -> Iterator[Lease]:
    lease = _acquire(uri, wait_s=wait_s, lease_s=lease_s)
    stop = threading.Event()
    renewal = threading.Thread(
        target=_renew_until, args=(lease, stop, lease_s), name=f"lease {uri}", daemon=True
    )
    renewal.start()
    try:
        yield lease
    finally:
        stop.set()
        renewal.join(lease_s)
        lease.give_back()


def _acquire(uri: str, *, wait_s: float, lease_s: float) -> _StoredLease:
    began = time.monotonic()
    last_tag, since, alive = None, began, False
    while True:
        if tag := write_if(uri, _owner(), tag=None):
            return _StoredLease(uri, tag, taken_over=False)
        found = read_tagged(uri)
        now = time.monotonic()
        if found is None:
            continue
        owner = _read(found.data)
        if _given_back(owner):
            if tag := write_if(uri, _owner(), tag=found.tag):
                return _StoredLease(uri, tag, taken_over=False)
            continue
        alive = alive or last_tag not in {None, found.tag}
        if found.tag != last_tag:
            last_tag, since = found.tag, now
        if now - since > lease_s or _has_died(owner):
            log.warning("%s: its owner is gone, taken over (%s)", uri, _words(owner))
            if tag := write_if(uri, _owner(), tag=found.tag):
                return _StoredLease(uri, tag, taken_over=True)
        if alive and now - began > wait_s:
            raise _busy(uri, owner)
        time.sleep(min(1.0, lease_s / 10))


def _renew_until(lease: _StoredLease, stop: threading.Event, lease_s: float) -> None:
    renewed = time.monotonic()
    while not lease.lost and not stop.wait(lease_s / 4):
        try:
            lease._renew()
        except CfjobsError as error:
            if time.monotonic() - renewed > lease_s:
                log.warning("%s: not renewed since %.0f s (%s)", lease.uri, time.monotonic() - renewed, error)
            continue
        renewed = time.monotonic()


# Owners ---------------------------------------------------------------------------------------------


def _owner(token: str | None = None, **more: object) -> bytes:
    """Who writes a lease. Two containers or cloned machines may share a host name, and a system its process
    numbers after a restart: a process is one start of one number in one PID namespace of one boot."""
    owner = {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "boot": _boot(),
        "pid_namespace": _pid_namespace(),
        "process_started": _process_started(os.getpid()),
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "token": token or uuid4().hex,
        **more,
    }
    return json.dumps(owner).encode()


def _read(data: bytes) -> Owner:
    """Who wrote a lease; nothing is known when the write was cut off in the middle."""
    try:
        found = json.loads(data)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _given_back(owner: Owner) -> bool:
    return owner.get("given_back") is True


def _has_died(owner: Owner) -> bool:
    """Whether the owner was a process that this one could see if it lived, and does not."""
    ours = {"host": socket.gethostname(), "boot": _boot(), "pid_namespace": _pid_namespace()}
    if None in ours.values() or any(owner.get(name) != value for name, value in ours.items()):
        return False
    pid, started = owner.get("pid"), owner.get("process_started")
    return isinstance(pid, int) and started is not None and _process_started(pid) != started


@functools.cache
def _boot() -> str | None:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return None


def _pid_namespace() -> str | None:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return None


def _process_started(pid: int) -> int | None:
    """Clock ticks from the boot to the start of a process; None for one that is not there."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return int(stat.rpartition(")")[2].split()[19])  # field 22; the name, in brackets, may hold anything


def _busy(uri: str, owner: Owner) -> Busy:
    return Busy(
        f"{uri}: another run is at work ({_words(owner)}); wait for it, or cancel it and run this again"
    )


def _words(owner: Owner) -> str:
    return f"process {owner.get('pid')} on {owner.get('host')}, {owner.get('at')}"
