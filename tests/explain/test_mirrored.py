# SPDX-License-Identifier: Apache-2.0
"""Explanations of logits that are averaged with those of the mirror image."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from bids_lesion_xai.errors import UsageError
from bids_lesion_xai.models.inference import Predictor
from tests.explain.test_lesions import (
    MULTIPLE,
    SHAPE,
    assert_near,
    assert_same_bits,
    brute_force,
    explain,
    noisy,
    small_image,
    three_lesions,
)
from tests.networks import random_unet, randomised

WINDOW = (8, 12, 8)
OVERLAP = 0.3


def expected(
    network: nn.Module,
    mask: torch.Tensor,
    aggregation: str,
    window: tuple[int, ...] | None = None,
    multiple: int = MULTIPLE,
) -> np.ndarray:
    """Return the mean over samples of the gradients of what is predicted with flips."""
    predict = Predictor(network, multiple, window, OVERLAP, flip=True)
    samples = []
    for sample in range(3):
        image = noisy(small_image(), sample).requires_grad_()
        rows = [
            torch.autograd.grad(one, image, retain_graph=True)[0]
            for one in predict(image)[1][mask]
        ]
        samples.append(brute_force(torch.stack(rows).numpy(), aggregation))
    return np.mean(samples, axis=0)


@pytest.mark.parametrize("aggregation", ["mean", "sum", "max", "rms"])
@pytest.mark.parametrize("engine", ["pruned", "crop", "whole", "window"])
def test_is_the_gradient_of_what_is_predicted(engine: str, aggregation: str) -> None:
    network, labels = random_unet(), three_lesions()
    window = WINDOW if engine == "window" else None
    options = {"window": window, "overlap": OVERLAP} if window else {"engine": engine}
    found = explain(network, labels=labels, flip=True, aggregation=aggregation, **options)
    assert [one.engine for one in found] == [engine] * 3
    for one in found:
        dense = one.dense(SHAPE)
        assert_near(dense, expected(network, labels == one.lesion, aggregation, window))
    plain = explain(network, labels=labels, aggregation=aggregation, **options)
    assert not torch.allclose(found[0].dense(SHAPE), plain[0].dense(SHAPE))


# The ways back through these write over the gradients they are given.
LAST_LAYERS = {
    "PReLU": nn.PReLU(init=0.3),
    "Softplus": nn.Softplus(),
    "batch norm": nn.Sequential(nn.PReLU(init=0.3), nn.BatchNorm3d(2)),
}


@pytest.mark.parametrize("aggregation", ["mean", "max"])
@pytest.mark.parametrize("engine", ["pruned", "crop", "whole"])
@pytest.mark.parametrize("last", LAST_LAYERS)
def test_is_the_gradient_of_a_chain_that_ends_without_convolution(
    last: str, engine: str, aggregation: str
) -> None:
    torch.manual_seed(9)
    network = randomised(nn.Sequential(nn.Conv3d(2, 2, 3, padding=1), LAST_LAYERS[last]))
    labels = three_lesions()
    for one in explain(network, labels=labels, flip=True, engine=engine, aggregation=aggregation):
        mask = labels == one.lesion
        assert_near(one.dense(SHAPE), expected(network, mask, aggregation, multiple=1))


def test_the_number_of_threads_changes_no_bit() -> None:
    network = random_unet()
    one, three = (explain(network, flip=True, n_threads=n) for n in (1, 3))
    for a, b in zip(one, three, strict=True):
        assert_same_bits(a, b)


def test_without_noise_a_mirrored_image_gives_the_mirrored_map() -> None:
    network, labels = random_unet(), three_lesions()
    options = {"flip": True, "method": "gradient"}
    found = explain(network, labels=labels, **options)
    mirrored = explain(network, small_image().flip(1), labels.flip(0), **options)
    by_label = {one.lesion: one for one in mirrored}
    for one in found:
        assert_near(one.dense(SHAPE), by_label[one.lesion].dense(SHAPE).flip(1), 1e-12)


def test_a_method_that_looks_into_one_pass_is_refused() -> None:
    with pytest.raises(UsageError, match="flip"):
        explain(random_unet(), method="gradcam++", flip=True)
