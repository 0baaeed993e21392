# SPDX-License-Identifier: Apache-2.0
"""The choices of the published work, as arguments of `explain_lesions`."""

from __future__ import annotations

from typing import Any

import torch

from bids_lesion_xai.explain.catalogue import PUBLISHED

# Standard deviation of the noise, as a fraction of the range of FLAIR.
PUBLISHED_NOISE_LEVEL = 0.05


def published(image: torch.Tensor) -> dict[str, Any]:
    """Return the arguments that the published maps were made with (Spagnolo et al. 2026).

    The noise of both channels has one standard deviation: 0.05 times the difference between the
    largest and the smallest value of FLAIR, over the whole volume.

    Parameters
    ----------
    image : float tensor, shape (C, X, Y, Z)
        Normalised, FLAIR first.

    Returns
    -------
    arguments : dict
        Keyword arguments of `explain_lesions`.
    """
    sigma = PUBLISHED_NOISE_LEVEL * float(image[0].max() - image[0].min())
    return {**PUBLISHED, "sigma": (sigma,) * len(image)}
