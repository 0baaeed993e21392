# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import gzip
import os
import re
from collections.abc import Callable
from pathlib import Path

import nibabel as nb
import numpy as np
import pytest

from bids_lesion_xai.errors import DataError
from bids_lesion_xai.imaging import nifti
from bids_lesion_xai.imaging.grid import Grid

VALUES = np.random.default_rng(0).normal(size=(6, 5, 4)).astype(np.float32)
# More than gzip reads at once.
MANY = np.ones((40, 30, 20), np.float32)
AFFINE = np.array([[0.0, -2.0, 0, 9], [1.5, 0, 0, -4], [0, 0, 3, 2], [0, 0, 0, 1]])


def image_of(values: np.ndarray) -> bytes:
    return gzip.compress(nb.Nifti1Image(values, AFFINE).to_bytes())


def patched(offset: int, values: np.ndarray) -> bytes:
    """Return an image with other bytes from `offset` on."""
    raw = bytearray(nb.Nifti1Image(VALUES, AFFINE).to_bytes())
    content = np.asarray(values).tobytes()
    raw[offset : offset + len(content)] = content
    return gzip.compress(bytes(raw))


def flip_bytes(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes(255 - byte for byte in content[middle:])


def stored(values: np.ndarray) -> bytes:
    """Return an image as gzip keeps it without compression, so that every byte is a value."""
    return gzip.compress(nb.Nifti1Image(values, AFFINE).to_bytes(), compresslevel=0)


def flip_bit(content: bytes, place: int) -> bytes:
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


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
        # All voxels can be read; only the checksum at the end tells.
        (lambda: flip_bit(stored(MANY), 10_000), "CRC"),
        (lambda: stored(MANY)[:-8], "cannot be read"),
        (lambda: image_of(np.stack([VALUES] * 2, -1)), "one 3D volume"),
        (lambda: image_of(np.where(VALUES > 1, np.nan, VALUES)), "NaN"),
        (lambda: image_of(VALUES.astype(np.complex64)), "real numbers"),
        (lambda: image_of(np.zeros((6, 5, 4), [(c, "u1") for c in "RGB"])), "of type RGB; real"),
        (lambda: image_of(np.where(VALUES > 1, np.inf, VALUES)), "infinite"),
        (lambda: image_of(VALUES * np.float32(1e30)), "values beyond 1e+15"),
        (lambda: image_of(VALUES[..., 0]), "one 3D volume"),
        (lambda: patched(42, np.int16(0)), "1 to 5e+08 voxels"),
        (lambda: patched(42, np.int16([32767] * 3)), "1 to 5e+08 voxels"),
        (lambda: patched(42, np.int16(-6)), "1 to 5e+08 voxels"),
        (lambda: patched(344, np.frombuffer(b"abcd", "u1")), "cannot be read"),
        (lambda: patched(70, np.int16(99)), "cannot be read"),
        (lambda: patched(40, np.int16(200)), "cannot be read"),
        (lambda: patched(108, np.float32(100)), "cannot be read"),
        (lambda: patched(112, np.float32([1, np.nan])), "cannot be read"),
        (lambda: patched(344, np.zeros(4, np.uint8)), "cannot be read"),
    ],
    ids=[
        *("empty", "text", "cut", "altered", "short", "bit", "tail", "4D", "NaN", "complex"),
        *("colour", "infinite", "huge values", "one slice of 2D", "no voxels", "many voxels"),
        *("negative", "magic", "type", "dimensions", "place of the data", "intercept", "Analyze"),
    ],
)
def test_what_is_no_image_is_refused_by_name(
    tmp_path: Path, content: Callable[[], bytes], words: str
) -> None:
    path = tmp_path / "sub-01_FLAIR.nii.gz"
    path.write_bytes(content())
    with pytest.raises(DataError, match=rf"^sub-01_FLAIR\.nii\.gz .*{re.escape(words)}") as caught:
        nifti.load(path)
    assert str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize("kind", [nb.Nifti1Image, nb.Nifti2Image])
def test_an_image_under_the_wrong_extension_is_refused_for_that(
    tmp_path: Path, kind: type[nb.Nifti1Image]
) -> None:
    plain = kind(VALUES, AFFINE).to_bytes()
    (tmp_path / "plain.nii.gz").write_bytes(plain)
    (tmp_path / "packed.nii").write_bytes(gzip.compress(plain))
    with pytest.raises(DataError, match=r"^plain\.nii\.gz is not compressed.* Name it \.nii,"):
        nifti.load(tmp_path / "plain.nii.gz")
    with pytest.raises(DataError, match=r"^packed\.nii is compressed.* Name it \.nii\.gz,"):
        nifti.load(tmp_path / "packed.nii")


def test_other_formats_of_files_are_told_from_nifti(tmp_path: Path) -> None:
    nb.save(nb.Spm99AnalyzeImage(VALUES, AFFINE), tmp_path / "image.img")
    with pytest.raises(DataError, match=r"image.hdr is an image of type .*left from right"):
        nifti.load(tmp_path / "image.hdr")


def test_a_folder_a_missing_file_and_one_without_rights_are_named(tmp_path: Path) -> None:
    (tmp_path / "folder.nii.gz").mkdir()
    with pytest.raises(DataError, match=r"folder\.nii\.gz is a folder"):
        nifti.load(tmp_path / "folder.nii.gz")
    (tmp_path / "link.nii.gz").symlink_to(tmp_path / "annex")
    with pytest.raises(DataError, match=r"link\.nii\.gz is not here"):
        nifti.load(tmp_path / "link.nii.gz")
    path = tmp_path / "secret.nii.gz"
    path.write_bytes(image_of(VALUES))
    path.chmod(0)
    if not os.access(path, os.R_OK):
        with pytest.raises(DataError, match=r"secret\.nii\.gz may not be read by this user"):
            nifti.load(path)


@pytest.mark.parametrize(
    "kind", ["fifth axis", "NIfTI-2", "big endian", "pair", "double", "plain"]
)
def test_the_same_voxels_in_another_wrapping_are_the_same_image(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "image.nii.gz"
    if kind == "fifth axis":
        nb.save(nb.Nifti1Image(VALUES[..., None, None], AFFINE), path)
    elif kind == "NIfTI-2":
        nb.save(nb.Nifti2Image(VALUES, AFFINE), path)
    elif kind == "big endian":
        nb.save(nb.Nifti1Image(VALUES, AFFINE, nb.Nifti1Header(endianness=">")), path)
        assert nb.load(path).header.endianness == ">"
    elif kind == "pair":
        nb.save(nb.Nifti1Pair(VALUES, AFFINE), tmp_path / "image.img")
        path = tmp_path / "image.hdr"
    elif kind == "double":
        nb.save(nb.Nifti1Image(VALUES.astype(np.float64), AFFINE), path)
    else:
        path = path.with_suffix("")
        nb.save(nb.Nifti1Image(VALUES, AFFINE), path)
    values, grid = nifti.load(path)
    np.testing.assert_array_equal(values, VALUES)
    assert grid.same_as(Grid((6, 5, 4), AFFINE))


@pytest.mark.parametrize(("unit", "scale"), [("mm", 1), ("meter", 1e-3), ("micron", 1e3)], ids=str)
def test_an_image_is_sampled_as_it_is_placed(unit: str, scale: float, tmp_path: Path) -> None:
    affine = np.diag([1.5 * scale, 2 * scale, 3 * scale, 1])
    image = nb.Nifti1Image(np.zeros((200, 150, 60), np.int16), affine)
    image.header.set_xyzt_units(unit)
    nb.save(image, tmp_path / "image.nii")
    sampling = nifti.read_sampling(tmp_path / "image.nii")
    assert sampling is not None
    np.testing.assert_allclose(sampling.voxel_mm, (1.5, 2, 3), rtol=1e-3)


def test_of_affine_and_pixdim_that_differ_the_affine_tells_the_sampling(tmp_path: Path) -> None:
    image = nb.Nifti1Image(VALUES, None)
    image.set_sform(np.diag([2, 3, 4, 1]), code=1)
    image.header["pixdim"][1:4] = 1
    nb.save(image, tmp_path / "image.nii")
    assert nifti.load(tmp_path / "image.nii")[1].same_as(Grid((6, 5, 4), np.diag([2, 3, 4, 1.0])))
    assert nifti.read_sampling(tmp_path / "image.nii") == ((2, 3, 4), 1)


def test_how_an_image_is_sampled_comes_from_the_header(tmp_path: Path) -> None:
    (tmp_path / "image.nii.gz").write_bytes(image_of(VALUES))
    (tmp_path / "broken.nii.gz").write_bytes(b"no image")
    several = image_of(np.stack([VALUES] * 2, -1))
    (tmp_path / "4d.nii.gz").write_bytes(several)
    assert nifti.read_sampling(tmp_path / "image.nii.gz") == ((1.5, 2, 3), 1)
    sampling = nifti.read_sampling(tmp_path / "4d.nii.gz")
    assert sampling is not None
    assert sampling.n_volumes == 2
    assert nifti.read_sampling(tmp_path / "broken.nii.gz") is None
    cifti = nb.Cifti2Image(
        np.zeros((1, 2)),
        (nb.cifti2.ScalarAxis(["x"]), nb.cifti2.SeriesAxis(0, 1, 2)),
    )
    nb.save(cifti, tmp_path / "other_T1w.nii")
    assert nifti.read_sampling(tmp_path / "other_T1w.nii") is None
