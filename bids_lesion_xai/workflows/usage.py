# SPDX-License-Identifier: Apache-2.0
"""What every step takes: time, cores and memory."""

from __future__ import annotations

import csv
import re
import resource
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import astuple, dataclass, fields
from pathlib import Path

_STATUS = Path("/proc/self/status")
_RESET = Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class Usage:
    """What a step took; one that had been done before takes next to nothing.

    Parameters
    ----------
    visit, step : str
    seconds : float
        From its beginning to its end.
    cpu_seconds : float
        Of all cores together.
    peak_memory_gb : float
        Largest memory of the process that ran it, in GB (10^9 bytes).
    peak_gpu_memory_gb : float
        Largest memory on the GPU; 0 without one.
    """

    visit: str
    step: str
    seconds: float
    cpu_seconds: float
    peak_memory_gb: float
    peak_gpu_memory_gb: float


class Meter:
    """Measures what this process takes from now on."""

    def __init__(self) -> None:
        # Linux forgets the peak then; elsewhere it is that of the process since its start.
        with suppress(OSError):
            _RESET.write_text("5")
        if _uses_gpu():
            sys.modules["torch"].cuda.reset_peak_memory_stats()
        self._began, self._cpu = time.monotonic(), time.process_time()

    def read(self, visit: str, step: str) -> Usage:
        """Return what was taken, rounded to what can be known of it."""
        gpu = sys.modules["torch"].cuda.max_memory_allocated() / 1e9 if _uses_gpu() else 0.0
        return Usage(
            visit,
            step,
            round(time.monotonic() - self._began, 2),
            round(time.process_time() - self._cpu, 2),
            round(_peak_bytes() / 1e9, 3),
            round(gpu, 3),
        )


def _uses_gpu() -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and bool(torch.cuda.is_initialized())


def _peak_bytes() -> int:
    with suppress(OSError):
        found = re.search(r"^VmHWM:\s+(\d+) kB", _STATUS.read_text(encoding="utf-8"), re.MULTILINE)
        if found:
            return 1024 * int(found[1])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def add_usages(path: Path, usages: Sequence[Usage]) -> Path:
    """Add rows to a table (TSV), which is begun if it is not there, and return its path."""
    names = [field.name for field in fields(Usage)]
    path.parent.mkdir(parents=True, exist_ok=True)
    is_new = not path.exists()
    with path.open("a", encoding="utf-8", newline="") as lines:
        writer = csv.writer(lines, delimiter="\t", lineterminator="\n")
        writer.writerows([*([names] if is_new else []), *map(astuple, usages)])
    return path
