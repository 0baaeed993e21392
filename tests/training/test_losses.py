# SPDX-License-Identifier: Apache-2.0
"""Losses, against their formulas written out in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bids_lesion_xai.training.losses import (
    LOSSES,
    SMOOTHING_VOXELS,
    NormalisedDiceFocal,
    tissue_loss,
)
from bids_lesion_xai.training.options import LOSS_NAMES


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    """Return logits and lesions of a patch with a lesion and of one without."""
    random = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 2, 4, 5, 6, generator=random, dtype=torch.float64)
    lesions = torch.zeros(2, 1, 4, 5, 6, dtype=torch.float64)
    lesions[0, 0, 1:3, 1:3, 1:3] = 1
    return logits, lesions


def test_the_published_loss_is_its_formula() -> None:
    logits, lesions = batch()
    r, terms = 0.001, []
    for one, truth in zip(logits, lesions[:, 0], strict=True):
        p = one.softmax(0)[1]
        h = truth.mean()
        k = (1 - r) * h / (r * (1 - h)) if truth.any() else 1.0
        both = (p * truth).sum()
        terms.append(1 - 2 * both / (k * (p.sum() - both) + truth.sum() + both))
    q = torch.where(lesions[:, 0] > 0, logits[:, 1].sigmoid(), (-logits[:, 1]).sigmoid())
    focal = (-((1 - q) ** 2) * q.log()).mean()
    found = NormalisedDiceFocal()(logits, lesions)
    assert float(found) == pytest.approx(float(0.5 * sum(terms) / 2 + focal), rel=1e-6)


@pytest.mark.parametrize("name", LOSS_NAMES)
def test_a_loss_is_low_where_the_logits_are_right_and_has_a_finite_gradient(name: str) -> None:
    logits, lesions = batch()
    right = 10 * torch.cat([1 - 2 * lesions, 2 * lesions - 1], 1)
    loss = LOSSES[name]()
    assert float(loss(right[:1], lesions[:1])) < 0.1 < float(loss(-right[:1], lesions[:1]))
    for start in (logits, right, -right, torch.zeros_like(logits)):
        leaf = start.clone().requires_grad_()
        loss(leaf, lesions).backward()
        assert torch.isfinite(leaf.grad).all()


def test_every_loss_can_be_asked_for() -> None:
    assert tuple(LOSSES) == LOSS_NAMES


def test_every_patch_counts_the_same() -> None:
    logits, lesions = batch()
    loss = LOSSES["dice-ce"]()
    one, other = (loss(logits[i : i + 1], lesions[i : i + 1]) for i in range(2))
    torch.testing.assert_close(loss(logits, lesions), (one + other) / 2)


def test_false_voxels_count_where_there_is_no_lesion() -> None:
    lesions = torch.zeros(1, 1, 40, 40, 40, dtype=torch.float64)
    predicted = lesions.clone()
    predicted.flatten()[: int(SMOOTHING_VOXELS)] = 1
    logits = 20 * torch.cat([1 - 2 * predicted, 2 * predicted - 1], 1)
    entropy = 40 * SMOOTHING_VOXELS / lesions.numel()
    assert float(LOSSES["dice-ce"]()(logits, lesions)) == pytest.approx(0.5 + entropy, rel=1e-6)


def test_the_loss_of_tissues_is_the_mean_surprise_where_they_are_known() -> None:
    random = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 4, 3, 4, 5, dtype=torch.float64, generator=random)
    tissues = torch.randint(0, 5, (2, 3, 4, 5), generator=random)
    probability = logits.exp() / logits.exp().sum(1, keepdim=True)
    surprise = [
        -probability[i, int(tissues[i, x, y, z]) - 1, x, y, z].log()
        for i, x, y, z in np.ndindex(*tissues.shape)
        if tissues[i, x, y, z] > 0
    ]
    torch.testing.assert_close(tissue_loss(logits, tissues), torch.stack(surprise).mean())


def test_where_no_tissue_is_known_there_is_no_loss() -> None:
    logits = torch.randn(1, 4, 2, 2, 2, requires_grad=True)
    loss = tissue_loss(logits, torch.zeros(1, 2, 2, 2, dtype=torch.int64))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert not logits.grad.any()
