# SPDX-License-Identifier: Apache-2.0
"""Lesions keep their volume from one grid to another."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

from bids_lesion_xai.imaging.grid import Grid
from bids_lesion_xai.lesions.label import CONNECTIVITY
from bids_lesion_xai.lesions.move import move_mask
from tests.phantoms import moved, oblique_grid, rigid, world_mm

SOURCE = oblique_grid((1.0, 1.0, 1.0), (1, -1, 1), (4, -7, 9), half_extent_mm=25)
TARGETS = {
    "fine": oblique_grid((0.7, 0.7, 0.7), half_extent_mm=35),
    "same spacing": oblique_grid((1.0, 1.0, 1.0), degrees=(12, 5, -8), half_extent_mm=35),
    "thick slices": oblique_grid((0.9, 0.9, 5.0), (-1, 1, 1), (3, 2, -6), 35, (2, 0, 1)),
    "coarse": oblique_grid((2.0, 2.3, 2.6), (-1, -1, 1), half_extent_mm=35),
}
MOTION = rigid((5, -8, 11), (2.2, -1.4, 0.8))


def boxes(seed: int, grid: Grid = SOURCE) -> NDArray[np.bool_]:
    """Return boxes of one to four voxels a side, some of which touch."""
    rng = np.random.default_rng(seed)
    mask = np.zeros(grid.shape, bool)
    for _ in range(12):
        start, sides = rng.integers(4, np.array(grid.shape) - 8), rng.integers(1, 5, 3)
        mask[tuple(slice(a, a + n) for a, n in zip(start, sides, strict=True))] = True
    return mask


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
@pytest.mark.parametrize("side", range(1, 6))
@pytest.mark.parametrize("seed", range(3))
def test_a_lesion_keeps_volume_and_place(target: Grid, side: int, seed: int) -> None:
    rng = np.random.default_rng((seed, side))
    mask = np.zeros(SOURCE.shape, bool)
    mask[tuple(slice(first, first + side) for first in rng.integers(15, 30, 3))] = True
    motion = rigid(tuple(rng.uniform(-10, 10, 3)), tuple(rng.uniform(-4, 4, 3)))
    result = move_mask(mask, SOURCE, target, motion)
    volume_mm3 = max(side**3, target.voxel_volume_mm3 / 2)
    off_mm3 = result.sum() * target.voxel_volume_mm3 - volume_mm3
    # Points of the overlap may fall to the other side of a border.
    assert abs(off_mm3) <= target.voxel_volume_mm3 / 2 * (1 + 1e-9)
    there_mm = motion[:3, :3] @ world_mm(SOURCE)[mask].mean(0) + motion[:3, 3]
    assert (
        np.abs(
            np.linalg.inv(target.affine)[:3, :3] @ (world_mm(target)[result].mean(0) - there_mm)
        ).max()
        <= 0.6
    )
    assert ndimage.label(result, CONNECTIVITY)[1] == 1


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
@pytest.mark.parametrize("seed", range(2))
def test_the_voxels_kept_are_those_that_the_lesion_covers_most(target: Grid, seed: int) -> None:
    mask = np.zeros(SOURCE.shape, bool)
    mask[20:24, 20:23, 20:25] = np.random.default_rng(seed).random((4, 3, 5)) < 0.7
    mask[20:24, 21, 22] = mask[22, 20:23, 22] = mask[22, 21, 20:25] = True
    mask = ndimage.label(mask, CONNECTIVITY)[0] == 1
    # An oracle: the middles of tiny cubes, sorted into voxels.
    inverse = np.linalg.inv(target.affine)
    cover = np.zeros(target.shape)
    steps = (np.arange(20) + 0.5) / 20 - 0.5
    tiny = np.stack(np.meshgrid(steps, steps, steps), -1).reshape(-1, 3)
    for voxel in np.argwhere(mask):
        world = SOURCE.to_world_mm(voxel + tiny) @ MOTION[:3, :3].T + MOTION[:3, 3]
        place = np.rint(world @ inverse[:3, :3].T + inverse[:3, 3]).astype(int)
        np.add.at(cover, tuple(place.T), 20.0**-3 / target.voxel_volume_mm3)
    assert cover.sum() * target.voxel_volume_mm3 == pytest.approx(mask.sum())
    result = move_mask(mask, SOURCE, target, MOTION)
    assert result.sum() == max(1, round(cover.sum()))
    assert cover[result].min() >= cover[~result].max() - 0.1


@pytest.mark.parametrize("seed", range(4))
def test_a_lesion_is_moved_as_if_there_were_no_other(seed: int) -> None:
    mask, target = boxes(seed), TARGETS["thick slices"]
    labels, count = ndimage.label(mask, CONNECTIVITY)
    assert count > 4
    alone = [move_mask(labels == n, SOURCE, target, MOTION) for n in range(1, count + 1)]
    np.testing.assert_array_equal(move_mask(mask, SOURCE, target, MOTION), np.any(alone, axis=0))


@pytest.mark.parametrize("size", [(20, 1, 1), (1, 20, 1), (12, 12, 1), (1, 9, 14)], ids=str)
@pytest.mark.parametrize("shift", [0.3, 0.4, 0.5, 0.6, 0.7])
@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("degrees", [0, 1, 5])
def test_a_thin_lesion_between_voxels_keeps_its_shape(
    size: tuple[int, int, int], shift: float, axis: int, degrees: float
) -> None:
    grid = Grid((40, 40, 40), np.eye(4))
    mask = np.zeros(grid.shape, bool)
    mask[tuple(slice(10, 10 + n) for n in size)] = True
    motion = np.eye(4)
    motion[:3, :3] = Rotation.from_euler("x", degrees, degrees=True).as_matrix()
    middle = np.argwhere(mask).mean(0)
    motion[:3, 3] = middle - motion[:3, :3] @ middle + shift * np.eye(3)[axis]
    found = np.argwhere(move_mask(mask, grid, grid, motion))
    assert len(found) == mask.sum()
    off = found @ motion[:3, :3] - motion[:3, 3] @ motion[:3, :3] - middle
    assert np.abs(off.mean(0)).max() <= 0.51
    # No voxel is further from the lesion than half a voxel and half the diagonal of one.
    assert (np.abs(off) <= np.array(size) / 2 + 0.87).all()


@pytest.mark.parametrize("seed", range(4))
def test_where_voxels_lie_on_voxels_a_mask_stays_as_it_is(seed: int) -> None:
    mask = boxes(seed)
    np.testing.assert_array_equal(move_mask(mask, SOURCE, SOURCE, np.eye(4)), mask)
    there = moved(SOURCE, MOTION)
    np.testing.assert_array_equal(move_mask(mask, SOURCE, there, MOTION), mask)
    turned = Grid(SOURCE.shape[::-1], SOURCE.affine[:, [2, 1, 0, 3]])
    np.testing.assert_array_equal(move_mask(mask, SOURCE, turned, np.eye(4)), mask.T)


def test_what_lies_beyond_the_field_of_view_is_lost() -> None:
    mask = boxes(0)
    far = moved(SOURCE, rigid((0, 0, 0), (500, 0, 0)))
    assert not move_mask(mask, SOURCE, far, np.eye(4)).any()
    assert not move_mask(np.zeros_like(mask), SOURCE, SOURCE, np.eye(4)).any()
    half = SOURCE.crop((0, 0, 0), (SOURCE.shape[0] // 2, *SOURCE.shape[1:]))
    kept = move_mask(mask, SOURCE, half, np.eye(4))
    np.testing.assert_array_equal(kept, mask[: half.shape[0]])
