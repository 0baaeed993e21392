# SPDX-License-Identifier: Apache-2.0
"""The lesion table of a visit, and the comparison with masks in the space of T1w or of FLAIR."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from bids_lesion_xai.bids.derivatives import DERIVATIVES
from bids_lesion_xai.errors import DataError
from bids_lesion_xai.imaging import nifti
from bids_lesion_xai.imaging.grid import Grid
from bids_lesion_xai.interfaces.describe import Describe
from bids_lesion_xai.interfaces.itk import write_identity, write_start
from bids_lesion_xai.lesions.describe import Scan, describe
from tests.outputs import raw_rows
from tests.phantoms import oblique_grid

SHAPE = (44, 40, 42)
COLUMNS = list(DERIVATIVES["lesion_table"].columns)
# 1 mm, turned against the scanner.
GRID = Grid(SHAPE, oblique_grid((1.0, 1.0, 1.0), (1, 1, 1), (-20, 7, 4)).affine)


def scan() -> Scan:
    """Return a ball of white matter, grey matter and fluid, with bright lesions."""
    radius = np.linalg.norm(np.moveaxis(np.indices(SHAPE), 0, -1) - [21, 19, 20], axis=-1)
    brain, grey, white = radius < 19.5, radius < 18, radius < 15
    generator = np.random.default_rng(0)
    flair = np.select([white, grey], [-0.3, 0.6], -2.0) + 0.05 * generator.normal(size=SHAPE)
    t1w = np.select([white, grey], [0.8, -0.4], -2.0) + 0.05 * generator.normal(size=SHAPE)
    flair[labels() > 0] += 2
    images = {"flair": (flair * brain).astype(np.float32), "t1w": (t1w * brain).astype(np.float32)}
    probability = np.where(labels() > 0, 0.9, 0.01).astype(np.float32)
    return Scan(images, brain, probability, None, GRID)


def labels() -> NDArray[np.int32]:
    values = np.zeros(SHAPE, np.int32)
    values[12:15, 14:17, 20:22] = 1
    values[28:30, 22:24, 14:16] = 2
    return values


def reference() -> NDArray[np.bool_]:
    """Return a mask that shares voxels with the first lesion, and has one of its own."""
    mask = np.zeros(SHAPE, bool)
    mask[13:17, 15:18, 20:22] = True
    mask[20:22, 26:28, 26:28] = True
    return mask


def run(folder: Path, **options: Any) -> Any:
    of_scan = scan()
    arrays = {
        **{f"{channel}_file": values for channel, values in of_scan.images.items()},
        "brain_mask_file": of_scan.brain,
        "probability_file": of_scan.probability,
        "labels_file": labels(),
    }
    files = {
        name: str(nifti.save(folder / f"{name}.nii.gz", values, GRID))
        for name, values in arrays.items()
    }
    identity = folder / "identity.txt"
    write_identity(identity)
    other = nifti.save(folder / "other.nii.gz", np.zeros((4, 5, 6)), Grid((4, 5, 6), np.eye(4)))
    given = {
        "native_flair_file": str(other),
        "native_t1w_file": files["t1w_file"],
        "transform_file": str(identity),
        "reference_space": "",
        "visit": "sub-01",
        "seed": 0,
        "threshold": 0.5,
        "min_volume_mm3": 6.0,
        "columns": COLUMNS,
        "needs_normal": True,
    }
    return Describe(**{**files, **given, **options}).run(cwd=str(folder)).outputs


def mask_file(folder: Path, grid: Grid = GRID, values: NDArray[Any] | None = None) -> str:
    mask = reference() if values is None else values
    return str(nifti.save(folder / "mask.nii.gz", mask.astype(np.uint8), grid))


def moved_flair(folder: Path) -> tuple[Grid, dict[str, str]]:
    """Return the grid of a FLAIR that the head has moved in, and its files for `run`."""
    shift_mm = np.array([3.0, -2.0, 4.0])
    transform = folder / "shift.txt"
    write_start(transform, np.zeros(3), shift_mm)
    moved = GRID.affine.copy()
    moved[:3, 3] += shift_mm
    flair = Grid(SHAPE, moved)
    native = nifti.save(folder / "flair.nii.gz", np.zeros(SHAPE), flair)
    return flair, {"transform_file": str(transform), "native_flair_file": str(native)}


def test_without_a_reference_the_lesions_are_described_and_explained(tmp_path: Path) -> None:
    outputs = run(tmp_path)
    rows = raw_rows(Path(outputs.table_file))
    for row, expected in zip(rows, describe(scan(), labels()), strict=True):
        assert list(row) == COLUMNS
        assert row["outcome"] == "n/a"
        assert row["location"] == "unknown"
        assert float(row["flair_contrast"]) == pytest.approx(expected["flair_contrast"], rel=1e-5)
    explained, _ = nifti.load(Path(outputs.explained_file), np.int32)
    np.testing.assert_array_equal(explained, labels())
    normal, _ = nifti.load(Path(outputs.normal_file), np.bool_)
    assert normal.sum() > 1000
    assert not normal[labels() > 0].any()


@pytest.mark.parametrize("compared", [False, True])
def test_white_matter_near_lesions_that_others_drew_is_not_normal(
    compared: bool, tmp_path: Path
) -> None:
    nowhere = str(nifti.save(tmp_path / "nowhere.nii.gz", np.zeros(SHAPE, np.float32), GRID))
    options = {"reference_file": mask_file(tmp_path)} if compared else {}
    outputs = run(tmp_path, probability_file=nowhere, **options)
    normal, _ = nifti.load(Path(outputs.normal_file), np.bool_)
    away_mm = ndimage.distance_transform_edt(labels() == 0, sampling=GRID.spacing_mm)
    assert normal.sum() > 1000
    assert away_mm[normal].min() > 5 - 1e-3


def test_a_reference_tells_right_from_wrong_and_adds_missed_and_control_regions(
    tmp_path: Path,
) -> None:
    outputs = run(tmp_path, reference_file=mask_file(tmp_path))
    rows = raw_rows(Path(outputs.region_table_file))
    assert [row["outcome"] for row in rows] == ["TP", "FP", "FN", "TN", "TN", "TN"]
    assert raw_rows(Path(outputs.table_file)) == rows[:2]
    regions, _ = nifti.load(Path(outputs.region_labels_file), np.int32)
    normal, _ = nifti.load(Path(outputs.normal_file), np.bool_)
    np.testing.assert_array_equal(np.where(regions <= 2, regions, 0), labels())
    np.testing.assert_array_equal(regions == 3, reference() & (np.indices(SHAPE)[0] >= 20))
    assert normal[regions > 3].all()
    assert not normal[reference()].any()
    assert outputs.explained_file == outputs.region_labels_file


def test_what_a_reference_marks_outside_of_the_brain_is_not_missed(tmp_path: Path) -> None:
    marked = reference()
    marked[:4, :4, :4] = True
    plain = run(tmp_path, reference_file=mask_file(tmp_path))
    expected, _ = nifti.load(Path(plain.region_labels_file), np.int32)
    outputs = run(tmp_path, reference_file=mask_file(tmp_path, values=marked))
    regions, _ = nifti.load(Path(outputs.region_labels_file), np.int32)
    np.testing.assert_array_equal(regions, expected)


@pytest.mark.parametrize("space", ["FLAIR", "MNI152NLin2009cAsym"])
def test_a_mask_on_the_grid_of_flair_goes_through_the_registration(
    tmp_path: Path, space: str
) -> None:
    flair, files = moved_flair(tmp_path)
    outputs = run(
        tmp_path,
        reference_file=mask_file(tmp_path, flair),
        reference_space=space,
        **files,
    )
    rows = raw_rows(Path(outputs.region_table_file))
    assert [row["outcome"] for row in rows][:3] == ["TP", "FP", "FN"]
    regions, _ = nifti.load(Path(outputs.region_labels_file), np.int32)
    np.testing.assert_array_equal(regions == 3, reference() & (np.indices(SHAPE)[0] >= 20))


@pytest.mark.parametrize(("space", "moves"), [("T1w", False), ("", True), ("FLAIR", True)])
def test_on_a_grid_of_both_images_the_name_tells_whose_a_mask_is(
    tmp_path: Path, space: str, moves: bool
) -> None:
    _, files = moved_flair(tmp_path)
    files["native_flair_file"] = str(nifti.save(tmp_path / "same.nii.gz", np.zeros(SHAPE), GRID))
    outputs = run(tmp_path, reference_file=mask_file(tmp_path), reference_space=space, **files)
    regions, _ = nifti.load(Path(outputs.region_labels_file), np.int32)
    missed = reference() & (np.indices(SHAPE)[0] >= 20)
    assert regions[missed].all() != moves


def test_an_empty_mask_makes_every_lesion_wrong(tmp_path: Path) -> None:
    outputs = run(tmp_path, reference_file=mask_file(tmp_path, values=np.zeros(SHAPE)))
    outcomes = [row["outcome"] for row in raw_rows(Path(outputs.region_table_file))]
    assert outcomes == ["FP", "FP", "TN", "TN"]


def test_a_mask_in_a_foreign_space_or_place_is_refused(tmp_path: Path) -> None:
    far = GRID.affine.copy()
    far[:3, 3] += 300
    elsewhere = mask_file(tmp_path, Grid(SHAPE, far))
    with pytest.raises(DataError, match=r"sub-01: no lesion of mask.nii.gz lies in the brain"):
        run(tmp_path, reference_file=elsewhere)
    with pytest.raises(DataError, match="is in space MNI152, and on the grid of neither"):
        run(tmp_path, reference_file=elsewhere, reference_space="MNI152")


def tissues() -> NDArray[np.int16]:
    """Return white matter of both sides with their ventricles, one beside the second lesion."""
    right = np.indices(SHAPE)[0] >= SHAPE[0] // 2
    values = np.where(scan().brain, np.where(right, 41, 2), 0).astype(np.int16)
    values[28:30, 24, 14:16] = 43
    values[20, 30, 30] = 4
    return values


def stored_flipped(path: Path, values: NDArray[Any], grid: Grid = GRID) -> str:
    """Store an image with its first axis reversed; every voxel stays where it is in space."""
    flipped = grid.affine @ np.diag([-1.0, 1, 1, 1])
    flipped[:3, 3] = grid.to_world_mm(np.array([grid.shape[0] - 1, 0, 0]))
    return str(nifti.save(path, values[::-1], Grid(grid.shape, flipped)))


def test_a_tissue_map_of_another_grid_tells_where_lesions_lie(tmp_path: Path) -> None:
    # Stored as floats that are a little off.
    path = stored_flipped(tmp_path / "aseg.nii.gz", tissues().astype(np.float32) - 0.01)
    rows = raw_rows(Path(run(tmp_path, tissue_file=path).table_file))
    assert [row["location"] for row in rows] == ["deep", "periventricular"]
    assert float(rows[1]["ventricle_distance_mm"]) == 1


def test_a_tissue_map_of_something_else_is_refused(tmp_path: Path) -> None:
    three = nifti.save(tmp_path / "three.nii.gz", 3 * scan().brain.astype(np.uint8), GRID)
    with pytest.raises(DataError, match=r"sub-01: three.nii.gz has none of FreeSurfer's numbers"):
        run(tmp_path, tissue_file=str(three))
    far = GRID.affine.copy()
    far[:3, 3] += GRID.directions @ [0, 28, 0]
    away = nifti.save(tmp_path / "away.nii.gz", tissues(), Grid(SHAPE, far))
    with pytest.raises(DataError, match=r"sub-01: away.nii.gz covers \d+ % of the brain"):
        run(tmp_path, tissue_file=str(away))


def test_a_mask_on_the_flipped_grid_of_flair_goes_through_the_registration(
    tmp_path: Path,
) -> None:
    flair, files = moved_flair(tmp_path)
    mask = stored_flipped(tmp_path / "mask.nii.gz", reference().astype(np.uint8), flair)
    outputs = run(
        tmp_path,
        reference_file=mask,
        **files,
    )
    regions, _ = nifti.load(Path(outputs.region_labels_file), np.int32)
    np.testing.assert_array_equal(regions == 3, reference() & (np.indices(SHAPE)[0] >= 20))


@pytest.mark.parametrize("scale", [255.0, 0.3, "shares"])
def test_masks_of_two_values_or_of_shares_are_masks(tmp_path: Path, scale: Any) -> None:
    values = reference() * (0.9 if scale == "shares" else scale)
    if scale == "shares":
        values[40, 1:9, 1] = np.linspace(0.1, 0.4, 8)
    outputs = run(tmp_path, reference_file=float_mask(tmp_path, values))
    outcomes = [row["outcome"] for row in raw_rows(Path(outputs.region_table_file))]
    assert outcomes[:3] == ["TP", "FP", "FN"]


def float_mask(folder: Path, values: NDArray[Any]) -> str:
    return str(nifti.save(folder / "mask.nii.gz", values.astype(np.float32), GRID))


@pytest.mark.parametrize(
    "values",
    [
        1.0 + reference(),
        np.ones(SHAPE),
        np.arange(np.prod(SHAPE)).reshape(SHAPE),
        -1.0 * reference(),
    ],
    ids=["1 and 2", "1 alone", "labels", "negative"],
)
def test_what_is_no_mask_is_refused(tmp_path: Path, values: NDArray[Any]) -> None:
    with pytest.raises(DataError, match=r"sub-01: mask.nii.gz has \d+ different values from"):
        run(tmp_path, reference_file=float_mask(tmp_path, values))
