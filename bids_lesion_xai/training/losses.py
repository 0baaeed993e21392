# SPDX-License-Identifier: Apache-2.0
"""Loss functions of two-class logits and a lesion mask."""

from __future__ import annotations

from collections.abc import Callable

import torch
from monai.losses import DiceCELoss, FocalLoss
from torch.nn import functional

from bids_lesion_xai.conventions import LESION_CLASS
from bids_lesion_xai.training.tissues import UNKNOWN

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

# The published reference load of normalised Dice.
REFERENCE_LOAD = 0.001
SMOOTHING_VOXELS = 30.0


class NormalisedDiceFocal(torch.nn.Module):
    """The published loss: half of normalised Dice loss plus focal loss with gamma 2.

    Normalised Dice weighs false positives by the patch's lesion load h against a reference load r,
    k = (1 - r) h / (r (1 - h)), and k = 1 in a patch without a lesion.

    References
    ----------
    Raina et al., "Tackling bias in the Dice similarity coefficient: introducing nDSC for white
    matter lesion segmentation", ISBI 2023, arXiv 2302.05432, for normalised Dice.
    Spagnolo et al., Scientific Reports (2026), doi 10.1038/s41598-026-36560-9, for the sum.
    """

    def __init__(self) -> None:
        super().__init__()
        self.focal = FocalLoss(gamma=2.0, include_background=False, to_onehot_y=True)

    def forward(self, logits: torch.Tensor, lesions: torch.Tensor) -> torch.Tensor:
        """Return the loss of logits (B, 2, X, Y, Z) and lesions (B, 1, X, Y, Z), a scalar."""
        p = torch.softmax(logits, dim=1)[:, LESION_CLASS].flatten(1)
        y = lesions[:, 0].flatten(1)
        both, predicted, true = (p * y).sum(1), p.sum(1), y.sum(1)
        load = y.mean(1)
        weight = (1 - REFERENCE_LOAD) * load / (REFERENCE_LOAD * (1 - load).clamp_min(1e-6))
        weight = torch.where(true > 0, weight, torch.ones_like(weight))
        denominator = weight * (predicted - both) + true + both
        dice = 2 * both / denominator.clamp_min(1e-6)
        focal: torch.Tensor = self.focal(logits, lesions)
        return 0.5 * (1 - dice).mean() + focal


def tissue_loss(logits: torch.Tensor, tissues: torch.Tensor) -> torch.Tensor:
    """Return the cross entropy of tissues, averaged over the voxels where they are known.

    Parameters
    ----------
    logits : float32 tensor, shape (B, tissues, X, Y, Z)
    tissues : int64 tensor, shape (B, X, Y, Z)
        See `tissues`.
    """
    known = (tissues != UNKNOWN).sum().clamp_min(1)
    return functional.cross_entropy(logits, tissues - 1, ignore_index=-1, reduction="sum") / known


def _dice_cross_entropy() -> Loss:
    """Return Dice of each patch plus cross entropy.

    Dice takes each patch by itself, so that a patch of small lesions counts as much as one of
    large ones, and is smoothed, so that false voxels count where there is no lesion:
    `SMOOTHING_VOXELS` of them cost one half.
    """
    loss: Loss = DiceCELoss(
        include_background=False,
        softmax=True,
        to_onehot_y=True,
        smooth_nr=SMOOTHING_VOXELS,
        smooth_dr=SMOOTHING_VOXELS,
    )
    return loss


LOSSES: dict[str, Callable[[], Loss]] = {
    "dice-ce": _dice_cross_entropy,
    "ndice-focal": NormalisedDiceFocal,
}
