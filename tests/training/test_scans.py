# SPDX-License-Identifier: Apache-2.0
"""Reading labelled scans: what lies in one place, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nb
import numpy as np
import pytest
from numpy.typing import NDArray

from bids_lesion_xai.bids.dataset import LabelledFiles
from bids_lesion_xai.errors import DataError
from bids_lesion_xai.training.scans import LabelledScan, load_masks, load_scans, mask_checksum

SHAPE = (8, 9, 10)
# Voxels from right to left, somewhere.
AFFINE = np.array([[-1.0, 0, 0, 4], [0, 1, 0, -3], [0, 0, 1, 7], [0, 0, 0, 1]])


def brain(seed: int) -> NDArray[np.float32]:
    values = np.random.default_rng(seed).normal(100, 10, SHAPE).astype(np.float32)
    values[:2] = 0
    return values


def lesions() -> NDArray[np.uint8]:
    values = np.zeros(SHAPE, np.uint8)
    values[3:5, 4, 2:7] = 1
    return values


def save(path: Path | None, values: NDArray[Any], affine: NDArray[np.float64] = AFFINE) -> None:
    nb.save(nb.Nifti1Image(values, affine), path)


@pytest.fixture
def files(tmp_path: Path) -> LabelledFiles:
    paths = (tmp_path / f"{name}.nii.gz" for name in ("mask", "flair", "t1w"))
    entry = LabelledFiles("a/sub-01", "", *paths)
    save_all(entry, AFFINE)
    return entry


def save_all(files: LabelledFiles, affine: NDArray[np.float64]) -> None:
    save(files.mask, lesions(), affine)
    save(files.flair, brain(1), affine)
    save(files.t1w, brain(2), affine)


def load(files: LabelledFiles) -> LabelledScan:
    (scan,) = load_scans([files])
    return scan


def test_axes_are_ras_and_the_brain_has_mean_0_and_deviation_1(files: LabelledFiles) -> None:
    scan = load(files)
    np.testing.assert_array_equal(scan.lesions, lesions()[::-1] > 0)
    np.testing.assert_array_equal(load_masks([files])[0], scan.lesions)
    for seed, image in enumerate(scan.image, start=1):
        own = brain(seed)[::-1]
        np.testing.assert_array_equal(image == 0, own == 0)
        inside = image[own != 0]
        assert np.corrcoef(inside, own[own != 0])[0, 1] == pytest.approx(1)
        assert (inside.mean(), inside.std()) == pytest.approx((0, 1), abs=1e-5)
    assert scan.spacing_mm == (1, 1, 1)


def test_the_order_that_voxels_are_stored_in_does_not_matter(files: LabelledFiles) -> None:
    expected = load(files)
    turned = nb.load(files.t1w).as_reoriented(np.array([[2, 1], [0, -1], [1, 1]]))
    save(files.t1w, np.asarray(turned.dataobj), turned.affine)
    np.testing.assert_array_equal(load(files).image, expected.image)


def test_a_last_axis_of_one_does_not_matter(files: LabelledFiles) -> None:
    expected = load(files)
    save(files.flair, brain(1)[..., None])
    np.testing.assert_array_equal(load(files).image, expected.image)


def cut(files: LabelledFiles) -> None:
    save(files.t1w, brain(2)[:-1])


def move(files: LabelledFiles) -> None:
    save(files.t1w, brain(2), AFFINE + 15 * np.eye(4, k=3))


def thicken(files: LabelledFiles) -> None:
    save_all(files, AFFINE @ np.diag([1, 1, 3.0, 1]))


def lose_values(files: LabelledFiles) -> None:
    save(files.flair, np.where(brain(1) == 0, np.nan, brain(1)))


def truncate(files: LabelledFiles) -> None:
    files.mask.write_bytes(files.mask.read_bytes()[:-20])


def mark_outside(files: LabelledFiles) -> None:
    save(files.mask, np.where(brain(1) == 0, 1, 0).astype(np.uint8))


def share_out(files: LabelledFiles) -> None:
    save(files.mask, (lesions() * np.linspace(0.2, 0.4, SHAPE[2])).astype(np.float32))


def number(files: LabelledFiles) -> None:
    save(files.mask, np.arange(brain(1).size).reshape(brain(1).shape).astype(np.float32) % 4)


def flatten(files: LabelledFiles) -> None:
    save(files.flair, np.ones(SHAPE, np.float32))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (cut, "t1w.nii.gz and mask.nii.gz lie on different grids"),
        (move, "t1w.nii.gz and mask.nii.gz lie on different grids"),
        (thicken, "mask.nii.gz has voxels of 1 x 1 x 3 mm; resample"),
        (lose_values, "flair.nii.gz has 180 voxels that are NaN"),
        (truncate, "mask.nii.gz"),
        (flatten, "constant"),
        (share_out, "mask.nii.gz has shares up to 0.333333; those from 0.5 on"),
        (number, "mask.nii.gz has 4 different values from 0 to 3; 0 and one other, or shares"),
        (mark_outside, "mask.nii.gz marks nothing inside of the brain of flair.nii.gz"),
    ],
)
def test_what_cannot_be_compared_is_told_with_the_person(
    files: LabelledFiles, spoil: Callable[[LabelledFiles], None], words: str
) -> None:
    spoil(files)
    with pytest.raises(DataError, match=f"a/sub-01: .*{words}"):
        load_scans([files])


def test_a_mask_is_known_wherever_it_lies_and_no_other_is() -> None:
    mask = np.pad(np.random.default_rng(0).random((5, 4, 6)) < 0.5, 2)
    assert mask_checksum(np.pad(mask, ((3, 0), (0, 2), (1, 1)))) == mask_checksum(mask)
    others = [~mask, mask[:, ::-1], mask.T]
    first = tuple(np.argwhere(mask)[0])
    others.append(mask.copy())
    others[-1][first] = False
    assert mask_checksum(mask) not in [mask_checksum(other) for other in others]
    mask[4:] = False
    assert 0 < mask.sum() < 30
    assert mask_checksum(mask) == mask_checksum(np.zeros_like(mask)) == ""
