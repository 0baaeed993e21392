# SPDX-License-Identifier: Apache-2.0
"""Checks of the images: what is measured, and when it passes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bids_lesion_xai.bids.store import Store
from bids_lesion_xai.imaging import nifti
from bids_lesion_xai.imaging.grid import Grid
from bids_lesion_xai.reports import quality
from bids_lesion_xai.reports.participant import load_scan
from bids_lesion_xai.reports.quality import FAIL, PASS, WARN, Check, check_images, worst
from bids_lesion_xai.reports.slices import Scan
from tests.outputs import TWO_SESSIONS, publish_outputs

VISIT = TWO_SESSIONS[0]
USUAL = {
    "BrainVolume_mm3": 1.4e6,
    "RegistrationSimilarity": 0.6,
    "IntensityMean": 100.0,
    "IntensityStandardDeviation": 40.0,
}


def checks(folder: Path, **facts: Any) -> dict[str, Check]:
    store = publish_outputs(folder, [VISIT], facts={**USUAL, **facts})
    return {check.name: check for check in _checks(store)}


def _checks(store: Store) -> list[Check]:
    return check_images(store, VISIT, load_scan(store, VISIT))


@pytest.mark.parametrize(
    ("name", "fact", "value", "status"),
    [
        ("Registration", "RegistrationSimilarity", 0.5, PASS),
        ("Registration", "RegistrationSimilarity", 0.49, WARN),
        ("Registration", "RegistrationSimilarity", 0.34, FAIL),
        ("Brain mask", "BrainVolume_mm3", 1.0e6, PASS),
        ("Brain mask", "BrainVolume_mm3", 0.9e6, WARN),
        ("Brain mask", "BrainVolume_mm3", 2.0e6, WARN),
        ("Brain mask", "BrainVolume_mm3", 0.4e6, FAIL),
    ],
)
def test_a_number_passes_up_to_its_limit(
    tmp_path: Path, name: str, fact: str, value: float, status: str
) -> None:
    found = checks(tmp_path, **{fact: value})[name]
    assert found.status == status
    assert found.text
    assert found.limits


@pytest.mark.parametrize(("edge", "status"), [(1.0, PASS), (3.0, WARN), (7.0, FAIL)])
def test_thick_slices_are_told_from_the_native_mask(
    tmp_path: Path, edge: float, status: str
) -> None:
    store = publish_outputs(tmp_path, [VISIT], facts=USUAL)
    assert "Voxels of FLAIR" not in {check.name for check in _checks(store)}
    grid = Grid((4, 4, 4), np.diag([1.0, edge, 1.0, 1.0]))
    nifti.save(store.path("lesion_mask_native", VISIT), np.zeros((4, 4, 4), bool), grid)
    found = {check.name: check for check in _checks(store)}
    assert found["Voxels of FLAIR"].status == status


def test_noise_is_recovered_whatever_the_image_is_like() -> None:
    shape = (40, 44, 36)
    x, y, z = np.indices(shape) / 10
    smooth = np.sin(x) + np.cos(y) * z
    noise = np.random.default_rng(0).standard_normal(shape)
    brain = np.zeros(shape, bool)
    brain[3:-3, 3:-3, 3:-3] = True
    for level in (0.05, 0.3):
        found = quality.noise((smooth + level * noise).astype(np.float32), brain)
        assert found == pytest.approx(level, rel=0.06)


# What was 0 before mean 100 and deviation 40 were taken away, and what FLAIR does not show.
@pytest.mark.parametrize("nothing", [-2.5, 0])
@pytest.mark.parametrize(("share", "status"), [(0.0, PASS), (0.1, WARN), (0.3, FAIL)])
def test_a_brain_that_flair_shows_in_part_is_told(
    tmp_path: Path, share: float, status: str, nothing: float
) -> None:
    store = publish_outputs(tmp_path, [VISIT], facts=USUAL)
    scan = load_scan(store, VISIT)
    flair = scan.images["flair"].copy()
    inside = np.argwhere(scan.brain)
    flair[tuple(inside[: int(share * len(inside))].T)] = nothing
    cut_off = Scan(scan.grid, {**scan.images, "flair": flair}, scan.brain, scan.labels, 3)
    found = {check.name: check for check in check_images(store, VISIT, cut_off)}
    assert found["FLAIR shows the brain"].status == status
    assert quality.covered(cut_off, store.facts("preproc_flair", VISIT)) == pytest.approx(
        1 - share, abs=1e-3
    )


def test_a_test_of_the_software_is_told_from_results(tmp_path: Path) -> None:
    assert "Settings" not in checks(tmp_path / "full")
    assert checks(tmp_path / "coarse", BiasCorrection="coarse")["Settings"].status == WARN


def test_the_worst_counts() -> None:
    made = [Check("", status, "", "", "") for status in (PASS, WARN, PASS)]
    assert worst(made) == WARN
    assert worst([*made, Check("", FAIL, "", "", "")]) == FAIL
