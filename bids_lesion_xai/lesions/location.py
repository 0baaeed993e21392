# SPDX-License-Identifier: Apache-2.0
"""Where lesions lie in the brain, from a map of its tissues."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

# FreeSurfer's numbers (FreeSurferColorLUT.txt), left and right.
LATERAL_VENTRICLES = (4, 5, 43, 44, 31, 63)
CEREBRAL_CORTEX = (3, 42)
CEREBRAL_WHITE_MATTER = (2, 41, 251, 252, 253, 254, 255)
INFRATENTORIAL = (7, 8, 15, 16, 46, 47)
# What every map of a brain has; maps of other numbers lack some of it.
REQUIRED = {
    "left cerebral white matter": (2,),
    "right cerebral white matter": (41,),
    "the left lateral ventricle": (4,),
    "the right lateral ventricle": (43,),
}
# Parcels of the cortex, of both atlases.
_CORTICAL_PARCELS = ((1000, 3000), (11100, 13000))
# Lesions abut what lies within this distance: the next voxel, and one more for what the tissue
# map is off.
ABUTS_MM = 2.0


def locations(
    labels: NDArray[np.int32], tissues: NDArray[np.int32] | None, spacing_mm: Sequence[float]
) -> Iterator[dict[str, Any]]:
    """Yield the place of every region, in the order of the labels.

    Parameters
    ----------
    labels : int32 array, shape (X, Y, Z)
        Regions have the values 1 to their number.
    tissues : int32 array, shape (X, Y, Z), or None
        FreeSurfer's numbers (``aseg``, ``aparc+aseg``).
    spacing_mm : sequence of float

    Yields
    ------
    place : dict
        ``location``, a key of `bids_lesion_xai.conventions.LOCATIONS`, the first that holds of
        infratentorial, periventricular, juxtacortical and deep; ``ventricle_distance_mm`` and
        ``cortex_distance_mm``: smallest distance (Euclidean, between voxel centres) of a voxel of
        the region to a lateral ventricle and to cerebral cortex, 0 inside; NaN without a map or
        without the structure. Whether a region is infratentorial is asked of the nearest tissue
        where the map says nothing of a voxel.
    """
    n_regions = int(labels.max(initial=0))
    if tissues is None or not tissues.any():
        place = {"location": "unknown", **dict.fromkeys(_DISTANCES, float("nan"))}
        yield from (dict(place) for _ in range(n_regions))
        return
    filled = _nearest_tissue(tissues, spacing_mm)
    regions = range(1, n_regions + 1)
    below = ndimage.mean(np.isin(filled, INFRATENTORIAL), labels, regions)
    distances = {
        name: _distances(structure(tissues), labels, spacing_mm)
        for name, structure in _DISTANCES.items()
    }
    for i in range(n_regions):
        own = {name: float(values[i]) for name, values in distances.items()}
        yield {"location": _location(below[i], own), **own}


def _location(share_below: float, distances: dict[str, float]) -> str:
    if share_below >= 0.5:
        return "infratentorial"
    if distances["ventricle_distance_mm"] <= ABUTS_MM:
        return "periventricular"
    return "juxtacortical" if distances["cortex_distance_mm"] <= ABUTS_MM else "deep"


def _nearest_tissue(tissues: NDArray[np.int32], spacing_mm: Sequence[float]) -> NDArray[np.int32]:
    indices = ndimage.distance_transform_edt(
        tissues == 0, sampling=spacing_mm, return_distances=False, return_indices=True
    )
    return np.asarray(tissues[tuple(indices)])


def _ventricles(tissues: NDArray[np.int32]) -> NDArray[np.bool_]:
    return np.isin(tissues, LATERAL_VENTRICLES)


def _cortex(tissues: NDArray[np.int32]) -> NDArray[np.bool_]:
    cortex = np.isin(tissues, CEREBRAL_CORTEX)
    for first, end in _CORTICAL_PARCELS:
        cortex |= (tissues >= first) & (tissues < end)
    return cortex


_DISTANCES = {"ventricle_distance_mm": _ventricles, "cortex_distance_mm": _cortex}


def _distances(
    structure: NDArray[np.bool_], labels: NDArray[np.int32], spacing_mm: Sequence[float]
) -> NDArray[np.float64]:
    """Return the smallest distance of each region to a structure, NaN if there is none."""
    n_regions = int(labels.max())
    if not structure.any():
        return np.full(n_regions, np.nan)
    distance = ndimage.distance_transform_edt(~structure, sampling=spacing_mm).round(4)
    return np.asarray(ndimage.minimum(distance, labels, range(1, n_regions + 1)))
