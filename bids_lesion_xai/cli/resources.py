# SPDX-License-Identifier: Apache-2.0
"""How many cores and how much memory this process may use: less, often, than the machine has."""

from __future__ import annotations

import os
from collections.abc import Iterator
from math import ceil, inf
from pathlib import Path

_ROOT = Path("/")


def cores(root: Path = _ROOT) -> int:
    """Return the number of cores that affinity and control groups leave to this process.

    Parameters
    ----------
    root : Path
        Where ``proc`` and ``sys`` of Linux are.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    quotas = [float(allowed or 1)]
    for group in _control_groups(root, "cpu"):
        version_1 = _numbers(group / "cpu.cfs_quota_us") + _numbers(group / "cpu.cfs_period_us")
        for numbers in (_numbers(group / "cpu.max"), version_1):
            # Version 1 writes -1 where there is no quota.
            if len(numbers) == 2 and numbers[0] > 0:
                quotas.append(numbers[0] / numbers[1])
    return max(1, ceil(min(quotas)))


def memory_gb(root: Path = _ROOT) -> float:
    """Return the memory in GB (10^9 bytes) that control groups leave to this process.

    Parameters
    ----------
    root : Path
        Where ``proc`` and ``sys`` of Linux are.
    """
    limits = [float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))]
    for group in _control_groups(root, "memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            limits += _numbers(group / name)
    return min(limits) / 1e9


def _control_groups(root: Path, controller: str) -> Iterator[Path]:
    """Yield the folders of the control groups around this process, of version 1 and 2."""
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        top = root / "sys/fs/cgroup" / (controller if controllers else "")
        # In a container, the path is often one of the host, and the group itself is at the top.
        group = top / path.lstrip("/")
        yield from (group, *(parent for parent in group.parents if parent.is_relative_to(top)))


def _numbers(path: Path) -> list[float]:
    """Return the numbers in a file of a control group, infinity for ``max``; none if not there."""
    try:
        words = path.read_text(encoding="utf-8").split()
    except OSError:
        return []
    return [inf if word == "max" else float(word) for word in words]
