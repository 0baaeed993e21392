# SPDX-License-Identifier: Apache-2.0
"""Styles of scanners that were never seen: statistics of feature maps are drawn anew."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from bids_lesion_xai.training.draws import Draws

_CHANCE = 0.5
_LEAST_VARIANCE = 1e-6


class Styles:
    """Draws mean and deviation of every feature map from around those of its patch.

    What scanners differ in lies largely in these. They are drawn from normal distributions, whose
    deviations are `strength` times those of the statistics over the batch: with 1, the
    "uncertainty" of Li et al., ICLR 2022, arXiv 2202.03958. Each level draws with their
    probability of one half. What is trained is the network as it is: it predicts without.

    Parameters
    ----------
    network : Module
        Statistics are drawn after its blocks that halve the resolution and have a batch norm;
        networks without such blocks stay as they are.
    strength : float
        0 draws nothing.
    seed : int
        With the step, fixes everything that is drawn, on one kind of device.
    device : torch device
    """

    def __init__(
        self, network: nn.Module, strength: float, seed: int, device: torch.device
    ) -> None:
        self._strength, self._seed, self._device = strength, seed, device
        self.begin(0)
        self._hooks = [
            module.register_forward_hook(self._redraw)
            for module in network.modules()
            if strength and _halves(module)
        ]

    def begin(self, step: int) -> None:
        """Draw for a step from now on."""
        # Patches are drawn from (seed, step) alone.
        self._rng = np.random.default_rng((self._seed, step, 1))
        self._draws = Draws(int(self._rng.integers(2**63)), self._device)

    def end(self) -> None:
        """Let the network be as it was."""
        for hook in self._hooks:
            hook.remove()

    def _redraw(self, module: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        if len(output) < 2 or self._rng.random() >= _CHANCE:
            return output
        return redrawn(output, self._draws, self._strength)


def redrawn(features: torch.Tensor, draws: Draws, strength: float) -> torch.Tensor:
    """Return feature maps with other means and deviations.

    Parameters
    ----------
    features : tensor, shape (batch, channels, X, Y, Z)
    draws : Draws
    strength : float
    """
    values = features.float()
    mean = values.mean((2, 3, 4), keepdim=True)
    variance = values.var((2, 3, 4), correction=0, keepdim=True)
    deviation = (variance + _LEAST_VARIANCE).sqrt()
    new_mean, new_deviation = (
        one + strength * draws.normal(one.shape) * one.detach().std(0, keepdim=True)
        for one in (mean, deviation)
    )
    return ((values - mean) / deviation * new_deviation + new_mean).to(features.dtype)


def _halves(module: nn.Module) -> bool:
    """Tell whether a module is a block of a strided convolution and a batch norm."""
    children = list(module.children())
    has_norm = any(isinstance(part, nn.BatchNorm3d) for one in children for part in one.modules())
    return has_norm and any(
        isinstance(child, nn.Conv3d) and max(child.stride) > 1 for child in children
    )
