# SPDX-License-Identifier: Apache-2.0
"""The map image -> logits that both the mask and the saliency come from."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.inferers import sliding_window_inference
from torch.nn import functional

from bids_lesion_xai.conventions import LESION_CLASS


def pad_to_multiple(image: torch.Tensor, multiple: int) -> torch.Tensor:
    """Return `image`, shape (C, X, Y, Z), with zeros after its end up to multiples of `multiple`.

    Voxel indices stay what they were.
    """
    after = [-side % multiple for side in reversed(image.shape[1:])]
    return functional.pad(image, [n for side in after for n in (0, side)])


def predict_logits(
    network: torch.nn.Module,
    image: torch.Tensor,
    multiple: int,
    window: Sequence[int] | None = None,
    overlap: float = 0.0,
) -> torch.Tensor:
    """Return the logits of an image: of the whole volume in one pass, or of blended windows.

    Parameters
    ----------
    network : torch module
        In eval mode; takes (1, C, X, Y, Z), gives (1, K, X, Y, Z).
    image : float tensor, shape (C, X, Y, Z)
        In units of normalised intensity.
    multiple : int
        The network takes sides that are multiples of this many voxels.
    window : sequence of int, or None
        Shape of the sliding windows; they are blended with Gaussian weights.
    overlap : float
        Of neighbouring windows, as a fraction of their sides.

    Returns
    -------
    logits : float tensor, shape (K, X, Y, Z)
        Class 1 is lesion.
    """
    if window:
        blend: torch.Tensor = sliding_window_inference(
            image[None], tuple(window), 1, network, overlap=overlap, mode="gaussian"
        )
        return blend[0]
    padded = pad_to_multiple(image, multiple)
    x, y, z = image.shape[1:]
    logits: torch.Tensor = network(padded[None])[0]
    return logits[:, :x, :y, :z]


def lesion_probability(logits: torch.Tensor) -> torch.Tensor:
    """Return the softmax probability of lesion, shape (X, Y, Z), of logits (K, X, Y, Z)."""
    return torch.softmax(logits, dim=0)[LESION_CLASS]
