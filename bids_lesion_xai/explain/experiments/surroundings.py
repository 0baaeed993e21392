# SPDX-License-Identifier: Apache-2.0
"""The tissue around a lesion, hidden from a margin on and filled."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from math import ceil

import numpy as np
import torch

from bids_lesion_xai.explain.box import Box
from bids_lesion_xai.explain.experiments.scan import Scan
from bids_lesion_xai.explain.problem import Lesion
from bids_lesion_xai.explain.summary import distance_mm

# Standard deviation of the weights that tissue is continued with: 95 % of the weight lies within
# 5.6 mm, more than the partial volume and the texture at an edge, less than a gyrus.
INPAINT_SIGMA_MM = 2.0
# Beyond so many standard deviations nothing visible has a weight.
_REACH = 3.0
# Weight of the normal-appearing mean; all of the tissue around a voxel together has weight 1.
INPAINT_PRIOR = 0.01


class Surroundings:
    """What is visible of a scan when only a lesion and a margin around it are shown.

    A voxel is visible if the centre of the nearest voxel of the lesion is at most the margin away.
    Outside the brain the image stays what it is.

    Parameters
    ----------
    scan : Scan
    lesion : Lesion
    support : Box
        Where images are wanted.
    """

    def __init__(self, scan: Scan, lesion: Lesion, support: Box) -> None:
        self._scan, self._lesion, self.support = scan, lesion, support
        # What is visible beyond the support has a part in the filling inside of it.
        self._sigmas = [INPAINT_SIGMA_MM / mm for mm in scan.spacing_mm]
        self._reach = [ceil(_REACH * sigma) for sigma in self._sigmas]
        self._around = support.union(lesion.box).grow(self._reach).clip(scan.shape)
        self._inside = support.slices(self._around.start)
        self._brain = scan.brain_in(self._around)

    @cached_property
    def distance_mm(self) -> torch.Tensor:
        """Distance to the lesion in and a little around the support, float64, shape (x, y, z)."""
        own = np.zeros(self._around.shape, bool)
        start = self._lesion.voxels.new_tensor(self._around.start)
        own[tuple((self._lesion.voxels - start).T.numpy(force=True))] = True
        distance = torch.from_numpy(distance_mm(own, self._scan.spacing_mm))
        return distance.to(self._brain.device)

    def n_hidden(self, margin_mm: float) -> int:
        """Return how many voxels are hidden; 0 if none of these lies on the support.

        What is visible grows with the margin: two margins of equal number show the same.
        """
        if not self.hidden(margin_mm).any():
            return 0
        return int(self._hidden_around(margin_mm).sum())

    def hidden(self, margin_mm: float) -> torch.Tensor:
        """Return which voxels of the support are hidden, bool, shape (x, y, z)."""
        return self._hidden_around(margin_mm)[self._inside]

    def image(self, margin_mm: float, fill: str) -> torch.Tensor:
        """Return the image on the support with everything beyond the margin filled.

        Parameters
        ----------
        margin_mm : float
        fill : {"zero", "normal", "inpaint"}
            Of `bids_lesion_xai.conventions.FILLS`.
        """
        shown = self._scan.image_in(self.support)
        return torch.where(self.hidden(margin_mm), FILL_FUNCTIONS[fill](self, margin_mm), shown)

    def zero(self, _margin_mm: float) -> torch.Tensor:
        """Return 0, the mean of the brain (published)."""
        return self._scan.image.new_zeros(())

    def normal(self, _margin_mm: float) -> torch.Tensor:
        """Return each channel's mean over normal-appearing white matter, shape (C, 1, 1, 1)."""
        return self._scan.normal_means

    def inpaint(self, margin_mm: float) -> torch.Tensor:
        """Return visible tissue continued outward, shape (C, x, y, z).

        A normalised convolution (Knutsson and Westin 1993, doi 10.1109/CVPR.1993.341081) with a
        prior: the mean of the visible brain around a voxel, with Gaussian weights, and of the
        normal-appearing mean, with a small one. At the edge it is the local mean of what is seen,
        and it relaxes to the normal-appearing mean, which it is beyond three standard deviations.
        """
        normal = self._scan.normal_means
        filled = normal.expand(-1, *self.support.shape).clone()
        # Nothing visible has a weight beyond this box.
        shown = [ceil(margin_mm / mm) for mm in self._scan.spacing_mm]
        box = self._lesion.box.grow(shown).grow(self._reach).intersection(self._around)
        part = box.slices(self._around.start)
        visible = (self._brain & ~self._hidden_around(margin_mm))[part].to(normal)
        excess = (self._scan.image_in(box) - normal) * visible
        smooth = torch.cat([excess, visible[None]])
        for sigma in self._sigmas:
            smooth = _smooth(smooth, sigma)
        common = box.intersection(self.support)
        smooth = smooth[(slice(None), *common.slices(box.start))]
        to = (slice(None), *common.slices(self.support.start))
        filled[to] += smooth[:-1] / (smooth[-1] + INPAINT_PRIOR)
        return filled

    def _hidden_around(self, margin_mm: float) -> torch.Tensor:
        return self._brain & (self.distance_mm > margin_mm)


FILL_FUNCTIONS: dict[str, Callable[[Surroundings, float], torch.Tensor]] = {
    "zero": Surroundings.zero,
    "normal": Surroundings.normal,
    "inpaint": Surroundings.inpaint,
}


def _smooth(maps: torch.Tensor, sigma: float) -> torch.Tensor:
    """Return maps convolved along x with a Gaussian of sum 1, and x as their last axis.

    Three times over, the axes are in their order again. As products of matrices, the sums take a
    tenth of the time of convolutions with one channel.

    Parameters
    ----------
    maps : float tensor, shape (N, x, y, z)
    sigma : float
        Standard deviation in voxels.

    Returns
    -------
    maps : float tensor, shape (N, y, z, x)
    """
    places = torch.arange(maps.shape[1], dtype=torch.float64, device=maps.device)
    steps = (places[:, None] - places).abs()
    reach = ceil(_REACH * sigma)
    every = torch.arange(-reach, reach + 1, dtype=torch.float64, device=maps.device)
    weights = _gaussian(steps, sigma) * (steps <= reach) / _gaussian(every, sigma).sum()
    smooth: torch.Tensor = torch.tensordot(maps, weights.to(maps.dtype), dims=([1], [0]))
    return smooth


def _gaussian(steps: torch.Tensor, sigma: float) -> torch.Tensor:
    return torch.exp(-0.5 * (steps / sigma) ** 2)
