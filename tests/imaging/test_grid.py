from __future__ import annotations

import numpy as np
import pytest

from bids_lesion_xai.errors import DataError
from bids_lesion_xai.imaging.grid import (
    Grid,
    centre_of_mass_mm,
    isotropic_grid,
    require_scanner_grid,
)
from tests.phantoms import CENTRE_MM, brain_mask, oblique_grid

NATIVE = {
    "thick slices, left-handed": oblique_grid((0.9, 0.9, 4.0), flips=(-1, 1, 1)),
    "LPS, oblique": oblique_grid((0.72, 0.72, 3.0), flips=(-1, -1, 1), degrees=(14, -9, 21)),
    "sagittal": oblique_grid((1.2, 1.0, 1.0), flips=(-1, 1, -1), order=(1, 2, 0)),
}


@pytest.fixture(params=NATIVE.values(), ids=NATIVE.keys())
def native(request: pytest.FixtureRequest) -> Grid:
    return request.param


def test_isotropic_grid_runs_along_the_native_axes_closest_to_ras(native: Grid) -> None:
    directions = isotropic_grid(native, 1.0).directions
    parallel = np.abs(directions.T @ native.directions)
    np.testing.assert_allclose(np.sort(parallel, axis=1), [[0, 0, 1]] * 3, atol=1e-9)
    assert (np.argmax(np.abs(directions), axis=0) == [0, 1, 2]).all()
    assert (np.diag(directions) > 0).all()


def test_isotropic_grid_covers_the_field_of_view_and_no_voxel_lies_outside(native: Grid) -> None:
    grid = isotropic_grid(native, 1.0)
    corners = np.stack(np.meshgrid(*[[0, n - 1] for n in grid.shape], indexing="ij"), -1)
    in_native = (grid.to_world_mm(corners) - native.affine[:3, 3]) @ np.linalg.inv(
        native.affine[:3, :3]
    ).T
    beyond = np.maximum(-0.5 - in_native, in_native - np.array(native.shape) + 0.5)
    assert beyond.max() <= 1e-9
    assert (beyond * native.spacing_mm).max(axis=(0, 1, 2)).min() > -1
    np.testing.assert_allclose(grid.spacing_mm, 1, rtol=1e-12)
    np.testing.assert_allclose(grid.centre_mm, native.centre_mm, atol=1e-9)


def test_isotropic_grid_of_itself_is_itself(native: Grid) -> None:
    once = isotropic_grid(native, 1.0)
    assert isotropic_grid(once, 1.0).same_as(once, tolerance_mm=1e-9)


def test_isotropic_grid_ignores_the_rounding_of_the_header() -> None:
    grid = Grid((39, 10, 10), np.diag([3.0000002, 1.0, 0.9999999, 1.0]))
    assert isotropic_grid(grid, 1.0).shape == (117, 10, 10)


@pytest.mark.parametrize(
    ("column", "words"),
    [
        ([0.5, 1, 0], "right angles"),
        ([0, 0, 0], "nowhere"),
        ([0, np.nan, 0], "nowhere"),
        ([0, 1000, 0], "4000"),
    ],
    ids=["sheared", "flat", "not finite", "too long"],
)
def test_an_affine_that_no_scanner_writes_is_refused(column: list[float], words: str) -> None:
    affine = np.eye(4)
    affine[:3, 1] = column
    with pytest.raises(DataError, match=words):
        require_scanner_grid(Grid((4, 4, 4), affine))


def test_centre_of_mass_is_found_in_world_coordinates(native: Grid) -> None:
    centre = centre_of_mass_mm(brain_mask(native).astype(np.float32), native)
    np.testing.assert_allclose(centre, CENTRE_MM, atol=0.1)


def test_centre_of_mass_of_nothing_is_the_centre_of_the_grid(native: Grid) -> None:
    nothing = np.full(native.shape, -1.0)
    np.testing.assert_allclose(centre_of_mass_mm(nothing, native), native.centre_mm)
