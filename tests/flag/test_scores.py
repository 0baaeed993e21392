# SPDX-License-Identifier: Apache-2.0
"""Figures of probabilities."""

from __future__ import annotations

import numpy as np
import pytest

from bids_lesion_xai.flag.scores import best_cut, calibration_line, lesion_rates, scores

FALSE = np.array([True, True, False, False, False])
PROBABILITY = np.array([0.9, 0.4, 0.6, 0.2, 0.1])


def test_figures_by_hand() -> None:
    found = scores(PROBABILITY, PROBABILITY > 0.5, FALSE, n_missed=2)
    assert found["log_loss"] == pytest.approx(-np.log([0.9, 0.4, 0.4, 0.8, 0.9]).mean())
    assert found["brier"] == pytest.approx((0.01 + 0.36 + 0.36 + 0.04 + 0.01) / 5)
    assert found["auc"] == pytest.approx(5 / 6)
    assert found["average_precision"] == pytest.approx((1 + 2 / 3) / 2)
    assert found["calibration_error"] == pytest.approx((0.1 + 0.6 + 0.6 + 0.2 + 0.1) / 5)
    assert (found["n_lesions"], found["n_false"], found["n_missed"]) == (5, 2, 2)
    assert (found["n_flagged"], found["n_flagged_false"]) == (2, 1)
    assert (found["precision_before"], found["recall_before"]) == (3 / 5, 3 / 5)
    assert (found["precision_after"], found["recall_after"]) == (2 / 3, 2 / 5)
    assert found["f1_after"] == pytest.approx(2 / (3 / 2 + 5 / 2))


def test_a_dropped_true_lesion_is_one_more_that_is_missed() -> None:
    rates = lesion_rates(np.array([False, True]), np.array([False, False]), n_missed=0)
    assert rates == {"precision": 1.0, "recall": 0.5, "f1": pytest.approx(2 / 3)}


def test_of_equal_cuts_the_one_that_drops_fewest_is_taken() -> None:
    assert best_cut(PROBABILITY, FALSE, 0, [0.3, 0.65, 0.8, 1.0]) == 0.8
    assert best_cut(PROBABILITY, ~FALSE, 0, [0.95, 1.0]) == 1.0
    # All are false and none was missed: F1 is 0 or, with nothing kept, not defined.
    assert best_cut(PROBABILITY, np.ones(5, bool), 0, [0.05, 0.5, 1.0]) == 1.0


def test_the_calibration_line_undoes_what_was_done_to_the_log_odds() -> None:
    rng = np.random.default_rng(0)
    log_odds = rng.normal(0, 2, 40000)
    false = rng.random(log_odds.size) < 1 / (1 + np.exp(-log_odds))
    slope, intercept = calibration_line(1 / (1 + np.exp(-(2 * log_odds + 1))), false)
    assert slope == pytest.approx(0.5, abs=0.02)
    assert intercept == pytest.approx(-0.5, abs=0.05)


def test_the_calibration_line_is_the_most_likely_one() -> None:
    """No step of Newton moves it, however sure the probabilities are."""
    rng = np.random.default_rng(0)
    for spread in (0.3, 2, 6):
        log_odds = rng.normal(-2, spread, 200)
        probability = 1 / (1 + np.exp(-log_odds))
        false = rng.random(log_odds.size) < probability
        line = calibration_line(probability, false)
        columns = np.column_stack([log_odds, np.ones_like(log_odds)])
        fitted = 1 / (1 + np.exp(-columns @ line))
        curvature = columns.T @ (columns * (fitted * (1 - fitted))[:, None])
        step = np.linalg.solve(curvature, columns.T @ (false - fitted))
        np.testing.assert_allclose(step, 0, atol=1e-6)


@pytest.mark.parametrize(
    "probability",
    [
        [0.9, 0.8, 0.3, 0.2, 0.1],
        [0.104, 0.103, 0.102, 0.101, 0.1],
        [0.1, 0.2, 0.7, 0.8, 0.9],
        [0.9, 0.3, 0.3, 0.2, 0.1],
        [0.4, 0.4, 0.4, 0.4, 0.4],
        [1e-15, 1e-14, 0.0, 0.0, 1e-16],
    ],
    ids=["apart", "narrow", "inverted", "touching", "the same", "all too small"],
)
def test_a_line_of_lesions_that_are_told_apart_without_an_error_does_not_exist(
    probability: list[float],
) -> None:
    assert np.isnan(calibration_line(np.array(probability), FALSE)).all()


def test_what_is_not_defined_for_one_kind_of_lesions_is_missing() -> None:
    found = scores(PROBABILITY, PROBABILITY > 1, np.ones(5, dtype=bool), n_missed=0)
    undefined = {key for key, value in found.items() if np.isnan(value)}
    curves = {"auc", "average_precision", "calibration_slope", "calibration_intercept"}
    assert undefined == curves | {"recall_before", "recall_after"}
