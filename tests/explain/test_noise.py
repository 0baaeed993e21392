# SPDX-License-Identifier: Apache-2.0
"""Noise that is the same however it is drawn."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bids_lesion_xai.explain.box import Box, Indices
from bids_lesion_xai.explain.noise import NoiseField

WHOLE = Box((0, 0, 0), (50, 40, 37))


@st.composite
def boxes(draw: st.DrawFn) -> Box:
    corners = [
        sorted(draw(st.sets(st.integers(0, n), min_size=2, max_size=2))) for n in WHOLE.stop
    ]
    return Box(tuple(a for a, _ in corners), tuple(b for _, b in corners))


@settings(max_examples=40)
@given(boxes())
def test_a_box_is_a_part_of_any_larger_draw(box: Box) -> None:
    whole = NoiseField(3, "sub-01").draw(4, 2, WHOLE)
    part = NoiseField(3, "sub-01").draw(4, 2, box)
    np.testing.assert_array_equal(part, whole[(slice(None), *box.slices((0, 0, 0)))])


@pytest.mark.parametrize("start", [(0, 0, 0), (15, 16, 17), (1000, 2000, 70000)])
def test_far_boxes_are_drawn_alike(start: Indices) -> None:
    box = Box(start, tuple(a + 3 for a in start))
    around = Box(tuple(max(0, a - 2) for a in start), tuple(a + 20 for a in start))
    field = NoiseField(0, "")
    larger = field.draw(0, 1, around)[(0, *box.slices(around.start))]
    np.testing.assert_array_equal(field.draw(0, 1, box)[0], larger)


def test_the_order_of_drawing_changes_nothing() -> None:
    box = Box((3, 5, 7), (30, 20, 22))
    field = NoiseField(1, "sub-02")
    forward = [field.draw(i, 2, box) for i in range(4)]
    backward = [field.draw(i, 2, box) for i in reversed(range(4))]
    np.testing.assert_array_equal(forward, backward[::-1])


def test_more_channels_leave_the_first_ones_as_they_are() -> None:
    field = NoiseField(1, "sub-02")
    np.testing.assert_array_equal(field.draw(0, 1, WHOLE), field.draw(0, 3, WHOLE)[:1])


def test_seeds_visits_samples_channels_and_places_have_noise_of_their_own() -> None:
    box, beside = Box((0, 0, 0), (16, 16, 16)), Box((16, 0, 0), (32, 16, 16))
    one = NoiseField(0, "sub-01").draw(0, 2, box)
    draws = [
        *one,
        NoiseField(1, "sub-01").draw(0, 1, box)[0],
        NoiseField(0, "sub-02").draw(0, 1, box)[0],
        NoiseField(0, "sub-01").draw(1, 1, box)[0],
        NoiseField(0, "sub-01").draw(0, 1, beside)[0],
    ]
    correlation = np.corrcoef([draw.ravel() for draw in draws]) - np.eye(len(draws))
    # The correlation of 4096 independent pairs has a standard deviation of 1/64.
    assert np.abs(correlation).max() < 5 / 64


def test_noise_is_standard_normal_and_float32() -> None:
    noise = np.stack([NoiseField(0, "sub-01").draw(i, 2, WHOLE) for i in range(3)])
    assert noise.dtype == np.float32
    values = noise.astype(np.float64)
    # Standard deviations of the mean, of the standard deviation and of the kurtosis of n values.
    n = values.size
    assert abs(values.mean()) < 5 / math.sqrt(n)
    assert abs(values.std() - 1) < 5 / math.sqrt(2 * n)
    assert abs((values**4).mean() - 3) < 5 * math.sqrt(96 / n)


def test_neighbours_are_independent_within_and_across_blocks() -> None:
    values = NoiseField(0, "sub-01").draw(0, 1, WHOLE)[0].astype(np.float64)
    for axis in range(3):
        first = np.delete(values, -1, axis).ravel()
        second = np.delete(values, 0, axis).ravel()
        assert abs(np.mean(first * second)) < 5 / math.sqrt(first.size)
