# SPDX-License-Identifier: Apache-2.0
"""The verdict on simulated people of whom the truth is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from bids_lesion_xai.flag.compare import compare, judge, people_rows, score_rows
from bids_lesion_xai.flag.results import Evaluation, evaluate
from tests.flag.test_flag_train import cohort


def evaluation(**simulated: Any) -> Evaluation:
    return evaluate(cohort(**simulated))


def predictions(differences: list[float]) -> pd.DataFrame:
    """Return one false lesion a person whose log loss differs by what is given."""
    baseline = np.full(len(differences), 0.5)
    return pd.DataFrame(
        {
            "person": [f"out/sub-{number}" for number in range(len(differences))],
            "outcome": "FP",
            "probability_baseline": baseline,
            "probability_saliency": baseline * np.exp(-np.array(differences)),
        }
    )


def test_saliency_that_tells_more_beats_the_baseline_and_is_calibrated() -> None:
    found = evaluation(n_people=9, n_lesions=50, signal=1.5)
    assert found.verdict.beats
    assert found.verdict.text.startswith("Saliency beats the baseline")
    overall = found.scores.set_index(["fold", "features"]).loc[("overall", "saliency")]
    assert overall["calibration_slope"] == pytest.approx(1, abs=0.25)
    assert overall["calibration_intercept"] == pytest.approx(0, abs=0.25)
    assert overall["calibration_error"] < 0.1
    assert overall["f1_after"] > overall["f1_before"]


@pytest.mark.parametrize("leak", [0.0, 2.0], ids=["noise", "tells the person"])
def test_saliency_that_tells_no_more_does_not_beat_the_baseline(leak: float) -> None:
    found = evaluation(n_people=9, n_lesions=50, leak=leak)
    assert not found.verdict.beats
    assert found.comparison.loc["log_loss", "difference"] > -0.02


def test_the_same_seed_gives_the_same_numbers() -> None:
    rows = people_rows(predictions([-0.1, 0.2, -0.3, -0.4, 0.1, -0.2]))
    pd.testing.assert_frame_equal(compare(rows, 4), compare(rows, 4), check_exact=True)
    assert compare(rows, 4).loc["log_loss", "low"] != compare(rows, 5).loc["log_loss", "low"]


def test_people_count_once_however_many_lesions_they_have() -> None:
    table = predictions([-0.1, 0.2])
    many = pd.concat([table, *[table.head(1)] * 8], ignore_index=True)
    expected = {"baseline": np.log(2), "saliency": np.log(2) + 0.05, "difference": 0.05}
    for rows in (table, many):
        found = compare(people_rows(rows)).loc["log_loss"]
        assert found[list(expected)].to_dict() == pytest.approx(expected)
        assert found["n_people"] == 2


@pytest.mark.parametrize(
    ("differences", "words", "beats"),
    [
        ([-0.1, -0.2, -0.3, -0.2, -0.1, -0.2], "Saliency beats the baseline", True),
        ([-0.1, 0.2, -0.3, -0.2, 0.1, -0.2], "Saliency does not beat the baseline", False),
        ([0.1, 0.2, 0.3, 0.2, 0.1, 0.2], "Saliency is worse than the baseline", False),
        ([-0.1, -0.2, -0.3, -0.2, -0.1], "It cannot be shown", False),
    ],
    ids=["below 0", "around 0", "above 0", "five people"],
)
def test_the_whole_interval_decides(differences: list[float], words: str, beats: bool) -> None:
    verdict = judge(compare(people_rows(predictions(differences))))
    assert verdict.text.startswith(words)
    assert verdict.beats is beats


@pytest.mark.parametrize(
    ("n_people", "words"),
    [(5, "It cannot be shown"), (8, "Saliency does not beat the baseline")],
)
def test_differences_of_rounding_are_none(n_people: int, words: str) -> None:
    people = people_rows(predictions([-4e-16] * n_people))
    assert people["log_loss_difference"].eq(0).all()
    verdict = judge(compare(people))
    assert not verdict.beats
    assert verdict.text.startswith(words)
    assert "oth are the same, since saliency was left out (weight 0)" in verdict.text


def test_one_person_who_differs_makes_a_difference() -> None:
    people = people_rows(predictions([-4e-16] * 7 + [-1e-6]))
    assert people["log_loss_difference"].ne(0).sum() == 1
    assert "the log loss on 8 left-out people differs" in judge(compare(people)).text


def test_differences_that_cancel_are_differences() -> None:
    table = predictions([-0.25, 0.25]).assign(probability_baseline=np.exp(-0.5))
    table["probability_saliency"] = np.exp([-0.25, -0.75])
    assert judge(compare(people_rows(table))).text.startswith("It cannot be shown")


def test_the_area_under_the_curve_is_of_people_with_both_kinds() -> None:
    table = predictions([-0.1, 0.2, 0.3])
    both = pd.concat([table, table.head(1).assign(outcome="TP")], ignore_index=True)
    found = compare(people_rows(both)).loc["auc"]
    assert found["n_people"] == 1
    assert found["baseline"] == 0.5


def test_scores_have_a_row_a_fold_and_set_and_all_missed_lesions() -> None:
    table = predictions([-0.1, 0.2, 0.3]).assign(
        fold=[1, 2, 1], flagged_baseline=False, flagged_saliency=[True, False, True]
    )
    choices = [
        {"fold": fold, "features": name, "strength": 1.0, "cut": 0.5}
        for fold in (1, 2)
        for name in ("baseline", "saliency")
    ]
    missed = {"out/sub-0": 3, "out/sub-1": 4, "out/nothing-found": 5}
    scores = score_rows(table, choices, missed)
    assert scores["fold"].tolist() == [1, 1, 2, 2, "overall", "overall"]
    assert scores["people"].tolist()[0] == "out/sub-0, out/sub-2"
    assert scores["n_missed"].tolist() == [3, 3, 4, 4, 12, 12]
    assert scores["n_flagged"].tolist() == [0, 2, 0, 0, 0, 2]
