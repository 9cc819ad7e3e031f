"""What this process may use, and what it does: processors, memory and GPU."""

import math
import os
import resource
import sys
from pathlib import Path

_GB = 1e9


def words() -> str:
    """Such as `memory 1.2 GB, at most 1.9 GB; GPU 0 3.1 of 85.0 GB, at most 7.0 GB`."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return "; ".join([f"memory {resident() / _GB:.2f} GB, at most {peak / _GB:.2f} GB", *_gpus()])


def processors() -> int:
    """Processors that this process may use, at least 1: by its affinity (taskset, cpusets) and its cgroup's quota.

    Not those of the machine: on a shared one, threads beyond them wait for each other.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup"))
    return max(1, math.ceil(min(allowed, quota)))


def _quota(membership: Path, root: Path) -> float:
    """Processors that the cgroup and those above it grant, infinite without a limit; version 1 or 2 of cgroups."""
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
