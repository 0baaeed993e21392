# SPDX-License-Identifier: Apache-2.0
"""Networks that can be trained: the published U-Net and those it was compared with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from bids_lesion_xai.models.inference import Predictor
from bids_lesion_xai.models.network import PUBLISHED_MULTIPLE, PUBLISHED_UNET, build


@dataclass(frozen=True)
class Architecture:
    """A network and the way it is evaluated.

    Parameters
    ----------
    network : str
        Class of `monai.networks.nets`.
    arguments : dict
        Keyword arguments of that class.
    multiple : int
        Sides of images and patches are multiples of this many voxels.
    smallest : int
        Edge of the smallest patch in voxels: instance norm needs two voxels at the bottom.
    window : tuple of int, or None
        Shape of the sliding windows, for networks of which each output depends on all of their
        input; None for the whole volume at once.
    overlap : float
        Of neighbouring windows, as a fraction of their sides.
    """

    network: str
    arguments: dict[str, Any]
    multiple: int
    smallest: int
    window: tuple[int, int, int] | None = None
    overlap: float = 0.0

    def build(self, more_classes: int = 0) -> torch.nn.Module:
        """Return an untrained network, with some more classes than background and lesion."""
        n_classes = self.arguments["out_channels"] + more_classes
        return build(self.network, {**self.arguments, "out_channels": n_classes})

    def predictor(self, network: torch.nn.Module) -> Predictor:
        """Return `network` as a map from images to logits."""
        return Predictor(
            network.eval(), self.multiple, self.window, self.overlap, name=self.network
        )


# The two others as in the code of Spagnolo et al., Scientific Reports (2026), doi
# 10.1038/s41598-026-36560-9, with the published windows of 96 voxels.
ARCHITECTURES = {
    "unet": Architecture("UNet", PUBLISHED_UNET, PUBLISHED_MULTIPLE, 16),
    "dynunet": Architecture(
        "DynUNet",
        {
            "spatial_dims": 3,
            "in_channels": 2,
            "out_channels": 2,
            "kernel_size": [3, 3, 3],
            "strides": [1, 2, 2],
            "upsample_kernel_size": [2, 2],
            "filters": [16, 32, 64],
            "norm_name": "instance",
            "dropout": 0.1,
            "res_block": True,
        },
        multiple=4,
        smallest=8,
        window=(96, 96, 96),
        overlap=0.25,
    ),
    "swinunetr": Architecture(
        "SwinUNETR",
        {"in_channels": 2, "out_channels": 2},
        multiple=32,
        smallest=64,
        window=(96, 96, 96),
        overlap=0.25,
    ),
}
