"""What this process may use, and what it does: processors, memory and GPU."""

import ctypes
import math
import os
import resource
import sys
from contextlib import suppress
from pathlib import Path

_GB = 1e9
_POOLS = ("OMP", "OPENBLAS", "MKL", "NUMBA")
"""OMP is torch's and Arrow's too."""


def words() -> str:
    """Such as `memory 1.2 GB, at most 1.9 GB; GPU 0 3.1 of 85.0 GB, at most 7.0 GB`."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return "; ".join([f"memory {resident() / _GB:.2f} GB, at most {peak / _GB:.2f} GB", *_gpus()])


def memory_left() -> float:
    """Bytes that this process may still take: of the machine, and of its cgroup;
    infinite where the system does not say."""
    return min(
        _machine_left(Path("/proc/meminfo")), _group_left(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup"))
    )


def _machine_left(meminfo: Path) -> float:
    try:
        lines = dict(line.split(":", 1) for line in meminfo.read_text(encoding="ascii").splitlines())
        return 1024 * float(lines["MemAvailable"].split()[0])
    except (OSError, ValueError, KeyError):
        return math.inf


def _group_left(membership: Path, root: Path) -> float:
    """What the limits of the cgroup and those above it leave; the page cache counts as free.
    Version 2 of cgroups."""
    least = math.inf
    for at in _groups(membership, root):
        try:
            limit = (at / "memory.max").read_text(encoding="ascii").strip()
            if limit == "max":
                continue
            used = int((at / "memory.current").read_text(encoding="ascii"))
            stat = dict(
                line.split() for line in (at / "memory.stat").read_text(encoding="ascii").splitlines()
            )
            least = min(least, int(limit) - used + int(stat.get("inactive_file", 0)))
        except (OSError, ValueError):
            continue
    return least


def _groups(membership: Path, root: Path) -> list[Path]:
    """The folder of the process's cgroup, version 2, and those above it;
    a container may see its own as the root."""
    try:
        lines = membership.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    found = [line.split(":", 2)[2] for line in lines if line.startswith("0::")]
    folder = root / found[0].lstrip("/") if found else root
    return [at for at in (folder, *folder.parents) if at.is_relative_to(root)]


def processors() -> int:
    """Processors that this process may use, at least 1: by its affinity (taskset,
    cpusets) and its cgroup's quota.

    Not those of the machine: on a shared one, threads beyond them wait for each other.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup"))
    return max(1, math.ceil(min(allowed, quota)))


def size_thread_pools() -> None:
    """Tell the thread pools of torch, BLAS, Arrow, Polars and numba, by the environment and unless it says
    otherwise, how many processors there are and to sleep while they wait.

    OpenMP's threads spin by default. On processors that others use too, one that waits by spinning keeps the
    one it waits for from running: 100 ranking steps beside other work took 19 s so, and take 2.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    n = processors()
    if n < (os.cpu_count() or 1):
        for name in _POOLS:
            os.environ.setdefault(f"{name}_NUM_THREADS", str(n))
        os.environ.setdefault("POLARS_MAX_THREADS", str(n))


def _quota(membership: Path, root: Path) -> float:
    """Processors that the cgroup and those above it grant, infinite without a limit;
    version 1 or 2 of cgroups."""
    try:
        lines = membership.read_text(encoding="utf-8").splitlines()
    except OSError:
        return math.inf
    least = math.inf
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        top = root if not controllers else root / "cpu"
        folder = top / path.lstrip("/")
        for at in (folder, *folder.parents):  # a container may see its own group as the root
            least = min(least, _granted(at))
            if at == top:
                break
    return least


def _granted(folder: Path) -> float:
    try:
        if (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text(encoding="ascii").split()
        else:
            quota, period = (
                (folder / f"cpu.cfs_{name}_us").read_text(encoding="ascii").strip()
                for name in ("quota", "period")
            )
    except (OSError, ValueError):
        return math.inf
    return math.inf if quota in {"max", "-1"} else int(quota) / int(period)


def resident() -> int:
    """Bytes of memory that this process holds now; 0 where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return 0
    return pages * resource.getpagesize()


def give_back() -> None:
    """Hand freed memory back to the system, which glibc keeps for later; elsewhere nothing."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def _gpus() -> list[str]:
    torch = sys.modules.get("torch")  # never imported for a log line
    if torch is None or not torch.cuda.is_available() or not torch.cuda.is_initialized():
        return []
    lines = []
    for device in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(device)
        peak = torch.cuda.max_memory_allocated(device)
        lines.append(
            f"GPU {device} {(total - free) / _GB:.1f} of {total / _GB:.1f} GB, at most {peak / _GB:.1f} GB"
        )
    return lines
