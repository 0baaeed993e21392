# SPDX-License-Identifier: Apache-2.0
"""Reading and writing NIfTI files."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import nibabel as nb
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError, ImageDataError
from numpy.typing import NDArray

from bids_lesion_xai.errors import DataError
from bids_lesion_xai.imaging.grid import Grid

# What nibabel raises for a file that is cut short, altered, or no image at all.
_UNREADABLE = (
    *(EOFError, HeaderDataError, ImageDataError, ImageFileError),
    *(MemoryError, OSError, OverflowError, TypeError, ValueError, zlib.error),
)


def load(path: Path, dtype: type[np.generic] = np.float32) -> tuple[NDArray[Any], Grid]:
    """Read a 3D image.

    Parameters
    ----------
    path : Path
        A NIfTI file. A fourth axis of length one is dropped.
    dtype : numpy type
        Type of the returned values; NIfTI scaling is applied.

    Returns
    -------
    values : array of `dtype`, shape (X, Y, Z)
    grid : Grid

    Raises
    ------
    DataError
        The file is not a readable 3D NIfTI image with finite real values.
    """
    try:
        image = nb.load(path)
        values = np.asarray(image.dataobj)
    except _UNREADABLE as error:
        message = (
            f"{path.name} cannot be read as a NIfTI image ({error}). Check that the file is "
            "complete, e.g. download it again."
        )
        raise DataError(message) from error
    if values.ndim == 4 and values.shape[3] == 1:
        values = values[..., 0]
    if values.ndim != 3:
        message = f"{path.name} has shape {values.shape}; one 3D volume is expected."
        raise DataError(message)
    if values.dtype.kind not in "biuf":
        message = f"{path.name} has voxels of type {values.dtype}; real numbers are expected."
        raise DataError(message)
    if not np.isfinite(values).all():
        count = int((~np.isfinite(values)).sum())
        message = (
            f"{path.name} has {count} voxels that are NaN or infinite; finite values expected."
        )
        raise DataError(message)
    x, y, z = values.shape
    return values.astype(dtype), Grid((x, y, z), np.asarray(image.affine, np.float64))


def voxel_volume_mm3(path: Path) -> float:
    """Return the volume of a voxel from the header of an image, infinite if it is not readable."""
    try:
        return float(np.prod(nb.load(path).header.get_zooms()[:3]))
    except _UNREADABLE:
        return float("inf")


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
