# SPDX-License-Identifier: Apache-2.0
"""Names of the ways to explain a lesion. To add a method, add its file and its line here."""

from __future__ import annotations

# Each is a module of `bids_lesion_xai.explain.methods`, with `-` as `_` and `+` as `p`.
METHODS = {
    "gradient": "gradient at the image itself",
    "smoothgrad": "mean of the gradients at noisy images (published)",
    "smoothgrad-squared": "mean of the squared gradients at noisy images",
    "vargrad": "variance of the gradients at noisy images",
    "integrated-gradients": "gradients along the way from a baseline, times the way",
    "gradcam++": "activations of one layer, weighted by gradients; one map for both images",
}

# Those whose maps have a channel for each input image.
INPUT_METHODS = {name: text for name, text in METHODS.items() if name != "gradcam++"}

AGGREGATIONS = {
    "mean": "of the mean of the lesion's voxels",
    "sum": "of the sum of the lesion's voxels",
    "max": "for each input voxel the largest in magnitude over the lesion's voxels (published)",
    "rms": "for each input voxel the root mean square over the lesion's voxels",
}

TARGETS = {
    "logit": "logit of lesion (published)",
    "logodds": "logit of lesion minus that of all other classes together",
    "probability": "softmax probability of lesion",
}

ENGINES = {
    "auto": "the fastest that is exact for the network",
    "pruned": "layer by layer, only what the lesion depends on",
    "crop": "autograd on the lesion's receptive field",
    "window": "autograd through the blend of sliding windows",
    "whole": "autograd on the whole volume",
}

BASELINES = {
    "zero": "an image of zeros",
    "brain-mean": "each channel's mean over the voxels that are not 0, there, and 0 elsewhere",
}

NOISE_RULES = {
    "robust": "each image's own, from its 0.1 to its 99.9 percentile in the brain",
    "flair-range": "FLAIR's, from its smallest to its largest value, for both images (published)",
}

# The choices of Spagnolo et al. (2026), doi 10.1038/s41598-026-36560-9.
PUBLISHED = {
    "method": "smoothgrad",
    "aggregation": "max",
    "target": "logit",
    "n_samples": 50,
}

_TARGET_UNITS = {"logit": "logit", "logodds": "log-odds", "probability": "probability"}


def saliency_units(method: str, target: str) -> str:
    """Return the unit of the values of a method of input gradients, in words.

    >>> saliency_units("smoothgrad", "logit")
    'logit per unit of normalised intensity'
    """
    unit = _TARGET_UNITS[target]
    if method == "integrated-gradients":
        return unit
    gradient = f"{unit} per unit of normalised intensity"
    return f"({gradient})^2" if method in ("smoothgrad-squared", "vargrad") else gradient
