# SPDX-License-Identifier: Apache-2.0
"""Reasons to doubt a lesion, and the size classes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bids_lesion_xai.imaging.grid import Grid
from bids_lesion_xai.reports import appraisal
from bids_lesion_xai.reports.appraisal import Limits, doubts, level, near_edge
from bids_lesion_xai.reports.slices import Scan
from tests.outputs import TWO_SESSIONS, oblique_grid, phantom

LIMITS = Limits(0.5, is_slope=True)
CERTAIN = {
    "outcome": None,
    "peak_probability": 0.99,
    "equivalent_diameter_mm": 6.0,
    "volume_mm3": 113.0,
    "flair_contrast": 1.5,
    "flair_mean_inside": 0.1,
    "flair_mean_inside_se": 0.01,
    "flair_peak": 0.5,
    "flair_peak_se": 0.01,
    "near_edge": 0.0,
}


def keys(**changes: object) -> list[str]:
    return [doubt.key for doubt in doubts({**CERTAIN, **changes}, LIMITS)]


def test_a_large_bright_sure_lesion_is_clear() -> None:
    assert keys() == []
    assert level([]) == "clear"


@pytest.mark.parametrize(
    ("key", "changes", "borders"),
    [
        ("unsure", {"peak_probability": 0.74}, {"peak_probability": 0.75}),
        ("tiny", {"equivalent_diameter_mm": 2.99}, {"equivalent_diameter_mm": 3.0}),
        ("pale", {"flair_contrast": 0.49}, {"flair_contrast": 0.5}),
        ("pale", {"flair_contrast": -2.0}, {"flair_contrast": 0.5}),
        ("unsupported", {"flair_mean_inside": 0.019}, {"flair_mean_inside": 0.02}),
        ("unsupported", {"flair_mean_inside": -0.1}, {"flair_mean_inside": 0.02}),
        ("edge", {"near_edge": 0.5}, {"near_edge": 0.49}),
        ("reference", {"outcome": "FP"}, {"outcome": "TP"}),
        ("reference", {"outcome": "FN"}, {"outcome": "TP"}),
    ],
)
def test_each_reason_holds_beyond_its_limit_alone(
    key: str, changes: dict[str, object], borders: dict[str, object]
) -> None:
    assert keys(**changes) == [key]
    assert keys(**borders) == []


def test_one_reason_is_one_doubt_two_are_doubtful_and_the_reference_alone_is_enough() -> None:
    assert level(doubts({**CERTAIN, "near_edge": 1.0}, LIMITS)) == "one doubt"
    assert (
        level(doubts({**CERTAIN, "near_edge": 1.0, "flair_contrast": 0.0}, LIMITS)) == "doubtful"
    )
    assert level(doubts({**CERTAIN, "outcome": "FP"}, LIMITS)) == "doubtful"


def test_without_standard_error_support_is_a_positive_mean() -> None:
    assert keys(flair_mean_inside=0.001, flair_mean_inside_se=np.nan) == []
    assert keys(flair_mean_inside=-0.001, flair_mean_inside_se=np.nan) == ["unsupported"]


def test_values_without_sign_support_nothing_and_are_not_asked() -> None:
    row = {**CERTAIN, "flair_mean_inside": 0.0}
    assert [doubt.key for doubt in doubts(row, Limits(0.5, is_slope=False))] == []


def test_the_network_need_not_be_sure_of_what_it_missed() -> None:
    assert keys(outcome="FN", peak_probability=0.1) == ["reference"]


@given(st.floats(0, 1), st.floats(0, 1))
def test_more_samples_make_an_explanation_precise_not_a_lesion(peak: float, error: float) -> None:
    row = {**CERTAIN, "flair_peak": -peak, "flair_peak_se": error}
    assert appraisal.imprecise(row) == (error > 0.25 * peak)
    assert doubts(row, LIMITS) == []


def test_a_rule_that_cannot_hold_is_not_told() -> None:
    for limits in (Limits(0.5, is_slope=False), Limits(None, is_slope=True)):
        (silent,) = (rule.key for rule in appraisal.RULES if not rule.text(limits))
        assert silent == ("unsure" if limits.peak_threshold is None else "unsupported")


def test_every_rule_is_told_in_words_and_every_doubt_has_its_rule() -> None:
    texts = [rule.text(LIMITS) for rule in appraisal.RULES]
    assert len(set(texts)) == len(texts) == len({rule.key for rule in appraisal.RULES})
    assert any("0.75" in text for text in texts)


def test_the_edge_is_that_of_the_brain_mask_and_sides_are_the_persons() -> None:
    flair, t1w, labels = phantom(TWO_SESSIONS[0])
    grid = oblique_grid()
    labels = np.zeros_like(labels)
    brain = flair != 0
    inside = np.argwhere(brain)
    middle = (inside.min(0) + inside.max(0)) // 2
    right = max(inside.tolist(), key=lambda at: (at[0], -np.abs(at - middle).sum()))
    labels[tuple(right)], labels[tuple(middle)] = 1, 2
    scan = Scan(grid, {"flair": flair, "t1w": t1w}, brain, labels, 2)
    assert appraisal.near_edge(scan) == {1: 1.0, 2: 0.0}
    places = []
    for voxel in (right, middle):
        centre = grid.to_world_mm(voxel)
        row = {f"centroid_{axis}_mm": value for axis, value in zip("xyz", centre, strict=True)}
        places.append(appraisal.place(row, scan))
    assert places == ["right, central, middle", "midline, central, middle"]


def test_no_threshold_is_asked_of_lesions_that_somebody_drew() -> None:
    given = Limits(None, is_slope=True)
    row = {**CERTAIN, "peak_probability": 0.01, "near_edge": 1.0}
    assert [doubt.key for doubt in doubts(row, given)] == ["edge"]
    rules = {rule.key: rule.text(given) for rule in appraisal.RULES}
    assert [key for key, text in rules.items() if not text] == ["unsure"]


@pytest.mark.parametrize("hair", [-3e-8, 0, 3e-8])
def test_a_lesion_exactly_as_deep_as_the_limit_is_near_the_edge(hair: float) -> None:
    brain, labels = np.zeros((30, 30, 30), bool), np.zeros((30, 30, 30), np.int32)
    brain[5:25, 5:25, 5:25] = True
    # The third and the fourth layer of voxels below the surface.
    labels[7, 12:16, 12:16], labels[8, 18:20, 12:16] = 1, 2
    grid = Grid(brain.shape, np.diag([1 + hair, 1 + hair, 1 + hair, 1]))
    assert near_edge(Scan(grid, {}, brain, labels, 2)) == {1: 1, 2: 0}
