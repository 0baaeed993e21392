# SPDX-License-Identifier: Apache-2.0
"""Integrated gradients (Sundararajan et al. 2017, arXiv 1703.01365).

The integral over the straight way from the baseline to the image is taken by Gauss and Legendre's
rule with as many points as there are samples: exact where the gradient is a polynomial of degree
up to twice their number minus one along the way.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from bids_lesion_xai.explain.box import Box
from bids_lesion_xai.explain.points import PointMethod, Reduction
from bids_lesion_xai.explain.problem import Lesion, Problem
from bids_lesion_xai.explain.reductions import Sum


class Method(PointMethod):
    """The mean gradient on the way from a baseline to the image, times the way."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        places, weights = np.polynomial.legendre.leggauss(problem.n_samples)
        self._shares, self._weights = ((places + 1) / 2).tolist(), (weights / 2).tolist()
        self._baseline = _BASELINES[problem.baseline](problem.image)

    @property
    def n_points(self) -> int:
        return self.problem.n_samples

    def point(self, support: Box, index: int) -> torch.Tensor:
        image = self.problem.image_in(support)
        return torch.lerp(self._baseline_in(support), image, self._shares[index])

    def reduction(self, lesion: Lesion) -> Reduction:
        support = self.problem.support(lesion)
        return Sum(self._weights, self.problem.image_in(support) - self._baseline_in(support))

    def _baseline_in(self, box: Box) -> torch.Tensor:
        return self._baseline[(slice(None), *box.slices((0, 0, 0)))]


def _brain_mean(image: torch.Tensor) -> torch.Tensor:
    """Return the mean of each channel over the voxels where any is not 0, there."""
    brain = (image != 0).any(0)
    mean = image[:, brain].mean(1) if brain.any() else image.new_zeros(len(image))
    return mean[:, None, None, None] * brain


_BASELINES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "zero": torch.zeros_like,
    "brain-mean": _brain_mean,
}
