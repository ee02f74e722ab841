"""What this process may use of the machine."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["memory_bytes", "usable_threads"]

#: Limit of the control group that a container's processes are in.
_GROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def usable_threads() -> int:
    """Return how many threads can run at once: the CPUs this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory_bytes() -> int:
    """Return the memory of the machine, or of the container where that is less; 0 where neither is known."""
    try:
        found = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        found = 0
    for path in _GROUP_LIMITS:
        try:
            limit = int(Path(path).read_text(encoding="ascii"))
        except (OSError, ValueError):
            continue
        found = min(found, limit) if found else limit
    return found
