# SPDX-License-Identifier: Apache-2.0
"""A voxel grid in space: its shape and where its voxels lie."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations

import numpy as np
from numpy.typing import NDArray

from bids_lesion_xai.errors import DataError

# Axes of a scanner are at right angles to the rounding of the header's numbers.
MAX_COSINE = 1e-2
# Longer than the field of view of any scanner; resampled to 1 mm it would still fit in memory.
MAX_FIELD_OF_VIEW_MM = 700


@dataclass(frozen=True)
class Grid:
    """A 3D voxel grid in world space (RAS+, mm).

    Parameters
    ----------
    shape : tuple of int
        Number of voxels along the axes X, Y and Z.
    affine : float64 array, shape (4, 4)
        Voxel indices to world coordinates in mm (RAS+).
    """

    shape: tuple[int, int, int]
    affine: NDArray[np.float64]

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance in mm between neighbouring voxels along X, Y and Z."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(x), float(y), float(z)

    @property
    def directions(self) -> NDArray[np.float64]:
        """Unit vectors (RAS+) along the axes X, Y and Z, as the columns of a (3, 3) array."""
        return np.asarray(self.affine[:3, :3] / np.array(self.spacing_mm))

    @property
    def centre_mm(self) -> NDArray[np.float64]:
        """World coordinates (RAS+, mm) of the middle of the field of view."""
        return self.to_world_mm((np.array(self.shape) - 1) / 2)

    @property
    def voxel_volume_mm3(self) -> float:
        """Volume of one voxel in mm3."""
        return float(abs(np.linalg.det(self.affine[:3, :3])))

    def to_world_mm(self, indices: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return world coordinates (RAS+, mm), shape (..., 3), of voxel indices, shape (..., 3).

        >>> grid = Grid((4, 4, 4), np.diag([1.0, 2.0, 3.0, 1.0]))
        >>> grid.to_world_mm(np.array([1, 1, 1])).tolist()
        [1.0, 2.0, 3.0]
        """
        return np.asarray(indices) @ self.affine[:3, :3].T + self.affine[:3, 3]

    def crop(self, start: tuple[int, ...], shape: tuple[int, ...]) -> Grid:
        """Return the grid of the box of `shape` voxels that begins at voxel `start`."""
        affine = self.affine.copy()
        affine[:3, 3] = self.to_world_mm(np.array(start))
        x, y, z = shape
        return Grid((x, y, z), affine)

    def offset_in(self, whole: Grid) -> tuple[int, int, int]:
        """Return the index on `whole` of the first voxel of this grid, a part of it.

        >>> whole = Grid((9, 9, 9), np.diag([1.0, 2.0, 3.0, 1.0]))
        >>> whole.crop((4, 0, 2), (1, 1, 1)).offset_in(whole)
        (4, 0, 2)
        """
        place = (np.linalg.inv(whole.affine) @ self.affine[:, 3])[:3]
        x, y, z = np.rint(place).astype(int).tolist()
        return x, y, z

    def same_voxels(self, other: Grid, tolerance_mm: float = 1e-2) -> bool:
        """Tell whether both grids have the same voxels, whatever the order they are stored in.

        >>> grid = Grid((4, 5, 6), np.diag([1.0, 2.0, 3.0, 1.0]))
        >>> flipped = Grid((4, 5, 6), np.diag([-1.0, 2.0, 3.0, 1.0]) + np.eye(4, k=3) * 3)
        >>> flipped.same_voxels(grid), flipped.same_as(grid)
        (True, False)
        """
        if sorted(self.shape) != sorted(other.shape):
            return False
        corners = np.stack(np.meshgrid(*[[0, n - 1] for n in other.shape]), -1).reshape(-1, 3)
        ends = np.concatenate([corners, np.eye(3)])
        inverse = np.linalg.inv(self.affine)
        places = other.to_world_mm(ends) @ inverse[:3, :3].T + inverse[:3, 3]
        # Voxels lie on voxels, and corners on corners.
        off_mm = np.abs(places - places.round()).max() * max(self.spacing_mm)
        extent = np.array([places[:8].round().min(0), places[:8].round().max(0)])
        return bool(
            off_mm <= tolerance_mm and (extent == [[0] * 3, np.array(self.shape) - 1]).all()
        )

    def same_as(self, other: Grid, tolerance_mm: float = 1e-3) -> bool:
        """Tell whether both grids have the same voxels, corner to corner within `tolerance_mm`."""
        corners = np.stack(np.meshgrid(*[[0, n - 1] for n in self.shape]), -1)
        return self.shape == other.shape and bool(
            np.abs(self.to_world_mm(corners) - other.to_world_mm(corners)).max() <= tolerance_mm
        )


def require_scanner_grid(grid: Grid) -> Grid:
    """Return `grid` if a scanner can have recorded it: right angles, and no longer than 700 mm.

    Raises
    ------
    DataError
        The affine is sheared, maps all voxels onto a plane, is not finite, or spans more than
        700 mm along an axis.
    """
    axes = grid.affine[:3, :3]
    lengths = np.linalg.norm(axes, axis=0)
    cosines = np.triu(axes.T @ axes, 1) / np.maximum(np.outer(lengths, lengths), 1e-12)
    if not (np.isfinite(grid.affine).all() and lengths.min() > 0):
        message = f"The affine of the image, {grid.affine.round(3).tolist()}, maps voxels nowhere."
        raise DataError(message)
    if np.abs(cosines).max() > MAX_COSINE:
        message = (
            f"The affine of the image, {axes.round(3).tolist()}, has voxel axes that are not at "
            "right angles; those of a scanner's image are. Give the image before any affine "
            "registration."
        )
        raise DataError(message)
    if (lengths * grid.shape).max() > MAX_FIELD_OF_VIEW_MM:
        message = (
            f"The image spans {(lengths * grid.shape).round().tolist()} mm; at most "
            f"{MAX_FIELD_OF_VIEW_MM} mm are expected. Check the voxel size in its header."
        )
        raise DataError(message)
    return grid


def isotropic_grid(grid: Grid, spacing_mm: float) -> Grid:
    """Return the grid of isotropic voxels along the axes of `grid`, about the same centre.

    The axes keep their directions but are put in the order and the sense closest to right,
    anterior and superior (a rotated grid stays rotated). Every voxel's centre lies in the field
    of view of `grid`, which the new grid covers to less than a voxel. A grid that is this already
    comes back as it is.

    Parameters
    ----------
    grid : Grid
        Axes at right angles (`require_scanner_grid`).
    spacing_mm : float

    Examples
    --------
    >>> slices = Grid((4, 4, 2), np.diag([-1.0, -1.0, 3.0, 1.0]))
    >>> isotropic_grid(slices, 1.0).shape
    (4, 4, 6)
    >>> isotropic_grid(slices, 1.0).affine[:3, 3].tolist()
    [-3.0, -3.0, -1.0]
    """
    directions = grid.directions
    order = max(permutations(range(3)), key=lambda order: abs(directions[range(3), order]).prod())
    axes = directions[:, order]
    axes = axes * np.sign(np.diag(axes)) * spacing_mm
    extent_mm = (np.array(grid.shape) * grid.spacing_mm)[list(order)]
    # A thousandth of a voxel keeps 176 mm at 176 voxels despite a rounded affine.
    x, y, z = np.ceil(extent_mm / spacing_mm - 1e-3).astype(int).tolist()
    affine = np.eye(4)
    affine[:3, :3] = axes
    affine[:3, 3] = grid.centre_mm - axes @ (np.array([x, y, z]) - 1) / 2
    return Grid((x, y, z), affine)


def centre_of_mass_mm(values: NDArray[np.floating], grid: Grid) -> NDArray[np.float64]:
    """Return the centre of mass of `values`, shape (X, Y, Z), in world coordinates (RAS+, mm).

    Values below zero weigh nothing; if nothing weighs, it is the centre of the grid.
    """
    weights = np.maximum(values, 0).astype(np.float64)
    total = weights.sum()
    if total == 0:
        return grid.centre_mm
    sums = [weights.sum(axis=tuple({0, 1, 2} - {axis})) for axis in range(3)]
    indices = [np.arange(n) @ line / total for n, line in zip(grid.shape, sums, strict=True)]
    return grid.to_world_mm(np.array(indices))
