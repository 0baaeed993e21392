# SPDX-License-Identifier: Apache-2.0
"""Painted lesions, and real ones that fade."""

from __future__ import annotations

import pytest
import torch

from bids_lesion_xai.training.draws import Draws
from bids_lesion_xai.training.paint import fade_lesions, paint_lesions

SHAPE = (30, 26, 24)
TISSUE = ((14, 3, 3), (14, 14, 3), (22, 14, 15))
CPU = torch.device("cpu")


def images() -> torch.Tensor:
    """Return two patches with background in the first planes and dark fluid in the next."""
    image = 0.5 + 0.3 * torch.randn(2, 2, *SHAPE, generator=torch.Generator().manual_seed(0))
    image[:, 0, 6:10] = -2
    image[:, :, :6] = 0
    return image


def shapes(bright: float = 1.0, dark: float = 1.0) -> torch.Tensor:
    """Return four cubes of 4^3 voxels: three in tissue, one across fluid and background."""
    cubes = torch.zeros(2, 1, *SHAPE)
    for x, y, z in (*TISSUE, (4, 14, 14)):
        cubes[:, :, x : x + 4, y : y + 4, z : z + 4] = 1
    return torch.cat([cubes, bright * cubes, dark * cubes], 1)


def paint(seed: int = 0, least: float = 0.0, **parts: float) -> tuple[torch.Tensor, torch.Tensor]:
    return paint_lesions(images(), shapes(**parts), torch.tensor([0.0, least]), Draws(seed, CPU))


def test_the_images_given_are_left_as_they_are() -> None:
    image = images()
    paint_lesions(image, shapes(), torch.zeros(2), Draws(0, CPU))
    assert torch.equal(image, images())


def test_no_shape_gives_no_lesion() -> None:
    painted, lesions = paint_lesions(images(), 0 * shapes(), torch.zeros(2), Draws(0, CPU))
    assert torch.equal(painted, images())
    assert not lesions.any()


def test_the_seed_fixes_everything() -> None:
    for first, second in zip(paint(3), paint(3), strict=True):
        assert torch.equal(first, second)
    assert not torch.equal(paint(3)[0], paint(4)[0])


@pytest.mark.parametrize("seed", range(5))
def test_background_and_fluid_are_not_painted(seed: int) -> None:
    painted, lesions = paint(seed)
    assert torch.equal(painted[:, :, :10], images()[:, :, :10])
    assert not lesions[:, :, :10].any()


@pytest.mark.parametrize("seed", range(5))
def test_each_shape_becomes_a_lesion_bright_on_flair_and_not_bright_on_t1w(seed: int) -> None:
    painted, lesions = paint(seed)
    change = painted - images()
    for x, y, z in TISSUE:
        inner = (slice(x + 1, x + 3), slice(y + 1, y + 3), slice(z + 1, z + 3))
        assert lesions[(slice(None), 0, *inner)].all()
        assert (change[(slice(None), 0, *inner)] > 0).all()
        assert (change[(slice(None), 1, *inner)] <= 0).all()
    # Half opacity lies on the border of a shape: the label does not outgrow it.
    assert not (lesions & (shapes()[:, :1] == 0)).any()


def test_a_lesion_of_one_voxel_is_seen_like_a_large_one() -> None:
    image, lesions = torch.full((1, 2, 30, 30, 30), 0.5), torch.zeros(1, 1, 30, 30, 30)
    lesions[:, :, 4:12, 4:26, 4:26] = 1
    lesions[:, :, 16:29:4, 4:27:4, 4:27:4] = 1
    for seed in range(5):
        painted, found = paint_lesions(
            image, lesions.expand(1, 3, 30, 30, 30), torch.zeros(1), Draws(seed, CPU)
        )
        assert torch.equal(found, lesions > 0)
        change = (painted - image)[:, :1]
        small, large = change[:, :, 16:][found[:, :, 16:]], change[:, :, 6:10, 6:24, 6:24]
        assert 0.65 * large.mean() < small.mean() < large.mean()


def test_only_the_surroundings_of_shapes_change() -> None:
    painted, _ = paint()
    far = torch.ones(SHAPE, dtype=torch.bool)
    for x, y, z in torch.nonzero(shapes()[0, 0]).tolist():
        far[x - 3 : x + 4, max(0, y - 3) : y + 4, max(0, z - 3) : z + 4] = False
    assert torch.equal(painted[:, :, far], images()[:, :, far])


@pytest.mark.parametrize("seed", range(5))
def test_a_lesion_takes_its_own_part_of_what_a_patch_draws(seed: int) -> None:
    whole, half = paint(seed)[0] - images(), paint(seed, bright=0.5, dark=0.0)[0] - images()
    torch.testing.assert_close(half[:, 0], whole[:, 0] / 2, rtol=1e-4, atol=1e-5)
    assert not half[:, 1].any()


@pytest.mark.parametrize("seed", range(5))
def test_a_patch_draws_no_less_brightening_than_asked_for(seed: int) -> None:
    painted, _ = paint(seed, least=8.0)
    change = (painted - images())[:, 0, 15:17, 15:17, 4:6].mean((1, 2, 3))
    assert change[0] < 2.5 < 0.8 * 8 < change[1]


def test_fading_takes_the_same_part_of_the_contrast_in_both_channels_inside_lesions_only() -> None:
    around = torch.tensor([[0.1, 0.7], [-0.3, 0.2]])
    lesions = shapes()[:, :1]
    parts = []
    for seed in range(40):
        faded = fade_lesions(images(), lesions, around, Draws(seed, CPU))
        contrast = images() - around[:, :, None, None, None]
        # In the middle of a lesion the smoothed mask is the same for all.
        middle = (slice(None), slice(None), 15, 15, 5)
        part = ((images() - faded) / contrast)[middle]
        torch.testing.assert_close(part[:, 0], part[:, 1], rtol=1e-3, atol=1e-4)
        assert torch.equal(faded[:, :, 29:], images()[:, :, 29:])
        parts += part[:, 0].tolist()
    drawn = torch.tensor(parts)
    assert drawn.min() >= -0.31
    assert drawn.max() <= 0.61
    assert (drawn < -0.05).any()
    assert (drawn > 0.4).any()
    # Half of the patches are left as they are; the standard deviation of 80 fair draws is 4.5.
    assert abs(int((drawn == 0).sum()) - 40) < 4 * 4.5
