# SPDX-License-Identifier: Apache-2.0
"""Lesions that somebody else has found are taken where they lie, and numbered."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from bids_lesion_xai.errors import DataError
from bids_lesion_xai.imaging import nifti
from bids_lesion_xai.imaging.grid import Grid
from bids_lesion_xai.interfaces.itk import write_identity, write_start
from bids_lesion_xai.interfaces.masks import TakeLesions
from tests.phantoms import oblique_grid

SHAPE = (30, 28, 26)
GRID = Grid(SHAPE, oblique_grid((1.0, 1.0, 1.0), (1, -1, 1), (12, 5, -8)).affine)
SHIFT_MM = np.array([3.0, -2.0, 4.0])
FLAG = "--existing-lesion-mask"


def drawn() -> NDArray[np.bool_]:
    """Return a large lesion, a small one, a tiny one and one outside of the brain."""
    mask = np.zeros(SHAPE, bool)
    mask[8:11, 8:11, 8:11] = True
    mask[18:20, 18:20, 15:17] = True
    mask[14, 20, 10] = True
    mask[1:3, 1:3, 1:3] = True
    return mask


def brain() -> NDArray[np.bool_]:
    mask = np.zeros(SHAPE, bool)
    mask[4:-4, 4:-4, 4:-4] = True
    return mask


def take(folder: Path, grid: Grid = GRID, values: Any = None, **options: Any) -> Any:
    """Run the interface on a mask that is drawn on `grid`."""
    mask = nifti.save(folder / "drawn.nii.gz", drawn() if values is None else values, grid)
    identity = folder / "identity.txt"
    write_identity(identity)
    given = {
        "lesions_file": str(mask),
        "space": "",
        "flag": FLAG,
        "brain_mask_file": str(nifti.save(folder / "brain.nii.gz", brain(), GRID)),
        "transform_file": str(identity),
        "native_flair_file": str(
            nifti.save(folder / "flair.nii.gz", np.zeros((4, 5, 6)), Grid((4, 5, 6), np.eye(4)))
        ),
        "native_t1w_file": str(nifti.save(folder / "t1w.nii.gz", np.zeros(SHAPE), GRID)),
        "min_volume_mm3": 6.0,
        "visit": "sub-01",
    }
    return TakeLesions(**{**given, **options}).run(cwd=str(folder)).outputs


def labels_of(outputs: Any) -> NDArray[np.int32]:
    labels, grid = nifti.load(Path(outputs.labels_file), np.int32)
    assert grid.same_as(GRID)
    mask, _ = nifti.load(Path(outputs.mask_file), np.bool_)
    np.testing.assert_array_equal(mask, labels > 0)
    return labels


def test_lesions_in_the_brain_that_are_large_enough_are_numbered(tmp_path: Path) -> None:
    labels = labels_of(take(tmp_path))
    np.testing.assert_array_equal(labels == 1, drawn() & (np.indices(SHAPE).max(0) < 12) & brain())
    assert (labels == 2).sum() == 8
    assert labels.max() == 2
    assert labels_of(take(tmp_path, min_volume_mm3=0.0)).max() == 3


@pytest.mark.parametrize("space", ["FLAIR", ""])
def test_lesions_drawn_on_flair_come_through_its_registration(space: str, tmp_path: Path) -> None:
    affine = GRID.affine.copy()
    affine[:3, 3] += SHIFT_MM
    moved = Grid(SHAPE, affine)
    transform = tmp_path / "shift.txt"
    write_start(transform, np.zeros(3), SHIFT_MM)
    flair = nifti.save(tmp_path / "moved.nii.gz", np.zeros(SHAPE), moved)
    options = {"transform_file": str(transform), "native_flair_file": str(flair), "space": space}
    labels = labels_of(take(tmp_path, moved, **options))
    np.testing.assert_array_equal(labels, labels_of(take(tmp_path)))


def test_a_thin_lesion_between_the_voxels_of_t1w_keeps_its_volume(tmp_path: Path) -> None:
    affine = GRID.affine.copy()
    affine[:3, 3] += GRID.affine[:3, :3] @ np.full(3, 0.5)
    thin = np.zeros(SHAPE, bool)
    thin[14, 9:16, 12] = True
    labels = labels_of(take(tmp_path, Grid(SHAPE, affine), thin, min_volume_mm3=0.0))
    found = np.argwhere(labels > 0)
    assert len(found) == 7
    # Six voxels lie between the ends, which are half covered.
    assert set(found[:, 1]) >= set(range(10, 16))
    assert (np.abs(found[:, [0, 2]] - (14.5, 12.5)) == 0.5).all()


def test_no_lesion_is_a_result(tmp_path: Path) -> None:
    assert not labels_of(take(tmp_path, values=np.zeros(SHAPE, np.uint8))).any()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"values": np.arange(np.prod(SHAPE)).reshape(SHAPE).astype(np.int16)}, "different value"),
        (
            {"values": np.where(brain(), 0.4, 0.2 * drawn())},
            "has shares up to 0.4; those from 0.5 on",
        ),
        ({"values": ~brain()}, "no lesion of drawn.nii.gz lies in the brain"),
        ({"grid": Grid((30, 28, 25), GRID.affine), "space": "MNI152"}, "is in space MNI152"),
    ],
    ids=["no mask", "small shares", "elsewhere", "another space"],
)
def test_what_cannot_be_taken_is_told_with_visit_and_option(
    options: dict[str, Any], words: str, tmp_path: Path
) -> None:
    grid = options.pop("grid", GRID)
    if grid is not GRID:
        options["values"] = np.zeros(grid.shape, np.uint8)
    with pytest.raises(DataError, match=rf"^sub-01: .*{words}") as caught:
        take(tmp_path, grid, **options)
    assert f"Check {FLAG}" in str(caught.value)
