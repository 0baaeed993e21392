# SPDX-License-Identifier: Apache-2.0
"""Predicted lesions against a reference mask, and control regions where there is no lesion."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from bids_lesion_xai.lesions.label import label_lesions

_TRIES = 4000
# A place that does not fit shows at a few voxels of the region already.
_FIRST_VOXELS = 32


@dataclass(frozen=True)
class Regions:
    """Regions of a visit that are explained and compared.

    Parameters
    ----------
    labels : int32 array, shape (X, Y, Z)
        Predicted lesions keep their values; the others follow.
    outcomes : tuple of str
        Of the regions 1, 2, ...: keys of `bids_lesion_xai.conventions.OUTCOMES`.
    """

    labels: NDArray[np.int32]
    outcomes: tuple[str, ...]


def compare(
    labels: NDArray[np.int32],
    reference: NDArray[np.bool_],
    voxel_volume_mm3: float,
    min_volume_mm3: float,
) -> Regions:
    """Return the predicted lesions, found right or wrong, and after them the lesions missed.

    A predicted lesion is right (TP) if it shares a voxel with the reference. Lesions of the
    reference are its connected components, numbered and of a smallest volume as those predicted.

    Parameters
    ----------
    labels : int32 array, shape (X, Y, Z)
        Predicted lesions have the values 1 to their number.
    reference : bool array, shape (X, Y, Z)
    voxel_volume_mm3, min_volume_mm3 : float
        Of a voxel, and of the smallest lesion of the reference that counts as missed.

    References
    ----------
    Spagnolo et al., Scientific Reports (2026), doi 10.1038/s41598-026-36560-9: any overlap.
    """
    n_predicted = int(labels.max(initial=0))
    right = set(np.unique(labels[reference]).tolist())
    outcomes = ["TP" if label in right else "FP" for label in range(1, n_predicted + 1)]
    true = label_lesions(reference, voxel_volume_mm3, min_volume_mm3)
    found = set(np.unique(true[labels > 0]).tolist())
    missed = [label for label in range(1, int(true.max(initial=0)) + 1) if label not in found]
    number = np.zeros(int(true.max(initial=0)) + 1, np.int32)
    number[missed] = n_predicted + 1 + np.arange(len(missed))
    regions = labels + np.where(labels == 0, number[true], 0)
    return Regions(regions.astype(np.int32), (*outcomes, *["FN"] * len(missed)))


def add_controls(regions: Regions, normal: NDArray[np.bool_], seed: int, visit: str) -> Regions:
    """Return the regions with a control region (TN) for each of them that there is room for.

    A control region is a copy of the region's shape, moved so that all of it lies in
    normal-appearing white matter and on no other control region: this project's own definition.
    Large regions, which leave the least choice, are placed first. Where none of 4,000 random
    places fits, the region has no control.

    Parameters
    ----------
    regions : Regions
    normal : bool array, shape (X, Y, Z)
        See `bids_lesion_xai.lesions.normal.normal_white_matter`.
    seed : int
        With `visit`, fixes the places.
    visit : str
    """
    labels, outcomes = regions.labels.copy(), list(regions.outcomes)
    free = normal & (labels == 0)
    places = np.argwhere(free)
    shapes = []
    for index, box in enumerate(ndimage.find_objects(regions.labels), start=1):
        shapes.append((index, np.argwhere(regions.labels[box] == index)))
    for index, voxels in sorted(shapes, key=lambda shape: (-len(shape[1]), shape[0])):
        rng = np.random.default_rng([seed % 2**128, zlib.crc32(visit.encode()), index])
        found = _place(voxels, free, places, rng)
        if found is not None:
            outcomes.append("TN")
            labels[tuple(found.T)] = len(outcomes)
            free[tuple(found.T)] = False
    return Regions(labels, tuple(outcomes))


def _place(
    voxels: NDArray[np.int64],
    free: NDArray[np.bool_],
    places: NDArray[np.int64],
    rng: np.random.Generator,
) -> NDArray[np.int64] | None:
    """Return `voxels` moved so that all lie where it is free, or None."""
    if len(voxels) > len(places):
        return None
    # The voxel next to the centroid comes to lie on a free place.
    centre = voxels[((voxels - voxels.mean(0)) ** 2).sum(1).argmin()]
    starts = places[rng.integers(0, len(places), _TRIES)] - centre
    inside = ((starts >= 0) & (starts + voxels.max(0) < free.shape)).all(1)
    few = voxels[rng.integers(0, len(voxels), _FIRST_VOXELS)]
    for start in starts[inside][_all_free(free, starts[inside], few)]:
        if _all_free(free, start[None], voxels)[0]:
            return np.asarray(voxels + start)
    return None


def _all_free(
    free: NDArray[np.bool_], starts: NDArray[np.int64], voxels: Sequence[int] | NDArray[np.int64]
) -> NDArray[np.bool_]:
    moved = starts[:, None] + np.asarray(voxels)[None]
    return np.asarray(free[tuple(np.moveaxis(moved, -1, 0))].all(1))
