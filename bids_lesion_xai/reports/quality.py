# SPDX-License-Identifier: Apache-2.0
"""Whether the images of a visit are good enough to believe the lesions: pass, warn or fail.

Limits are what the scans showed that this was made on; the report states them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from bids_lesion_xai.bids.store import Store
from bids_lesion_xai.bids.visit import Visit
from bids_lesion_xai.conventions import CHANNELS, COARSE_BIAS_CORRECTION
from bids_lesion_xai.imaging import nifti
from bids_lesion_xai.imaging.similarity import MIN_COVERAGE, MIN_SIMILARITY
from bids_lesion_xai.reports.page import number_text
from bids_lesion_xai.reports.slices import Scan

PASS, WARN, FAIL = "pass", "warn", "fail"
# Below the least that right registrations of 11 scans had; see `MIN_SIMILARITY`.
GOOD_SIMILARITY = 0.5
GOOD_COVERAGE = 0.98
# Brain masks of adults, cerebrospinal fluid included, in mL.
USUAL_BRAIN_ML = (1000.0, 1900.0)
POSSIBLE_BRAIN_ML = (500.0, 2500.0)
# Of the brain's voxels on the faces of the image.
GOOD_FACE_SHARE = 0.001
THIN_MM, THICK_MM = 2.0, 6.0
# In standard deviations of the brain. Found: 0.01 to 0.19 in the 14 images of seven scans.
GOOD_NOISE, BAD_NOISE = 0.25, 0.5

_WORST = (FAIL, WARN, PASS)
# Differences that a smooth image cancels (Immerkaer, Computer Vision and Image Understanding 64
# (1996), doi 10.1006/cviu.1996.0060); noise of SD 1 gives values of SD 6.
_DIFFERENCES = np.array([[1.0, -2, 1], [-2, 4, -2], [1, -2, 1]])
# Of axial slices one in so many is looked at.
_EVERY = 3
# Median of the magnitude of a normal value, in standard deviations.
_MEDIAN_MAGNITUDE = 0.6745


@dataclass(frozen=True)
class Check:
    """A question on the images and its answer.

    Parameters
    ----------
    name : str
    status : str
        `PASS`, `WARN` or `FAIL`.
    value : str
    text : str
        What that means, and what to do.
    limits : str
        When it passes.
    """

    name: str
    status: str
    value: str
    text: str
    limits: str


_SLOPPY = Check(
    "Settings",
    WARN,
    "--sloppy",
    "The bias field was corrected coarsely, for a test of the software. Process again without "
    "--sloppy for results.",
    "options: warn with --sloppy",
)


def check_images(store: Store, visit: Visit, scan: Scan) -> list[Check]:
    """Return what a visit's outputs tell of its images and of their registration.

    Raises
    ------
    DataError
        A sidecar is missing or damaged.
    """
    found = [
        _registration(float(store.facts("preproc_flair", visit)["RegistrationSimilarity"])),
        _coverage(covered(scan, store.facts("preproc_flair", visit))),
        _brain(float(store.facts("brain_mask", visit)["BrainVolume_mm3"]), scan.brain),
    ]
    native = nifti.read_sampling(store.path("lesion_mask_native", visit))
    if native:
        found.append(_thickness(max(native.voxel_mm)))
    found += [
        _noise(name, noise(scan.images[channel], scan.brain)) for channel, name in CHANNELS.items()
    ]
    if store.facts("preproc_flair", visit)["BiasCorrection"] == COARSE_BIAS_CORRECTION:
        found.append(_SLOPPY)
    return found


def worst(checks: list[Check]) -> str:
    """Return the worst status of all.

    >>> worst([])
    'pass'
    """
    return min((check.status for check in checks), key=_WORST.index, default=PASS)


def covered(scan: Scan, facts: dict[str, Any]) -> float:
    """Return the share of the brain that FLAIR shows, and in which it had a signal.

    Normalised FLAIR is 0 where it shows nothing; elsewhere, 0 before normalisation is no signal.

    Parameters
    ----------
    scan : Scan
    facts : dict
        Sidecar of the preprocessed FLAIR.
    """
    mean, deviation = facts["IntensityMean"], facts["IntensityStandardDeviation"]
    if not all(isinstance(value, float | int) for value in (mean, deviation)) or not deviation:
        return 1.0
    nothing = -float(mean) / float(deviation)
    flair = scan.images["flair"][scan.brain]
    return 1 - float((np.isclose(flair, nothing, atol=1e-3) | (flair == 0)).mean())


def noise(image: NDArray[np.float32], brain: NDArray[np.bool_]) -> float:
    """Return the standard deviation of the noise inside the brain, from axial slices.

    Noise that interpolation has smoothed is underestimated.
    """
    inside = ndimage.binary_erosion(brain, iterations=2)
    if not inside.any():
        return 0.0
    shown = np.flatnonzero(inside.any((0, 1)))[::_EVERY]
    differences = ndimage.convolve(image[:, :, shown], _DIFFERENCES[:, :, None])
    return float(np.median(np.abs(differences[inside[:, :, shown]])) / (6 * _MEDIAN_MAGNITUDE))


def _registration(similarity: float) -> Check:
    status, text = PASS, "FLAIR and T1w lie on each other as in scans that are known to match."
    if similarity < MIN_SIMILARITY:
        status, text = FAIL, "FLAIR and T1w do not match. Do not use these lesions."
    elif similarity < GOOD_SIMILARITY:
        status = WARN
        text = "FLAIR and T1w match less than usual. Look at the edges in the figure below."
    return Check(
        "Registration",
        status,
        number_text(similarity, 2),
        text,
        f"similarity of FLAIR and T1w: pass from {GOOD_SIMILARITY:g}, fail below "
        f"{MIN_SIMILARITY:g}",
    )


def _coverage(share: float) -> Check:
    status, text = PASS, "FLAIR shows the whole brain."
    if share < GOOD_COVERAGE:
        status = FAIL if share < MIN_COVERAGE else WARN
        text = "Part of the brain is outside FLAIR; lesions there cannot be found."
    return Check(
        "FLAIR shows the brain",
        status,
        f"{number_text(100 * share)} %",
        text,
        f"share of the brain with signal in FLAIR: pass from {100 * GOOD_COVERAGE:g} %, fail "
        f"below {100 * MIN_COVERAGE:g} %",
    )


def _brain(volume_mm3: float, brain: NDArray[np.bool_]) -> Check:
    volume_ml = volume_mm3 / 1000
    faces = sum(float(np.moveaxis(brain, axis, 0)[[0, -1]].sum()) for axis in range(3)) / max(
        float(brain.sum()), 1
    )
    status, text = PASS, "The brain mask has a usual size and is whole."
    if not USUAL_BRAIN_ML[0] <= volume_ml <= USUAL_BRAIN_ML[1]:
        possible = POSSIBLE_BRAIN_ML[0] <= volume_ml <= POSSIBLE_BRAIN_ML[1]
        status = WARN if possible else FAIL
        text = "The brain mask has an unusual size. Look whether it follows the brain."
    elif faces > GOOD_FACE_SHARE:
        status, text = WARN, "The brain is cut off at the border of T1w."
    return Check(
        "Brain mask",
        status,
        f"{number_text(volume_ml)} mL",
        text,
        f"pass from {USUAL_BRAIN_ML[0]:g} to {USUAL_BRAIN_ML[1]:g} mL, with at most "
        f"{100 * GOOD_FACE_SHARE:g} % of it on the border of the image; fail below "
        f"{POSSIBLE_BRAIN_ML[0]:g} or above {POSSIBLE_BRAIN_ML[1]:g} mL",
    )


def _thickness(largest_mm: float) -> Check:
    status, text = PASS, "FLAIR has thin slices."
    if largest_mm > THIN_MM:
        status = FAIL if largest_mm > THICK_MM else WARN
        text = (
            "FLAIR has thick slices. Borders and volumes along them are uncertain, and small "
            "lesions may be missed."
        )
    return Check(
        "Voxels of FLAIR",
        status,
        f"{number_text(largest_mm, 2)} mm",
        text,
        f"longest edge of a voxel as acquired: pass up to {THIN_MM:g} mm, fail above "
        f"{THICK_MM:g} mm",
    )


def _noise(name: str, level: float) -> Check:
    status, text = PASS, f"{name} has little noise."
    if level > GOOD_NOISE:
        status = FAIL if level > BAD_NOISE else WARN
        text = f"{name} is noisy. Small and weak lesions may be missed, or be false."
    return Check(
        f"Noise of {name}",
        status,
        number_text(level, 2),
        text,
        f"standard deviation of the noise over that of the brain: pass up to {GOOD_NOISE:g}, fail "
        f"above {BAD_NOISE:g}",
    )
