# SPDX-License-Identifier: Apache-2.0
"""Time and memory of a step are those of the step."""

from __future__ import annotations

import csv
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bids_lesion_xai.workflows.usage import Meter, Usage, add_usages

# In a process of its own, in which nothing else needs memory: 300 MB, then 30 MB.
PROGRAM = """
from bids_lesion_xai.workflows.usage import Meter
for n_megabytes in (300, 30):
    meter = Meter()
    block = b"x" * (n_megabytes * 1_000_000)
    del block
    print(meter.read("", "").peak_memory_gb)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="others do not forget a peak")
def test_a_peak_is_that_of_the_step_not_of_those_before() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True
    )
    large, small = map(float, ended.stdout.split())
    assert large - small == pytest.approx(0.27, abs=0.02)


def test_time_is_told_of_the_clock_and_of_the_processor() -> None:
    meter = Meter()
    time.sleep(0.3)
    usage = meter.read("sub-01", "segment")
    assert (usage.visit, usage.step, usage.peak_gpu_memory_gb) == ("sub-01", "segment", 0)
    assert usage.seconds >= 0.3
    assert usage.cpu_seconds < 0.2


def test_rows_are_added_below_those_that_are_there(tmp_path: Path) -> None:
    path = tmp_path / "resources.tsv"
    usages = [Usage("sub-01", name, 1.5, 1.0, 0.25, 0.0) for name in ("conform", "segment")]
    for usage in usages:
        add_usages(path, [usage])
    with path.open(encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines, delimiter="\t"))
    assert [row["step"] for row in rows] == ["conform", "segment"]
    assert {row["peak_memory_gb"] for row in rows} == {"0.25"}
