# SPDX-License-Identifier: Apache-2.0
"""Visits as jobs of a real SLURM; ``.ci/slurm pytest`` makes one."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from bids_lesion_xai.bids.derivatives import DERIVATIVES, Level
from bids_lesion_xai.bids.store import Store
from bids_lesion_xai.bids.visit import Visit
from bids_lesion_xai.cli.parser import parse
from bids_lesion_xai.config import RunConfig
from bids_lesion_xai.imaging import nifti
from bids_lesion_xai.models.bundle import read_bundle
from bids_lesion_xai.workflows.execute import run_visits
from bids_lesion_xai.workflows.jobs import scheduler
from tests.bundles import write_small_bundle
from tests.rawdata import BALLS, write_raw

GOOD, BROKEN, LOST = Visit("01", "1"), Visit("02", "1"), Visit("03")
# Writes down what a job was given, and kills that of one visit.
TEMPLATE = """#!/bin/bash
echo "$SLURM_CPUS_PER_TASK $SLURM_MEM_PER_NODE" > {folder}/$SLURM_JOB_ID
[[ $SLURM_JOB_NAME == *sub-03* ]] && kill -9 $$
"""


@pytest.fixture(scope="module", autouse=True)
def _slurm() -> None:
    """Skip where no SLURM answers."""
    sinfo = shutil.which("sinfo")
    if sinfo is None:
        pytest.skip("SLURM is not installed; .ci/slurm installs and starts it")
    answer = subprocess.run([sinfo, "--noheader"], capture_output=True, text=True, check=False)
    if answer.returncode:
        pytest.skip(f"no SLURM runs here ({answer.stderr.strip()}); .ci/slurm starts one")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_bundle(tmp_path_factory.mktemp("jobs") / "model")


def config_of(folder: Path, model: Path, name: str, *options: object) -> RunConfig:
    """Return the configuration of a run whose output and work folders are called `name`."""
    output, work = folder / f"{name}_out", folder / f"{name} work"
    for made in (output, work):
        made.mkdir()
    given = [folder / "raw", output, "participant", "--model", model, "-w", work, *options]
    given += ["--skull-strip", "skip", "--device", "cpu", "--n-samples", 2]
    return parse([*map(str, given)])


def plugin_file(folder: Path, sbatch_args: str) -> Path:
    args = {"sbatch_args": sbatch_args, "template": TEMPLATE.format(folder=folder)}
    path = folder / "plugin.json"
    path.write_text(json.dumps({"plugin": "SLURM", "plugin_args": args}), encoding="utf-8")
    return path


def voxels(store: Store, visit: Visit) -> dict[str, np.ndarray]:
    """Return every image of a visit on a whole grid."""
    images = [
        key
        for key, row in DERIVATIVES.items()
        if row.level is Level.VISIT and row.extension == ".nii.gz" and not row.optional
    ]
    return {key: nifti.load(store.path(key, visit))[0] for key in images}


@pytest.mark.ants
@pytest.mark.slow
def test_jobs_do_what_this_machine_does_and_those_that_fail_are_named(
    tmp_path: Path, model: Path
) -> None:
    visits = write_raw(tmp_path / "raw", {GOOD: BALLS, BROKEN: BALLS, LOST: ()})
    broken = visits[1].t1w
    broken.write_bytes(broken.read_bytes()[:50_000])
    here = config_of(tmp_path, model, "here", "--nprocs", 1)
    plugin = ["--use-plugin", plugin_file(tmp_path, "--mem=900M"), "--nprocs", 1, "--mem", "1G"]
    jobs = config_of(tmp_path, model, "jobs", *plugin)

    assert run_visits(visits[:1], here, read_bundle(model), {}) == []
    failures = run_visits(visits, jobs, read_bundle(model), {})

    reasons = {failure.visit: failure.reason for failure in failures}
    assert reasons.keys() == {BROKEN, LOST}
    assert reasons[BROKEN].startswith(f"{broken.name} cannot be read as a NIfTI image")
    assert reasons[LOST].startswith("its job ")
    assert not any("\n" in reason for reason in reasons.values())
    stores = [Store(config.output_dir) for config in (here, jobs)]
    assert [store.visits() for store in stores] == [[GOOD], [GOOD]]
    expected, found = (voxels(store, GOOD) for store in stores)
    assert expected.keys() == found.keys()
    for key, values in expected.items():
        np.testing.assert_array_equal(found[key], values, err_msg=key)
    given = [path.read_text().split() for path in tmp_path.glob("[0-9]*")]
    # The user's own memory wins over the one that was asked for with --mem.
    assert given == [["1", "900"]] * 3


def test_a_scheduler_that_takes_no_job_fails_its_visits(tmp_path: Path, model: Path) -> None:
    visits = write_raw(tmp_path / "raw", {GOOD: (), LOST: ()})
    plugin = ["--use-plugin", plugin_file(tmp_path, "--partition=none")]
    config = config_of(tmp_path, model, "refused", *plugin)
    failures = run_visits(visits, config, read_bundle(model), {})
    assert [failure.visit for failure in failures] == [GOOD, LOST]
    for failure in failures:
        assert failure.reason.startswith("no job was taken: sbatch failed: sbatch: error: invalid")


def test_jobs_ask_for_the_cores_and_the_memory_of_a_visit(tmp_path: Path, model: Path) -> None:
    plugin = ["--use-plugin", plugin_file(tmp_path, "--partition=long")]
    given = scheduler(config_of(tmp_path, model, "default", *plugin), {})._sbatch_args
    assert given == "--cpus-per-task=4 --mem=8000M --partition=long"
    plugin = ["--use-plugin", plugin_file(tmp_path, "-c 2 --mem-per-cpu=1G")]
    given = scheduler(config_of(tmp_path, model, "own", *plugin), {})._sbatch_args
    assert given == "-c 2 --mem-per-cpu=1G"
