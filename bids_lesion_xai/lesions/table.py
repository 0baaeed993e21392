# SPDX-License-Identifier: Apache-2.0
"""One row of numbers for every lesion."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from bids_lesion_xai.imaging.grid import Grid


def lesion_name(index: int) -> str:
    """Return the name of lesion `index` in file names and reports.

    >>> lesion_name(7)
    'L007'
    """
    return f"L{index:03d}"


def lesion_rows(
    labels: NDArray[np.int32], probability: NDArray[np.float32], grid: Grid
) -> list[dict[str, float | int | str]]:
    """Return size, place and probability of every lesion, in the order of their labels.

    Parameters
    ----------
    labels : int32 array, shape (X, Y, Z)
        Lesions have the values 1 to their number.
    probability : float32 array, shape (X, Y, Z)
    grid : Grid
        Of both; centroids are in its world space (RAS+, mm), bounding boxes in voxel indices.

    Returns
    -------
    rows : list of dict
        With the columns of the lesion table.
    """
    rows: list[dict[str, float | int | str]] = []
    for index, slices in enumerate(ndimage.find_objects(labels), start=1):
        voxels = np.argwhere(labels[slices] == index) + [axis.start for axis in slices]
        values = probability[tuple(voxels.T)].astype(np.float64)
        volume_mm3 = len(voxels) * grid.voxel_volume_mm3
        x_mm, y_mm, z_mm = grid.to_world_mm(voxels.mean(0))
        first, last = voxels.min(0), voxels.max(0)
        box = {
            f"bbox_{axis}_{end}": int(corner[i])
            for i, axis in enumerate("xyz")
            for end, corner in (("first", first), ("last", last))
        }
        rows.append(
            {
                "index": index,
                "name": lesion_name(index),
                "volume_mm3": volume_mm3,
                "n_voxels": len(voxels),
                "centroid_x_mm": float(x_mm),
                "centroid_y_mm": float(y_mm),
                "centroid_z_mm": float(z_mm),
                "mean_probability": float(values.mean()),
                "peak_probability": float(values.max()),
                "equivalent_diameter_mm": float(np.cbrt(6 * volume_mm3 / np.pi)),
                **box,
            }
        )
    return rows
