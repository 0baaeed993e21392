# SPDX-License-Identifier: Apache-2.0
"""What is explained: a number for each voxel, made of the logits of its classes."""

from __future__ import annotations

from collections.abc import Callable

import torch

from bids_lesion_xai.conventions import LESION_CLASS

Target = Callable[[torch.Tensor], torch.Tensor]


def _logit(logits: torch.Tensor) -> torch.Tensor:
    return logits[:, LESION_CLASS]


def _log_odds(logits: torch.Tensor) -> torch.Tensor:
    others = [k for k in range(logits.shape[1]) if k != LESION_CLASS]
    return logits[:, LESION_CLASS] - logits[:, others].logsumexp(1)


def _probability(logits: torch.Tensor) -> torch.Tensor:
    return logits.softmax(1)[:, LESION_CLASS]


# From logits, shape (voxels, K), to the number that is explained, shape (voxels,).
TARGET_FUNCTIONS: dict[str, Target] = {
    "logit": _logit,
    "logodds": _log_odds,
    "probability": _probability,
}


def slopes(target: Target, logits: torch.Tensor) -> torch.Tensor:
    """Return the derivatives of the target of each voxel with respect to its logits.

    Parameters
    ----------
    target : callable
    logits : float tensor, shape (voxels, K)

    Returns
    -------
    slopes : float tensor, shape (voxels, K)
    """
    with torch.enable_grad():
        leaf = logits.detach().requires_grad_()
        return torch.autograd.grad(target(leaf).sum(), leaf)[0]
