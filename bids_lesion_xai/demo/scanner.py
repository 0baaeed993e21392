# SPDX-License-Identifier: Apache-2.0
"""Images of a head on the grid of a scanner, with motion, bias field and noise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

from bids_lesion_xai.demo.head import Floats, smooth_field
from bids_lesion_xai.imaging.grid import Grid


@dataclass(frozen=True)
class Scan:
    """How an image is taken.

    Parameters
    ----------
    grid : Grid
        Of the image, in world space of the scanner.
    head_to_scanner : float64 array, shape (4, 4)
        Rigid; where the head lies, in mm.
    n_subslices : int
        Points along the third voxel axis that are averaged to one voxel.
    noise : float
        Standard deviation, in units of the white matter's intensity.
    bias : float
        Standard deviation of the logarithm of the bias field.
    white_matter_units : float
        Intensity of white matter on disk.
    """

    grid: Grid
    head_to_scanner: NDArray[np.float64]
    n_subslices: int = 1
    noise: float = 0.025
    bias: float = 0.08
    white_matter_units: float = 160.0

    def to_scanner_mm(self, point_mm: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the place in the scanner of a point of the head, shape (3,), in mm."""
        return self.head_to_scanner[:3, :3] @ point_mm + self.head_to_scanner[:3, 3]


def rigid(degrees: ArrayLike, shift_mm: ArrayLike) -> NDArray[np.float64]:
    """Return a rotation about the axes X, Y and Z of the world, then a shift, shape (4, 4).

    >>> np.rint(rigid([0, 0, 90], [10, 0, 0]) @ [1, 0, 0, 1]).tolist()
    [10.0, 1.0, 0.0, 1.0]
    """
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix()
    matrix[:3, 3] = shift_mm
    return matrix


def resample(values: Floats, grid: Grid, scan: Scan, outside: float = 0.0) -> Floats:
    """Return `values` of the head on the grid of a scan, averaged over each slice's thickness.

    Parameters
    ----------
    values : float32 array, shape (X, Y, Z)
    grid : Grid
        Of `values`, in world space of the head.
    scan : Scan
    outside : float
        Value of points outside `grid`.

    Returns
    -------
    values : float32 array, shape of ``scan.grid``
    """
    to_head = np.linalg.inv(scan.head_to_scanner @ grid.affine) @ scan.grid.affine
    total = np.zeros(scan.grid.shape, np.float32)
    for step in (np.arange(scan.n_subslices) + 0.5) / scan.n_subslices - 0.5:
        shifted = to_head.copy()
        shifted[:3, 3] += step * to_head[:3, 2]
        total += ndimage.affine_transform(
            values, shifted, output_shape=scan.grid.shape, order=1, cval=outside
        )
    return total / np.float32(scan.n_subslices)


def take_image(
    values: Floats, grid: Grid, scan: Scan, rng: np.random.Generator
) -> NDArray[np.int16]:
    """Return the magnitude image of a head, with bias field and Rician noise.

    Parameters
    ----------
    values : float32 array, shape (X, Y, Z)
        Intensities of the head in units of the white matter's.
    grid : Grid
        Of `values`.
    scan : Scan
    rng : numpy Generator

    Returns
    -------
    image : int16 array, shape of ``scan.grid``
    """
    shape = scan.grid.shape
    knots = [90 / mm for mm in scan.grid.spacing_mm]
    signal = resample(values, grid, scan) * np.exp(scan.bias * smooth_field(rng, shape, knots))
    real = signal + scan.noise * rng.standard_normal(shape, np.float32)
    imaginary = scan.noise * rng.standard_normal(shape, np.float32)
    magnitude = scan.white_matter_units * np.hypot(real, imaginary)
    return np.asarray(np.rint(magnitude), np.int16)
