# SPDX-License-Identifier: Apache-2.0
"""Reading and writing NIfTI files."""

from __future__ import annotations

import gzip
import os
import zlib
from contextlib import suppress
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nb
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.openers import ImageOpener
from nibabel.spatialimages import HeaderDataError, ImageDataError
from numpy.typing import NDArray

from bids_lesion_xai.errors import DataError
from bids_lesion_xai.imaging.grid import Grid
from bids_lesion_xai.imaging.header import Placed, place_voxels

# What nibabel raises for a file that is cut short, altered, or no image at all.
_UNREADABLE = (
    *(EOFError, HeaderDataError, ImageDataError, ImageFileError),
    *(MemoryError, OSError, OverflowError, TypeError, ValueError, zlib.error),
)
_GZIP = b"\x1f\x8b"
# A header that states more is damaged, or of a scan that fills the memory.
_MOST_VOXELS = 5e8
_BYTES_AT_ONCE = 2**22
# Squares and sums over an image of such values still fit into float32.
_LARGEST = 1e15
# From this share of a voxel on, it belongs to a mask.
MARKED_FROM = 0.5


def load(path: Path, dtype: type[np.generic] = np.float32) -> tuple[NDArray[Any], Grid]:
    """Read a 3D image.

    Parameters
    ----------
    path : Path
        A NIfTI file. Axes of length one after the third are dropped.
    dtype : numpy type
        Type of the returned values; NIfTI scaling is applied.

    Returns
    -------
    values : array of `dtype`, shape (X, Y, Z)
    grid : Grid
        In mm, whatever the unit of the file.

    Raises
    ------
    DataError
        The file is not a readable 3D NIfTI image with finite real values and a place in space.
    """
    scan = load_with_notes(path, dtype)
    return scan.values, scan.grid


def load_mask(path: Path, advice: str) -> tuple[NDArray[np.float32], Grid]:
    """Read a mask as shares from 0 to 1.

    Parameters
    ----------
    path : Path
        Of 0 and one other value, or of shares.
    advice : str
        What to do where it is no mask, for messages.

    Returns
    -------
    shares : float32 array, shape (X, Y, Z)
        Those from one half on are marked.
    grid : Grid

    Raises
    ------
    DataError
        The image cannot be read, has other values, or has shares and marks nothing.
    """
    values, grid = load(path)
    low, high = float(values.min()), float(values.max())
    levels = np.unique(values)
    if low == 0 and len(levels) <= 2:
        return (values > 0).astype(np.float32), grid
    if low != 0 or high > 1:
        message = (
            f"{path.name} has {len(levels)} different values from {low:g} to {high:g}; 0 and one "
            f"other, or shares from 0 to 1, are expected of a mask. {advice}"
        )
        raise DataError(message)
    if high < MARKED_FROM:
        message = (
            f"{path.name} has shares up to {high:g}; those from {MARKED_FROM:g} on are marked. "
            f"{advice}"
        )
        raise DataError(message)
    return values, grid


@dataclass(frozen=True)
class Loaded:
    """An image, and the contradictions of its header.

    Parameters
    ----------
    values : array, shape (X, Y, Z)
    grid : Grid
    notes : tuple of str
        See `bids_lesion_xai.imaging.header.Placed`.
    """

    values: NDArray[Any]
    grid: Grid
    notes: tuple[str, ...]


def load_with_notes(path: Path, dtype: type[np.generic] = np.float32) -> Loaded:
    """Read a 3D image as `load` does, and tell what is odd about its header."""
    image, shape, placed = _open_in_place(path)
    try:
        _check_compression(path)
        values = np.asarray(image.dataobj).reshape(shape)
    except _UNREADABLE as error:
        raise DataError(_unreadable(path, error)) from error
    if not np.isfinite(values).all():
        count = int((~np.isfinite(values)).sum())
        message = (
            f"{path.name} has {count} voxels that are NaN or infinite; finite values expected. "
            "Set them to a number, such as 0 outside the head."
        )
        raise DataError(message)
    if values.dtype.kind == "f" and np.abs(values).max(initial=0) > _LARGEST:
        message = f"{path.name} has values beyond {_LARGEST:g}; those of a scanner are smaller."
        raise DataError(message)
    return Loaded(values.astype(dtype), Grid(shape, placed.affine), placed.notes)


def _check_compression(path: Path) -> None:
    """Read a compressed file to its end, where its checksum is, which nibabel never reaches."""
    if path.suffix == ".gz":
        with gzip.open(path) as stream:
            while stream.read(_BYTES_AT_ONCE):
                pass


def header_problem(path: Path) -> str | None:
    """Return why `load` refuses an image by its header alone, or None if it does not."""
    try:
        _open_in_place(path)
    except DataError as error:
        return str(error)
    return None


def read_grid(path: Path) -> Grid:
    """Return the grid that `load` gives an image, by its header alone.

    Raises
    ------
    DataError
        The file is no 3D NIfTI image with a place in space.
    """
    _, shape, placed = _open_in_place(path)
    return Grid(shape, placed.affine)


def _open_in_place(path: Path) -> tuple[nb.Nifti1Pair, tuple[int, int, int], Placed]:
    """Open an image without reading its voxels; return it with its shape and its place."""
    image, shape = _open(path)
    try:
        return image, shape, place_voxels(_header_as_it_is(image, path), shape)
    except DataError as error:
        message = f"{path.name} {error}"
        raise DataError(message) from error


def _open(path: Path) -> tuple[nb.Nifti1Pair, tuple[int, int, int]]:
    """Open an image without reading its voxels; return it with its shape."""
    try:
        image = nb.load(path)
        shape, dtype = tuple(map(int, image.shape)), image.get_data_dtype()
    except _UNREADABLE as error:
        raise DataError(_unreadable(path, error)) from error
    if not isinstance(image, nb.Nifti1Pair):
        message = (
            f"{path.name} is an image of type {type(image).__name__}, which does not tell left "
            "from right as NIfTI does. Convert it again from DICOM."
        )
        raise DataError(message)
    if len(shape) < 3 or max(shape[3:], default=1) != 1:
        message = (
            f"{path.name} has shape {shape}; one 3D volume is expected. Take one volume out of "
            "it, or leave the image out."
        )
        raise DataError(message)
    if dtype.kind not in "biuf":
        kind = "".join(dtype.names or ()) or dtype
        message = f"{path.name} has voxels of type {kind}; real numbers are expected."
        raise DataError(message)
    if min(shape) < 1 or np.prod(shape, dtype=float) > _MOST_VOXELS:
        message = (
            f"{path.name} has shape {shape} by its header; 1 to {_MOST_VOXELS:g} voxels are "
            "expected. Check that the file is complete and of the head alone."
        )
        raise DataError(message)
    x, y, z = shape[:3]
    return image, (x, y, z)


def _header_as_it_is(image: nb.Nifti1Pair, path: Path) -> nb.Nifti1Header:
    """Read the header again, without the silent repairs of nibabel."""
    with ImageOpener(path) as file:
        return image.header_class.from_fileobj(file, check=False)


def _unreadable(path: Path, error: BaseException) -> str:
    """Return why a file cannot be read, and what to do."""
    if path.is_dir():
        return f"{path.name} is a folder; a file is expected."
    if isinstance(error, PermissionError) or (path.exists() and not os.access(path, os.R_OK)):
        return f"{path.name} may not be read by this user. Change its rights."
    if not path.exists():
        return f"{path.name} is not here. Get it, e.g. with datalad get."
    if misnamed := _misnamed(path):
        return f"{path.name} {misnamed}"
    # Messages may be shared, a folder of this machine may not.
    reason = f"{error}".replace(str(path), path.name) or "it states more voxels than memory holds"
    return (
        f"{path.name} cannot be read as a NIfTI image ({reason}). It is damaged or "
        "incomplete: copy it anew, or, if it is an output of this app, process its visit again."
    )


def _misnamed(path: Path) -> str:
    """Return what is wrong if the end of a name is that of the other kind of NIfTI file, or ''."""
    with path.open("rb") as file:
        start = file.read(nb.Nifti2Header.sizeof_hdr)
    if path.name.endswith(".nii") and start.startswith(_GZIP):
        return "is compressed, though its name says that it is not. Name it .nii.gz, or unpack it."
    is_nifti = any(kind.may_contain_header(start) for kind in (nb.Nifti1Header, nb.Nifti2Header))
    if path.name.endswith(".nii.gz") and is_nifti:
        return "is not compressed, though its name says so. Name it .nii, or compress it."
    return ""


class Sampling(NamedTuple):
    """The edges of an image's voxels in mm, and the number of its volumes."""

    voxel_mm: tuple[float, float, float]
    n_volumes: int


def read_sampling(path: Path) -> Sampling | None:
    """Return how an image is sampled, None if it is not readable.

    The edges are those that `load` gives it; of what `load` refuses, those of its pixdim.
    """
    try:
        image = nb.load(path)
        if not isinstance(image, nb.Nifti1Pair):
            return None
        edges, n_volumes = image.header.get_zooms(), prod(image.shape[3:])
        with suppress(DataError):
            edges = np.linalg.norm(_open_in_place(path)[2].affine[:3, :3], axis=0)
    except _UNREADABLE:
        return None
    x, y, z, *_ = (round(float(edge), 3) for edge in (*edges, 0, 0, 0))
    return Sampling((x, y, z), n_volumes)


def save(path: Path, values: NDArray[Any], grid: Grid) -> Path:
    """Write a 3D image with its affine as both sform and qform, and return `path`.

    Parameters
    ----------
    path : Path
        Name of the file to write (``.nii.gz``).
    values : array, shape (X, Y, Z)
        Written in its own dtype (bool as uint8), unscaled.
    grid : Grid
        Grid of `values`, in world space (RAS+, mm).
    """
    if values.shape != grid.shape:
        message = f"values of shape {values.shape} on a grid of shape {grid.shape}"
        raise ValueError(message)
    stored = values.astype(np.uint8) if values.dtype == bool else values
    image = nb.Nifti1Image(stored, grid.affine)
    image.set_qform(grid.affine, code=1)
    image.set_sform(grid.affine, code=1)
    image.header.set_xyzt_units("mm")
    nb.save(image, path)
    return path
