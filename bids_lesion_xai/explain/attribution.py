# SPDX-License-Identifier: Apache-2.0
"""The explanation of one lesion."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from bids_lesion_xai.explain.box import Box, Indices


@dataclass(frozen=True)
class Attribution:
    """The saliency of one lesion.

    Parameters
    ----------
    lesion : int
        The value of the lesion in the label image.
    values : float tensor, shape (C, x, y, z)
        Signed saliency of each input channel on the part of the image that the lesion depends on;
        0 everywhere else. One channel for a method whose map belongs to all of them.
    offset : tuple of int
        Index in the image of ``values[:, 0, 0, 0]``.
    standard_error : float tensor, shape (C, x, y, z)
        Monte-Carlo standard error of `values` over the noise samples: 0 for a method without
        noise, NaN for a single sample; of ``vargrad``, NaN for fewer than four, and where the
        estimate of its square is negative.
    inside_error : float64 tensor, shape (C,)
        Monte-Carlo standard error of the mean of `values` over the lesion's voxels; NaN where it
        is not known: for a single sample, and for ``vargrad``.
    share_error : float64 tensor, shape (C,)
        Monte-Carlo standard error of each channel's share in the sum of the absolute values; NaN
        where it is not known.
    n_samples : int
        Points at which the gradient was taken.
    engine : str
        Name of the engine that took them.
    """

    lesion: int
    values: torch.Tensor
    offset: Indices
    standard_error: torch.Tensor
    inside_error: torch.Tensor
    share_error: torch.Tensor
    n_samples: int
    engine: str

    @property
    def box(self) -> Box:
        """Where `values` lies in the image."""
        stop = tuple(map(int.__add__, self.offset, self.values.shape[1:]))
        return Box(self.offset, stop)

    def dense(self, shape: Sequence[int]) -> torch.Tensor:
        """Return the saliency on the whole image grid of `shape` (X, Y, Z), shape (C, X, Y, Z)."""
        dense = self.values.new_zeros((len(self.values), *shape))
        dense[(slice(None), *self.box.slices((0, 0, 0)))] = self.values
        return dense
