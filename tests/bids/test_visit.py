# SPDX-License-Identifier: Apache-2.0
"""The order of visits and sessions."""

from __future__ import annotations

from itertools import combinations, permutations

from bids_lesion_xai.bids.visit import Visit
from bids_lesion_xai.conventions import session_order


def test_numbers_in_labels_of_sessions_count_as_numbers() -> None:
    labels = ["M12b10", "M12b2", "M12", "M6", "M0"]
    assert sorted(labels, key=session_order) == labels[::-1]
    names = ["ses-x", "ses-20230105", "ses-10", "ses-2", "n/a"]
    assert sorted(names, key=session_order) == names[::-1]


def test_labels_without_numbers_are_in_the_order_of_their_characters() -> None:
    labels = ["post", "Post", "pre", "", "po", "baseline", "pré"]
    assert sorted(labels, key=session_order) == sorted(labels)


def test_labels_of_equal_numbers_have_one_order() -> None:
    for labels in permutations(["1", "01", "001", "2"]):
        assert sorted(labels, key=session_order) == ["001", "01", "1", "2"]


def test_visits_are_in_the_order_of_people_and_of_their_sessions() -> None:
    visits = [
        *(Visit("1", session) for session in ("", "M0", "M6", "M06b", "M12", "post")),
        *(Visit("10"), Visit("2", "M3"), Visit("2", "M24")),
    ]
    assert sorted({*visits}) == visits
    for first, second in combinations(visits, 2):
        assert first < second
        assert not second <= first
