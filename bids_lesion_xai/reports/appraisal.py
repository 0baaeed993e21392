# SPDX-License-Identifier: Apache-2.0
"""What a reader should know of a lesion first: how large it is, and what speaks against it.

The reasons for doubt are rules of thumb. They are all here, and the report states them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import ndimage

from bids_lesion_xai.reports.page import number_text
from bids_lesion_xai.reports.slices import Scan

# Largest diameter in mm, of the sphere of the same volume, of each class but the last.
SIZES = {"tiny": 3.0, "small": 6.0, "medium": 12.0, "large": math.inf}
# Lesions of multiple sclerosis count from 3 mm on (Filippi et al., Brain 2019, doi
# 10.1093/brain/awz144).
LEAST_DIAMETER_MM = SIZES["tiny"]
# Of the way from the probability that each lesion reaches to certainty.
LEAST_CERTAINTY = 0.5
# Standard deviations of the brain.
LEAST_CONTRAST = 0.5
# From the border of the brain mask, for at least half of the lesion's voxels.
EDGE_MM = 3.0
# Standard errors that the mean saliency of FLAIR inside must be above 0.
LEAST_Z = 2.0
# Of the standard error of the peak of FLAIR, relative to the peak.
LARGEST_ERROR = 0.25

CLEAR, WATCH, DOUBTFUL = "clear", "one doubt", "doubtful"
# Number of reasons from which on a lesion is called so.
LEVELS = {CLEAR: 0, WATCH: 1, DOUBTFUL: 2}
_CONTRADICTED = "reference"


@dataclass(frozen=True)
class Doubt:
    """A reason to doubt a lesion.

    Parameters
    ----------
    key : str
    short : str
        In two or three words.
    text : str
        What was found, as a sentence.
    """

    key: str
    short: str
    text: str


@dataclass(frozen=True)
class Limits:
    """What the rules depend on beside the lesion's row.

    Parameters
    ----------
    peak_threshold : float or None
        Lesion probability that each lesion reaches; None where somebody else drew the lesions.
    is_slope : bool
        Whether saliency is positive where brighter tissue raises the score.
    """

    peak_threshold: float | None
    is_slope: bool

    @property
    def least_probability(self) -> float | None:
        """Peak probability below which the network is not sure."""
        if self.peak_threshold is None:
            return None
        return self.peak_threshold + LEAST_CERTAINTY * (1 - self.peak_threshold)


@dataclass(frozen=True)
class Rule:
    """A rule of `RULES`.

    Parameters
    ----------
    key, short : str
        Of the doubt.
    text : callable
        `Limits` to a sentence that says when it holds; empty if it never does.
    find : callable
        Row of the lesion and `Limits` to what was found, as a sentence; empty if it does not hold.
    """

    key: str
    short: str
    text: Callable[[Limits], str]
    find: Callable[[Mapping[str, Any], Limits], str]


def size_class(diameter_mm: float) -> str:
    """Return the class of `SIZES` of a lesion.

    >>> [size_class(diameter) for diameter in (2.9, 3, 11, 40)]
    ['tiny', 'small', 'medium', 'large']
    """
    return next(name for name, largest in SIZES.items() if diameter_mm < largest)


def doubts(row: Mapping[str, Any], limits: Limits) -> list[Doubt]:
    """Return the reasons to doubt a lesion, the gravest first.

    Parameters
    ----------
    row : mapping
        Of the lesion and saliency tables, with ``near_edge`` of `near_edge`.
    limits : Limits
    """
    found = ((rule, rule.find(row, limits)) for rule in RULES)
    return [Doubt(rule.key, rule.short, text) for rule, text in found if text]


def level(found: list[Doubt]) -> str:
    """Return the name in `LEVELS` of a lesion with these doubts.

    A lesion that the reference mask contradicts is doubtful by that alone.
    """
    weight = len(found) + any(doubt.key == _CONTRADICTED for doubt in found)
    return [name for name, least in LEVELS.items() if weight >= least][-1]


def imprecise(row: Mapping[str, Any]) -> bool:
    """Tell whether the explanation of a lesion, not the lesion, is to be doubted."""
    peak, error = float(row["flair_peak"]), float(row["flair_peak_se"])
    return error > LARGEST_ERROR * abs(peak)


def near_edge(scan: Scan) -> dict[int, float]:
    """Return, for each lesion, the share of its voxels near the border of the brain mask."""
    # Rounded, for an affine in single precision makes 3 mm a hair more or less.
    outside = ndimage.distance_transform_edt(
        np.pad(scan.brain[scan.brain_box], 1), sampling=scan.grid.spacing_mm
    )[1:-1, 1:-1, 1:-1].round(4)
    labels = scan.labels[scan.brain_box]
    indices = np.unique(scan.labels[scan.labels > 0])
    shares = np.nan_to_num(ndimage.mean(outside <= EDGE_MM, labels, indices), nan=1.0)
    return dict(zip(indices.tolist(), np.atleast_1d(shares).tolist(), strict=True))


def place(row: Mapping[str, Any], scan: Scan) -> str:
    """Return where a lesion lies, in words: side, and thirds of the brain.

    Sides are those of the middle of the brain mask's bounding box.
    """
    centre = [float(row[f"centroid_{axis}_mm"]) for axis in "xyz"]
    inverse = np.linalg.inv(scan.grid.affine)
    voxel = (inverse[:3, :3] @ centre + inverse[:3, 3]).tolist()
    x, y, z = (
        (at + 0.5 - part.start) / (part.stop - part.start)
        for at, part in zip(voxel, scan.brain_box, strict=True)
    )
    side = "midline" if abs(x - 0.5) < _MIDLINE else "right" if x > 0.5 else "left"
    depth = ("back", "central", "front")[min(int(3 * max(y, 0)), 2)]
    height = ("lower", "middle", "upper")[min(int(3 * max(z, 0)), 2)]
    return f"{side}, {depth}, {height}"


# Share of the brain's width on either side of the middle that counts as neither left nor right.
_MIDLINE = 0.03


def _contradicted(row: Mapping[str, Any], _: Limits) -> str:
    return {
        "FP": "The reference mask has no lesion here: a false detection by it.",
        "FN": "The reference mask has a lesion here that the network missed.",
    }.get(str(row["outcome"]), "")


def _unsure(row: Mapping[str, Any], limits: Limits) -> str:
    peak, least = float(row["peak_probability"]), limits.least_probability
    if least is None or row["outcome"] == "FN" or not peak < least:
        return ""
    return (
        f"The network is not sure: its highest probability here is {number_text(peak, 2)}, little "
        f"above the {number_text(limits.peak_threshold, 2)} that every lesion reaches."
    )


def _tiny(row: Mapping[str, Any], _: Limits) -> str:
    diameter = float(row["equivalent_diameter_mm"])
    if diameter >= LEAST_DIAMETER_MM:
        return ""
    return (
        f"It is tiny: {number_text(float(row['volume_mm3']))} mm³, as a sphere of "
        f"{number_text(diameter, 2)} mm."
    )


def _pale(row: Mapping[str, Any], _: Limits) -> str:
    contrast = float(row["flair_contrast"])
    if not contrast < LEAST_CONTRAST:
        return ""
    than = "darker than" if contrast < 0 else "hardly brighter than"
    return f"On FLAIR it is {than} its surroundings (by {number_text(abs(contrast), 2)} SD)."


def _unsupported(row: Mapping[str, Any], limits: Limits) -> str:
    mean, error = float(row["flair_mean_inside"]), float(row["flair_mean_inside_se"])
    if not limits.is_slope or not mean < LEAST_Z * (0 if math.isnan(error) else error):
        return ""
    return (
        "Brightness on FLAIR does not speak for it: the mean saliency of FLAIR inside is not "
        f"clearly positive ({number_text(mean, 2)}, standard error {number_text(error, 2)})."
    )


def _at_edge(row: Mapping[str, Any], _: Limits) -> str:
    if row["near_edge"] < 0.5:
        return ""
    return (
        f"It lies at the edge of the brain mask ({number_text(100 * row['near_edge'], 2)} % of it "
        f"within {EDGE_MM:g} mm), where skull, vessels and partial volume look like lesions."
    )


RULES = (
    Rule(
        _CONTRADICTED,
        "against reference",
        lambda _: (
            "The reference mask, if there is one, contradicts: a false detection (FP) or a "
            "missed lesion (FN). This alone makes it doubtful."
        ),
        _contradicted,
    ),
    Rule(
        "unsure",
        "network unsure",
        lambda limits: (
            ""
            if limits.least_probability is None
            else "The highest lesion probability in it is below "
            f"{number_text(limits.least_probability, 2)}, half-way from what every lesion reaches "
            "to 1."
        ),
        _unsure,
    ),
    Rule(
        "unsupported",
        "FLAIR does not support",
        lambda limits: (
            ""
            if not limits.is_slope
            else f"The mean saliency of FLAIR inside is less than {LEAST_Z:g} standard errors "
            "above 0: brighter tissue there does not raise the score."
        ),
        _unsupported,
    ),
    Rule(
        "pale",
        "weak on FLAIR",
        lambda _: (
            f"On FLAIR it is less than {LEAST_CONTRAST:g} SD of the brain brighter than what "
            "lies within 3 mm around it."
        ),
        _pale,
    ),
    Rule(
        "edge",
        "edge of brain",
        lambda _: (
            f"At least half of it lies within {EDGE_MM:g} mm of the border of the brain mask."
        ),
        _at_edge,
    ),
    Rule(
        "tiny",
        "tiny",
        lambda _: (
            f"Its volume is that of a sphere of less than {LEAST_DIAMETER_MM:g} mm, the least "
            "that the diagnostic criteria count."
        ),
        _tiny,
    ),
)
