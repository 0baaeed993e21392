# SPDX-License-Identifier: Apache-2.0
"""Statistics of feature maps that are drawn anew."""

from __future__ import annotations

import pytest
import torch

from bids_lesion_xai.training.architectures import ARCHITECTURES
from bids_lesion_xai.training.draws import Draws
from bids_lesion_xai.training.styles import Styles, redrawn

CPU = torch.device("cpu")
AXES = (2, 3, 4)


def features(n_patches: int = 4) -> torch.Tensor:
    """Return maps of two channels, of other statistics in every patch."""
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(n_patches, 2, 5, 6, 7, generator=generator)
    number = torch.arange(1.0, n_patches + 1)[:, None, None, None, None]
    return values * number + 10 * number


def test_the_pattern_of_a_map_stays() -> None:
    before, after = features(), redrawn(features(), Draws(1, CPU), 1.0)
    assert after.dtype == before.dtype
    for old, new in zip(before.flatten(0, 1), after.flatten(0, 1), strict=True):
        pair = torch.stack([old.flatten(), new.flatten()])
        assert abs(float(torch.corrcoef(pair)[0, 1])) == pytest.approx(1, abs=1e-5)
        assert not torch.allclose(old, new)


@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_statistics_are_drawn_from_around_their_own_in_parts_of_how_they_differ_over_the_batch(
    strength: float,
) -> None:
    drawn = torch.stack([redrawn(features(), Draws(seed, CPU), strength) for seed in range(4000)])
    means, own = drawn.mean((3, 4, 5)), features().mean(AXES)
    spread = strength * own.std(0, keepdim=True)
    assert ((means.mean(0) - own).abs() < 5 * spread / 4000**0.5).all()
    assert torch.allclose(means.std(0), spread.expand(4, -1), rtol=0.1)
    spread = strength * features().std(AXES).std(0, keepdim=True)
    # Deviations may be drawn negative, so their squares are compared.
    squares = drawn.var((3, 4, 5)).mean(0)
    assert torch.allclose(squares, features().var(AXES) + spread**2, rtol=0.1)


def test_patches_of_the_same_statistics_stay_as_they_are() -> None:
    same = features(1).expand(3, -1, -1, -1, -1)
    torch.testing.assert_close(redrawn(same, Draws(0, CPU), 1.0), same, rtol=1e-4, atol=1e-4)


def test_step_and_seed_fix_what_is_drawn() -> None:
    network = ARCHITECTURES["unet"].build().eval()
    image = torch.randn(2, 2, 16, 16, 16, generator=torch.Generator().manual_seed(3))

    def logits(seed: int, *steps: int) -> torch.Tensor:
        styles = Styles(network, 1.0, seed, CPU)
        for step in steps:
            styles.begin(step)
            found = network(image)
        styles.end()
        return found

    with torch.inference_mode():
        plain = network(image)
        several = [logits(seed, step) for seed, step in ((0, 1), (0, 2), (1, 1))]
        assert torch.equal(logits(0, 5, 1), several[0])
        assert torch.equal(network(image), plain)
    assert not torch.equal(several[0], several[1])
    assert not torch.equal(several[0], several[2])
    assert not torch.equal(several[0], plain)


@pytest.mark.parametrize(("name", "n_levels"), [("unet", 4), ("dynunet", 0), ("swinunetr", 0)])
def test_blocks_that_halve_the_resolution_and_have_batch_norm_are_drawn_after(
    name: str, n_levels: int
) -> None:
    network = ARCHITECTURES[name].build()
    assert len(Styles(network, 1.0, 0, CPU)._hooks) == n_levels


def test_a_single_patch_has_no_others_to_draw_from() -> None:
    network = ARCHITECTURES["unet"].build().eval()
    image = torch.randn(1, 2, 16, 16, 16)
    with torch.inference_mode():
        plain = network(image)
        styles = Styles(network, 1.0, 0, CPU)
        for step in range(5):
            styles.begin(step)
            assert torch.equal(network(image), plain)
