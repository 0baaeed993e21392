# SPDX-License-Identifier: Apache-2.0
"""Agreement of masks, against masks made by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from bids_lesion_xai.training.evaluate import Agreement, agreement, evaluate
from bids_lesion_xai.training.scans import LabelledScan

SHAPE = (20, 12, 10)


def mask(*boxes: tuple[int, int]) -> NDArray[np.bool_]:
    """Return bars of 2 x 2 voxels across that begin and end at these x."""
    bars = np.zeros(SHAPE, bool)
    for first, stop in boxes:
        bars[first:stop, 4:6, 4:6] = True
    return bars


def counts(found: Agreement) -> tuple[int, int, int, int]:
    return found.n_predicted, found.n_false_positive, found.n_reference, found.n_missed


def test_equal_masks_agree_in_all() -> None:
    found = agreement(mask((1, 4), (8, 9)), mask((1, 4), (8, 9)), 2.5)
    assert counts(found) == (2, 0, 2, 0)
    assert found.dice == 1
    assert found.volume_mm3 == found.reference_volume_mm3 == 16 * 2.5


def test_numbers_of_masks_that_partly_agree() -> None:
    # One of two predicted lesions is right, one of three reference lesions is found.
    found = agreement(mask((1, 5), (8, 10)), mask((3, 6), (12, 13), (15, 19)), 0.5)
    assert found.dice == pytest.approx(2 * 8 / (24 + 32))
    assert counts(found) == (2, 1, 3, 2)
    assert (found.volume_mm3, found.reference_volume_mm3) == (12, 16)


def test_one_predicted_lesion_may_find_several_and_the_other_way_round() -> None:
    large, small = mask((1, 12)), mask((1, 3), (5, 7), (10, 14))
    found, turned = agreement(large, small, 1), agreement(small, large, 1)
    assert (counts(found), counts(turned)) == ((1, 0, 3, 0), (3, 0, 1, 0))
    assert found.dice == turned.dice


def test_neighbours_across_an_edge_are_one_lesion_and_across_a_corner_two() -> None:
    edge, corner = np.zeros((2, *SHAPE), bool)
    edge[2, 2, 2] = edge[2, 3, 3] = corner[2, 2, 2] = corner[3, 3, 3] = True
    assert agreement(edge, mask(), 1).n_false_positive == 1
    assert agreement(corner, mask(), 1).n_false_positive == 2


def test_empty_masks_agree_and_disagree_with_any_other() -> None:
    both = agreement(mask(), mask(), 1)
    assert (both.dice, *counts(both)) == (1, 0, 0, 0, 0)
    missed, false = agreement(mask(), mask((1, 3)), 1), agreement(mask((1, 3)), mask(), 1)
    assert (missed.dice, *counts(missed)) == (0, 0, 0, 1, 1)
    assert (false.dice, *counts(false)) == (0, 1, 1, 0, 0)


class FlairIsTheLogit(torch.nn.Module):
    def forward(self, image: torch.Tensor) -> torch.Tensor:
        assert all(side % 16 == 0 for side in image.shape[2:])
        return torch.cat([torch.zeros_like(image[:, :1]), image[:, :1]], 1)


@pytest.mark.parametrize(("threshold", "n_missed"), [(0.5, 0), (0.9, 1), (0.99, 2)])
def test_scans_are_segmented_as_the_app_does(threshold: float, n_missed: int) -> None:
    image = np.full((2, *SHAPE), -5, np.float32)
    image[0][mask((1, 4))] = 4  # probability 0.982
    image[0][mask((8, 12))] = 1  # probability 0.731
    image[0, 15, 4, 4] = 4  # below the minimum volume
    scan = LabelledScan("a/sub-01", "02", image, mask((1, 4), (8, 12)), (1.0, 1.0, 1.0))
    (row,) = evaluate(
        FlairIsTheLogit().eval(), [scan], threshold=threshold, device=torch.device("cpu")
    )
    assert (row["person"], row["session"]) == ("a/sub-01", "02")
    assert (row["n_missed"], row["n_false_positive"]) == (n_missed, 0)
    (row,) = evaluate(
        FlairIsTheLogit().eval(),
        [scan],
        threshold=0.5,
        device=torch.device("cpu"),
        min_volume_mm3=0,
    )
    assert row["n_false_positive"] == 1
