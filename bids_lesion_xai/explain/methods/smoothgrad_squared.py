# SPDX-License-Identifier: Apache-2.0
"""SmoothGrad-squared: the mean of the squared gradients (Hooker et al. 2019, arXiv 1806.10758)."""

from __future__ import annotations

from bids_lesion_xai.explain.methods import smoothgrad
from bids_lesion_xai.explain.points import Reduction
from bids_lesion_xai.explain.problem import Lesion
from bids_lesion_xai.explain.reductions import MeanSquare


class Method(smoothgrad.Method):
    """The mean of the squared gradients at the image plus normal noise."""

    def reduction(self, lesion: Lesion) -> Reduction:
        return MeanSquare(self.problem.inside(lesion))
