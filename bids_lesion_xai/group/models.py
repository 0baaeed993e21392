# SPDX-License-Identifier: Apache-2.0
"""Estimates with 95 % intervals from values that are nested in people. Pure functions.

Whatever is asked, people are the units that are drawn from a population: lesions and visits of one
person make the person's value more precise, and never make more people.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import statsmodels.api as sm
from numpy.typing import NDArray
from scipy import special, stats
from statsmodels.stats.weightstats import CompareMeans, DescrStatsW

from bids_lesion_xai.group.stats import MIN_PARTICIPANTS

CONFIDENCE = 0.95
# Student's interval of a mean holds with any number of people, if their values are normal; with
# two it is wider than any mean is worth.
MIN_OF_MEAN = 3
# Fewer people of one level of a covariate say nothing of how much people of that level differ.
MIN_OF_LEVEL = 3
# Weight of a person's contrast: see `contrast_of_outcomes`. With this sum of squares (8 lesions of
# each outcome), its noise is as large as the difference between people, if that has half the
# standard deviation of lesions of a visit: 1 / 0.5^2.
HALF_WEIGHT = 4.0

# Less than this, relative to the numbers it comes from, is rounding.
_NOTHING = 1e-9
_TAIL = (1 - CONFIDENCE) / 2
# Beyond it, the search for noncentralities may take forever or fail, and their limit is near.
_LARGE_T = 1e3

Floats: TypeAlias = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Estimate:
    """A number with its interval; NaN where there is none.

    Parameters
    ----------
    value, low, high : float
    p : float
        Two-sided, of the hypothesis that `value` is what the function names.
    effect, effect_low, effect_high : float
        Without units; each function names its kind.
    n_participants, n_lesions : int
    reason : str
        Why there is no interval, else empty.
    """

    value: float = np.nan
    low: float = np.nan
    high: float = np.nan
    p: float = np.nan
    effect: float = np.nan
    effect_low: float = np.nan
    effect_high: float = np.nan
    n_participants: int = 0
    n_lesions: int = 0
    reason: str = ""


def mean_of_people(lesions: pd.DataFrame, column: str, null: float = 0.0) -> Estimate:
    """Return the mean over people of a column of lesions, each person counting once.

    A person's value is the mean over the lesions of a visit, then over the visits. The interval is
    that of Student, with as many degrees of freedom as there are people, less one. The effect is
    Cohen's dz, (mean - `null`) / standard deviation over people, with the exact interval of a
    normal distribution (noncentral t). Below `MIN_OF_MEAN` people there is none.

    Parameters
    ----------
    lesions : DataFrame
        With ``participant_id``, ``session_id`` and `column`. Missing values are left out.
    column : str
    null : float
        What `p` tests.
    """
    known = lesions.dropna(subset=[column])
    visits = known.groupby(["participant_id", "session_id"], dropna=False)[column].mean()
    people = visits.groupby("participant_id").mean()
    return replace(one_sample(people.to_numpy(float), null), n_lesions=len(known))


def one_sample(values: Floats, null: float = 0.0) -> Estimate:
    """Return the mean of one value a person; see `mean_of_people`."""
    n = values.size
    mean = float(values.mean()) if n else np.nan
    plain = Estimate(mean, n_participants=n)
    if n < MIN_OF_MEAN:
        return replace(plain, reason=_too_few(n, least=MIN_OF_MEAN))
    if _is_constant(values):
        return replace(plain, reason="all participants have the same value")
    sample = DescrStatsW(values)
    t, p, df = sample.ttest_mean(null)
    effects = np.array([t, *noncentrality_interval(t, df)]) / np.sqrt(n)
    return _completed(plain, sample.tconfint_mean(1 - CONFIDENCE), p, effects)


def contrast_of_outcomes(
    lesions: pd.DataFrame, column: str, pair: tuple[str, str], covariates: Sequence[str] = ()
) -> Estimate:
    """Return by how much lesions of one outcome exceed those of another, in the same visit.

    Each value is taken relative to the mean of its visit, which removes whatever distinguishes
    people and visits (scanner, contrast, how ill somebody is), and regressed on the outcome and
    `covariates` by generalised estimating equations with people as clusters. A person's lesions
    count h / (h + `HALF_WEIGHT`) in all, h being the sum of squares of the outcome within the
    visits (n1 n2 / (n1 + n2) in one visit), so that nobody counts much more than once. The
    covariance is the bias-reduced one of Mancl and DeRouen (Biometrics 57, 2001, doi
    10.1111/j.0006-341X.2001.00126.x), the quantile that of Student with as many degrees of freedom
    as there are people with both outcomes, less one.

    The effect is the estimate divided by the standard deviation of lesions of the same visit and
    outcome, which is taken as known.

    Why not a mixed model: with 8, 20 and 60 people whose effects differ (with half the standard
    deviation of the lesions), 95 % intervals of a random intercept held the truth in 66 to 77 % of
    400 simulated cohorts, and those of this function in 95 to 97 % (94 to 98 % where effects are
    the same for all). Exchangeable estimating equations held it in 93 to 95 %, but let in what
    differs between visits, and the people with the most lesions decide.
    ``python -m benchmarks.cohort --models 400`` repeats it.

    Parameters
    ----------
    lesions : DataFrame
        With ``participant_id``, ``session_id``, ``outcome``, `column` and `covariates`. Rows with
        a missing value are left out.
    column : str
    pair : tuple of str
        Outcomes; the estimate is the first less the second.
    covariates : sequence of str
        Columns that are held equal, on a straight line.
    """
    rows = lesions[lesions["outcome"].isin(pair)].dropna(subset=[column, *covariates])
    values = _less_visit_means(rows, column, pair[0], covariates)
    plain = Estimate(n_participants=np.unique(values.people).size, n_lesions=values.n_compared)
    if not values.y.size:
        return replace(plain, reason=f"no visit has both {pair[0]} and {pair[1]}")
    if _is_constant(values.y, values.size):
        return replace(plain, reason="the values of a visit are all equal")
    y, X, people = _compress(values)
    if np.linalg.matrix_rank(X, tol=1e-6 * np.linalg.norm(X)) < X.shape[1]:
        reason = f"outcome, {' and '.join(covariates)} cannot be told apart within visits"
        return replace(plain, reason=reason)
    plain = replace(plain, value=float(np.linalg.lstsq(X, y)[0][0]))
    if plain.n_participants < MIN_PARTICIPANTS:
        return replace(plain, reason=_too_few(plain.n_participants, " with both in one visit"))
    return _fit_clusters(plain, y, X, people, values.deviation)


@dataclass(frozen=True)
class _Deviations:
    """Lesions of people with both outcomes in a visit, less the means of their visits.

    Parameters
    ----------
    y : ndarray (n,)
    X : ndarray (n, k)
        The outcome, 1 or 0, then covariates of unit length in all.
    people : ndarray (n,)
        Numbers in ascending order.
    deviation : float
        Standard deviation of `y` of the same visit and outcome; NaN if no two lesions have both.
    size : float
        Largest magnitude of `y` before.
    n_compared : int
        Lesions of visits with both outcomes; the others of these people tell of covariates and
        of the deviation alone.
    """

    y: Floats
    X: Floats
    people: NDArray[np.int64]
    deviation: float
    size: float
    n_compared: int


def _less_visit_means(
    rows: pd.DataFrame, column: str, first: str, covariates: Sequence[str]
) -> _Deviations:
    names = [column, "outcome", *covariates]
    rows = rows.assign(outcome=(rows["outcome"] == first) * 1.0)
    rows = rows.sort_values(["participant_id", "session_id", *names], kind="stable")
    numbers = rows[names].astype(float)
    people = pd.Series(pd.factorize(rows["participant_id"])[0], rows.index)
    visits = rows.groupby(["participant_id", "session_id"], dropna=False).ngroup()
    within = numbers - numbers.groupby(visits).transform("mean")
    squares = within["outcome"] ** 2
    kept = (squares.groupby(people).transform("sum") > _NOTHING).to_numpy()
    cells = numbers[column].groupby([visits, numbers["outcome"]])
    residual = (numbers[column] - cells.transform("mean"))[kept]
    freedom = int(kept.sum()) - cells.ngroup()[kept].nunique()
    held = within.loc[kept, list(covariates)]
    sizes = numbers.loc[kept, list(covariates)].abs().max()
    spread = held.std(ddof=0).where(lambda deviation: deviation > _NOTHING * sizes, np.inf)
    return _Deviations(
        within.loc[kept, column].to_numpy(),
        np.column_stack([within.loc[kept, "outcome"], held / spread]),
        people[kept].to_numpy(),
        float(np.sqrt((residual**2).sum() / freedom)) if freedom else np.nan,
        float(numbers.loc[kept, column].abs().max()) if kept.any() else 0.0,
        int((squares.groupby(visits).transform("sum") > _NOTHING).sum()),
    )


def _compress(
    values: _Deviations,
) -> tuple[Floats, Floats, NDArray[np.int64]]:
    """Return response, regressors and person of a few rows that say what all rows say.

    The lesions X, y of a person are replaced by R, Q'y of X = QR. Estimate and bias-reduced
    covariance stay exactly the same, and thousands of lesions of one person cost nothing.
    """
    responses: list[Floats] = []
    designs: list[Floats] = []
    people: list[NDArray[np.int64]] = []
    starts = np.unique(values.people, return_index=True)[1][1:]
    for X, y in zip(np.split(values.X, starts), np.split(values.y, starts), strict=True):
        Q, R = np.linalg.qr(X)
        weight = 1 / np.sqrt(X[:, 0] @ X[:, 0] + HALF_WEIGHT)
        people.append(np.full(len(R), len(people)))
        responses.append(weight * (Q.T @ y))
        designs.append(weight * R)
    return np.concatenate(responses), np.concatenate(designs), np.concatenate(people)


def _fit_clusters(
    plain: Estimate,
    y: Floats,
    X: Floats,
    people: NDArray[np.int64],
    deviation: float,
) -> Estimate:
    scale = float(np.sqrt((y**2).mean()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for kind in (RuntimeWarning, UserWarning):
            warnings.simplefilter("error", kind)
        try:
            fit = sm.GEE(y / scale, X, groups=people).fit(cov_type="bias_reduced")
            value, error = scale * float(fit.params[0]), scale * float(fit.bse[0])
        except (np.linalg.LinAlgError, ValueError, RuntimeWarning, UserWarning):
            value, error = plain.value, np.nan
    if not error > _NOTHING * scale:
        return replace(plain, reason="the differences do not scatter over participants")
    df = plain.n_participants - 1
    margin = float(stats.t.ppf(1 - _TAIL, df)) * error
    numbers = np.array([value, value - margin, value + margin])
    p = 2 * stats.t.sf(abs(value) / error, df)
    effects = numbers / (deviation if deviation > 0 else np.nan)
    return _completed(replace(plain, value=value), numbers[1:], p, effects)


def difference_of_levels(first: Floats, second: Floats) -> Estimate:
    """Return by how much the mean of `first` exceeds that of `second`, one value a person.

    Interval and p are those of Welch, which need no equal variances and hold with few people of a
    level. The effect is Cohen's d, with the interval of the noncentral t distribution.
    """
    n = first.size + second.size
    value = float(first.mean() - second.mean()) if first.size and second.size else np.nan
    plain = Estimate(value, n_participants=n)
    least = min(first.size, second.size)
    if n < MIN_PARTICIPANTS:
        return replace(plain, reason=_too_few(n))
    if least < MIN_OF_LEVEL:
        reason = f"one level has {least} of the participants, and {MIN_OF_LEVEL} are needed"
        return replace(plain, reason=reason)
    if _is_constant(first) and _is_constant(second):
        return replace(plain, reason="all participants of a level have the same value")
    both = CompareMeans(DescrStatsW(first), DescrStatsW(second))
    interval = both.tconfint_diff(1 - CONFIDENCE, usevar="unequal")
    p = both.ttest_ind(usevar="unequal")[1]
    t, _, df = both.ttest_ind(usevar="pooled")
    scale = np.sqrt(1 / first.size + 1 / second.size)
    return _completed(plain, interval, p, scale * np.array([t, *noncentrality_interval(t, df)]))


def slope(x: Floats, y: Floats) -> Estimate:
    """Return the slope of `y` over `x`, one value of each a person.

    Least squares with the covariance HC3 (MacKinnon and White 1985), which holds where the spread
    changes along the line. The effect is Pearson's correlation, with Fisher's interval.
    """
    n = x.size
    plain = Estimate(n_participants=n)
    if n < MIN_PARTICIPANTS:
        return replace(plain, reason=_too_few(n))
    if _is_constant(x) or _is_constant(y):
        return replace(plain, reason="all participants have the same value")
    spread = float(x.std())
    standard = (x - x.mean()) / spread
    fit = sm.OLS(y - y.mean(), sm.add_constant(standard)).fit()
    value = float(fit.params[1]) / spread
    exact = np.sqrt((fit.resid**2).mean()) <= 1e-9 * y.std()
    if exact or fit.get_influence().hat_matrix_diag.max() > 1 - 1e-9:
        reason = "one participant alone makes the slope"
        return replace(plain, value=value, reason="no scatter" if exact else reason)
    robust = fit.get_robustcov_results("HC3", use_t=True)
    interval = robust.conf_int(1 - CONFIDENCE)[1] / spread
    r = float(np.corrcoef(x, y)[0, 1])
    reach = float(stats.norm.ppf(1 - _TAIL)) / np.sqrt(n - 3)
    effects = np.tanh(np.arctanh(r) + reach * np.array([0, -1, 1]))
    return _completed(replace(plain, value=value), interval, robust.pvalues[1], effects)


def noncentrality_interval(t: float, df: float) -> tuple[float, float]:
    """Return the noncentralities of which `t` is just not too large and just not too small.

    >>> low, high = noncentrality_interval(2.0, 9)
    >>> round(low, 3), round(high, 3)
    (-0.206, 4.116)
    """
    if abs(t) > _LARGE_T:
        # A noncentral t is (z + noncentrality) / sqrt(chi2 / df); of a large one, z is nothing. At
        # `_LARGE_T` the two differ by less than 3e-4 of themselves, from 2 to 5000 degrees.
        limits = t * np.sqrt(stats.chi2.ppf([_TAIL, 1 - _TAIL], df) / df)
        low, high = sorted(map(float, limits))
        return low, high
    low, high = special.nctdtrinc(df, [1 - _TAIL, _TAIL], t)
    return float(low), float(high)


def _completed(
    plain: Estimate, interval: Sequence[float] | Floats, p: float, effects: Floats
) -> Estimate:
    """Return an estimate with interval, p, and effect size with the limits of its interval."""
    low, high = interval
    effect, effect_low, effect_high = map(float, effects)
    return replace(
        plain,
        low=float(low),
        high=float(high),
        p=float(p),
        effect=effect,
        effect_low=effect_low,
        effect_high=effect_high,
    )


def _is_constant(values: Floats, size: float | None = None) -> bool:
    """Tell whether values differ by no more than rounding."""
    size = float(np.abs(values).max()) if size is None else size
    return float(np.ptp(values)) <= 1e-12 * size


def _too_few(n: int, which: str = "", least: int = MIN_PARTICIPANTS) -> str:
    who = "participant" if n == 1 else "participants"
    return f"{n} {who}{which} and at least {least} are needed"
