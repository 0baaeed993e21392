# SPDX-License-Identifier: Apache-2.0
"""No two runs process one visit at a time, wherever their jobs run."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bids_lesion_xai.bids.visit import Visit
from bids_lesion_xai.cli.parser import parse
from bids_lesion_xai.workflows.resume import Claims

ROOT = Path(__file__).parents[2]
VISIT = Visit("01")
# Another process; it answers whether it gets what it is asked to take of sub-01.
OTHER = """
import sys
from bids_lesion_xai.bids.visit import Visit
from bids_lesion_xai.cli.parser import parse
from bids_lesion_xai.workflows.resume import Claims

with Claims.enter(parse(sys.argv[1:])) as claims:
    for line in sys.stdin:
        print(getattr(claims, line.strip())(Visit("01")), flush=True)
"""


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    (tmp_path / "out").mkdir()
    return [str(tmp_path / "raw"), str(tmp_path / "out"), "participant", "-w", str(tmp_path / "w")]


@pytest.fixture
def other(arguments: list[str]) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", OTHER, *arguments]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, cwd=ROOT, text=True, **pipes) as process:
        yield process
        process.communicate()


def gets(other: subprocess.Popen[str], what: str) -> bool:
    assert other.stdin is not None
    assert other.stdout is not None
    other.stdin.write(f"{what}\n")
    other.stdin.flush()
    return other.stdout.readline().strip() == "True"


def test_a_visit_is_processed_by_one_run_and_jobs_are_submitted_by_one(
    arguments: list[str], other: subprocess.Popen[str]
) -> None:
    with Claims.enter(parse(arguments)) as claims:
        assert claims.take_jobs(VISIT)
        assert claims.take(VISIT)
        assert not gets(other, "take_jobs")
        assert not gets(other, "take")
        # This run has submitted a job, the other process is it.
        claims.release(VISIT)
        assert gets(other, "take")
        assert not claims.take(VISIT)
    # The run was killed, its job goes on: another run may say no more than that.
    with Claims.enter(parse(arguments)) as claims:
        assert claims.take_jobs(VISIT)
        assert not claims.take(VISIT)
