# SPDX-License-Identifier: Apache-2.0
"""Small charts: where points are drawn, and what is written at the axes."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bids_lesion_xai.reports.curves import Band, Line, draw

_VALUES = st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=8)


def places(path: str) -> np.ndarray:
    return np.array([list(map(float, point.split())) for point in re.split("[ML]", path)[1:]])


@given(_VALUES)
def test_points_are_at_their_values(values: list[float]) -> None:
    chart = draw("", [Line("a", "red", range(len(values)), values)], "x", "y")
    drawn = places(str(chart.lines[0]["path"]))
    assert drawn[:, 0].tolist() == sorted(drawn[:, 0])
    assert (drawn[:, 1] >= chart.top - 0.05).all()
    assert (drawn[:, 1] <= chart.bottom + 0.05).all()
    if np.ptp(values) > 1e-3:
        # Up is less.
        height = np.ptp(drawn[:, 1])
        expected = drawn[:, 1].max() - (np.array(values) - min(values)) / np.ptp(values) * height
        np.testing.assert_allclose(drawn[:, 1], expected, atol=0.15)


def test_what_is_missing_or_infinite_is_left_out() -> None:
    chart = draw("", [Line("a", "red", [0, 1, np.inf, 3], [1, np.nan, 2, 3])], "x", "y")
    assert len(places(str(chart.lines[0]["path"]))) == 2
    assert draw("", [Line("a", "red", [], [])], "x", "y").lines[0]["path"] == ""


@pytest.mark.parametrize(("size", "power"), [(3e-5, "10⁻⁵"), (2.0, ""), (4e5, "10⁵")])
def test_ticks_of_small_and_large_values_share_a_power_that_the_axis_names(
    size: float, power: str
) -> None:
    chart = draw("", [Line("a", "red", [0, 1], [0, size])], "x", "saliency")
    assert chart.y_label == ("saliency, ×" + power if power else "saliency")
    assert max(len(str(tick["text"])) for tick in chart.y_ticks) <= 5


def test_a_band_is_the_mean_with_its_error_and_a_mean_that_is_missing_has_none() -> None:
    lines = [Line("a", "red", [0, 1], [0, 10])]
    bands = [Band("red", (0, 1), 5, 2), Band("red", (0, 1), np.nan, 1)]
    chart = draw("", lines, "x", "y", y_range=(0, 10), bands=bands)
    assert len(chart.bands) == 1
    band = chart.bands[0]
    height = chart.bottom - chart.top
    assert band["mean"] == pytest.approx(chart.top + height / 2)
    assert band["height"] == pytest.approx(0.4 * height)


def test_the_description_names_lines_and_axes() -> None:
    chart = draw("Title", [Line("FLAIR", "red", [0, 1], [0, 1])], "distance", "saliency")
    assert chart.description == "Title: FLAIR; saliency by distance."
