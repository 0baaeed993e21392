# SPDX-License-Identifier: Apache-2.0
"""Which lesions of two images are the same."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from bids_lesion_xai.lesions.match import match_lesions, number_lesions

LABELS = arrays(np.int32, (3, 4, 2), elements=st.integers(0, 3))


def dice(first: np.ndarray, second: np.ndarray, a: int, b: int) -> float:
    total = (first == a).sum() + (second == b).sum()
    return 2 * float(((first == a) & (second == b)).sum() / total) if total else 0.0


@given(LABELS, LABELS)
def test_pairs_are_each_other_s_best_and_no_such_pair_is_missing(
    first: np.ndarray, second: np.ndarray
) -> None:
    overlaps = {(a, b): dice(first, second, a, b) for a, b in product((1, 2, 3), repeat=2)}
    found = match_lesions(first, second)
    for a, b, overlap in found:
        assert overlap == pytest.approx(overlaps[a, b])
        assert overlap > 0
        assert all(overlaps[a, other] <= overlap + 1e-12 for other in (1, 2, 3))
        assert all(overlaps[other, b] <= overlap + 1e-12 for other in (1, 2, 3))
    assert len({a for a, *_ in found}) == len({b for _, b, _ in found}) == len(found)
    for (a, b), overlap in overlaps.items():
        rivals = [overlaps[a, other] for other in (1, 2, 3) if other != b]
        rivals += [overlaps[other, b] for other in (1, 2, 3) if other != a]
        if overlap > max(0.0, *rivals):
            assert (a, b) in {pair[:2] for pair in found}


@given(LABELS, LABELS)
def test_swapped_images_swap_the_pairs(first: np.ndarray, second: np.ndarray) -> None:
    found = match_lesions(first, second)
    assert sorted((a, b, overlap) for b, a, overlap in match_lesions(second, first)) == found


@given(LABELS)
def test_every_lesion_is_its_own_match(labels: np.ndarray) -> None:
    expected = [(int(value), int(value), 1.0) for value in np.unique(labels[labels > 0])]
    assert match_lesions(labels, labels) == expected


def test_of_a_lesion_that_splits_the_larger_part_is_the_match() -> None:
    first = np.array([1, 1, 1, 1, 1, 1])
    second = np.array([2, 2, 0, 7, 7, 7])
    assert match_lesions(first, second) == [(1, 7, pytest.approx(2 * 3 / 9))]


def test_of_lesions_that_merge_the_larger_is_the_match() -> None:
    first = np.array([3, 3, 3, 0, 4, 4])
    second = np.array([1, 1, 1, 1, 1, 1])
    assert match_lesions(first, second) == [(3, 1, pytest.approx(2 * 3 / 9))]


def test_lesions_that_do_not_touch_are_not_the_same() -> None:
    assert match_lesions(np.array([1, 0, 2]), np.array([0, 1, 0])) == []
    assert match_lesions(np.zeros(3, int), np.zeros(3, int)) == []


def test_labels_of_two_grids_are_refused() -> None:
    with pytest.raises(ValueError, match="not on one grid"):
        match_lesions(np.zeros(3, int), np.zeros(4, int))


@given(st.lists(LABELS, min_size=1, max_size=4))
def test_every_lesion_has_one_number_and_lesions_of_a_session_differ(
    labels: list[np.ndarray],
) -> None:
    lesions = [[1, 2, 3]] * len(labels)
    numbers = number_lesions(lesions, labels)
    for own in numbers:
        assert set(own) == {1, 2, 3}
        assert len(set(own.values())) == 3
    given_out = {number for own in numbers for number in own.values()}
    assert given_out == set(range(1, len(given_out) + 1))
    for before, after, own, later in zip(labels, labels[1:], numbers, numbers[1:], strict=False):
        same = {(a, b) for a in own for b in later if own[a] == later[b]}
        assert same == {(a, b) for a, b, _ in match_lesions(before, after)}


@given(LABELS, st.integers(1, 4))
def test_lesions_that_stay_keep_their_numbers(labels: np.ndarray, n_sessions: int) -> None:
    lesions = np.unique(labels[labels > 0]).tolist()
    first, *others = number_lesions([lesions] * n_sessions, [labels] * n_sessions)
    assert list(first.values()) == list(range(1, len(lesions) + 1))
    assert all(own == first for own in others)


def test_a_lesion_that_vanishes_and_appears_again_has_a_new_number() -> None:
    there, gone = np.array([1, 1]), np.array([0, 0])
    assert number_lesions([[1], [], [1]], [there, gone, there]) == [{1: 1}, {}, {1: 2}]
