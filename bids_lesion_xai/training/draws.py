# SPDX-License-Identifier: Apache-2.0
"""Random numbers of a batch, drawn on the device that holds it."""

from __future__ import annotations

from collections.abc import Sequence

import torch


class Draws:
    """A seeded source of random tensors on one device.

    Parameters
    ----------
    seed : int
        Fixes everything that is drawn, on one kind of device.
    device : torch device
    """

    def __init__(self, seed: int, device: torch.device) -> None:
        self._generator = torch.Generator(device).manual_seed(seed)
        self._device = device

    def uniform(self, low: float, high: float, shape: Sequence[int]) -> torch.Tensor:
        """Return float32 numbers between `low` and `high`."""
        unit = torch.rand(*shape, generator=self._generator, device=self._device)
        return low + (high - low) * unit

    def normal(self, shape: Sequence[int]) -> torch.Tensor:
        """Return float32 numbers of mean 0 and standard deviation 1."""
        return torch.randn(*shape, generator=self._generator, device=self._device)

    def chance(self, probability: float, shape: Sequence[int]) -> torch.Tensor:
        """Return booleans that are true with some probability."""
        return self.uniform(0, 1, shape) < probability
