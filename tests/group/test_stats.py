# SPDX-License-Identifier: Apache-2.0
"""Statistics of the group level."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from bids_lesion_xai.group.stats import (
    MIN_PARTICIPANTS,
    bootstrap_means,
    participant_means,
    summarise_lesions,
)


def _cohort(n_people: int, seed: int, max_visits: int = 3) -> pd.DataFrame:
    """Return visits of people who differ, the visits of one person less; the true mean is 0.6."""
    generator = np.random.default_rng(seed)
    rows = []
    for person in range(n_people):
        level = 0.6 + generator.normal(0, 0.1)
        for _ in range(generator.integers(1, max_visits + 1)):
            rows.append((f"sub-{person:02d}", level + generator.normal(0, 0.03)))
    return pd.DataFrame(rows, columns=["participant_id", "share"])


def test_summary_of_no_lesion_is_zero_with_missing_means() -> None:
    summary = summarise_lesions(pd.DataFrame({"volume_mm3": [], "share": []}), {"share": "share"})
    assert summary["n_lesions"] == 0
    assert summary["lesion_volume_mm3"] == 0
    assert np.isnan([summary["median_lesion_volume_mm3"], summary["share"]]).all()


def test_missing_values_are_left_out_of_means() -> None:
    lesions = pd.DataFrame({"volume_mm3": [1.0, 3.0], "share": [0.25, np.nan]})
    assert summarise_lesions(lesions, {"share": "share"})["share"] == 0.25


def test_a_participant_counts_once_however_many_visits() -> None:
    visits = pd.DataFrame({"participant_id": ["a", "a", "a", "b"], "share": [1.0, 1.0, 1.0, 0.0]})
    assert participant_means(visits, ["share"])["share"].to_dict() == {"a": 1.0, "b": 0.0}
    assert bootstrap_means(visits, ["share"]).loc["share", "mean"] == 0.5


def test_the_order_of_visits_does_not_matter() -> None:
    visits = _cohort(9, seed=1)
    shuffled = visits.sample(frac=1, random_state=3)
    pd.testing.assert_frame_equal(
        bootstrap_means(visits, ["share"]), bootstrap_means(shuffled, ["share"]), rtol=1e-12
    )


def test_the_interval_moves_and_stretches_with_the_values() -> None:
    visits = _cohort(9, seed=2)
    moved = visits.assign(share=3 * visits["share"] - 1)
    before = bootstrap_means(visits, ["share"])[["mean", "low", "high"]]
    after = bootstrap_means(moved, ["share"])[["mean", "low", "high"]]
    np.testing.assert_allclose(after, 3 * before - 1, rtol=1e-9)


def test_the_interval_of_equal_people_is_a_point() -> None:
    visits = pd.DataFrame({"participant_id": list("abcdefgh"), "share": 0.25})
    row = bootstrap_means(visits, ["share"]).loc["share"]
    assert row["low"] == row["mean"] == row["high"] == 0.25


@pytest.mark.parametrize("n_people", [0, 1, MIN_PARTICIPANTS - 1])
def test_few_people_have_no_interval(n_people: int) -> None:
    row = bootstrap_means(_cohort(n_people, seed=4), ["share"]).loc["share"]
    assert np.isnan(row["low"])
    assert np.isnan(row["high"])
    assert row["n_participants"] == n_people


def test_a_person_without_a_value_is_left_out_of_that_column_only() -> None:
    visits = _cohort(8, seed=5, max_visits=1).assign(other=1.0)
    visits.loc[0, "share"] = np.nan
    counts = bootstrap_means(visits, ["share", "other"])["n_participants"]
    assert counts.to_dict() == {"share": 7, "other": 8}


@pytest.mark.parametrize("n_people", [8, 25])
def test_the_interval_covers_the_true_mean_as_often_as_it_says(n_people: int) -> None:
    n_cohorts = 400
    hits = 0
    for seed in range(n_cohorts):
        row = bootstrap_means(
            _cohort(n_people, seed, max_visits=2), ["share"], n_resamples=800, random_seed=seed
        ).loc["share"]
        hits += bool(row["low"] <= 0.6 <= row["high"])
    # Standard error of a share of 0.95 in 400 trials: 0.011. Three of them, and 0.01 for the
    # bootstrap's own shortfall with 8 people.
    assert 0.95 - 0.043 <= hits / n_cohorts <= 0.95 + 0.033
