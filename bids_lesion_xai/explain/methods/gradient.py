# SPDX-License-Identifier: Apache-2.0
"""The gradient at the image itself (Simonyan et al. 2014, arXiv 1312.6034)."""

from __future__ import annotations

import torch

from bids_lesion_xai.explain.box import Box
from bids_lesion_xai.explain.points import PointMethod, Reduction
from bids_lesion_xai.explain.problem import Lesion
from bids_lesion_xai.explain.reductions import Sum


class Method(PointMethod):
    """The gradient at the image itself."""

    n_points = 1

    def point(self, support: Box, index: int) -> torch.Tensor:
        return self.problem.image_in(support)

    def reduction(self, lesion: Lesion) -> Reduction:
        return Sum([1.0], 1.0)
