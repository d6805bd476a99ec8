"""The cores that this process may keep busy."""

from __future__ import annotations

import os
import sys
from pathlib import Path

#: Where Linux says what this container may have of the machine.
CGROUP = Path("/sys/fs/cgroup")


def available() -> int:
    """At least one: those that the process may run on, or fewer where a container may not keep them all busy."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, _quota()))


def _quota() -> int:
    """Whole cores that a container may keep busy (`docker run --cpus`): more threads than those would take turns."""
    try:
        if (CGROUP / "cpu.max").exists():
            quota, period = (CGROUP / "cpu.max").read_text().split()
        else:  # version 1
            quota, period = ((CGROUP / "cpu" / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        cores = int(quota) // int(period)
    except (OSError, ValueError):  # not in a container, or "max"
        return sys.maxsize
    return sys.maxsize if cores < 0 else cores
