# SPDX-License-Identifier: Apache-2.0
"""What layers that do not know each other must agree on."""

from __future__ import annotations

import re

# Input channels in the order of the network: key in columns and file names of this package, and
# suffix of BIDS.
CHANNELS = {"flair": "FLAIR", "t1w": "T1w"}
# Class of the network's output that is lesion; the other is background.
LESION_CLASS = 1
# What the logits are the mean of; the names are those of the command line.
TTA = {
    "none": "the logits of the image",
    "flip": "the mean of the logits of the image and of its mirror image, left to right",
}
# Methods of explanation whose maps can be told apart by image, and are written; what they compute
# is in `bids_lesion_xai.explain.catalogue`.
INPUT_METHODS = ("gradient", "smoothgrad", "smoothgrad-squared", "vargrad", "integrated-gradients")
# Outer edges in mm of the shells around a lesion; each begins where the one before ends.
SHELLS_MM = (1, 2, 3, 5, 10)
# Bins of the radial profile, in mm, and how far it goes to either side of the border.
PROFILE_STEP_MM = 0.5
PROFILE_REACH_MM = 15.0
# Percentages of the absolute saliency whose distance from the lesion is stated.
SALIENCY_PERCENTAGES = (50, 90, 95)
# The published minimum of more than 5 voxels on a 1 mm grid (Spagnolo et al., Scientific Reports
# 2026, doi 10.1038/s41598-026-36560-9).
DEFAULT_MIN_VOLUME_MM3 = 6.0
# What a region is when the prediction is compared with a reference mask.
OUTCOMES = {
    "TP": "predicted lesion that shares a voxel with the reference mask",
    "FP": "predicted lesion that shares none",
    "FN": "lesion of the reference mask that shares no voxel with a predicted lesion",
    "TN": "control region in normal-appearing white matter, of the shape of one of the others",
}
# What an experiment fills the brain with beyond a visible margin, in short.
FILLS = {"zero": "zeros", "normal": "normal tissue", "inpaint": "continued tissue"}
# Where a lesion lies, as in the diagnostic criteria (Thompson et al., Lancet Neurology 2018, doi
# 10.1016/S1474-4422(17)30470-2), by the distances of `bids_lesion_xai.lesions.location`.
LOCATIONS = {
    "periventricular": "abuts a lateral ventricle",
    "juxtacortical": "abuts or lies in cortex",
    "infratentorial": "half of it or more lies in brainstem or cerebellum",
    "deep": "in white matter, none of the others",
    "unknown": "no tissue map",
}
# How the bias field was found, in sidecars; the second is by --sloppy.
FULL_BIAS_CORRECTION, COARSE_BIAS_CORRECTION = "full", "coarse"
# Each is a module of `bids_lesion_xai.explain.experiments`.
EXPERIMENTS = {
    "perilesional": "how much tissue around a lesion the network needs to see",
    "synthetic": "how the network responds to lesions of known size and contrast, put into "
    "normal-appearing white matter",
    "faithfulness": "whether values that a saliency map puts first matter more to the lesion's "
    "logit than those of other orders",
    "randomisation": "whether saliency maps change when the weights of the network are redrawn",
    "channel": "what the network still sees when FLAIR, T1w or both are replaced by their "
    "normal-appearing mean",
}


def session_order(session: str) -> tuple[list[str | int], str]:
    """Return what sessions are sorted by: the label, in which numbers count as numbers.

    Labels that differ in the zeros before a number only are in the order of their characters.

    >>> sorted(["M12", "M6", "M0", "M06"], key=session_order)
    ['M0', 'M06', 'M6', 'M12']
    """
    parts = re.split(r"(\d+)", session)
    return [int(part) if part.isdecimal() else part for part in parts], session
