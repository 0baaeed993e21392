# SPDX-License-Identifier: Apache-2.0
"""Painted lesions."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from bids_lesion_xai.training.paint import paint_lesions

SHAPE = (30, 26, 24)


def brain_image() -> NDArray[np.float32]:
    """Return FLAIR and T1w with background in the first planes and dark fluid in the next."""
    image = np.random.default_rng(0).normal(0.5, 0.3, (2, *SHAPE)).astype(np.float32)
    image[0, 6:10] = -2
    image[:, :6] = 0
    return image


def shapes() -> NDArray[np.bool_]:
    """Return four cubes of 4^3 voxels: three in tissue, one across fluid and background."""
    cubes = np.zeros(SHAPE, bool)
    for x, y, z in ((14, 3, 3), (14, 14, 3), (22, 14, 15), (4, 14, 14)):
        cubes[x : x + 4, y : y + 4, z : z + 4] = True
    return cubes


def paint(seed: int = 0, keep: float = 1.0) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    return paint_lesions(brain_image(), shapes(), np.random.default_rng(seed), keep)


def test_the_image_given_is_left_as_it_is() -> None:
    image = brain_image()
    paint_lesions(image, shapes(), np.random.default_rng(0), 1.0)
    np.testing.assert_array_equal(image, brain_image())


def test_nothing_is_painted_where_no_lesion_is_kept() -> None:
    painted, lesions = paint(keep=0.0)
    np.testing.assert_array_equal(painted, brain_image())
    assert not lesions.any()


def test_no_shape_gives_no_lesion() -> None:
    empty = np.zeros(SHAPE, bool)
    painted, lesions = paint_lesions(brain_image(), empty, np.random.default_rng(0), 1.0)
    np.testing.assert_array_equal(painted, brain_image())
    assert not lesions.any()


def test_the_generator_fixes_everything() -> None:
    for first, second in zip(paint(3), paint(3), strict=True):
        np.testing.assert_array_equal(first, second)
    assert not np.array_equal(paint(3)[0], paint(4)[0])


@pytest.mark.parametrize("seed", range(5))
def test_background_and_fluid_are_not_painted(seed: int) -> None:
    painted, lesions = paint(seed)
    np.testing.assert_array_equal(painted[:, :10], brain_image()[:, :10])
    assert not lesions[:10].any()


@pytest.mark.parametrize("seed", range(5))
def test_each_shape_becomes_a_lesion_bright_on_flair_and_not_bright_on_t1w(seed: int) -> None:
    painted, lesions = paint(seed)
    assert painted.dtype == np.float32
    change = painted - brain_image()
    for x, y, z in ((14, 3, 3), (14, 14, 3), (22, 14, 15)):
        inner = (slice(x + 1, x + 3), slice(y + 1, y + 3), slice(z + 1, z + 3))
        assert lesions[inner].all()
        assert (change[(0, *inner)] > 0).all()
        assert (change[(1, *inner)] <= 0).all()
    # Half opacity lies on the border of a shape: the label does not outgrow it.
    assert not (lesions & ~shapes()).any()


def test_only_the_surroundings_of_shapes_change() -> None:
    painted, _ = paint()
    far = np.ones(SHAPE, bool)
    for x, y, z in np.argwhere(shapes()):
        far[x - 3 : x + 4, max(0, y - 3) : y + 4, max(0, z - 3) : z + 4] = False
    np.testing.assert_array_equal(painted[:, far], brain_image()[:, far])


def test_lesions_are_kept_as_often_as_asked() -> None:
    counts = [int(paint(seed, keep=0.5)[1][15, 4, 4]) for seed in range(60)]
    # The standard deviation of a mean of 60 fair draws is 0.065.
    assert abs(np.mean(counts) - 0.5) < 4 * 0.065


@pytest.mark.parametrize("seed", range(5))
def test_an_image_draws_no_less_brightening_than_asked_for(seed: int) -> None:
    image, rng = brain_image(), np.random.default_rng(seed)
    painted, _ = paint_lesions(image, shapes(), rng, 1.0, least_brightening=8.0)
    # A lesion takes 0.7 to 1.4 of it; its texture adds and takes a little.
    change = (painted - image)[0]
    assert change[15:17, 15:17, 4:6].mean() > 0.6 * 8
