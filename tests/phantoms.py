"""A head that is known everywhere in space, drawn on any grid."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from bids_lesion_xai.imaging.grid import Grid

# Half the axes of the brain in mm: 352 mL, so small that registrations take a second.
BRAIN_MM = np.array([42.0, 50.0, 40.0])
CENTRE_MM = np.array([7.0, -12.0, 21.0])
T1W = {"air": 0, "scalp": 900, "skull": 60, "fluid": 150, "grey": 500, "white": 800}
FLAIR = {"air": 0, "scalp": 400, "skull": 40, "fluid": 60, "grey": 420, "white": 330}


def oblique_grid(
    spacing_mm: tuple[float, float, float],
    flips: tuple[int, int, int] = (1, 1, 1),
    degrees: tuple[float, float, float] = (0, 0, 0),
    half_extent_mm: float = 60.0,
    order: tuple[int, int, int] = (0, 1, 2),
) -> Grid:
    """Return a grid about the head: flipped, its axes permuted, rotated."""
    axes = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix() * flips
    axes = (axes * spacing_mm)[:, order]
    x, y, z = (int(2 * half_extent_mm / spacing_mm[axis]) for axis in order)
    affine = np.eye(4)
    affine[:3, :3] = axes
    affine[:3, 3] = CENTRE_MM - axes @ (np.array([x, y, z]) - 1) / 2
    return Grid((x, y, z), affine)


def rigid(degrees: tuple[float, float, float], shift_mm: tuple[float, float, float]) -> NDArray:
    """Return the (4, 4) motion, in world coordinates, about the centre of the head."""
    motion = np.eye(4)
    motion[:3, :3] = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix()
    motion[:3, 3] = CENTRE_MM - motion[:3, :3] @ CENTRE_MM + shift_mm
    return motion


def moved(grid: Grid, motion: NDArray) -> Grid:
    """Return `grid` with its header moved: the same voxels, elsewhere in space."""
    return Grid(grid.shape, motion @ grid.affine)


def world_mm(grid: Grid) -> NDArray:
    """Return the world coordinates, shape (X, Y, Z, 3), of all voxels."""
    return grid.to_world_mm(np.stack(np.indices(grid.shape), -1))


def brain_mask(grid: Grid) -> NDArray[np.bool_]:
    return np.linalg.norm((world_mm(grid) - CENTRE_MM) / BRAIN_MM, axis=-1) <= 1


def head(grid: Grid, intensities: dict[str, float], *, person: int = 0) -> NDArray[np.float32]:
    """Return a head with scalp, skull, folded cortex and ventricles; `person` moves the folds."""
    place = world_mm(grid) - CENTRE_MM
    radius = np.linalg.norm(place / BRAIN_MM, axis=-1)
    phases = np.random.default_rng(person).uniform(0, 2 * np.pi, (4, 3))
    waves = sum(
        np.sin(place / length_mm + phase).prod(-1)
        for length_mm, phase in zip((2.0, 2.6, 3.2, 4.0), phases, strict=True)
    )
    ventricle = np.linalg.norm((place - [9, 3 + 6 * person, 4]) / [6, 20, 8], axis=-1) <= 1
    image = np.full(grid.shape, intensities["air"], np.float32)
    image[radius <= 1.28] = intensities["scalp"]
    image[radius <= 1.16] = intensities["skull"]
    image[radius <= 1] = intensities["fluid"]
    image[(radius <= 1) & (waves < 0.8)] = intensities["grey"]
    image[(radius <= 0.95) & (waves < 0)] = intensities["white"]
    image[ventricle] = intensities["fluid"]
    return image
