# SPDX-License-Identifier: Apache-2.0
"""Training of the flag, and what it is worth on people whom it has never seen.

Everything that is learnt from data (the fill for missing values, mean and scale of the features,
the penalty, the coefficients, the cut) is learnt from the people of the
training alone: people are left out twice, once to judge, and among the others once to choose.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from bids_lesion_xai.errors import DataError
from bids_lesion_xai.flag.classifier import Flag, flag_probability
from bids_lesion_xai.flag.features import BASELINE, SETS, feature_values
from bids_lesion_xai.flag.runs import IDS, OUTCOME, PERSON
from bids_lesion_xai.flag.scores import Mask, Values, best_cut, log_losses

log = logging.getLogger(__name__)

# Up to 10 people, each is left out alone.
OUTER_FOLDS = 10
INNER_FOLDS = 5
# One to judge, and two to choose with.
MIN_PEOPLE = 3
# C of scikit-learn, from strong to weak regularisation, and how many standard deviations wide the
# saliency features are made beside those of the baseline: what is narrow, is drawn to 0 more. 27
# numbers that may tell nothing must not drown three that do; with 0, there is the baseline alone.
STRENGTHS = tuple(10.0**power for power in range(-3, 3))
WEIGHTS = (0.0, 0.1, 0.3, 1.0)
# A lesion above the cut is flagged; above 1 there is none.
CUTS = tuple(round(0.05 * step, 2) for step in range(1, 21))

FOLD, FEATURE_SET = "fold", "features"


@dataclass(frozen=True)
class Cohort:
    """Lesions that are known to be true or false.

    Parameters
    ----------
    table : DataFrame
        One row a lesion, with the columns of the output ``group_lesions`` and ``person``;
        ``outcome`` is TP or FP.
    missed : mapping of str to int
        The number of lesions of the reference that were missed, by person.
    """

    table: pd.DataFrame
    missed: Mapping[str, int]

    @property
    def false(self) -> Mask:
        """Whether each lesion is false."""
        return (self.table[OUTCOME] == "FP").to_numpy(dtype=bool)

    @property
    def person(self) -> np.ndarray:
        """The person of each lesion."""
        return self.table[PERSON].to_numpy(dtype=str)

    @property
    def people(self) -> list[str]:
        """The people who have a lesion, in order."""
        return sorted(set(self.person))

    @property
    def n_missed(self) -> int:
        """The number of lesions of the reference that were missed, in all people."""
        return sum(self.missed.values())

    def rows(self, which: Mask) -> Cohort:
        """Return the lesions `which`, with what was missed in the people who have them."""
        table = self.table[which].reset_index(drop=True)
        people = set(table[PERSON])
        return Cohort(table, {who: n for who, n in self.missed.items() if who in people})


@dataclass(frozen=True)
class Penalty:
    """How much the coefficients are drawn to 0.

    Parameters
    ----------
    strength : float
        C of scikit-learn's L2 regularisation, which shares a weight out among features that say
        the same.
    weight : float
        Of `WEIGHTS`.
    widths : float64 array, shape (features,)
        Standard deviation that each feature is given: `weight` for those of saliency, else 1.
    """

    strength: float
    weight: float
    widths: Values


def cohort_of(lesions: pd.DataFrame) -> Cohort:
    """Return the lesions to learn from.

    Parameters
    ----------
    lesions : DataFrame
        Of `runs.read_lesions`.

    Raises
    ------
    DataError
        There is no reference, there are too few people, or all lesions are true or all false.
    """
    outcome = lesions.get(OUTCOME, pd.Series(index=lesions.index, dtype=object))
    found = lesions[outcome.isin(["TP", "FP"])].sort_values(list(IDS)).reset_index(drop=True)
    if found.empty:
        message = (
            "No lesion is known to be true or false: the column outcome is missing or empty. Run "
            "the participant level with --reference-masks, then the group level."
        )
        raise DataError(message)
    missed = lesions.loc[outcome == "FN", PERSON].value_counts()
    cohort = Cohort(found, {str(person): int(n) for person, n in missed.items()})
    n_false, n_people = int(cohort.false.sum()), len(cohort.people)
    if n_people < MIN_PEOPLE:
        message = (
            f"The number of people with lesions known to be true or false is {n_people} "
            f"({', '.join(cohort.people)}). At least {MIN_PEOPLE} are expected: people are left "
            "out to judge and to choose."
        )
        raise DataError(message)
    for outcomes, n in (("false", n_false), ("true", len(found) - n_false)):
        if not n:
            message = (
                f"None of {len(found)} lesions is {outcomes}; to tell them apart, both kinds are "
                "needed."
            )
            raise DataError(message)
    return cohort


def train(cohort: Cohort, features: tuple[str, ...]) -> Flag:
    """Return a classifier, with penalty and cut chosen on people left out of the training.

    Parameters
    ----------
    cohort : Cohort
        With true and with false lesions.
    features : tuple of str
    """
    values = feature_values(cohort.table, features)
    choices = _candidates(features)
    best, cut = _choose(values, cohort, choices)
    standard = standardise().fit(values)
    scaler = standard["scale"]
    regression = regress(standard.transform(values), cohort.false, best)
    return Flag(
        features,
        fill=tuple(map(float, np.nan_to_num(standard["fill"].statistics_))),
        mean=tuple(map(float, scaler.mean_)),
        scale=tuple(map(float, scaler.scale_)),
        coefficients=tuple(map(float, regression.coef_[0] * best.widths)),
        intercept=float(regression.intercept_[0]),
        cut=cut,
        strength=best.strength,
        weight=best.weight,
    )


def _candidates(features: tuple[str, ...]) -> list[Penalty]:
    """Return the penalties to choose from, the simplest first."""
    basic = np.array([name in SETS[BASELINE] for name in features])
    weights = (1.0,) if basic.all() else WEIGHTS
    return [
        Penalty(strength, weight, np.where(basic, 1.0, weight))
        for weight in weights
        for strength in STRENGTHS
    ]


def standardise() -> Pipeline:
    """Return what fills missing features with the median and standardises all, not fitted yet."""
    fill = SimpleImputer(strategy="median", keep_empty_features=True)
    return Pipeline([("fill", fill), ("scale", StandardScaler())])


def regress(standard: Values, false: Mask, penalty: Penalty) -> LogisticRegression:
    """Return a logistic regression on standardised features times the widths of `penalty`.

    Lesions have no weights, so that the probabilities are those of the lesions as they come.
    """
    regression = LogisticRegression(C=penalty.strength, solver="newton-cholesky", tol=1e-8)
    return regression.fit(standard * penalty.widths, false)


def _choose(values: Values, cohort: Cohort, choices: Sequence[Penalty]) -> tuple[Penalty, float]:
    """Return the penalty of the least log loss, and the cut of the best F1, on people left out.

    Of equal penalties it is the first. If people cannot be left out, as one of them has all false
    lesions, it is the first, with a cut that flags nothing.
    """
    false = cohort.false
    left = np.full((len(choices), false.size), np.nan)
    for left_out in _folds(cohort.person, INNER_FOLDS):
        if _has_both(false[~left_out]):
            standard = standardise().fit(values[~left_out])
            training, other = (standard.transform(values[rows]) for rows in (~left_out, left_out))
            for row, penalty in zip(left, choices, strict=True):
                regression = regress(training, false[~left_out], penalty)
                row[left_out] = regression.predict_proba(other * penalty.widths)[:, 1]
    judged = ~np.isnan(left[0])
    if not judged.any():
        return choices[0], CUTS[-1]
    losses = [log_losses(row[judged], false[judged]).mean() for row in left]
    best = int(np.argmin(losses))
    n_missed = cohort.rows(judged).n_missed
    return choices[best], best_cut(left[best][judged], false[judged], n_missed, CUTS)


def cross_validate(cohort: Cohort) -> tuple[pd.DataFrame, list[dict[str, Any]]]:
    """Return what classifiers that were trained without a person say of the person's lesions.

    Parameters
    ----------
    cohort : Cohort

    Returns
    -------
    predictions : DataFrame
        One row a lesion: `IDS`, ``outcome``, ``fold``, and for each of `SETS` ``probability_SET``
        of being false, and ``flagged_SET``.
    choices : list of dict
        ``fold``, ``features`` (of `SETS`), ``strength``, ``weight`` and ``cut``.

    Raises
    ------
    DataError
        Without some people, all lesions are true or all false.
    """
    n_lesions = len(cohort.table)
    folds = np.zeros(n_lesions, dtype=int)
    probabilities = {name: np.empty(n_lesions) for name in SETS}
    flagged = {name: np.empty(n_lesions, dtype=bool) for name in SETS}
    choices: list[dict[str, Any]] = []
    ways = list(_folds(cohort.person, OUTER_FOLDS))
    for number, left_out in enumerate(ways, start=1):
        judged, training = cohort.rows(left_out), cohort.rows(~left_out)
        _require_both(training, judged.people)
        log.info("fold %d of %d: without %s", number, len(ways), ", ".join(judged.people))
        folds[left_out] = number
        for name, features in SETS.items():
            flag = train(training, features)
            probability = flag_probability(flag, judged.table)
            probabilities[name][left_out] = probability
            flagged[name][left_out] = probability > flag.cut
            chosen = {"strength": flag.strength, "weight": flag.weight, "cut": flag.cut}
            choices.append({FOLD: number, FEATURE_SET: name, **chosen})
    predictions = cohort.table[[*IDS, OUTCOME]].assign(
        **{FOLD: folds},
        **{f"probability_{name}": values for name, values in probabilities.items()},
        **{f"flagged_{name}": values for name, values in flagged.items()},
    )
    return predictions, choices


def _folds(person: np.ndarray, most: int) -> Iterator[Mask]:
    """Yield who is left out, so that each person is once, and with all lesions."""
    n_folds = min(most, np.unique(person).size)
    for _, left_out in GroupKFold(n_folds).split(person, groups=person):
        mask = np.zeros(person.size, dtype=bool)
        mask[left_out] = True
        yield mask


def _has_both(false: Mask) -> bool:
    return bool(false.any() and not false.all())


def _require_both(training: Cohort, left_out: list[str]) -> None:
    if not _has_both(training.false):
        kind = "false" if training.false.all() else "true"
        message = (
            f"Without {', '.join(left_out)}, all lesions are {kind}: nothing can be learnt from "
            "the others. More people with reference masks are needed."
        )
        raise DataError(message)
