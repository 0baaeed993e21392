# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import nibabel as nb
import numpy as np
import pytest

from bids_lesion_xai.errors import DataError
from bids_lesion_xai.imaging import nifti
from bids_lesion_xai.imaging.grid import Grid

VALUES = np.random.default_rng(0).normal(size=(6, 5, 4)).astype(np.float32)
AFFINE = np.array([[0.0, -2.0, 0, 9], [1.5, 0, 0, -4], [0, 0, 3, 2], [0, 0, 0, 1]])


def image_of(values: np.ndarray) -> bytes:
    return gzip.compress(nb.Nifti1Image(values, AFFINE).to_bytes())


def flip_bytes(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes(255 - byte for byte in content[middle:])


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint8, np.int32, bool])
def test_what_is_saved_is_loaded(tmp_path: Path, dtype: type) -> None:
    values, grid = (VALUES * 50 > 0).astype(dtype), Grid((6, 5, 4), AFFINE)
    path = nifti.save(tmp_path / "image.nii.gz", values, grid)
    loaded, found = nifti.load(path, dtype)
    np.testing.assert_array_equal(loaded, values)
    assert found.same_as(grid)
    header = nb.load(path).header
    assert (header["sform_code"], header["qform_code"]) == (1, 1)


def test_the_scaling_of_the_header_is_applied(tmp_path: Path) -> None:
    stored = np.arange(24, dtype="<i2")
    raw = bytearray(nb.Nifti1Image(stored.reshape(2, 3, 4, order="F"), AFFINE).to_bytes())
    raw[112:120] = np.array([0.5, -3], "<f4").tobytes()
    (tmp_path / "image.nii").write_bytes(raw)
    loaded, _ = nifti.load(tmp_path / "image.nii")
    np.testing.assert_array_equal(loaded.ravel(order="F"), stored * 0.5 - 3)


def test_a_fourth_axis_of_length_one_is_dropped(tmp_path: Path) -> None:
    (tmp_path / "image.nii.gz").write_bytes(image_of(VALUES[..., None]))
    np.testing.assert_array_equal(nifti.load(tmp_path / "image.nii.gz")[0], VALUES)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (lambda: b"", "cannot be read"),
        (lambda: b"no image", "cannot be read"),
        (lambda: image_of(VALUES)[:200], "cannot be read"),
        (lambda: flip_bytes(image_of(VALUES)), "cannot be read"),
        (lambda: gzip.compress(nb.Nifti1Image(VALUES, AFFINE).to_bytes()[:500]), "cannot be read"),
        (lambda: image_of(np.stack([VALUES] * 2, -1)), "one 3D volume"),
        (lambda: image_of(np.where(VALUES > 1, np.nan, VALUES)), "NaN"),
        (lambda: image_of(VALUES.astype(np.complex64)), "real numbers"),
        (lambda: image_of(np.zeros((6, 5, 4), [(c, "u1") for c in "RGB"])), "real numbers"),
    ],
    ids=["empty", "text", "cut", "altered", "short", "4D", "NaN", "complex", "colour"],
)
def test_what_is_no_image_is_refused_by_name(
    tmp_path: Path, content: Callable[[], bytes], words: str
) -> None:
    path = tmp_path / "sub-01_FLAIR.nii.gz"
    path.write_bytes(content())
    with pytest.raises(DataError, match=rf"sub-01_FLAIR\.nii\.gz .*{words}"):
        nifti.load(path)


def test_the_volume_of_a_voxel_comes_from_the_header(tmp_path: Path) -> None:
    (tmp_path / "image.nii.gz").write_bytes(image_of(VALUES))
    (tmp_path / "broken.nii.gz").write_bytes(b"no image")
    assert nifti.voxel_volume_mm3(tmp_path / "image.nii.gz") == pytest.approx(9)
    assert nifti.voxel_volume_mm3(tmp_path / "broken.nii.gz") == float("inf")
