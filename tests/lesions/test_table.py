# SPDX-License-Identifier: Apache-2.0
"""The lesion table against loops over the voxels, on an oblique grid."""

from __future__ import annotations

from math import fsum, pi
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from bids_lesion_xai.bids.derivatives import DERIVATIVES
from bids_lesion_xai.imaging.grid import Grid
from bids_lesion_xai.lesions.label import label_lesions
from bids_lesion_xai.lesions.table import lesion_name, lesion_rows
from tests import phantoms

SHAPE = (9, 11, 7)
GRIDS = {
    "oblique": phantoms.oblique_grid((0.8, 1.2, 3.0), (-1, -1, 1), (14, -9, 21)),
    "left-handed, permuted": phantoms.oblique_grid(
        (3.0, 1.0, 1.2), (1, 1, -1), (-20, 5, 8), order=(1, 2, 0)
    ),
}


@pytest.fixture(params=GRIDS.values(), ids=GRIDS.keys())
def grid(request: pytest.FixtureRequest) -> Grid:
    return Grid(SHAPE, request.param.affine)


@pytest.fixture
def labels(grid: Grid) -> NDArray[np.int32]:
    mask = np.random.default_rng(4).random(SHAPE) < 0.14
    return label_lesions(mask, grid.voxel_volume_mm3, 0.0)


@pytest.fixture
def probability() -> NDArray[np.float32]:
    return np.random.default_rng(5).random(SHAPE).astype(np.float32)


def by_loop(
    labels: NDArray[np.int32], probability: NDArray[np.float32], grid: Grid, index: int
) -> dict[str, Any]:
    """Return the row of one lesion, without its name.

    The volume of a voxel is the triple product of its edges.
    """
    voxels = [voxel for voxel in np.ndindex(labels.shape) if labels[voxel] == index]
    values = [float(probability[voxel]) for voxel in voxels]
    a, b, c, origin = (tuple(map(float, column[:3])) for column in grid.affine.T)
    cross = (a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0])
    volume_mm3 = len(voxels) * abs(fsum(x * y for x, y in zip(cross, c, strict=True)))
    places_mm = [
        [i * a[axis] + j * b[axis] + k * c[axis] + origin[axis] for axis in range(3)]
        for i, j, k in voxels
    ]
    return {
        "index": index,
        "volume_mm3": volume_mm3,
        "n_voxels": len(voxels),
        **{
            f"centroid_{axis}_mm": fsum(place[i] for place in places_mm) / len(voxels)
            for i, axis in enumerate("xyz")
        },
        "mean_probability": fsum(values) / len(voxels),
        "peak_probability": max(values),
        "equivalent_diameter_mm": 2 * (volume_mm3 / (4 / 3 * pi)) ** (1 / 3),
        **{
            f"bbox_{axis}_{end}": corner(voxel[i] for voxel in voxels)
            for i, axis in enumerate("xyz")
            for end, corner in (("first", min), ("last", max))
        },
    }


def test_every_number_is_that_of_a_loop_over_the_voxels(
    labels: NDArray[np.int32], probability: NDArray[np.float32], grid: Grid
) -> None:
    rows = lesion_rows(labels, probability, grid)
    assert len(rows) == labels.max() > 10
    for index, row in enumerate(rows, start=1):
        expected = by_loop(labels, probability, grid, index)
        assert row.pop("name") == lesion_name(index)
        assert row == pytest.approx(expected, rel=1e-12, abs=1e-12)


def test_the_columns_are_those_of_the_table_of_outputs_in_order(
    labels: NDArray[np.int32], probability: NDArray[np.float32], grid: Grid
) -> None:
    for row in lesion_rows(labels, probability, grid):
        columns = list(DERIVATIVES["lesion_table"].columns)
        assert list(row) == columns[: columns.index("outcome")]


def test_rows_are_numbered_from_one_the_largest_first(
    labels: NDArray[np.int32], probability: NDArray[np.float32], grid: Grid
) -> None:
    rows = lesion_rows(labels, probability, grid)
    assert [row["index"] for row in rows] == list(range(1, len(rows) + 1))
    sizes = [row["n_voxels"] for row in rows]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > sizes[-1]


def test_a_lesion_in_the_bounding_box_of_another_is_not_counted_with_it(grid: Grid) -> None:
    labels = np.zeros(SHAPE, np.int32)
    labels[1:6, 2, 1:6] = labels[1:6, 6, 1:6] = 1
    labels[3, 4, 3] = 2
    rows = lesion_rows(labels, np.ones(SHAPE, np.float32), grid)
    assert [row["n_voxels"] for row in rows] == [50, 1]


def test_numbers_are_plain_so_that_they_can_be_written(
    labels: NDArray[np.int32], probability: NDArray[np.float32], grid: Grid
) -> None:
    types = {
        type(value) for row in lesion_rows(labels, probability, grid) for value in row.values()
    }
    assert types == {int, float, str}


def test_names_have_three_digits_and_more_where_needed() -> None:
    assert [lesion_name(index) for index in (1, 42, 999, 1000)] == [
        "L001",
        "L042",
        "L999",
        "L1000",
    ]


def test_no_lesion_gives_no_row(grid: Grid) -> None:
    assert lesion_rows(np.zeros(SHAPE, np.int32), np.ones(SHAPE, np.float32), grid) == []
