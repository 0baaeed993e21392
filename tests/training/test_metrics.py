# SPDX-License-Identifier: Apache-2.0
"""Agreement of masks, against masks made by hand and formulas written out."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.distance import cdist

from bids_lesion_xai.training.metrics import (
    SIZE_CLASSES_MM3,
    Agreement,
    agreement,
    by_size,
    dice_and_f1,
)

SHAPE = (20, 12, 10)
ONE_MM = (1.0, 1.0, 1.0)


def mask(*boxes: tuple[int, int]) -> NDArray[np.bool_]:
    """Return bars of 2 x 2 voxels across that begin and end at these x."""
    bars = np.zeros(SHAPE, bool)
    for first, stop in boxes:
        bars[first:stop, 4:6, 4:6] = True
    return bars


def counts(found: Agreement) -> tuple[int, int, int, int]:
    return found.n_predicted, found.n_false_positive, found.n_reference, found.n_missed


def test_equal_masks_agree_in_all() -> None:
    found = agreement(mask((1, 4), (8, 9)), mask((1, 4), (8, 9)), (1, 2.5, 1))
    assert counts(found) == (2, 0, 2, 0)
    assert found.dice == found.normalised_dice == found.f1 == found.f1_iou25 == found.tpr == 1
    assert found.tpr_iou25 == 1
    assert found.fdr == found.fdr_iou25 == found.volume_error == found.surface_distance_mm == 0
    assert found.volume_mm3 == found.reference_volume_mm3 == 16 * 2.5


def test_numbers_of_masks_that_partly_agree() -> None:
    # One of two predicted lesions is right, one of three reference lesions is found.
    predicted, reference = mask((1, 5), (8, 10)), mask((3, 6), (12, 13), (15, 19))
    found = agreement(predicted, reference, (0.5, 1, 1))
    assert found.dice == pytest.approx(2 * 8 / (24 + 32))
    assert counts(found) == (2, 1, 3, 2)
    assert (found.volume_mm3, found.reference_volume_mm3) == (12, 16)
    assert (found.tpr, found.fdr) == (pytest.approx(1 / 3), 0.5)
    assert found.f1 == pytest.approx(2 * (1 / 3) * 0.5 / (1 / 3 + 0.5))
    assert found.volume_error == pytest.approx(-0.25)
    # 8 of 20 voxels of the pair are common: more than a quarter.
    assert found.f1_iou25 == pytest.approx(2 * 1 / 5)
    assert (found.tpr_iou25, found.fdr_iou25) == (pytest.approx(1 / 3), 0.5)
    assert dice_and_f1(predicted, reference) == (found.dice, found.f1)


def test_normalised_dice_weighs_false_positives_by_the_load() -> None:
    predicted, reference = mask((1, 5)), mask((3, 6))
    n, both, false, missed = predicted.size, 8, 8, 4
    load = 12 / n
    weight = (1 - 0.001) * load / (0.001 * (1 - load))
    found = agreement(predicted, reference, ONE_MM).normalised_dice
    assert found == pytest.approx(2 * both / (2 * both + weight * false + missed))


def test_normalised_dice_of_the_reference_load_is_dice() -> None:
    predicted, reference = np.zeros((2, 10, 10, 100), bool)
    reference[0, 0, :10] = predicted[0, 0, 5:12] = True
    found = agreement(predicted, reference, ONE_MM)
    assert found.normalised_dice == pytest.approx(found.dice)


def test_pairs_need_a_quarter_of_their_union_and_are_one_to_one() -> None:
    # Two of five common: IoU 2 / 6; one of six: 1 / 6.
    assert agreement(mask((1, 5)), mask((3, 7)), ONE_MM).f1_iou25 == 1
    assert agreement(mask((1, 5)), mask((4, 7)), ONE_MM).f1_iou25 == 0
    # A large predicted lesion may be paired with one of the two it covers only.
    assert agreement(mask((1, 8)), mask((1, 4), (5, 8)), ONE_MM).f1_iou25 == pytest.approx(2 / 3)


def pairs(found: list[set[int]], true: list[set[int]]) -> int:
    """Return the most pairs there are, by trying for the first lesion every partner, or none."""
    if not found:
        return 0
    first, *others = found
    partners = [one for one in true if 4 * len(first & one) >= len(first | one)]
    with_partner = [1 + pairs(others, [two for two in true if two is not one]) for one in partners]
    return max([pairs(others, true), *with_partner])


@pytest.mark.parametrize("seed", range(20))
def test_figures_of_pairs_are_those_of_trying_all(seed: int) -> None:
    generator = np.random.default_rng(seed)
    # Lines far from each other, so that each run of voxels is a lesion.
    bars = np.zeros((2, 14, 9, 1), bool)
    bars[:, :, ::2] = generator.random((2, 14, 5, 1)) < 0.6
    lesions = []
    for one in bars:
        labels, count = ndimage.label(one)
        lesions.append([set(np.flatnonzero(labels == i)) for i in range(1, count + 1)])
    found, true = lesions
    n = pairs(found, true)
    assert 0 < n < min(len(found), len(true))
    result = agreement(*bars, ONE_MM)
    assert result.tpr_iou25 == pytest.approx(n / len(true))
    assert result.fdr_iou25 == pytest.approx(1 - n / len(found))
    assert result.f1_iou25 == pytest.approx(2 * n / (len(found) + len(true)))


def test_one_predicted_lesion_may_find_several_and_the_other_way_round() -> None:
    large, small = mask((1, 12)), mask((1, 3), (5, 7), (10, 14))
    found, turned = agreement(large, small, ONE_MM), agreement(small, large, ONE_MM)
    assert (counts(found), counts(turned)) == ((1, 0, 3, 0), (3, 0, 1, 0))
    assert found.dice == turned.dice


def test_neighbours_across_an_edge_are_one_lesion_and_across_a_corner_two() -> None:
    edge, corner = np.zeros((2, *SHAPE), bool)
    edge[2, 2, 2] = edge[2, 3, 3] = corner[2, 2, 2] = corner[3, 3, 3] = True
    assert agreement(edge, mask(), ONE_MM).n_false_positive == 1
    assert agreement(corner, mask(), ONE_MM).n_false_positive == 2


def test_empty_masks_agree_and_disagree_with_any_other() -> None:
    both = agreement(mask(), mask(), ONE_MM)
    assert (both.dice, both.f1, both.f1_iou25, *counts(both)) == (1, 1, 1, 0, 0, 0, 0)
    assert all(map(math.isnan, (both.tpr, both.fdr, both.volume_error, both.surface_distance_mm)))
    assert all(map(math.isnan, (both.tpr_iou25, both.fdr_iou25)))
    missed = agreement(mask(), mask((1, 3)), ONE_MM)
    false = agreement(mask((1, 3)), mask(), ONE_MM)
    assert (missed.dice, missed.f1, *counts(missed)) == (0, 0, 0, 0, 1, 1)
    assert (false.dice, false.f1, *counts(false)) == (0, 0, 1, 1, 0, 0)
    assert (missed.tpr_iou25, false.fdr_iou25) == (missed.tpr, false.fdr) == (0, 1)
    assert math.isnan(missed.fdr_iou25)
    assert math.isnan(false.tpr_iou25)
    assert missed.f1_iou25 == false.f1_iou25 == 0


def test_false_lesions_over_ten_mm3_are_counted_apart() -> None:
    predicted = mask((1, 3), (5, 8), (10, 14))  # 8, 12 and 16 voxels
    assert agreement(predicted, mask((13, 15)), ONE_MM).n_false_positive_over_10mm3 == 1
    assert agreement(predicted, mask(), (1, 1, 0.8)).n_false_positive_over_10mm3 == 1
    assert agreement(predicted, mask(), (2, 1, 1)).n_false_positive_over_10mm3 == 3
    ten = np.zeros(SHAPE, bool)
    ten[1:11, 4, 4] = True
    for side, count in ((1, 0), (1.0000001, 0), (1.0001, 1)):
        found = agreement(ten, mask(), (side, 1, 1)).n_false_positive_over_10mm3
        assert found == count, side


def test_the_surface_distance_is_in_mm_and_symmetric() -> None:
    spacing = (2.0, 0.5, 1.5)
    one, other = mask((3, 6)), np.roll(mask((3, 9)), 1, axis=1)

    def surface(region: NDArray[np.bool_]) -> NDArray[np.float64]:
        inner = region.copy()
        for axis in range(3):
            inner &= np.roll(region, 1, axis) & np.roll(region, -1, axis)
        return np.argwhere(region & ~inner) * np.array(spacing)

    distances = cdist(surface(one), surface(other))
    expected = np.concatenate([distances.min(0), distances.min(1)]).mean()
    assert agreement(one, other, spacing).surface_distance_mm == pytest.approx(expected, rel=1e-5)
    assert agreement(other, one, spacing).surface_distance_mm == pytest.approx(expected, rel=1e-5)


def test_classes_of_size_hold_every_lesion_once() -> None:
    # 8, 12, 40 and 16 voxels of 1 mm3.
    predicted, reference = mask((0, 2), (4, 7), (9, 19)), mask((1, 3), (13, 17))
    rows = by_size(predicted, reference, 1.0)
    assert [row["size_mm3"] for row in rows] == list(SIZE_CLASSES_MM3)
    assert [row["n_predicted"] for row in rows] == [1, 2, 0, 0]
    assert [row["n_false_positive"] for row in rows] == [0, 1, 0, 0]
    assert [row["n_reference"] for row in rows] == [1, 1, 0, 0]
    ten = by_size(mask((0, 2), (4, 14)), mask(), 1.25)
    assert [row["n_predicted"] for row in ten] == [0, 1, 1, 0]
