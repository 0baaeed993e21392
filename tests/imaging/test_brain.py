from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from bids_lesion_xai.errors import DataError
from bids_lesion_xai.imaging.brain import (
    is_stripped,
    require_plausible,
    solid,
    volume_mm3,
)
from bids_lesion_xai.imaging.grid import Grid
from tests.phantoms import T1W, brain_mask, head, oblique_grid

GRID = oblique_grid((1.5, 1.5, 3.0), flips=(-1, -1, 1), degrees=(10, 5, -20))
# The same voxels, larger: with a head of 3.5 L, as a real one.
LARGE = Grid(GRID.shape, GRID.affine * [[1.7], [1.7], [1.7], [1]])


@pytest.fixture(scope="module")
def stripped() -> NDArray[np.float32]:
    return np.where(brain_mask(GRID), head(GRID, T1W), 0)


def test_a_stripped_brain_is_recognised(stripped) -> None:
    assert is_stripped(stripped, GRID)


def test_the_background_may_be_any_constant(stripped) -> None:
    assert is_stripped((stripped - 400) / 150, GRID)


def test_a_stripped_brain_cropped_to_its_box_is_recognised(stripped) -> None:
    box = tuple(slice(n.min(), n.max() + 1) for n in np.nonzero(stripped))
    assert is_stripped(stripped[box], GRID)


def test_a_head_is_not_stripped_though_its_background_is_zero() -> None:
    assert not is_stripped(head(GRID, T1W), LARGE)


def test_a_noisy_background_is_not_stripped(stripped) -> None:
    noise = np.random.default_rng(0).rayleigh(4, GRID.shape)
    assert not is_stripped(np.hypot(stripped, noise).round(), GRID)


def test_a_slab_of_a_head_is_not_stripped() -> None:
    slab = head(GRID, T1W)[:, :, 15:30]
    assert not is_stripped(slab, GRID)


def test_nothing_is_not_a_brain() -> None:
    assert not is_stripped(np.zeros(GRID.shape), GRID)


def test_solid_keeps_the_largest_component_and_fills_its_holes() -> None:
    mask = np.zeros((9, 9, 9), bool)
    mask[1:6, 1:6, 1:6] = True
    truth = mask.copy()
    mask[3, 3, 3] = False
    mask[8, 8, 8] = True
    assert (solid(mask) == truth).all()
    assert not solid(np.zeros_like(mask)).any()


def test_volume_counts_millimetres_not_voxels() -> None:
    assert volume_mm3(brain_mask(GRID), GRID) / 1000 == pytest.approx(4 / 3 * np.pi * 84, rel=0.02)


@pytest.mark.parametrize(("scale", "volume"), [(0.5, 44), (2.0, 2815)])
def test_an_implausible_volume_says_what_was_found_and_expected(scale, volume) -> None:
    grid = Grid(GRID.shape, GRID.affine * [[scale], [scale], [scale], [1]])
    with pytest.raises(DataError, match=r"holds \d+ mL; 300 to 2500 mL are expected.*--skull"):
        require_plausible(brain_mask(GRID), grid)
    assert volume_mm3(brain_mask(GRID), grid) / 1000 == pytest.approx(volume, rel=0.02)


def test_a_plausible_brain_is_accepted() -> None:
    assert require_plausible(brain_mask(GRID), GRID).any()
