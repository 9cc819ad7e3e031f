"""Memory and GPU of this process, in words for a log line."""

import resource
import sys
from pathlib import Path

_GB = 1e9


def words() -> str:
    """Such as `memory 1.2 GB, at most 1.9 GB; GPU 0 3.1 of 85.0 GB, at most 7.0 GB`."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return "; ".join([f"memory {resident() / _GB:.2f} GB, at most {peak / _GB:.2f} GB", *_gpus()])


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
