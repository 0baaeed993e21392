# SPDX-License-Identifier: Apache-2.0
"""VarGrad: the variance of the gradients at noisy images (Adebayo et al. 2018, arXiv 1810.03292).

It is the mean square minus the squared mean, as in Captum, without a correction for few samples.
"""

from __future__ import annotations

from bids_lesion_xai.explain.methods import smoothgrad
from bids_lesion_xai.explain.points import Reduction
from bids_lesion_xai.explain.problem import Lesion
from bids_lesion_xai.explain.reductions import Variance


class Method(smoothgrad.Method):
    """The variance of the gradients at the image plus normal noise."""

    def reduction(self, lesion: Lesion) -> Reduction:
        return Variance()
