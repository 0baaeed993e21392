# SPDX-License-Identifier: Apache-2.0
"""How well FLAIR and T1w match after registration."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bids_lesion_xai.errors import DataError

N_BINS = 32
# About the width of the cortex: a match is lost over this distance, and an image of another
# person, whose brain lies within some 5 mm, gains on one side what it loses on the other.
DISPLACEMENT_VOXELS = 4
# Found: at least 0.53 for right registrations of 11 scans, at most 0.29 for the FLAIR of another
# person (24 pairs) or one mirrored left to right, both registered as well as possible. Of these,
# tests/interfaces/test_real_scans.py repeats 5 right and 2 wrong pairs.
MIN_SIMILARITY = 0.35
MIN_COVERAGE = 0.8
# Right pairs of 7 scans have -0.3 to 0.6; copies of one image differ by rounding alone.
MAX_CORRELATION = 0.99


def similarity(
    t1w: NDArray[np.float32], flair: NDArray[np.float32], brain: NDArray[np.bool_]
) -> float:
    """Return the share of the mutual information that is lost when FLAIR is displaced.

    1 - mean(I(d)) / I(0), where I(d) is the mutual information inside the brain of T1w and of
    FLAIR displaced by d = 4 voxels, over the six directions along the axes. It is near 1 at a
    sharp optimum, near 0 far from any, and 0 where one of the images is constant. Unlike mutual
    information itself it does not depend on how much contrast and noise the images have.

    Parameters
    ----------
    t1w, flair, brain : float32, float32 and bool array, shape (X, Y, Z)
        On one grid of 1 mm voxels.
    """
    inside = np.flatnonzero(np.pad(brain, DISPLACEMENT_VOXELS))
    if inside.size == 0:
        return 0.0
    padded = np.pad(_levels(flair, brain), DISPLACEMENT_VOXELS)
    t1w_levels, flair_levels = _levels(t1w, brain)[brain], padded.ravel()
    _, n_y, n_z = padded.shape
    steps = [DISPLACEMENT_VOXELS * stride for stride in (n_y * n_z, n_z, 1)]
    at_rest, *displaced = (
        mutual_information(t1w_levels, flair_levels[inside + step])
        for step in (0, *steps, *(-step for step in steps))
    )
    return float(1 - np.mean(displaced) / at_rest) if at_rest > 1e-9 else 0.0


def require_match(score: float, coverage: float) -> None:
    """Do nothing if FLAIR and T1w match and FLAIR shows the brain.

    Parameters
    ----------
    score : float
        From `similarity`.
    coverage : float
        Share of the brain in FLAIR's field of view.

    Raises
    ------
    DataError
        Either is too low to trust the lesions found.
    """
    if score < MIN_SIMILARITY:
        message = (
            f"FLAIR and T1w do not match after registration: similarity {score:.2f}, at least "
            f"{MIN_SIMILARITY} expected. Look at both images: are they of the same person, whole, "
            "and are their orientations right? If so, align them and set their headers first."
        )
        raise DataError(message)
    if coverage < MIN_COVERAGE:
        message = (
            f"FLAIR shows {100 * coverage:.0f} % of the brain, at least {100 * MIN_COVERAGE:.0f} "
            "% expected: lesions outside its field of view would be missed. Leave the visit out, "
            "or give a FLAIR of the whole brain."
        )
        raise DataError(message)


def require_two_contrasts(
    t1w: NDArray[np.float32], flair: NDArray[np.float32], brain: NDArray[np.bool_]
) -> None:
    """Do nothing if FLAIR is another image than T1w.

    Parameters
    ----------
    t1w, flair, brain : float32, float32 and bool array, shape (X, Y, Z)
        On one grid.

    Raises
    ------
    DataError
        Inside the brain, one is the other, but for its scale.
    """
    first, second = (values[brain].astype(np.float64) for values in (t1w, flair))
    if min(first.size, first.std(), second.std()) <= 0:
        return
    correlation = float(np.corrcoef(first, second)[0, 1])
    if abs(correlation) > MAX_CORRELATION:
        message = (
            f"FLAIR and T1w are one image under two names (correlation {correlation:.3f} in the "
            "brain). Find out which of the two it is, and put the other in its place."
        )
        raise DataError(message)


def mutual_information(first: NDArray[np.int32], second: NDArray[np.int32]) -> float:
    """Return the mutual information, in nats, of two lists of levels 0 to 31 of equal length."""
    counts = np.bincount(first * N_BINS + second, minlength=N_BINS**2)
    joint = counts.reshape(N_BINS, N_BINS) / first.size
    independent = np.outer(joint.sum(axis=1), joint.sum(axis=0))
    seen = joint > 0
    return float((joint[seen] * np.log(joint[seen] / independent[seen])).sum())


def _levels(values: NDArray[np.float32], brain: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Return levels 0 to 31 that span the 0.5 to 99.5 percentile of the brain."""
    low, high = np.percentile(values[brain], [0.5, 99.5])
    scaled = (values - low) / (high - low if high > low else 1) * N_BINS
    return np.asarray(np.clip(scaled, 0, N_BINS - 1), np.int32)
