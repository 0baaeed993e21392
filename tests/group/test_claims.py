# SPDX-License-Identifier: Apache-2.0
"""What the explanations of a group say, in numbers and in words."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from benchmarks.cohort import simulate, truth
from bids_lesion_xai.group.claims import (
    ALPHA,
    CHANGE,
    COLUMNS,
    CONTEXT,
    IMAGE,
    OUTCOMES,
    PLACE,
    claims,
    holm,
    question_of,
)

NUMBERS = ["estimate", "low", "high", "effect", "effect_low", "effect_high", "p", "p_holm"]


@pytest.fixture(scope="module")
def lesions() -> pd.DataFrame:
    return simulate(12, 1, effect=0.5, mean_visits=2)


@pytest.fixture(scope="module")
def table(lesions: pd.DataFrame) -> pd.DataFrame:
    return claims(lesions, units="logit")


def visits_of(lesions: pd.DataFrame) -> pd.DataFrame:
    groups = lesions.groupby(["participant_id", "session_id"], as_index=False)
    return groups.agg(
        n_lesions=("volume_mm3", "size"),
        lesion_volume_mm3=("volume_mm3", "sum"),
        flair_share=("flair_share", "mean"),
        flair_mean_inside=("flair_mean_inside", "mean"),
    )


def test_every_question_with_columns_is_answered(table: pd.DataFrame) -> None:
    assert list(table) == list(COLUMNS)
    counts = table["question"].value_counts().to_dict()
    assert counts == {IMAGE: 1, PLACE: 12, OUTCOMES: 24, CONTEXT: 6}
    assert not table.duplicated(["question", "contrast", "measure"]).any()


def test_nothing_is_claimed_of_a_sign_that_says_nothing(
    lesions: pd.DataFrame, table: pd.DataFrame
) -> None:
    squares = claims(lesions, visits_of(lesions), has_sign=False)
    assert set(squares["question"]) == set(table["question"]) - {PLACE}


def test_intervals_are_where_the_truth_is(table: pd.DataFrame) -> None:
    true = np.array([truth(row, 0.5) for _, row in table.iterrows()])
    known = ~np.isnan(true) & table["low"].notna()
    held = ((table["low"] <= true) & (true <= table["high"]))[known]
    assert held.mean() > 0.8


def test_numbers_of_people_and_lesions_are_those_of_the_table(
    lesions: pd.DataFrame, table: pd.DataFrame
) -> None:
    share = table[table["question"] == IMAGE].iloc[0]
    predicted = lesions["outcome"].isin(["TP", "FP"])
    assert share["n_lesions"] == predicted.sum()
    assert share["n_participants"] == lesions["participant_id"].nunique()


def test_missed_lesions_and_control_regions_are_no_lesions(
    lesions: pd.DataFrame, table: pd.DataFrame
) -> None:
    others = lesions["outcome"].isin(["FN", "TN"])
    spoiled = lesions.assign(flair_share=lesions["flair_share"].where(~others, 99.0))
    pd.testing.assert_frame_equal(claims(spoiled, units="logit"), table)


def test_without_a_reference_all_lesions_count(lesions: pd.DataFrame) -> None:
    without = claims(lesions.assign(outcome=np.nan))
    assert set(without["question"]) == {IMAGE, PLACE, CONTEXT}
    assert without["n_lesions"].eq(len(lesions)).all()
    pd.testing.assert_frame_equal(without, claims(lesions.drop(columns="outcome")))


def test_the_order_of_rows_does_not_matter(lesions: pd.DataFrame, table: pd.DataFrame) -> None:
    again = claims(lesions.sample(frac=1, random_state=4), units="logit")
    pd.testing.assert_frame_equal(again, table, rtol=1e-9)


def test_shifted_values_shift_estimates_and_nothing_else(
    lesions: pd.DataFrame, table: pd.DataFrame
) -> None:
    moved = claims(lesions.assign(flair_mean_inside=lesions["flair_mean_inside"] + 2))
    before, after = (one[one["measure"] == "flair_mean_inside"] for one in (table, moved))
    limits = ["estimate", "low", "high"]
    np.testing.assert_allclose(after[limits], before[limits] + 2)


def test_p_values_of_a_question_are_corrected_by_holm(table: pd.DataFrame) -> None:
    """By the definition: the k-th smallest of m times m - k + 1, made monotone, at most 1."""
    for _, own in table.dropna(subset=["p"]).groupby("question"):
        p = np.sort(own["p"])
        expected = np.maximum.accumulate(p * np.arange(p.size, 0, -1)).clip(max=1)
        np.testing.assert_allclose(np.sort(own["p_holm"]), expected)


def test_what_has_no_p_does_not_count_in_the_correction() -> None:
    corrected = holm(pd.Series([0.01, np.nan, 0.04]))
    np.testing.assert_allclose(corrected, [0.02, np.nan, 0.04])
    assert holm(pd.Series([np.nan])).isna().all()


def test_words_agree_with_numbers(table: pd.DataFrame) -> None:
    for row in table.dropna(subset=["low"]).to_dict("records"):
        text = row["statement"]
        stated = f"95 % interval {row['low']:.3g} to {row['high']:.3g}; "
        assert stated + f"{row['n_participants']} participants" in text
        assert f"{row['estimate']:.3g}" in text
        if row["question"] == CONTEXT:
            assert np.isnan(row["p_holm"])
        else:
            assert text.startswith("No evidence") == (row["p_holm"] >= ALPHA)
            told = row["p"] < ALPHA <= row["p_holm"]
            assert ("corrected for the number of comparisons" in text) == told


@pytest.mark.parametrize(
    ("column", "change", "expected"),
    [
        ("flair_share", lambda x: x, "FLAIR outweighs T1w: "),
        ("flair_share", lambda x: 1 - x, "T1w outweighs FLAIR: "),
        ("flair_mean_inside", lambda x: x + 1, "Saliency of FLAIR is positive inside lesions: "),
        ("t1w_mean_shell_2mm", lambda x: x - 1, "Saliency of T1w is negative 1 to 2 mm around"),
    ],
)
def test_the_direction_is_told(
    lesions: pd.DataFrame, column: str, change: Callable[[object], object], expected: str
) -> None:
    found = claims(lesions.assign(**{column: change(lesions[column])}))
    (text,) = found.loc[found["measure"] == column, "statement"]
    assert text.startswith(expected)


def test_a_higher_peak_is_called_higher(lesions: pd.DataFrame) -> None:
    found = claims(lesions.assign(flair_peak=lesions["flair_peak"] + (lesions["outcome"] == "FP")))
    own = found[(found["measure"] == "flair_peak") & (found["contrast"] == "TP – FP")]
    (text,) = own["statement"]
    assert "lower in right detections (TP) than in false detections (FP)" in text
    assert own["estimate"].item() < 0


def test_nothing_is_found_where_there_is_nothing() -> None:
    """Over 25 cohorts without an effect, a claim on image or place in a few at most."""
    columns = ["flair_share", "flair_mean_inside", "t1w_mean_inside", "t1w_mean_shell_1mm"]
    claimed = 0
    for seed in range(25):
        nothing = simulate(8, seed, effect=0.0, mean_lesions=6)
        found = claims(nothing[["participant_id", "session_id", *columns]])
        claimed += bool((found["p_holm"] < ALPHA).any())
    # Two questions at 5 %: 2.5 expected, 8 is more than three standard deviations above.
    assert claimed <= 8


def test_adjustment_beyond_common_probabilities_is_told(table: pd.DataFrame) -> None:
    adjusted = table[table["contrast"].str.endswith("adjusted")]
    told = adjusted["statement"].str.contains("no range of probability in common")
    assert (told != adjusted["contrast"].str.startswith("TP – FP")).all()
    assert adjusted.loc[told, ["estimate", "low", "p", "p_holm"]].isna().all(axis=None)


def test_the_sign_of_a_peak_does_not_count(lesions: pd.DataFrame) -> None:
    signs = np.where(np.random.default_rng(0).random(len(lesions)) < 0.5, -1, 1)
    flipped = lesions.assign(t1w_peak=signs * lesions["t1w_peak"])
    pd.testing.assert_frame_equal(claims(flipped), claims(lesions))


def test_lesions_without_a_value_are_counted(lesions: pd.DataFrame) -> None:
    predicted = lesions.index[lesions["outcome"] == "TP"]
    found = claims(lesions.assign(flair_share=lesions["flair_share"].drop(predicted[:3])))
    assert "3 lesions without a value left out." in found["statement"].iloc[0]


def test_lesions_that_need_more_than_the_widest_margin_are_told_from_those_not_studied(
    lesions: pd.DataFrame,
) -> None:
    column = "settled_95_zero_mm"
    predicted = lesions.index[lesions["outcome"] == "TP"]
    margins = pd.Series(4.0, lesions.index) + lesions["participant_id"].str[-1].astype(float)
    table = lesions.assign(full_probability=0.9, **{column: margins})
    table.loc[predicted[:3], ["full_probability", column]] = np.nan
    table.loc[predicted[3:8], column] = np.nan
    found = claims(table)
    (statement,) = found.loc[found["measure"] == column, "statement"]
    assert "3 lesions without a value left out, and 5 lesions for which" in statement
    assert statement.endswith("no margin sufficed, so that it is too small.")
    table.loc[predicted[3:8], column] = 4.0
    found = claims(table)
    (statement,) = found.loc[found["measure"] == column, "statement"]
    assert statement.endswith("3 lesions without a value left out.")


DEGENERATE: dict[str, Callable[[pd.DataFrame], pd.DataFrame]] = {
    "nothing": lambda t: t.iloc[:0],
    "one lesion": lambda t: t.iloc[:1],
    "one person": lambda t: t[t["participant_id"] == "sub-0001"],
    "two people": lambda t: t[t["participant_id"] < "sub-0002"],
    "five people": lambda t: t[t["participant_id"] < "sub-0005"],
    "equal values": lambda t: t.assign(**dict.fromkeys(t.columns[3:], 0.25)),
    "no session": lambda t: t.assign(session_id="n/a"),
    "missing session": lambda t: t.assign(session_id=np.nan),
    "no volume": lambda t: t.assign(volume_mm3=np.nan, mean_probability=np.nan),
    "zero volume": lambda t: t.assign(volume_mm3=0.0),
    "no covariate": lambda t: t.drop(columns=["volume_mm3", "mean_probability"]),
    "no column": lambda t: t[["participant_id", "session_id"]],
}


@pytest.mark.parametrize("case", DEGENERATE)
def test_any_table_has_an_answer_or_a_reason(lesions: pd.DataFrame, case: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = claims(DEGENERATE[case](lesions))
    assert list(found) == list(COLUMNS)
    without = found["low"].isna()
    assert found.loc[without, "statement"].str.startswith("Cannot be told").all()
    assert not found.loc[~without, "statement"].str.contains("nan").any()
    if case == "five people":
        is_difference = found["question"] == OUTCOMES
        assert (without == is_difference).all()
    if case in ("one lesion", "one person", "two people", "equal values"):
        assert without.all()
        assert found["p_holm"].isna().all()


def test_a_level_that_is_higher_is_found_and_told(lesions: pd.DataFrame) -> None:
    people = sorted(lesions["participant_id"].unique())
    sex = pd.Series(["F", "M"] * 6, people, name="sex")
    higher = lesions["flair_share"] + 0.2 * (lesions["participant_id"].map(sex) == "F")
    visits = visits_of(lesions.assign(flair_share=higher))
    found = claims(lesions, visits, sex.to_frame())
    own = found[found["question"] == question_of("sex")]
    assert len(own) == 4
    row = own[own["measure"] == "flair_share"].iloc[0]
    assert row["low"] < 0.2 < row["high"]
    assert row["statement"].startswith("The FLAIR share is higher with sex F than with M: ")
    assert own["n_participants"].eq(12).all()


def test_a_slope_is_found_in_the_units_of_the_covariate(lesions: pd.DataFrame) -> None:
    people = sorted(lesions["participant_id"].unique())
    age = pd.Series(np.linspace(20, 64, len(people)), people, name="age")
    visits = visits_of(lesions)
    visits["n_lesions"] = 2 ** (visits["participant_id"].map(age) / 10) * 1.1
    visits.loc[::2, "n_lesions"] *= 0.9
    found = claims(lesions, visits, age.to_frame())
    row = found[found["measure"] == "n_lesions"].iloc[0]
    assert row["estimate"] == pytest.approx(0.1, abs=0.02)
    assert row["units"] == "doublings per unit of age"
    assert row["statement"].startswith("The number of lesions rises with age: ")


def test_people_without_a_covariate_are_left_out_and_counted(lesions: pd.DataFrame) -> None:
    people = sorted(lesions["participant_id"].unique())
    age = pd.Series(range(10), people[:10], dtype=float, name="age")
    age.iloc[0] = np.nan
    found = claims(lesions, visits_of(lesions), age.to_frame())
    own = found[found["question"] == question_of("age")]
    assert own["n_participants"].eq(9).all()
    assert own["statement"].str.endswith("3 participants without age left out.").all()


def test_changes_of_matched_lesions_are_claimed(lesions: pd.DataFrame) -> None:
    first = lesions.drop_duplicates(["participant_id"]).assign(session_id="ses-01", match=1)
    grown = np.exp2(1 + 0.1 * np.sin(np.arange(len(first))))
    second = first.assign(session_id="ses-02", volume_mm3=first["volume_mm3"] * grown)
    found = claims(pd.concat([first, second]).assign(outcome=np.nan))
    row = found[found["measure"] == "volume_doublings"].iloc[0]
    assert row["question"] == CHANGE
    assert row["estimate"] == pytest.approx(1, abs=0.1)
    assert re.match("The volume of matched lesions rises from the first", row["statement"])


def test_people_of_several_sessions_without_a_lesion_to_compare_are_left_out_and_counted(
    lesions: pd.DataFrame,
) -> None:
    first = lesions.drop_duplicates("participant_id").assign(session_id="ses-M6", outcome=np.nan)
    people = first["participant_id"].tolist()
    second = first.assign(session_id="ses-M12", volume_mm3=first["volume_mm3"] * 2)
    matched = pd.concat([first.assign(match=1), second.assign(match=1)], ignore_index=True)
    # The lesion of the first has vanished for another; the last has one session.
    matched.loc[len(people), "match"] = 2
    matched = matched.iloc[:-1]
    # The last session of the next two shows no lesion.
    healed = first.iloc[1:3].assign(session_id="ses-M24")
    visits = visits_of(pd.concat([matched, healed]))
    for table, n_left_out in ((None, 1), (visits, 3)):
        found = claims(matched, table)
        own = found[found["question"] == CHANGE]
        assert own["n_participants"].eq(len(people) - 1 - n_left_out).all()
        noun = "participant" if n_left_out == 1 else "participants"
        remark = f"{n_left_out} {noun} with several sessions left out: no lesion to compare "
        assert own["statement"].str.contains(f" {remark}between the first and the last.").all()


def test_people_whose_sessions_could_not_be_matched_are_counted_as_such(
    lesions: pd.DataFrame,
) -> None:
    first = lesions.drop_duplicates("participant_id").assign(session_id="ses-01", outcome=np.nan)
    people = first["participant_id"].tolist()
    second = first.assign(session_id="ses-02", volume_mm3=first["volume_mm3"] * 2)
    table = pd.concat([first.assign(match=1), second.assign(match=1)], ignore_index=True)
    lost = table["match"].astype("Int64").mask(table["participant_id"].isin(people[:2]))
    own = claims(table.assign(match=lost)).query("question == @CHANGE")
    assert own["n_participants"].eq(len(people) - 2).all()
    words = "2 participants whose sessions could not be matched left out."
    assert own["statement"].str.endswith(f" {words}").all()
    assert not own["statement"].str.contains("no lesion to compare").any()
    vanished = (table["participant_id"] == people[2]) & (table["session_id"] == "ses-02")
    both = claims(table.assign(match=lost.mask(vanished, 2))).query("question == @CHANGE")
    remark = (
        "1 participant with several sessions left out: no lesion to compare between the first "
    )
    assert both["statement"].str.endswith(f" {remark}and the last; {words}").all()


def test_lesions_without_a_match_and_missed_ones_do_not_change_the_changes(
    lesions: pd.DataFrame,
) -> None:
    first = lesions.drop_duplicates(["participant_id"]).assign(session_id="ses-01", outcome="TP")
    second = first.assign(session_id="ses-02", volume_mm3=first["volume_mm3"] * 2)
    matched = pd.concat([first, second]).assign(match=pd.array([1] * 2 * len(first), "Int64"))
    others = [
        second.assign(outcome=outcome, volume_mm3=1e6, match=pd.NA) for outcome in ("FP", "FN")
    ]
    mixed = pd.concat([matched, *others]).astype({"match": "Int64"})
    alone, among = (
        found[found["question"] == CHANGE].reset_index(drop=True)
        for found in (claims(matched), claims(mixed))
    )
    assert len(alone) > 1
    pd.testing.assert_frame_equal(among, alone)
    assert CHANGE not in set(claims(mixed.assign(match=pd.NA))["question"])
