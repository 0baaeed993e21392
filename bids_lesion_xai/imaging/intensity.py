# SPDX-License-Identifier: Apache-2.0
"""Intensities inside the brain."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bids_lesion_xai.errors import DataError


def brain_moments(values: NDArray[np.float32], brain: NDArray[np.bool_]) -> tuple[float, float]:
    """Return mean and standard deviation of `values` inside the brain.

    Parameters
    ----------
    values : float32 array, shape (X, Y, Z)
    brain : bool array, shape (X, Y, Z)

    Raises
    ------
    DataError
        The brain mask is empty or the image is constant inside it.
    """
    inside = values[brain].astype(np.float64)
    if inside.size == 0:
        message = "The brain mask is empty, or the image 0 everywhere. Look at both."
        raise DataError(message)
    mean, deviation = float(inside.mean()), float(inside.std())
    if deviation <= 1e-6 * max(abs(mean), 1e-6):
        message = f"The image is constant ({mean:g}) where contrast is expected. Look at it."
        raise DataError(message)
    return mean, deviation


def normalise(
    values: NDArray[np.float32], brain: NDArray[np.bool_], mean: float, deviation: float
) -> NDArray[np.float32]:
    """Return (values - mean) / deviation inside the brain and exactly 0 outside.

    The unit of the result, one standard deviation of the brain's intensities, is the "unit of
    normalised intensity" of every saliency value. The published network was fed the same way.

    Parameters
    ----------
    values : float32 array, shape (X, Y, Z)
    brain : bool array, shape (X, Y, Z)
    mean, deviation : float
        From `brain_moments`.

    References
    ----------
    Spagnolo et al., Scientific Reports (2026), doi 10.1038/s41598-026-36560-9.
    """
    return np.where(brain, (values - mean) / deviation, 0).astype(np.float32)


def robust_range(values: NDArray[np.float32], brain: NDArray[np.bool_]) -> float:
    """Return the distance between the 0.1 and the 99.9 percentile inside the brain."""
    low, high = np.percentile(values[brain], [0.1, 99.9])
    return float(high - low)
