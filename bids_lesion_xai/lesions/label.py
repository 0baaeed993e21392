# SPDX-License-Identifier: Apache-2.0
"""Lesion instances: connected components of a thresholded probability map."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

# Voxels that share a face or an edge are neighbours: 18-connectivity, as published.
CONNECTIVITY = ndimage.generate_binary_structure(3, 2)


def reaching(
    mask: NDArray[np.bool_], scores: NDArray[np.floating], least: float
) -> NDArray[np.bool_]:
    """Return the lesions of `mask` that reach a score somewhere.

    With a smaller score for the mask itself, how far a lesion extends does not depend on what is
    asked of it to count (thresholding with hysteresis; Canny, IEEE PAMI 1986, doi
    10.1109/TPAMI.1986.4767851).

    Parameters
    ----------
    mask : bool array, shape (X, Y, Z)
    scores : float array, shape (X, Y, Z)
    least : float
        What at least one voxel of a lesion has, in the units of `scores`.

    Returns
    -------
    mask : bool array, shape (X, Y, Z)

    Examples
    --------
    >>> scores = np.array([0.4, 0.9, 0.4, 0.0, 0.7]).reshape(5, 1, 1)
    >>> reaching(scores >= 0.4, scores, 0.8).ravel().astype(int)
    array([1, 1, 1, 0, 0])
    """
    components, count = ndimage.label(mask, CONNECTIVITY)
    reaches = np.zeros(count + 1, bool)
    reaches[components[mask & (scores >= least)]] = True
    return np.asarray(reaches[components])


def label_lesions(
    mask: NDArray[np.bool_], voxel_volume_mm3: float, min_volume_mm3: float
) -> NDArray[np.int32]:
    """Return the lesions of `mask`, numbered from 1, the largest first.

    Lesions of equal volume are numbered in the C order of their first voxels.

    Parameters
    ----------
    mask : bool array, shape (X, Y, Z)
    voxel_volume_mm3 : float
    min_volume_mm3 : float
        Components of a smaller volume are dropped.

    Returns
    -------
    labels : int32 array, shape (X, Y, Z)
        0 where there is no lesion.

    References
    ----------
    Spagnolo et al., Scientific Reports (2026), doi 10.1038/s41598-026-36560-9: 18-connectivity.

    Examples
    --------
    >>> mask = np.zeros((9, 4, 4), bool)
    >>> mask[0, :2, 0] = mask[4:9, 1, 1] = True
    >>> label_lesions(mask, voxel_volume_mm3=1.0, min_volume_mm3=2.0)[[0, 4], [0, 1], [0, 1]]
    array([2, 1], dtype=int32)
    """
    components, count = ndimage.label(mask, CONNECTIVITY)
    volumes_mm3 = np.bincount(components.ravel(), minlength=count + 1)[1:] * voxel_volume_mm3
    order = np.argsort(-volumes_mm3, kind="stable")
    # A tolerance of a millionth keeps 6 voxels of 1 mm3 at 6 mm3 despite a rounded affine.
    order = order[volumes_mm3[order] >= min_volume_mm3 * (1 - 1e-6)]
    number = np.zeros(count + 1, np.int32)
    number[order + 1] = np.arange(1, order.size + 1)
    return np.asarray(number[components])
