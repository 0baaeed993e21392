# SPDX-License-Identifier: Apache-2.0
"""A scan with its lesions and tissues: what experiments are made on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch

from bids_lesion_xai.errors import DataError
from bids_lesion_xai.explain.box import Box
from bids_lesion_xai.explain.problem import Lesion, lesions_of


@dataclass(frozen=True)
class Scan:
    """A scan of one visit; all tensors lie on one device.

    Parameters
    ----------
    image : float tensor, shape (2, X, Y, Z)
        FLAIR and T1w in units of normalised intensity: mean 0 and standard deviation 1 in the
        brain.
    labels : int tensor, shape (X, Y, Z)
        Lesions have values from 1 on.
    brain : bool tensor, shape (X, Y, Z)
        What lies outside is never changed.
    normal : bool tensor, shape (X, Y, Z)
        Normal-appearing white matter.
    spacing_mm : tuple of float
        Distance of voxel centres along each axis.
    peak_threshold : float
        Probability that a voxel of a lesion reaches, or else it is not detected.
    visit : str
        Name of the visit: with `seed`, it fixes everything random.
    seed : int

    Raises
    ------
    DataError
        The images differ in shape, or there is no normal-appearing white matter.
    """

    image: torch.Tensor
    labels: torch.Tensor
    brain: torch.Tensor
    normal: torch.Tensor
    spacing_mm: tuple[float, float, float]
    peak_threshold: float
    visit: str = ""
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("labels", "brain", "normal"):
            found = tuple(getattr(self, name).shape)
            if found != self.shape:
                message = (
                    f"{name} of shape {found} for an image of {self.shape}; the same are due."
                )
                raise DataError(message)
        if not self.normal.any():
            message = (
                "No voxel is normal-appearing white matter, which takes the place of what an "
                "experiment hides. Check the brain mask and the lesions."
            )
            raise DataError(message)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape (X, Y, Z) of the image."""
        return tuple(self.image.shape[1:])

    @cached_property
    def normal_means(self) -> torch.Tensor:
        """Mean of each channel over normal-appearing white matter, shape (C, 1, 1, 1)."""
        means = self.image[:, self.normal].double().mean(1)
        return means.to(self.image.dtype)[:, None, None, None]

    def lesions(self) -> Iterator[Lesion]:
        """Return every lesion, in the order of the labels."""
        return lesions_of(self.labels.long())

    def image_in(self, box: Box) -> torch.Tensor:
        """Return the image in a box, shape (C, x, y, z)."""
        return self.image[(slice(None), *box.slices((0, 0, 0)))]

    def brain_in(self, box: Box) -> torch.Tensor:
        """Return the brain in a box, bool, shape (x, y, z)."""
        return self.brain[box.slices((0, 0, 0))]
