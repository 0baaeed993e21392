# SPDX-License-Identifier: Apache-2.0
"""Lesion masks from one grid to another, without loss of volume."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from bids_lesion_xai.imaging.grid import Grid
from bids_lesion_xai.lesions.label import CONNECTIVITY

# Along each axis of a voxel, so many points for each voxel of the other grid that it spans. They
# are a little off the middle, so that no border halves them: a sheet between two layers of voxels
# goes to one of them, not one half of it to both.
_POINTS = 5
_OFF_THE_MIDDLE = (1e-3, 1.7e-3, 2.3e-3)
_POINTS_AT_ONCE = 2**20


def move_mask(
    mask: NDArray[np.bool_], grid: Grid, target: Grid, motion: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Return a mask on another grid, where each lesion has the volume it had.

    Of the voxels of `target` that a lesion overlaps, those with the most overlap are kept, as many
    as its volume is worth, and at least one. A voxel that two lesions share counts once and makes
    them one; a thin lesion may come apart. A cut at one half of an interpolated mask would take
    the edges off small lesions, and all of those between the centres of thick slices.

    Parameters
    ----------
    mask : bool array, shape (X, Y, Z) of `grid`
    grid, target : Grid
    motion : float64 array, shape (4, 4)
        World coordinates (RAS+, mm) of `grid` to those of `target`.

    Returns
    -------
    moved : bool array, shape (X, Y, Z) of `target`
        What lies beyond the field of view is lost.

    Examples
    --------
    >>> mask = np.zeros((4, 4, 10), bool)
    >>> mask[1:3, 1:3, 4:6] = True
    >>> slices = Grid((4, 4, 2), np.diag([1.0, 1.0, 5.0, 1.0]))
    >>> int(move_mask(mask, Grid(mask.shape, np.eye(4)), slices, np.eye(4)).sum() * 5)
    10
    """
    to_target = np.linalg.inv(target.affine) @ motion @ grid.affine
    points = _points_of_a_voxel(to_target)
    lesion, voxel, overlap = _overlaps(mask, to_target, points, target.shape)
    # Of each lesion, the voxels with the most overlap come first.
    order = np.lexsort((voxel, -overlap, lesion))
    lesion, voxel, overlap = lesion[order], voxel[order], overlap[order]
    point_volume = abs(np.linalg.det(to_target[:3, :3])) / len(points)
    worth = np.maximum(1, np.rint(np.bincount(lesion, overlap) * point_volume))
    rank = np.arange(len(lesion)) - np.searchsorted(lesion, lesion)
    moved = np.zeros(target.shape, bool)
    moved.ravel()[voxel[rank < worth[lesion]]] = True
    return moved


def _points_of_a_voxel(to_target: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return points all over a voxel, shape (points, 3), in voxels from its middle."""
    spans = np.ceil(np.linalg.norm(to_target[:3, :3], axis=0) - 1e-3).astype(int)
    counts = _POINTS * np.maximum(spans, 1)
    steps = [(np.arange(n) + 0.5) / n - 0.5 for n in counts.tolist()]
    points = np.stack(np.meshgrid(*steps, indexing="ij"), -1).reshape(-1, 3)
    return np.asarray(points + _OFF_THE_MIDDLE)


def _overlaps(
    mask: NDArray[np.bool_],
    to_target: NDArray[np.float64],
    points: NDArray[np.float64],
    shape: tuple[int, int, int],
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return how many points of each lesion lie in each voxel of a grid of `shape`.

    Returns
    -------
    lesions, voxels, counts : int64 arrays, shape (pairs,)
        Number of the lesion, index of the voxel in C order, and points of the one in the other.
    """
    labels, _ = ndimage.label(mask, CONNECTIVITY)
    voxels = np.argwhere(mask)
    lesions = labels[mask].astype(np.int64)
    size = int(np.prod(shape))
    at_once = max(1, _POINTS_AT_ONCE // len(points))
    pairs, counts = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for start in range(0, len(voxels), at_once):
        part = slice(start, start + at_once)
        places = (voxels[part, None] + points) @ to_target[:3, :3].T + to_target[:3, 3]
        places = np.floor(places + 0.5).astype(np.int64)
        within = ((places >= 0) & (places < shape)).all(-1)
        here = np.ravel_multi_index(tuple(places[within].T), shape)
        found = np.unique(here + size * lesions[part].repeat(within.sum(1)), return_counts=True)
        pairs.append(found[0])
        counts.append(found[1])
    every, which = np.unique(np.concatenate(pairs), return_inverse=True)
    total = np.bincount(which, np.concatenate(counts), len(every)).astype(np.int64)
    return every // size, every % size, total
