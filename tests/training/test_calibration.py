# SPDX-License-Identifier: Apache-2.0
"""Calibration, on probabilities whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import special

from bids_lesion_xai.training.calibration import (
    BINS,
    choose_threshold,
    expected_calibration_error,
    fit_temperature,
    reliability,
)


def drawn(n: int = 400_000) -> tuple[np.ndarray, np.ndarray]:
    """Return log-odds and lesions that are drawn from them."""
    random = np.random.default_rng(0)
    odds = random.normal(-1, 2, n)
    return odds.astype(np.float32), random.random(n) < special.expit(odds)


def test_the_curve_is_that_of_a_loop_over_the_voxels() -> None:
    probability = np.array([0.0, 0.01, 0.5, 0.52, 0.999, 1.0])
    lesions = np.array([False, True, True, False, True, True])
    rows = reliability(probability, lesions)
    assert len(rows) == BINS
    for row in rows:
        inside = (probability >= row["from"]) & (
            (probability < row["to"]) | (row["to"] == 1) & (probability == 1)
        )
        assert row["n_voxels"] == inside.sum()
        if inside.any():
            assert row["probability"] == pytest.approx(probability[inside].mean())
            assert row["lesion_part"] == lesions[inside].mean()
    by_hand = (2 * abs(0.005 - 0.5) + 2 * abs(0.51 - 0.5) + 2 * abs(0.9995 - 1)) / 6
    assert expected_calibration_error(rows) == pytest.approx(by_hand)


def test_drawn_lesions_are_calibrated_and_overconfident_ones_are_not() -> None:
    odds, lesions = drawn()
    assert expected_calibration_error(reliability(special.expit(odds), lesions)) < 0.003
    assert expected_calibration_error(reliability(special.expit(3 * odds), lesions)) > 0.05


@pytest.mark.parametrize("factor", [0.4, 1.0, 2.5])
def test_the_temperature_is_what_the_log_odds_were_multiplied_by(factor: float) -> None:
    odds, lesions = drawn()
    found = fit_temperature([factor * odds], [lesions])
    assert found == pytest.approx(factor, rel=0.02)


def test_every_scan_weighs_the_same() -> None:
    odds, lesions = drawn(40_000)
    once = fit_temperature([odds, 2 * odds], [lesions, lesions])
    again = fit_temperature([odds, np.tile(2 * odds, 9)], [lesions, np.tile(lesions, 9)])
    assert once == pytest.approx(again, rel=1e-4)


def test_the_threshold_is_the_best_for_the_mean_person() -> None:
    curves = [{0.3: 0.9, 0.5: 0.7, 0.7: 0.0}, {0.3: 0.7, 0.5: 0.5, 0.7: 0.8}]
    assert choose_threshold(curves) == 0.3
    assert choose_threshold([{**curve, 0.3: 0.0} for curve in curves]) == 0.5


@pytest.mark.parametrize(("second", "threshold"), [(0.1, 0.3), (-0.02, 0.5), (-0.15, 0.5)])
def test_a_gain_that_chance_would_give_moves_no_threshold(second: float, threshold: float) -> None:
    # Of gains 0.2 and g, mean and standard error are 0.1 + g / 2 and 0.1 - g / 2.
    curves = [{0.3: 0.5 + gain, 0.5: 0.5} for gain in (0.2, second)]
    assert choose_threshold(curves) == threshold
    assert choose_threshold(curves[:1]) == 0.5
