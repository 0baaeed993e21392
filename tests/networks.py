# SPDX-License-Identifier: Apache-2.0
"""Small networks with random weights and random batch-norm statistics."""

from __future__ import annotations

from typing import Any

import torch
from monai.networks.nets import UNet


def random_unet(
    channels: tuple[int, ...] = (3, 4, 6), strides: tuple[Any, ...] = (2, 2), **arguments: Any
) -> torch.nn.Module:
    """Return a 3D U-Net of two inputs and two classes, float64, in eval mode."""
    torch.manual_seed(7)
    network = UNet(3, 2, 2, channels, strides, **{"norm": "batch", **arguments})
    return randomised(network)


def randomised(network: torch.nn.Module) -> torch.nn.Module:
    """Return `network` with statistics, scales and biases that do something, float64, eval."""
    torch.manual_seed(8)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm3d):
            module.running_mean.uniform_(-0.3, 0.3)
            module.running_var.uniform_(0.3, 1.5)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.uniform_(module.bias, -0.3, 0.3)
    return network.double().eval().requires_grad_(requires_grad=False)
