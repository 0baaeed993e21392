# SPDX-License-Identifier: Apache-2.0
"""Estimates from values that are nested in people."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from scipy import stats

from benchmarks.cohort import OUTCOMES, SLOPES, simulate
from bids_lesion_xai.group.models import (
    HALF_WEIGHT,
    Estimate,
    contrast_of_outcomes,
    difference_of_levels,
    mean_of_people,
    noncentrality_interval,
    one_sample,
    slope,
)
from bids_lesion_xai.group.stats import MIN_PARTICIPANTS

PAIR = ("FP", "TP")
HELD = ("log_volume", "mean_probability")


def cohort(n_people: int, seed: int, **options: float) -> pd.DataFrame:
    lesions = simulate(n_people, seed, **options)
    return lesions.assign(log_volume=np.log(lesions["volume_mm3"]))


def numbers(estimate: Estimate) -> list[float]:
    return [estimate.value, estimate.low, estimate.high, estimate.effect, estimate.p]


def share_held(estimates: list[Estimate], true: float) -> float:
    """Return the share of intervals that hold the truth; few cohorts may have none."""
    known = [one for one in estimates if not one.reason]
    assert len(known) > 0.9 * len(estimates)
    return float(np.mean([one.low <= true <= one.high for one in known]))


def coverage_bounds(n: int) -> tuple[float, float]:
    """Return what a share of 0.95 in `n` trials stays within, but for one case in 2000."""
    low, high = stats.binom.ppf([0.00025, 0.99975], n, 0.95) / n
    return low, high


@pytest.mark.parametrize(("effect", "adjusted"), [(0.0, False), (0.5, True)])
def test_the_contrast_holds_the_truth_as_often_as_it_says(effect: float, adjusted: bool) -> None:
    """Effects differ between people, numbers of lesions are skewed."""
    n_cohorts = 150
    first, second = (np.array(OUTCOMES[name][1:]) for name in PAIR)
    true = float((first - second) @ [effect, *([0, 0] if adjusted else SLOPES)])
    estimates = [
        contrast_of_outcomes(
            cohort(10, seed, effect=effect, mean_visits=2, mean_lesions=20),
            *("flair_peak", PAIR, HELD if adjusted else ()),
        )
        for seed in range(n_cohorts)
    ]
    low, _ = coverage_bounds(n_cohorts)
    assert share_held(estimates, true) >= low
    # Not by being wide: half of what a single person would know at best.
    assert np.nanmedian([one.high - one.low for one in estimates]) < 1.6


def test_lesions_as_if_they_were_people_would_not_hold_the_truth() -> None:
    """The simulation can tell a wrong model from a right one."""
    held = []
    for seed in range(60):
        rows = cohort(20, seed, effect=0.5)
        rows = rows[rows["outcome"].isin(PAIR)]
        X = sm.add_constant((rows["outcome"] == "FP") * 1.0)
        low, high = sm.OLS(rows["flair_peak"], X.join(rows[list(HELD)])).fit().conf_int().iloc[1]
        held.append(low <= 0.5 <= high)
    assert np.mean(held) < 0.85


@pytest.mark.parametrize("n_people", [6, 8, 20])
def test_the_mean_over_people_holds_the_truth_as_often_as_it_says(n_people: int) -> None:
    n_cohorts = 300
    estimates = [
        mean_of_people(simulate(n_people, seed, mean_lesions=6), "flair_share", 0.5)
        for seed in range(n_cohorts)
    ]
    low, high = coverage_bounds(n_cohorts)
    assert low <= share_held(estimates, 0.55) <= high


def test_effect_sizes_hold_the_truth_as_often_as_they_say() -> None:
    draw = np.random.default_rng(1)
    n = 1000
    samples = [one_sample(draw.normal(0.8, 1, 9)) for _ in range(n)]
    pairs = [difference_of_levels(draw.normal(0.8, 1, 5), draw.normal(0, 1, 8)) for _ in range(n)]
    low, high = coverage_bounds(n)
    for estimates in (samples, pairs):
        held = np.mean([one.effect_low <= 0.8 <= one.effect_high for one in estimates])
        assert low <= held <= high


def test_levels_of_unequal_spread_and_slopes_hold_the_truth() -> None:
    draw = np.random.default_rng(2)
    n = 600
    levels = [
        difference_of_levels(draw.normal(1, 3, 6), draw.normal(0, 0.5, 20)) for _ in range(n)
    ]
    ages = [draw.uniform(20, 60, 25) for _ in range(n)]
    slopes = [slope(x, 0.1 * x + draw.normal(0, x / 20)) for x in ages]
    low, _ = coverage_bounds(n)
    assert share_held(levels, 1.0) >= low
    assert share_held(slopes, 0.1) >= low


@pytest.mark.parametrize("held", [(), HELD])
def test_the_rows_that_stand_for_all_lesions_say_what_all_lesions_say(
    held: tuple[str, ...],
) -> None:
    """Against statsmodels on every lesion: same estimate, same bias-reduced interval."""
    lesions = cohort(9, 3)
    one_visit = lesions["participant_id"] + lesions["session_id"]
    lesions = lesions[(one_visit != one_visit.iloc[0]) | (lesions["outcome"] == "TP")]
    found = contrast_of_outcomes(lesions, "t1w_peak", PAIR, held)
    rows = lesions[lesions["outcome"].isin(PAIR)].assign(x=lambda t: (t["outcome"] == "FP") * 1.0)
    visits = rows.groupby(["participant_id", "session_id"])
    names = ["t1w_peak", "x", *held]
    within = rows[names] - visits[names].transform("mean")
    people = rows["participant_id"]
    h = (within["x"] ** 2).groupby(people).transform("sum")
    kept = h > 1e-9
    root = np.sqrt(1 / (h + HALF_WEIGHT))
    weighted = within.mul(root, axis=0)[kept]
    fit = sm.GEE(weighted["t1w_peak"], weighted[names[1:]], people[kept]).fit(
        cov_type="bias_reduced"
    )
    margin = stats.t.ppf(0.975, people[kept].nunique() - 1) * fit.bse["x"]
    expected = [fit.params["x"], fit.params["x"] - margin, fit.params["x"] + margin]
    np.testing.assert_allclose([found.value, found.low, found.high], expected, rtol=1e-7)
    compared = visits["x"].transform("nunique") == 2
    assert found.n_lesions == compared.sum() < kept.sum()


ESTIMATORS: dict[str, Callable[[pd.DataFrame], Estimate]] = {
    "mean": lambda lesions: mean_of_people(lesions, "flair_peak"),
    "contrast": lambda lesions: contrast_of_outcomes(lesions, "flair_peak", PAIR),
    "adjusted": lambda lesions: contrast_of_outcomes(lesions, "flair_peak", PAIR, HELD),
}


@pytest.mark.parametrize("name", ESTIMATORS)
def test_the_order_of_lesions_does_not_matter(name: str) -> None:
    lesions = cohort(8, 4)
    shuffled = lesions.sample(frac=1, random_state=1)
    first, second = (numbers(ESTIMATORS[name](one)) for one in (lesions, shuffled))
    np.testing.assert_allclose(first, second, rtol=1e-9)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_the_interval_stretches_with_the_unit_and_effects_have_none(name: str) -> None:
    lesions = cohort(8, 5)
    before = ESTIMATORS[name](lesions)
    after = ESTIMATORS[name](lesions.assign(flair_peak=lesions["flair_peak"] * 1e-7))
    np.testing.assert_allclose(numbers(after)[:3], np.array(numbers(before)[:3]) * 1e-7, rtol=1e-6)
    np.testing.assert_allclose(numbers(after)[3:], numbers(before)[3:], rtol=1e-6)


@pytest.mark.parametrize("name", ["contrast", "adjusted"])
def test_what_distinguishes_visits_does_not_move_a_contrast(name: str) -> None:
    lesions = cohort(8, 6)
    visits = lesions.groupby(["participant_id", "session_id"]).ngroup()
    moved = lesions.assign(flair_peak=lesions["flair_peak"] + 5 * np.sin(visits))
    first, second = (numbers(ESTIMATORS[name](one)) for one in (lesions, moved))
    np.testing.assert_allclose(first, second, rtol=1e-8)


def test_swapped_outcomes_swap_the_sign() -> None:
    lesions = cohort(8, 7)
    one = contrast_of_outcomes(lesions, "flair_peak", PAIR, HELD)
    other = contrast_of_outcomes(lesions, "flair_peak", PAIR[::-1], HELD)
    expected = [-one.value, -one.high, -one.low, -one.effect, one.p]
    np.testing.assert_allclose(numbers(other), expected, rtol=1e-9)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_visits_that_are_repeated_do_not_narrow_an_interval(name: str) -> None:
    lesions = cohort(8, 8)
    copies = [
        lesions.assign(session_id=lesions["session_id"] + f"copy{number}") for number in range(5)
    ]
    once, often = ESTIMATORS[name](lesions), ESTIMATORS[name](pd.concat([lesions, *copies]))
    assert often.n_participants == once.n_participants
    assert often.high - often.low > 0.8 * (once.high - once.low)


def test_a_person_with_many_lesions_does_not_decide() -> None:
    lesions = cohort(12, 9, effect=0.0)
    many = pd.concat([lesions[lesions["participant_id"] == "sub-0000"]] * 60)
    many["flair_peak"] += 50 * (many["outcome"] == "FP")
    many["session_id"] = "ses-many"
    found = contrast_of_outcomes(pd.concat([lesions, many]), "flair_peak", PAIR)
    assert found.value < 50 / 4
    assert found.low < 0


@pytest.mark.parametrize("n", [3, 4, 9])
def test_the_interval_of_a_mean_covers_with_few_people(n: int) -> None:
    generator = np.random.default_rng(n)
    found = [one_sample(values) for values in generator.normal(0.6, 0.1, (1000, n))]
    covered = sum(one.low <= 0.6 <= one.high for one in found)
    # Within four standard errors of 95 %.
    assert abs(covered - 950) <= 4 * np.sqrt(1000 * 0.95 * 0.05)


def test_of_equal_people_the_mean_has_no_interval() -> None:
    found = one_sample(np.full(8, 0.3))
    assert found.value == pytest.approx(0.3)
    assert np.isnan(found.low)
    assert "same value" in found.reason


def _one_person(lesions: pd.DataFrame) -> pd.DataFrame:
    return lesions[lesions["participant_id"] == "sub-0000"]


def _few_with_both(lesions: pd.DataFrame) -> pd.DataFrame:
    people = [f"sub-{number:04d}" for number in range(MIN_PARTICIPANTS - 1)]
    return lesions[(lesions["outcome"] == "TP") | lesions["participant_id"].isin(people)]


DEGENERATE: dict[str, tuple[Callable[[pd.DataFrame], pd.DataFrame], str]] = {
    "no row": (lambda t: t.iloc[:0], "no visit has both FP and TP"),
    "no value": (lambda t: t.assign(flair_peak=np.nan), "no visit has both FP and TP"),
    "one outcome": (lambda t: t[t["outcome"] == "TP"], "no visit has both FP and TP"),
    "one person": (_one_person, "1 participant with both"),
    "few with both": (_few_with_both, f"{MIN_PARTICIPANTS - 1} participants with both"),
    "equal values": (lambda t: t.assign(flair_peak=0.7), "all equal"),
    "only the outcome": (
        lambda t: t.assign(flair_peak=(t["outcome"] == "FP") * 0.1),
        "do not scatter",
    ),
    "constant covariate": (lambda t: t.assign(mean_probability=0.9), "cannot be told apart"),
    "covariate is outcome": (
        lambda t: t.assign(mean_probability=(t["outcome"] == "FP") * 0.5),
        "cannot be told apart",
    ),
    "missing covariate": (lambda t: t.assign(mean_probability=np.nan), "no visit has both"),
}


@pytest.mark.parametrize("case", DEGENERATE)
def test_tables_without_an_answer_have_a_reason_and_no_warning(case: str) -> None:
    spoil, reason = DEGENERATE[case]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = contrast_of_outcomes(spoil(cohort(8, 10)), "flair_peak", PAIR, HELD)
    assert reason in found.reason
    assert np.isnan([found.low, found.high, found.p, found.effect]).all()


@pytest.mark.parametrize(
    ("x", "y", "reason"),
    [
        (range(4), range(4), "4 participants"),
        ([1] * 8, range(8), "same value"),
        (range(8), [2] * 8, "same value"),
        (range(8), range(8), "no scatter"),
        ([0] * 7 + [1], [1, 2, 3, 2, 1, 2, 3, 9], "one participant alone"),
    ],
)
def test_slopes_without_an_answer_have_a_reason(
    x: list[float], y: list[float], reason: str
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert reason in slope(np.array(x, float), np.array(y, float)).reason


@pytest.mark.parametrize(
    ("first", "second", "reason"),
    [
        ([1, 2], [3, 4], "4 participants"),
        ([1, 2], [3, 4, 5, 6], "one level has 2"),
        ([], [3, 4, 5, 6, 7, 8], "one level has 0"),
        ([1, 1, 1], [2, 2, 2], "same value"),
    ],
)
def test_levels_without_an_answer_have_a_reason(
    first: list[float], second: list[float], reason: str
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = difference_of_levels(np.array(first, float), np.array(second, float))
    assert reason in found.reason


@pytest.mark.parametrize("t", [-40.0, -2.0, 0.0, 3.0, 80.0])
def test_noncentralities_are_where_the_distribution_says(t: float) -> None:
    low, high = noncentrality_interval(t, 12)
    np.testing.assert_allclose(stats.nct.cdf(t, 12, [low, high]), [0.975, 0.025], atol=1e-4)


@pytest.mark.parametrize("df", [2, 4, 12, 50, 1000])
@pytest.mark.parametrize("sign", [-1, 1])
def test_noncentralities_go_on_where_t_is_large(df: int, sign: int) -> None:
    below, above = (noncentrality_interval(sign * t, df) for t in (1e3, 1e3 * (1 + 1e-9)))
    assert above[0] < sign * 1e3 < above[1]
    np.testing.assert_allclose(above, below, rtol=5e-4)


@pytest.mark.parametrize("t", [-1e300, -1e5, 1e4, 1.6e7])
def test_noncentralities_of_a_large_t_are_in_proportion_to_it(t: float) -> None:
    expected = sorted(np.array(noncentrality_interval(2e3, 3)) * t / 2e3)
    np.testing.assert_allclose(noncentrality_interval(t, 3), expected)


def test_values_that_are_nearly_equal_have_an_answer_at_once() -> None:
    """The search for the noncentralities of these took minutes, or never ended."""
    values = 0.5 + 1e-7 * np.array([0.1, 0.2, 0.3])
    for found in (
        one_sample(values),
        one_sample(-values),
        difference_of_levels(values, 1 + values),
    ):
        assert found.reason == ""
        assert np.isfinite([*numbers(found), found.effect_low, found.effect_high]).all()
        assert found.effect_low < found.effect < found.effect_high
