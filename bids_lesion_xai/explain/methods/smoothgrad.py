# SPDX-License-Identifier: Apache-2.0
"""SmoothGrad: the mean of gradients at noisy images (Smilkov et al. 2017, arXiv 1706.03825)."""

from __future__ import annotations

import torch

from bids_lesion_xai.explain.box import Box
from bids_lesion_xai.explain.points import PointMethod, Reduction
from bids_lesion_xai.explain.problem import Lesion
from bids_lesion_xai.explain.reductions import Mean


class Method(PointMethod):
    """The mean of the gradients at the image plus normal noise."""

    @property
    def n_points(self) -> int:
        return self.problem.n_samples

    def point(self, support: Box, index: int) -> torch.Tensor:
        clean = self.problem.image_in(support)
        noise = torch.from_numpy(self.problem.noise.draw(index, len(clean), support)).to(clean)
        for channel, values, sigma in zip(clean, noise, self.problem.sigma, strict=True):
            torch.add(channel, values, alpha=sigma, out=values)
        return noise

    def reduction(self, lesion: Lesion) -> Reduction:
        return Mean(self.problem.inside(lesion))
