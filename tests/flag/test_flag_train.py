# SPDX-License-Identifier: Apache-2.0
"""Training of the flag, and what it says of people whom it has never seen."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from bids_lesion_xai.errors import DataError
from bids_lesion_xai.flag.classifier import flag_probability
from bids_lesion_xai.flag.features import BASELINE, SALIENCY, SETS, feature_values
from bids_lesion_xai.flag.train import (
    CUTS,
    INNER_FOLDS,
    OUTER_FOLDS,
    STRENGTHS,
    WEIGHTS,
    Cohort,
    Penalty,
    cohort_of,
    cross_validate,
    regress,
    standardise,
    train,
)
from tests.flag.cohorts import simulate

PROBABILITIES = ["probability_baseline", "probability_saliency"]


def cohort(n_people: int = 4, n_lesions: int = 20, **more: Any) -> Cohort:
    return cohort_of(with_person(simulate(n_people, n_lesions, **more)))


def with_person(table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(person="out/" + table["participant_id"], session_id="n/a")


def changed(of: Cohort, rows: Any, **columns: Any) -> Cohort:
    table = of.table.copy()
    for name, values in columns.items():
        table.loc[rows, name] = values
    return Cohort(table, of.missed)


def test_the_numbers_of_the_classifier_say_what_scikit_learn_says() -> None:
    some = cohort(signal=1.0)
    flag = train(some, SETS[SALIENCY])
    values = feature_values(some.table, SETS[SALIENCY])
    widths = np.where(np.isin(SETS[SALIENCY], SETS[BASELINE]), 1, flag.weight)
    penalty = Penalty(flag.strength, flag.weight, widths)
    standard = standardise().fit(values)
    regression = regress(standard.transform(values), some.false, penalty)
    other = simulate(3, seed=5)
    judged = standard.transform(feature_values(other, SETS[SALIENCY])) * widths
    expected = regression.predict_proba(judged)[:, 1]
    assert np.isnan(values).any()
    np.testing.assert_allclose(flag_probability(flag, other), expected, rtol=0, atol=1e-12)


def test_every_lesion_is_judged_once_and_a_person_in_one_fold() -> None:
    some = cohort()
    predictions, choices = cross_validate(some)
    assert predictions["name"].tolist() == some.table["name"].tolist()
    assert predictions[PROBABILITIES].notna().all(axis=None)
    assert predictions.groupby("person")["fold"].nunique().tolist() == [1] * 4
    assert predictions["fold"].nunique() == 4
    assert len(choices) == 2 * 4
    assert {choice["strength"] for choice in choices} <= set(STRENGTHS)
    assert {choice["weight"] for choice in choices} <= set(WEIGHTS)
    assert {choice["cut"] for choice in choices} <= set(CUTS)


def test_of_many_people_several_are_left_out_at_once() -> None:
    predictions, _ = cross_validate(cohort(13, 8))
    people = predictions.groupby("fold")["person"].nunique()
    assert len(people) == OUTER_FOLDS
    assert people.sum() == 13


def test_the_outcomes_of_a_person_do_not_change_what_is_said_of_the_person() -> None:
    some = cohort()
    own = some.person == "out/sub-02"
    swapped = np.where(some.false[own], "TP", "FP")
    before, _ = cross_validate(some)
    after, _ = cross_validate(changed(some, own, outcome=swapped))
    columns = [*PROBABILITIES, "flagged_baseline", "flagged_saliency"]
    pd.testing.assert_frame_equal(before.loc[own, columns], after.loc[own, columns])
    assert (before.loc[~own, PROBABILITIES] != after.loc[~own, PROBABILITIES]).all(axis=None)


def test_the_features_of_a_lesion_do_not_change_what_is_said_of_the_persons_other_lesions() -> (
    None
):
    """Standardised with its own mean, a person's lesions would all change."""
    some = cohort()
    (own,) = np.nonzero(some.person == "out/sub-02")
    before, _ = cross_validate(some)
    after, _ = cross_validate(changed(some, own[0], volume_mm3=1e9, flair_share=-1e6))
    pd.testing.assert_frame_equal(before.loc[own[1:]], after.loc[own[1:]])
    assert (before.loc[own[0], PROBABILITIES] != after.loc[own[0], PROBABILITIES]).all()


def test_the_order_of_the_rows_changes_nothing() -> None:
    table = with_person(simulate(4, 20))
    shuffled = table.sample(frac=1, random_state=3).reset_index(drop=True)
    one, other = (cross_validate(cohort_of(rows)) for rows in (table, shuffled))
    pd.testing.assert_frame_equal(one[0], other[0], check_exact=True)
    assert one[1] == other[1]


def test_the_penalty_is_chosen_on_people_left_out_not_on_lesions() -> None:
    """A feature that tells who somebody is predicts lesions of the same people only."""
    rng = np.random.default_rng(0)
    table = with_person(simulate(6, 60)).query("outcome != 'FN'")
    rate = table["participant_id"].map(
        dict(
            zip(
                table["participant_id"].unique(),
                rng.permutation([0.05, 0.1, 0.5, 0.5, 0.9, 0.95]),
                strict=True,
            )
        )
    )
    table["outcome"] = np.where(rng.random(len(table)) < rate, "FP", "TP")
    for channel in ("flair", "t1w"):
        for mm in (1, 2, 3):
            marks = table["participant_id"].map(
                {who: rng.normal() for who in table["participant_id"].unique()}
            )
            table[f"{channel}_mean_shell_{mm}mm"] = marks * table[f"{channel}_peak"]
    names = tuple(f"{channel}_shell_{mm}mm" for channel in ("flair", "t1w") for mm in (1, 2, 3))
    some = cohort_of(table)
    flag = train(some, (*SETS[BASELINE], *names))
    assert flag.weight == 0
    assert flag.coefficients[3:] == (0,) * 6
    assert len(some.people) > INNER_FOLDS


def test_missed_lesions_count_in_the_people_who_have_lesions() -> None:
    some = cohort(4, 20)
    assert some.missed == {f"out/sub-0{n}": 5 for n in (1, 2, 3, 4)}
    assert some.n_missed == 20
    assert some.rows(some.person == "out/sub-03").missed == {"out/sub-03": 5}
    assert set(some.table["outcome"]) == {"TP", "FP"}


def test_a_cut_that_flags_nothing_if_nobody_can_be_left_out_to_choose_it() -> None:
    some = cohort(3, 20)
    one = some.person == "out/sub-01"
    flag = train(changed(some, ~one, outcome="TP"), SETS[BASELINE])
    assert (flag.strength, flag.cut) == (STRENGTHS[0], 1.0)
    assert train(changed(some, ~one, outcome="TP"), SETS[SALIENCY]).weight == 0


def one_kind(table: pd.DataFrame, outcome: str) -> pd.DataFrame:
    return table[table["outcome"] == outcome]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda table: table.drop(columns="outcome"), "participant level with --reference-masks"),
        (lambda table: table.assign(outcome=np.nan), "participant level with --reference-masks"),
        (lambda table: one_kind(table, "FN"), "participant level with --reference-masks"),
        (lambda table: one_kind(table, "TP"), "None of .* lesions is false"),
        (lambda table: one_kind(table, "FP"), "None of .* lesions is true"),
        (lambda table: table[table["person"] == "out/sub-01"], r"is 1 \(out/sub-01\)"),
        (lambda table: table[table["person"] < "out/sub-03"], "At least 3 are expected"),
    ],
    ids=["no column", "no outcome", "missed", "all true", "all false", "one person", "two people"],
)
def test_what_cannot_be_learnt_from_is_told(change: Any, words: str) -> None:
    with pytest.raises(DataError, match=words):
        cohort_of(change(with_person(simulate(4, 20))))


def test_a_person_who_has_all_false_lesions_is_told() -> None:
    some = cohort(3, 20)
    one = some.person == "out/sub-02"
    with pytest.raises(DataError, match="Without out/sub-02, all lesions are true"):
        cross_validate(changed(some, ~one, outcome="TP"))
