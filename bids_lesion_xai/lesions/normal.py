# SPDX-License-Identifier: Apache-2.0
"""White matter that looks normal."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from bids_lesion_xai.lesions.location import CEREBRAL_WHITE_MATTER

# Normal-appearing white matter keeps this distance from every lesion, predicted or of a reference.
LESION_MARGIN_MM = 5.0
# FLAIR further from the median than this many robust standard deviations does not look normal.
_MOST_DEVIATIONS = 3.0
# Where the fit of fluid, grey and white matter begins, in percent of the brain's voxels.
_START_PERCENTILES = (10, 45, 85)
_FIT_VOXELS = 20_000
# Vessels, the more after contrast agent, and what is left of the skull are brighter than any
# tissue, and few.
_BRIGHTEST_PERCENTILE = 98.0


def normal_white_matter(
    flair: NDArray[np.float32],
    t1w: NDArray[np.float32],
    brain: NDArray[np.bool_],
    lesions: NDArray[np.bool_],
    spacing_mm: Sequence[float],
    tissues: NDArray[np.int32] | None = None,
) -> NDArray[np.bool_]:
    """Return the normal-appearing white matter: this project's own definition.

    Cerebral white matter of the tissue map or, without one, the largest connected part of the
    brightest of three tissues on T1w (k-means); without its outermost voxels; more than
    `LESION_MARGIN_MM` from every lesion; with FLAIR within three robust standard deviations
    (1.4826 times the median absolute deviation) of the median of what is left.

    Parameters
    ----------
    flair, t1w : float32 arrays, shape (X, Y, Z)
        In standard deviations of the brain.
    brain, lesions : bool arrays, shape (X, Y, Z)
        `lesions` holds every voxel that may be lesion.
    spacing_mm : sequence of float
    tissues : int32 array, shape (X, Y, Z), optional
        FreeSurfer's numbers.

    Returns
    -------
    normal : bool array, shape (X, Y, Z)
        All False where there is none.
    """
    if tissues is not None and np.isin(tissues, CEREBRAL_WHITE_MATTER).any():
        white = np.isin(tissues, CEREBRAL_WHITE_MATTER) & brain
    else:
        # T1w may see what FLAIR does not, such as sinuses.
        white = _brightest_tissue(t1w, brain & (flair != 0))
    white = ndimage.binary_erosion(white)
    if lesions.any():
        # Rounded, for an affine in single precision makes 5 mm a hair more or less.
        away_mm = ndimage.distance_transform_edt(~lesions, sampling=spacing_mm).round(4)
        white &= away_mm > LESION_MARGIN_MM
    if not white.any():
        return np.asarray(white)
    median = np.median(flair[white])
    deviation = 1.4826 * np.median(np.abs(flair[white] - median))
    return np.asarray(white & (np.abs(flair - median) <= _MOST_DEVIATIONS * deviation))


def tissue_means(t1w: NDArray[np.float32], brain: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the mean intensities on T1w of fluid, grey and white matter (k-means), ascending.

    Parameters
    ----------
    t1w : float32 array, shape (X, Y, Z)
    brain : bool array, shape (X, Y, Z)

    Returns
    -------
    means : float64 array, shape (3,)
    """
    from sklearn.cluster import KMeans

    values = t1w[brain].astype(np.float64)
    tissue = values[values <= np.percentile(values, _BRIGHTEST_PERCENTILE), None]
    start = np.percentile(tissue, _START_PERCENTILES)[:, None]
    means = KMeans(len(start), init=start, n_init=1).fit(tissue[:: 1 + len(tissue) // _FIT_VOXELS])
    return np.sort(means.cluster_centers_[:, 0])


def _brightest_tissue(t1w: NDArray[np.float32], brain: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the largest connected part of what is as bright as the brightest of three tissues."""
    _, grey_mean, white_mean = tissue_means(t1w, brain)
    white = brain & (np.abs(t1w - white_mean) < (white_mean - grey_mean) / 2)
    components, count = ndimage.label(ndimage.binary_erosion(white))
    if not count:
        return np.asarray(white)
    largest = np.bincount(components.ravel())[1:].argmax() + 1
    return np.asarray(ndimage.binary_dilation(components == largest) & white)
