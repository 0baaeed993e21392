# SPDX-License-Identifier: Apache-2.0
"""From an image to logits and probability."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.inferers import SlidingWindowInferer

from bids_lesion_xai.errors import DataError
from bids_lesion_xai.models.inference import (
    Predictor,
    lesion_log_odds,
    lesion_probability,
    pad_to_multiple,
    require_finite,
)
from tests.networks import random_unet


@pytest.mark.parametrize("shape", [(5, 8, 11), (8, 8, 8), (1, 2, 3), (9, 16, 7)])
def test_padding_adds_zeros_at_the_end_and_keeps_indices(shape: tuple[int, ...]) -> None:
    image = torch.randn(2, *shape)
    padded = pad_to_multiple(image, 4)
    assert all(
        new % 4 == 0 and 0 <= new - old < 4
        for old, new in zip(shape, padded.shape[1:], strict=True)
    )
    x, y, z = shape
    assert torch.equal(padded[:, :x, :y, :z], image)
    assert padded.count_nonzero() == image.count_nonzero()


def test_logits_of_an_aligned_volume_are_those_of_the_network() -> None:
    network, image = random_unet(), torch.randn(2, 8, 12, 4, dtype=torch.float64)
    assert torch.equal(Predictor(network, 4)(image), network(image[None])[0])


def test_logits_of_any_volume_are_those_of_the_padded_one() -> None:
    network, image = random_unet(), torch.randn(2, 7, 9, 6, dtype=torch.float64)
    padded = torch.zeros(2, 8, 12, 8, dtype=torch.float64)
    padded[:, :7, :9, :6] = image
    expected = network(padded[None])[0, :, :7, :9, :6]
    assert torch.equal(Predictor(network, 4)(image), expected)


@pytest.mark.parametrize("shape", [(20, 17, 15), (13, 9, 30), (7, 6, 5)])
@pytest.mark.parametrize("overlap", [0.0, 0.3, 0.5])
def test_logits_by_windows_are_those_of_monai(shape: tuple[int, ...], overlap: float) -> None:
    network, image = random_unet(), torch.randn(2, *shape, dtype=torch.float64)
    inferer = SlidingWindowInferer((8, 12, 16), 3, overlap, mode="gaussian")
    expected = inferer(image[None], network)[0]
    found = Predictor(network, 4, (8, 12, 16), overlap)(image)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    assert not torch.allclose(found, Predictor(network, 4)(image))


def test_one_window_over_all_is_the_whole_volume() -> None:
    network, image = random_unet(), torch.randn(2, 8, 12, 16, dtype=torch.float64)
    found = Predictor(network, 4, (8, 12, 16), 0.5)(image)
    torch.testing.assert_close(found, Predictor(network, 4)(image), rtol=1e-12, atol=1e-12)


def test_probability_is_the_softmax_of_the_lesion_class() -> None:
    logits = 30 * torch.randn(2, 3, 4, 5, dtype=torch.float64)
    expected = 1 / (1 + torch.exp(logits[0] - logits[1]))
    torch.testing.assert_close(lesion_probability(logits), expected, rtol=1e-12, atol=0)


def test_log_odds_are_those_of_the_probability() -> None:
    logits = 5 * torch.randn(3, 3, 4, 5, dtype=torch.float64)
    expected = torch.logit(lesion_probability(logits))
    torch.testing.assert_close(lesion_log_odds(logits), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("window", [None, (8, 12, 16)])
def test_flipped_logits_are_the_mean_of_both_and_mirror_with_the_image(
    window: tuple[int, ...] | None,
) -> None:
    network, image = random_unet(), torch.randn(2, 7, 9, 6, dtype=torch.float64)
    plain, flipped = (Predictor(network, 4, window, 0.5, flip=flip) for flip in (False, True))
    expected = (plain(image) + plain(image.flip(1)).flip(1)) / 2
    torch.testing.assert_close(flipped(image), expected, rtol=0, atol=0)
    torch.testing.assert_close(flipped(image.flip(1)).flip(1), expected, rtol=0, atol=0)
    assert not torch.allclose(plain(image), expected)


@pytest.mark.parametrize("channel", [0, 1])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_logits_must_be_finite_in_the_brain_alone(channel: int, value: float) -> None:
    brain = np.zeros((3, 4, 5), bool)
    brain[1:] = True
    logits = torch.zeros(2, *brain.shape)
    logits[channel, 0] = value
    require_finite(logits, brain, "small")
    logits[channel, 1, 2, :3] = value
    with pytest.raises(DataError, match=r"Model small .* in 3 of 40 voxels"):
        require_finite(logits, brain, "small")
