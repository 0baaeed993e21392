# SPDX-License-Identifier: Apache-2.0
"""Names of the ways to explain a lesion. To add a method, add its file and its line here."""

from __future__ import annotations

from dataclasses import dataclass

_GRADIENT = "{} per unit of normalised intensity"
_SQUARE = f"({_GRADIENT})^2"


@dataclass(frozen=True)
class Method:
    """A method of explanation.

    Parameters
    ----------
    module : str
        Of `bids_lesion_xai.explain.methods`.
    text : str
        What it computes, in a line.
    unit : str
        Of its values, with ``{}`` in place of the target's.
    has_noise : bool
        Whether it averages over noise.
    """

    module: str
    text: str
    unit: str
    has_noise: bool = False


METHODS = {
    "gradient": Method("gradient", "gradient at the image itself", _GRADIENT),
    "smoothgrad": Method(
        "smoothgrad",
        "mean of the gradients at noisy images (published)",
        _GRADIENT,
        has_noise=True,
    ),
    "smoothgrad-squared": Method(
        "smoothgrad_squared",
        "mean of the squared gradients at noisy images",
        _SQUARE,
        has_noise=True,
    ),
    "vargrad": Method(
        "vargrad", "variance of the gradients at noisy images", _SQUARE, has_noise=True
    ),
    "integrated-gradients": Method(
        "integrated_gradients", "mean gradient on the way from a baseline, times the way", "{}"
    ),
    "gradcam++": Method("gradcampp", "activations of a layer, weighted by gradients", ""),
}

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
    "brain-mean": "each channel's mean over the voxels where any is not 0, there, and 0 elsewhere",
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
    """Return the unit of the values of a method, in words.

    >>> saliency_units("smoothgrad", "logit")
    'logit per unit of normalised intensity'
    """
    return METHODS[method].unit.format(_TARGET_UNITS[target])


def has_sign(method: str, aggregation: str) -> bool:
    """Tell whether the sign of the values of a method says anything of the image.

    >>> has_sign("smoothgrad", "mean"), has_sign("vargrad", "mean"), has_sign("gradient", "rms")
    (True, False, False)
    """
    return METHODS[method].unit != _SQUARE and aggregation != "rms"


def is_slope(method: str, aggregation: str) -> bool:
    """Tell whether the values of a method are positive where brighter tissue raises the target.

    >>> is_slope("smoothgrad", "mean"), is_slope("integrated-gradients", "mean")
    (True, False)
    """
    return has_sign(method, aggregation) and METHODS[method].unit == _GRADIENT
