# SPDX-License-Identifier: Apache-2.0
"""Lesions of known shape painted into a batch, and real lesions made weaker or stronger."""

from __future__ import annotations

import numpy as np
import torch

from bids_lesion_xai.training.augment import smooth
from bids_lesion_xai.training.draws import Draws

# Fluid is dark on FLAIR: below this many brain standard deviations nothing is painted.
_DARKEST_TISSUE = -1.0
# How lesions of a scan differ from the tissue around them, in brain standard deviations: on
# six real scans their medians are 1.0 to 2.1 brighter on FLAIR and 0 to 0.7 darker on T1w.
_FLAIR_BRIGHTENING = (0.6, 2.4)
_T1W_DARKENING = (0.0, 1.0)
# What is taken from the contrast of real lesions: from more than half to a strengthening.
_FADING = (-0.3, 0.6)
# Of the full contrast, the least in a lesion: smoothed like a large one, a lesion of a few voxels
# would hardly be seen, and yet be one.
_LEAST_OPACITY = 0.7


def paint_lesions(
    image: torch.Tensor, shapes: torch.Tensor, least_brightening: torch.Tensor, draws: Draws
) -> tuple[torch.Tensor, torch.Tensor]:
    """Paint lesions into a batch.

    Each patch draws a brightening on FLAIR, a darkening on T1w, and the sharpness of borders.
    Fluid and background are left as they are.

    Parameters
    ----------
    image : float32 tensor, shape (B, 2, X, Y, Z)
        FLAIR and T1w in units of normalised intensity. Not modified.
    shapes : float32 tensor, shape (B, 3, X, Y, Z)
        1 where lesions are and 0 elsewhere; and that times the part that each lesion takes of the
        brightening, and of the darkening.
    least_brightening : float32 tensor, shape (B,)
        The least brightening that a patch may draw, in brain standard deviations.
    draws : Draws

    Returns
    -------
    painted : float32 tensor, shape (B, 2, X, Y, Z)
    lesions : bool tensor, shape (B, 1, X, Y, Z)
        Where the painted lesions are.
    """
    n = len(image)
    tissue = (image[:, :1] > _DARKEST_TISSUE) & (image[:, 1:] != 0)
    lesions = (shapes[:, :1] > 0) & tissue
    soft = smooth(shapes * lesions, draws.uniform(0.4, 0.9, (n,))) * tissue
    opacity = torch.maximum(soft[:, :1], _LEAST_OPACITY * lesions)
    strength = soft[:, 1:] / soft[:, :1].clamp_min(1e-6) * opacity
    low, high = np.log(_FLAIR_BRIGHTENING)
    brightness = torch.maximum(draws.uniform(low, high, (n,)).exp(), least_brightening)
    change = torch.stack([brightness, -draws.uniform(*_T1W_DARKENING, (n,))], 1)
    texture = 1 + 0.25 * smooth(
        draws.normal((n, 1, *image.shape[2:])), torch.ones(n, device=image.device)
    )
    return image + change[:, :, None, None, None] * strength * texture, lesions


def fade_lesions(
    image: torch.Tensor, lesions: torch.Tensor, around: torch.Tensor, draws: Draws
) -> torch.Tensor:
    """Return a batch in which every other patch's own lesions have a weaker or stronger contrast.

    Parameters
    ----------
    image : float32 tensor, shape (B, 2, X, Y, Z)
    lesions : float32 tensor, shape (B, 1, X, Y, Z)
        Between 0 and 1.
    around : float32 tensor, shape (B, 2)
        Intensity of the tissue around the lesions in each channel.
    draws : Draws
    """
    own = (len(image), 1, 1, 1, 1)
    part = torch.where(draws.chance(0.5, own), draws.uniform(*_FADING, own), 0.0)
    contrast = image - around[:, :, None, None, None]
    return image - part * smooth(lesions, torch.full((len(image),), 0.6).to(image)) * contrast
