# SPDX-License-Identifier: Apache-2.0
"""Painting lesions of known shape into an image."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

# Fluid is dark on FLAIR: below this many brain standard deviations nothing is painted.
_DARKEST_TISSUE = -1.0
_MARGIN_VOXELS = 3
# How lesions of a scan differ from the tissue around them, in brain standard deviations: on real
# scans most are 0.5 to 1.7 brighter on FLAIR and 0 to 0.9 darker on T1w.
_FLAIR_BRIGHTENING = (0.5, 1.7)
_T1W_DARKENING = (0.0, 0.7)


def paint_lesions(
    image: NDArray[np.float32],
    shapes: NDArray[np.bool_],
    rng: np.random.Generator,
    keep: float,
    least_brightening: float = 0.0,
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Paint the connected components of `shapes` into `image` as lesions.

    The image draws a brightening on FLAIR and a darkening on T1w, and each component that is kept
    its own part of them, the sharpness of its border and its texture. Fluid and background are
    left as they are.

    Parameters
    ----------
    image : float32 array, shape (2, X, Y, Z)
        FLAIR and T1w in units of normalised intensity. Not modified.
    shapes : bool array, shape (X, Y, Z)
        Lesions of another person on the same grid.
    rng : numpy Generator
        Fixes everything that is random.
    keep : float
        Probability of each component to be painted.
    least_brightening : float
        The least that the image may draw, in brain standard deviations.

    Returns
    -------
    painted : float32 array, shape (2, X, Y, Z)
    lesions : bool array, shape (X, Y, Z)
        Where the painted lesions are at least half opaque.
    """
    painted = image.copy()
    lesions = np.zeros(shapes.shape, bool)
    brightness = max(rng.uniform(*_FLAIR_BRIGHTENING), least_brightening)
    darkness = rng.uniform(*_T1W_DARKENING)
    labels, _ = ndimage.label(shapes, ndimage.generate_binary_structure(3, 2))
    for index, box in enumerate(ndimage.find_objects(labels), start=1):
        if rng.random() > keep:
            continue
        around = tuple(
            slice(max(0, axis.start - _MARGIN_VOXELS), axis.stop + _MARGIN_VOXELS) for axis in box
        )
        component = (labels[around] == index).astype(np.float32)
        opacity = ndimage.gaussian_filter(component, rng.uniform(0.4, 1.0))
        opacity = opacity * (painted[0][around] > _DARKEST_TISSUE) * (painted[1][around] != 0)
        texture = 1 + 0.25 * ndimage.gaussian_filter(rng.standard_normal(component.shape), 1.0)
        painted[0][around] += brightness * rng.uniform(0.7, 1.4) * opacity * texture
        painted[1][around] -= darkness * rng.uniform(0.0, 2.0) * opacity * texture
        lesions[around] |= opacity >= 0.5
    return painted, lesions
