# SPDX-License-Identifier: Apache-2.0
"""Lesion instances against scipy and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from bids_lesion_xai.lesions.label import label_lesions, reaching

# 18 neighbours: all but the 8 that share only a corner.
NEIGHBOURS = np.abs(np.indices((3, 3, 3)) - 1).sum(0) <= 2


def random_mask(seed: int) -> NDArray[np.bool_]:
    rng = np.random.default_rng(seed)
    return rng.random((14, 11, 9)) < rng.uniform(0.05, 0.3)


@pytest.mark.parametrize("seed", range(8))
def test_lesions_are_the_components_of_scipy(seed: int) -> None:
    mask = random_mask(seed)
    expected, count = ndimage.label(mask, NEIGHBOURS)
    labels = label_lesions(mask, 1.0, 0.0)
    assert labels.dtype == np.int32
    np.testing.assert_array_equal(labels > 0, mask)
    pairs = set(zip(labels[mask].tolist(), expected[mask].tolist(), strict=True))
    assert len(pairs) == count == labels.max()
    assert len({one for one, _ in pairs}) == len({other for _, other in pairs}) == count


@pytest.mark.parametrize("seed", range(8))
def test_the_largest_comes_first_and_equals_in_c_order_of_the_first_voxel(seed: int) -> None:
    labels = label_lesions(random_mask(seed), 1.0, 0.0)
    order = [
        (-np.count_nonzero(labels == label), np.flatnonzero(labels == label)[0])
        for label in range(1, labels.max() + 1)
    ]
    assert order == sorted(order)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("min_volume_mm3", [0.0, 3.0, 8.0, 1e6])
def test_small_lesions_are_dropped_and_the_others_keep_their_numbers(
    seed: int, min_volume_mm3: float
) -> None:
    mask, voxel_volume_mm3 = random_mask(seed), 1.3
    every = label_lesions(mask, voxel_volume_mm3, 0.0)
    volumes_mm3 = np.bincount(every.ravel())[1:] * voxel_volume_mm3
    n_kept = np.count_nonzero(volumes_mm3 >= min_volume_mm3)
    kept = label_lesions(mask, voxel_volume_mm3, min_volume_mm3)
    np.testing.assert_array_equal(kept, np.where(every <= n_kept, every, 0))


def test_corners_alone_do_not_connect_but_edges_do() -> None:
    corner, edge = np.zeros((2, 4, 4, 4), bool)
    corner[1, 1, 1] = corner[2, 2, 2] = edge[1, 1, 1] = edge[1, 2, 2] = True
    assert label_lesions(corner, 1.0, 0.0).max() == 2
    assert label_lesions(edge, 1.0, 0.0).max() == 1


@pytest.mark.parametrize(
    ("spacing_mm", "n_voxels"), [((1, 1, 1), 6), ((0.5, 0.5, 3), 8), ((0.9375, 0.9375, 3), 3)]
)
def test_the_minimum_is_a_volume_not_a_number_of_voxels(
    spacing_mm: tuple[float, ...], n_voxels: int
) -> None:
    mask = np.zeros((12, 5, 2), bool)
    mask[: n_voxels - 1, 0, 0] = mask[:n_voxels, 4, 1] = True
    labels = label_lesions(mask, float(np.prod(spacing_mm)), 6.0)
    assert labels.max() == 1
    np.testing.assert_array_equal(np.argwhere(labels)[:, 1], 4)


def test_a_rounded_affine_does_not_drop_a_lesion_of_the_minimum() -> None:
    mask = np.ones((6, 1, 1), bool)
    assert label_lesions(mask, 0.99999994, 6.0).all()


def test_no_lesion_is_a_valid_result() -> None:
    labels = label_lesions(np.zeros((3, 4, 5), bool), 1.0, 6.0)
    assert labels.dtype == np.int32
    assert labels.shape == (3, 4, 5)
    assert not labels.any()


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("least", [-1.0, 0.5, 0.9, 2.0])
def test_a_lesion_is_kept_whole_if_it_reaches_the_peak_and_else_dropped(
    seed: int, least: float
) -> None:
    mask = random_mask(seed)
    scores = np.random.default_rng(100 + seed).random(mask.shape)
    kept = reaching(mask, scores, least)
    components, count = ndimage.label(mask, NEIGHBOURS)
    expected = np.zeros_like(mask)
    for component in range(1, count + 1):
        if scores[components == component].max() >= least:
            expected |= components == component
    np.testing.assert_array_equal(kept, expected)
    if least in (-1.0, 2.0):
        np.testing.assert_array_equal(kept, mask if least < 0 else np.zeros_like(mask))


def test_what_lies_outside_of_the_mask_makes_no_lesion_reach() -> None:
    mask, scores = np.zeros((5, 1, 1), bool), np.zeros((5, 1, 1))
    mask[:2], scores[2:], scores[1] = True, 1.0, 0.5
    assert not reaching(mask, scores, 0.75).any()
    assert reaching(mask, scores, 0.5).sum() == 2
