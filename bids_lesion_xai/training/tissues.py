# SPDX-License-Identifier: Apache-2.0
"""Tissues, which a network may learn to tell beside lesions, to know what it is looking at."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bids_lesion_xai.lesions.normal import tissue_means
from bids_lesion_xai.training import anatomy as parts
from bids_lesion_xai.training.anatomy import STRUCTURES, Structure

# By their numbers, from 1 on. "Other" are vessels, choroid plexus and what is not of the brain.
FLUID, GREY_MATTER, WHITE_MATTER, OTHER = TISSUES = (1, 2, 3, 4)
UNKNOWN = 0
_GREY_FROM = 0.5


def of_anatomy(anatomy: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the tissue of each voxel of a head.

    Parameters
    ----------
    anatomy : uint8 array, shape (X, Y, Z)
        Numbers of `anatomy.STRUCTURES`.

    Returns
    -------
    tissues : uint8 array, shape (X, Y, Z)
        One of `TISSUES`; `UNKNOWN` outside the head.
    """
    table = np.array([_tissue(i, one) for i, one in enumerate(STRUCTURES)], np.uint8)
    return table[anatomy]


def of_scan(t1w: NDArray[np.float32], brain: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Return the tissue of each voxel of a real scan, as its intensity on T1w tells.

    Parameters
    ----------
    t1w : float32 array, shape (X, Y, Z)
    brain : bool array, shape (X, Y, Z)

    Returns
    -------
    tissues : uint8 array, shape (X, Y, Z)
        Fluid, grey or white matter, whose mean is closest; `UNKNOWN` outside the brain.
    """
    means = tissue_means(t1w, brain)
    nearest = np.digitize(t1w, (means[1:] + means[:-1]) / 2)
    return np.where(brain, FLUID + nearest, UNKNOWN).astype(np.uint8)


def _tissue(number: int, structure: Structure) -> int:
    if structure.name == parts.OUTSIDE:
        return UNKNOWN
    if structure.name in (parts.FLUID, parts.VENTRICLES):
        return FLUID
    if structure.name in (parts.VESSELS, parts.CHOROID_PLEXUS) or (
        number >= parts.FIRST_EXTRACEREBRAL
    ):
        return OTHER
    return GREY_MATTER if structure.grayness >= _GREY_FROM else WHITE_MATTER
