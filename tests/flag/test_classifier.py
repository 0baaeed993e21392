# SPDX-License-Identifier: Apache-2.0
"""The classifier as plain numbers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bids_lesion_xai.errors import DataError, NotFoundError
from bids_lesion_xai.flag.classifier import Flag, flag_probability, load_flag, to_json
from tests.flag.cohorts import simulate

FLAG = Flag(
    ("log_volume", "t1w_shell_10mm"),
    (0.0, 0.1),
    (3.0, 0.0),
    (1.5, 0.2),
    (-0.7, 1 / 3),
    -0.2,
    0.6,
    0.1,
    1.0,
)


def test_probability_by_hand() -> None:
    table = simulate(1).head(3).assign(volume_mm3=np.e**6, t1w_peak=-0.5)
    table["t1w_mean_shell_10mm"] = [0.05, np.nan, -0.05]
    log_odds = -0.2 - 0.7 * 2 + np.array([0.1, 0.1, -0.1]) / 0.2 / 3
    expected = 1 / (1 + np.exp(-log_odds))
    np.testing.assert_allclose(flag_probability(FLAG, table), expected, rtol=1e-12)


def test_no_lesion_has_no_probability() -> None:
    assert flag_probability(FLAG, simulate(1).head(0)).shape == (0,)


def test_it_is_read_as_it_was_written(tmp_path: Path) -> None:
    flag = replace(FLAG, facts={"trained_on": ["a/sub-01"], "beats_baseline": True})
    path = tmp_path / "flag.json"
    path.write_text(to_json(flag))
    assert load_flag(path) == flag


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": 2}, "its format is 2, 1 is expected"),
        ({"features": ["log_volume", "colour"]}, "its features colour are not known"),
        ({"mean": [1.0]}, "one number for each feature"),
        ({"scale": [1.0, 0.0]}, "a scale of 0"),
        ({"intercept": float("nan")}, "not finite"),
        ({"cut": "high"}, "could not convert string"),
        ({"facts": None}, "TypeError"),
    ],
)
def test_a_file_that_is_no_classifier_is_told(
    tmp_path: Path, change: dict[str, object], words: str
) -> None:
    path = tmp_path / "flag.json"
    path.write_text(json.dumps(json.loads(to_json(FLAG)) | change))
    with pytest.raises(DataError, match=words):
        load_flag(path)


@pytest.mark.parametrize("text", ["[1]", "{}", "not json", '"text"'])
def test_other_files_are_told(tmp_path: Path, text: str) -> None:
    path = tmp_path / "flag.json"
    path.write_text(text)
    with pytest.raises(DataError, match="is no classifier"):
        load_flag(path)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"none\.json does not exist"):
        load_flag(tmp_path / "none.json")
