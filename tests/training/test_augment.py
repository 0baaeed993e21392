# SPDX-License-Identifier: Apache-2.0
"""Augmentation of batches."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from bids_lesion_xai.training.augment import _toned, change_scanner, smooth, thick_slices
from bids_lesion_xai.training.draws import Draws

CPU = torch.device("cpu")


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def test_smoothing_is_that_of_scipy_with_a_width_of_its_own_for_each_patch() -> None:
    image, sigma = noise(3, 2, 14, 12, 13), [0.3, 0.7, 1.0]
    found = smooth(image, torch.tensor(sigma))
    for patch, own, smoothed in zip(image, sigma, found, strict=True):
        for channel, result in zip(patch, smoothed, strict=True):
            expected = ndimage.gaussian_filter(channel.numpy(), own, mode="nearest", radius=3)
            np.testing.assert_allclose(result.numpy(), expected, rtol=1e-4, atol=1e-5)


def test_smoothing_by_nothing_changes_nothing() -> None:
    image = noise(1, 2, 8, 9, 10)
    torch.testing.assert_close(smooth(image, torch.zeros(1)), image)


def test_thick_slices_keep_shape_and_mean_and_lie_along_one_axis() -> None:
    images = noise(30, 1, 24, 24, 24)
    changed = thick_slices(images, Draws(0, CPU))
    assert changed.shape == images.shape
    along = []
    for before, after in zip(images[:, 0], changed[:, 0], strict=True):
        assert abs(float(after.mean() - before.mean())) < 0.02
        # Along the axis of the slices, neighbours become alike; elsewhere they stay independent.
        steps = [float(after.diff(dim=axis).var() / after.var()) for axis in range(3)]
        smallest = int(np.argmin(steps))
        assert steps[smallest] < 0.8 < min(steps[:smallest] + steps[smallest + 1 :])
        along.append(smallest)
    assert 15 < along.count(2) < 29


def test_a_tone_curve_keeps_order_mean_and_deviation_and_changes_contrasts() -> None:
    images = noise(6, 1, 12, 12, 12)
    changed = _toned(images, Draws(0, CPU))
    for before, after in zip(images.flatten(1), changed.flatten(1), strict=True):
        rising = after[before.argsort()].diff()
        assert rising.min() > -1e-5
        steps = rising / before.sort().values.diff().clamp_min(1e-6)
        assert steps.quantile(0.9) > 1.3 * steps.quantile(0.1)
        torch.testing.assert_close(after.mean(), before.mean(), rtol=0, atol=1e-5)
        torch.testing.assert_close(after.std(), before.std(), rtol=1e-4, atol=0)


@pytest.mark.parametrize("seed", range(3))
def test_each_channel_of_each_patch_is_changed_by_itself(seed: int) -> None:
    image = noise(1, 1, 16, 16, 16).expand(4, 2, 16, 16, 16)
    changed = change_scanner(image, Draws(seed, CPU))
    assert changed.shape == image.shape
    assert torch.isfinite(changed).all()
    flat = changed.flatten(0, 1)
    assert not any(torch.equal(flat[i], flat[j]) for i in range(8) for j in range(i))
    assert torch.equal(changed, change_scanner(image, Draws(seed, CPU)))
    assert not torch.equal(changed, change_scanner(image, Draws(seed + 9, CPU)))


def test_intensities_stay_in_a_range_that_scanners_give() -> None:
    image = smooth(smooth(noise(64, 2, 24, 24, 24), torch.ones(64)), torch.ones(64))
    changed = change_scanner(image / image.std(), Draws(0, CPU)).flatten(2)
    assert changed.mean(2).abs().max() < 1.0
    assert changed.std(2).min() > 0.2
    assert changed.std(2).max() < 2.0
