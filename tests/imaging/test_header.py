# SPDX-License-Identifier: Apache-2.0
"""Whom to believe when a header contradicts itself."""

from __future__ import annotations

import nibabel as nb
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from bids_lesion_xai.errors import DataError
from bids_lesion_xai.imaging.header import Placed, place_voxels

SHAPE = (160, 200, 48)
# Oblique, left-handed voxels of 1 x 0.8 x 3 mm.
TURN = Rotation.from_euler("xyz", [12, -7, 20], degrees=True).as_matrix()
AFFINE = np.eye(4)
AFFINE[:3, :3] = TURN @ np.diag([-1.0, 0.8, 3.0])
AFFINE[:3, 3] = [71, -80, -62]


def placed(
    sform: NDArray | None = AFFINE,
    qform: NDArray | None = AFFINE,
    unit: int = 2,
    codes: tuple[int, int] = (1, 1),
    **fields: object,
) -> Placed:
    header = nb.Nifti1Header()
    header.set_data_shape(SHAPE)
    header["pixdim"][1:4] = (1, 0.8, 3)
    if sform is not None:
        header.set_sform(sform, codes[0])
    if qform is not None:
        header.set_qform(qform, codes[1])
    header["xyzt_units"] = unit
    for name, value in fields.items():
        header[name] = value
    return place_voxels(header, SHAPE)


def moved(affine: NDArray, degrees: float = 0, shift_mm: float = 0) -> NDArray:
    motion = np.eye(4)
    motion[:3, :3] = Rotation.from_euler("z", degrees, degrees=True).as_matrix()
    motion[1, 3] = shift_mm
    return motion @ affine


@pytest.mark.parametrize(
    ("sform", "qform"), [(AFFINE, AFFINE), (AFFINE, None), (None, AFFINE)], ids=["both", "s", "q"]
)
@pytest.mark.parametrize("unit", [0, 2, 10, 18])
def test_what_is_stated_without_contradiction_is_taken_as_it_is(
    sform: NDArray | None, qform: NDArray | None, unit: int
) -> None:
    found = placed(sform, qform, unit)
    np.testing.assert_allclose(found.affine, AFFINE, atol=1e-4)
    assert found.notes == ()


@pytest.mark.parametrize("qfac", [0, 1, 7.5, np.nan, -1, -3])
def test_the_handedness_of_a_qform_is_the_sign_of_its_factor(qfac: float) -> None:
    left = qfac < 0
    affine = AFFINE @ np.diag([1.0 if left else -1.0, 1, 1, 1])
    found = placed(None, affine, pixdim=[qfac, 1, 0.8, 3, 1, 1, 1, 1])
    assert (np.linalg.det(found.affine[:3, :3]) < 0) == left
    np.testing.assert_allclose(found.affine, affine, atol=1e-4)


def test_a_rounding_of_the_forms_is_no_contradiction() -> None:
    assert placed(moved(AFFINE, shift_mm=0.05)).notes == ()


@pytest.mark.parametrize("motion", [(0, 0.4), (0, 40), (1, 0), (90, 5)])
def test_of_two_places_apart_the_sform_is_taken_and_it_is_told(
    motion: tuple[float, float],
) -> None:
    other = moved(AFFINE, *motion)
    found = placed(other, AFFINE)
    np.testing.assert_allclose(found.affine, other, atol=1e-4)
    corners = np.stack(np.meshgrid(*[[0, n - 1] for n in SHAPE]), -1).reshape(-1, 3)
    apart = (other - AFFINE)[:3] @ np.c_[corners, np.ones(8)].T
    largest = np.linalg.norm(apart, axis=0).max()
    assert found.notes == (f"its sform and qform lie up to {largest:.1f} mm apart: sform taken",)


@pytest.mark.parametrize(
    "warp", [np.diag([1.1, 1.1, 1.1, 1]), np.eye(4) + 0.1 * np.eye(4, k=1) * [1, 1, 1, 0]]
)
def test_an_sform_that_leads_to_a_template_is_not_taken(warp: NDArray) -> None:
    found = placed(warp @ AFFINE, AFFINE, codes=(4, 1))
    np.testing.assert_allclose(found.affine, AFFINE, atol=1e-4)
    (note,) = found.notes
    assert note.endswith("the sform stretches the voxels: qform taken")


def test_forms_that_mirror_each_other_are_refused() -> None:
    with pytest.raises(DataError, match="left cannot be told from right"):
        placed(np.diag([-1.0, 1, 1, 1]) @ AFFINE, AFFINE)


def test_an_image_that_does_not_say_where_it_lies_is_refused() -> None:
    with pytest.raises(DataError, match="sform_code and qform_code are 0"):
        placed(codes=(0, 0))


BROKEN = {"qform": {"pixdim": [1, 0, 0.8, 3, 0, 0, 0, 0]}, "quaternion": {"quatern_b": 7}}


@pytest.mark.parametrize("fields", BROKEN.values(), ids=BROKEN)
def test_a_broken_qform_gives_way_to_the_sform_and_is_refused_alone(
    fields: dict[str, object],
) -> None:
    found = placed(**fields)
    np.testing.assert_allclose(found.affine, AFFINE, atol=1e-4)
    assert "its qform gives its voxels no place: sform taken" in found.notes
    with pytest.raises(DataError, match="no usable place for its voxels"):
        placed(None, **fields)


@pytest.mark.parametrize("row", [[0, 0, 0, 0], [np.nan, 0, 0, 0]], ids=["plane", "NaN"])
def test_a_broken_sform_gives_way_to_the_qform_and_it_is_told(row: list[float]) -> None:
    found = placed(srow_y=row)
    np.testing.assert_allclose(found.affine, AFFINE, atol=1e-4)
    assert found.notes == ("its sform gives its voxels no place: qform taken",)
    with pytest.raises(DataError, match="no usable place for its voxels"):
        placed(qform=None, srow_y=row)


def test_voxel_sizes_that_contradict_the_only_form_are_told() -> None:
    found = placed(qform=None, pixdim=[1, 2, 2, 2, 0, 0, 0, 0])
    np.testing.assert_allclose(found.affine, AFFINE, atol=1e-4)
    assert found.notes == (
        "its affine has voxels of 1 x 0.8 x 3, its pixdim of 2 x 2 x 2: affine taken",
    )
    # A sign of pixdim says nothing of sizes.
    assert placed(qform=None, pixdim=[1, -1, 0.8, -3, 0, 0, 0, 0]).notes == ()


@pytest.mark.parametrize(("unit", "factor"), [(1, 1000.0), (3, 0.001)])
def test_other_units_are_converted_to_mm_where_they_make_sense(unit: int, factor: float) -> None:
    stored = np.diag([1 / factor] * 3 + [1]) @ AFFINE
    found = placed(stored, stored, unit)
    np.testing.assert_allclose(found.affine, AFFINE, rtol=1e-5, atol=1e-4)
    assert found.notes[0].endswith(": converted to mm")
    found = placed(unit=unit)
    np.testing.assert_allclose(found.affine, AFFINE, atol=1e-4)
    assert found.notes[0].endswith("its numbers make sense in mm only: taken as mm")
    with pytest.raises(DataError, match=r"a head is expected\. Check voxel size and unit"):
        placed(np.diag([100, 100, 100, 1]) @ AFFINE, None, unit)
