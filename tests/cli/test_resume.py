# SPDX-License-Identifier: Apache-2.0
"""Runs that are killed, run again, or disturbed by another one on the same output folder."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import nibabel as nb
import numpy as np
import pytest

from bids_lesion_xai.bids import provenance
from bids_lesion_xai.bids.lock import FILE_NAME
from bids_lesion_xai.bids.store import Store
from bids_lesion_xai.bids.visit import Visit

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
VISITS = tuple(Visit(label) for label in ("01", "02", "03"))
# Generous: the machine may be busy with something else.
MOST_SECONDS = 900


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    folder = tmp_path / "raw"
    image = nb.Nifti1Image(np.zeros((4, 4, 4), np.int16), np.eye(4))
    for visit in VISITS:
        anat = folder / visit.folder / "anat"
        anat.mkdir(parents=True)
        for suffix in ("FLAIR", "T1w"):
            nb.save(image, anat / f"{visit.name}_{suffix}.nii.gz")
    return folder


def begin(raw: Path, out: Path, *options: str, seconds_a_file: float = 0) -> subprocess.Popen[str]:
    """Start the app in another process, which takes its time to write a file."""
    arguments = [raw, out, "participant", "-w", raw.parent / "work", "--device", "cpu"]
    command = [sys.executable, "-m", "tests.slow_run", *map(str, arguments)]
    command += ["--skip-bids-validation", "--nprocs", "2", *options]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, "SECONDS_A_FILE": str(seconds_a_file)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Return exit code and words of a process that ends by itself."""
    words, _ = process.communicate(timeout=MOST_SECONDS)
    assert "Traceback" not in words, words
    return process.returncode, words


def wait_for_outputs(process: subprocess.Popen[str], out: Path, before: set[str]) -> None:
    """Wait until a run writes outputs, where these files were before."""
    deadline = time.monotonic() + MOST_SECONDS
    while set(names(out)) == before:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)


def names(out: Path) -> list[str]:
    return [str(path) for path in out.glob("sub-*/anat/*")]


def content(out: Path) -> dict[str, bytes]:
    """Return all that lies in the folders and reports of the visits, but for when it was made."""
    found = {}
    for path in [*out.glob("sub-*/**/*"), *out.glob("sub-*.html")]:
        if path.is_file():
            found[path.relative_to(out).as_posix()] = path.read_bytes()
    for name in [name for name in found if name.endswith("_provenance.json")]:
        entry = json.loads(found[name])
        del entry["Completed"]
        found[name] = json.dumps(entry).encode()
    return found


def assert_no_half_result_counts(store: Store) -> None:
    for visit in store.visits():
        entry = provenance.read(store, visit)
        assert entry is not None
        assert provenance.damages(store, entry) == []


def leftovers(out: Path) -> list[Path]:
    return [*out.rglob("*.partial"), *out.rglob(FILE_NAME)]


def logs(out: Path, status: str) -> list[dict[str, Any]]:
    entries = [json.loads(path.read_text()) for path in out.glob("logs/run-*.json")]
    return [entry for entry in entries if entry["Status"] == status]


def test_runs_that_are_killed_leave_nothing_half_written_that_counts(
    raw: Path, tmp_path: Path
) -> None:
    alone, out = tmp_path / "alone", tmp_path / "out"
    assert finish(begin(raw, alone))[0] == 0
    moments = np.random.default_rng(8)
    for n_samples in ("50", "51", "50"):
        # Other options replace what the runs before have completed.
        before = set(names(out))
        process = begin(raw, out, "--n-samples", n_samples, seconds_a_file=0.15)
        wait_for_outputs(process, out, before)
        time.sleep(moments.uniform(0, 5))
        process.kill()
        process.communicate()
        assert_no_half_result_counts(Store(out))
    code, words = finish(begin(raw, out))
    assert code == 0, words
    assert content(out) == content(alone)
    assert leftovers(out) == []
    # Unless a run came to its end before it was killed.
    assert logs(out, "running")
    (last,) = logs(out, "done")
    assert {one["Status"] for one in last["Visits"]} <= {"done", "unchanged"}


def test_a_run_that_is_terminated_leaves_complete_visits_alone(raw: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = begin(raw, out, seconds_a_file=1)
    wait_for_outputs(process, out, set())
    process.send_signal(signal.SIGTERM)
    code, words = finish(process)
    assert code == 143, words
    store = Store(out)
    assert_no_half_result_counts(store)
    done = {visit.name for visit in store.visits()}
    assert len(done) < len(VISITS)
    assert {path.name.partition("_")[0] for path in out.glob("sub-*/anat/*")} == done
    assert leftovers(out) == []
    (log,) = logs(out, "interrupted")
    states = {one["Visit"]: one["Status"] for one in log["Visits"]}
    assert states == {v.name: "done" if v.name in done else "interrupted" for v in VISITS}


def test_two_runs_on_one_output_folder_do_each_visit_once(raw: Path, tmp_path: Path) -> None:
    alone, out = tmp_path / "alone", tmp_path / "out"
    assert finish(begin(raw, alone))[0] == 0
    first = begin(raw, out, "--participant-label", "01", "02", seconds_a_file=0.5)
    wait_for_outputs(first, out, set())
    second = begin(raw, out, "--participant-label", "02", "03", "--n-samples", "50")
    answers = [finish(process) for process in (first, second)]
    assert answers[0][0] == 0, answers[0][1]
    # If the first has not ended before the second looks, the second must not touch sub-02.
    refused = "not done: sub-02: another run works on it" in answers[1][1]
    unchanged = "sub-02: nothing has changed" in answers[1][1]
    assert refused != unchanged, answers[1][1]
    assert answers[1][0] == refused
    assert Store(out).visits() == list(VISITS)
    assert content(out) == content(alone)
    assert leftovers(out) == []
