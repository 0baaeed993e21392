# SPDX-License-Identifier: Apache-2.0
"""Tissues of label maps and of scans."""

from __future__ import annotations

import numpy as np
import pytest

from bids_lesion_xai.training.anatomy import NUMBER
from bids_lesion_xai.training.tissues import (
    FLUID,
    GREY_MATTER,
    OTHER,
    UNKNOWN,
    WHITE_MATTER,
    of_anatomy,
    of_scan,
)

EXAMPLES = {
    "outside": UNKNOWN,
    "fluid": FLUID,
    "lateral ventricles": FLUID,
    "cortex": GREY_MATTER,
    "thalamus": GREY_MATTER,
    "hippocampus": GREY_MATTER,
    "white matter": WHITE_MATTER,
    "brainstem": WHITE_MATTER,
    "pallidum": WHITE_MATTER,
    "vessels": OTHER,
    "choroid plexus": OTHER,
    "extracerebral 515": OTHER,
}


def test_every_structure_has_the_tissue_that_it_is_of() -> None:
    numbers = np.array([[[NUMBER[name] for name in EXAMPLES]]], np.uint8)
    assert of_anatomy(numbers).ravel().tolist() == list(EXAMPLES.values())


@pytest.mark.parametrize(("gain", "offset"), [(1.0, 0.0), (0.2, 3.0)])
def test_tissues_of_a_scan_are_those_of_its_t1w_whatever_its_scale(
    gain: float, offset: float
) -> None:
    random = np.random.default_rng(0)
    shape = (30, 28, 26)
    expected = random.choice([UNKNOWN, FLUID, GREY_MATTER, WHITE_MATTER], shape)
    means = np.array([0.0, -2.0, 0.0, 1.0])
    t1w = gain * (means[expected] + random.uniform(-0.3, 0.3, shape)) + offset
    found = of_scan(t1w.astype(np.float32), expected != UNKNOWN)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, expected)
