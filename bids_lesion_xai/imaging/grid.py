# SPDX-License-Identifier: Apache-2.0
"""A voxel grid in space: its shape and where its voxels lie."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


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

    def same_as(self, other: Grid, tolerance_mm: float = 1e-3) -> bool:
        """Tell whether both grids have the same voxels, corner to corner within `tolerance_mm`."""
        corners = np.stack(np.meshgrid(*[[0, n - 1] for n in self.shape]), -1)
        return self.shape == other.shape and bool(
            np.abs(self.to_world_mm(corners) - other.to_world_mm(corners)).max() <= tolerance_mm
        )
