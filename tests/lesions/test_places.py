# SPDX-License-Identifier: Apache-2.0
"""Intensities and places of lesions on anisotropic grids, against loops over all voxels."""

from __future__ import annotations

from math import isnan

import numpy as np
import pytest
from numpy.typing import NDArray

from bids_lesion_xai.bids.derivatives import DERIVATIVES
from bids_lesion_xai.imaging.grid import Grid
from bids_lesion_xai.lesions.describe import Scan, describe
from bids_lesion_xai.lesions.intensity import intensity_numbers
from bids_lesion_xai.lesions.location import locations
from tests.phantoms import oblique_grid

SHAPE = (21, 18, 11)
SPACING_MM = (0.8, 1.0, 1.7)
GRID = Grid(SHAPE, oblique_grid(SPACING_MM, (-1, 1, 1), (5, -8, 3)).affine)
VENTRICLE, CORTEX, WHITE, BRAINSTEM = 4, 1012, 2, 16


@pytest.fixture
def labels() -> NDArray[np.int32]:
    """Return four regions: the first two are neighbours, the last lies on a face."""
    labels = np.zeros(SHAPE, np.int32)
    labels[5:8, 5:8, 4:6] = 1
    labels[9:11, 5:8, 4] = 2
    labels[14, 12, 7] = 3
    labels[0:2, 16:18, 10] = 4
    return labels


@pytest.fixture
def scan() -> Scan:
    generator = np.random.default_rng(3)
    flair, t1w, probability = generator.normal(size=(3, *SHAPE)).astype(np.float32)
    brain = np.ones(SHAPE, bool)
    brain[:, :6] = False
    return Scan({"flair": flair, "t1w": t1w}, brain, probability, None, GRID)


def distances(voxels: NDArray[np.int64], others: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the distance in mm of each voxel to the nearest of the others."""
    steps = (voxels[:, None] - others[None]) * SPACING_MM
    return np.sqrt((steps**2).sum(-1)).min(1)


def test_intensities_are_those_of_a_loop(labels: NDArray[np.int32], scan: Scan) -> None:
    found = list(intensity_numbers(scan.images, labels, scan.brain, SPACING_MM))
    assert len(found) == 4
    free = np.argwhere((labels == 0) & scan.brain)
    for index, numbers in enumerate(found, start=1):
        own = np.argwhere(labels == index)
        rim = free[distances(free, own) <= 3]
        assert len(rim) > 5
        for channel, values in scan.images.items():
            inside = values[tuple(own.T)].mean(dtype=float)
            around = values[tuple(rim.T)].mean(dtype=float)
            assert numbers[f"{channel}_intensity"] == pytest.approx(inside)
            assert numbers[f"{channel}_intensity_rim"] == pytest.approx(around)
            assert numbers[f"{channel}_contrast"] == pytest.approx(inside - around)


def test_a_lesion_without_brain_around_it_has_no_rim(
    labels: NDArray[np.int32], scan: Scan
) -> None:
    (first, *_) = intensity_numbers(scan.images, labels, labels == 1, SPACING_MM)
    assert isnan(first["flair_intensity_rim"])
    assert isnan(first["t1w_contrast"])
    assert not isnan(first["flair_intensity"])


def test_brighter_images_move_intensities_and_leave_contrasts(
    labels: NDArray[np.int32], scan: Scan
) -> None:
    brighter = {channel: values + 2 for channel, values in scan.images.items()}
    for before, after in zip(
        intensity_numbers(scan.images, labels, scan.brain, SPACING_MM),
        intensity_numbers(brighter, labels, scan.brain, SPACING_MM),
        strict=True,
    ):
        assert after["flair_intensity"] == pytest.approx(before["flair_intensity"] + 2)
        assert after["flair_contrast"] == pytest.approx(before["flair_contrast"], abs=1e-6)


def test_distances_to_ventricles_and_cortex_are_those_of_all_pairs(
    labels: NDArray[np.int32],
) -> None:
    tissues = np.full(SHAPE, WHITE, np.int32)
    tissues[12:, 2:4, 3] = VENTRICLE
    tissues[3:5, 12:, 8:] = CORTEX
    for index, place in enumerate(locations(labels, tissues, SPACING_MM), start=1):
        own = np.argwhere(labels == index)
        for name, structure in (("ventricle", VENTRICLE), ("cortex", CORTEX)):
            expected = distances(own, np.argwhere(tissues == structure)).min()
            assert place[f"{name}_distance_mm"] == pytest.approx(expected, abs=1e-4)


def place_of(tissues: NDArray[np.int32], labels: NDArray[np.int32]) -> str:
    (place, *_) = locations(labels, tissues, SPACING_MM)
    return str(place["location"])


def test_the_first_place_that_holds_is_taken(labels: NDArray[np.int32]) -> None:
    tissues = np.full(SHAPE, WHITE, np.int32)
    assert place_of(tissues, labels) == "deep"
    # 8 - 5 voxels of 0.8 mm are 2.4 mm away, 1.6 mm abut.
    tissues[10] = CORTEX
    assert place_of(tissues, labels) == "deep"
    tissues[9] = CORTEX
    assert place_of(tissues, labels) == "juxtacortical"
    tissues[:, 9] = VENTRICLE
    assert place_of(tissues, labels) == "periventricular"
    tissues[5:8, 5:8, 4] = BRAINSTEM
    assert place_of(tissues, labels) == "infratentorial"
    tissues[5, 5, 4] = WHITE
    assert place_of(tissues, labels) == "periventricular"


def test_what_the_map_does_not_name_belongs_to_the_nearest_tissue(
    labels: NDArray[np.int32],
) -> None:
    tissues = np.where(labels > 0, 0, BRAINSTEM).astype(np.int32)
    assert place_of(tissues, labels) == "infratentorial"


@pytest.mark.parametrize("tissues", [None, np.zeros(SHAPE, np.int32)])
def test_without_a_map_the_place_is_unknown(
    labels: NDArray[np.int32], tissues: NDArray[np.int32] | None
) -> None:
    for place in locations(labels, tissues, SPACING_MM):
        assert place["location"] == "unknown"
        assert isnan(place["ventricle_distance_mm"])


def test_rows_are_those_of_the_table_of_outputs_in_order(
    labels: NDArray[np.int32], scan: Scan
) -> None:
    for outcomes in (None, ("TP", "FP", "FN", "TN")):
        rows = describe(scan, labels, outcomes)
        assert [row["outcome"] for row in rows] == list(outcomes or [None] * 4)
        for row in rows:
            assert list(row) == list(DERIVATIVES["lesion_table"].columns)
    assert describe(scan, np.zeros(SHAPE, np.int32)) == []
