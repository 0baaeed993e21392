# SPDX-License-Identifier: Apache-2.0
"""Whether saliency tells more than the baseline, on people left out. Pure functions of tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from bids_lesion_xai.flag.features import BASELINE, SALIENCY, SETS
from bids_lesion_xai.flag.runs import OUTCOME, PERSON
from bids_lesion_xai.flag.scores import area_under_curve, log_losses, scores, squared_errors
from bids_lesion_xai.flag.train import FEATURE_SET, FOLD
from bids_lesion_xai.group.stats import MIN_PARTICIPANTS, bootstrap_means

# The one measure that decides, chosen before any result was seen: it rewards probabilities that
# can be taken at their word, needs no cut, and every lesion of every person has it.
PRIMARY = "log_loss"
# Of the last one, a larger value is better; of the others, a smaller one.
MEASURES = (PRIMARY, "brier", "auc")
OVERALL = "overall"
# Where saliency has weight 0, both classifiers are the same but for rounding, of which even the
# interval may lie on one side of 0.
_ROUNDING = 1e-9
_SAME = "both are the same, since saliency was left out (weight 0) in every fold"


@dataclass(frozen=True)
class Verdict:
    """Whether saliency beats the baseline, and why, in words."""

    beats: bool
    text: str


def score_rows(
    predictions: pd.DataFrame, choices: Sequence[Mapping[str, Any]], missed: Mapping[str, int]
) -> pd.DataFrame:
    """Return the figures of each fold and of all people together, for each set of features.

    Parameters
    ----------
    predictions : DataFrame
    choices : list of dict
        Both of `train.cross_validate`.
    missed : mapping of str to int
        The number of missed lesions by person.
    """
    rows = []
    for choice in choices:
        fold = predictions[predictions[FOLD] == choice[FOLD]]
        people = sorted(set(fold[PERSON]))
        n_missed = sum(missed.get(person, 0) for person in people)
        rows.append({**choice, "people": ", ".join(people), **_scores(fold, choice, n_missed)})
    for name in SETS:
        everybody = f"{predictions[PERSON].nunique()} people"
        choice = {FOLD: OVERALL, FEATURE_SET: name}
        figures = _scores(predictions, choice, sum(missed.values()))
        rows.append({**choice, "people": everybody, **figures})
    return pd.DataFrame(rows)


def _scores(table: pd.DataFrame, choice: Mapping[str, Any], n_missed: int) -> dict[str, Any]:
    name = choice[FEATURE_SET]
    return scores(
        table[f"probability_{name}"].to_numpy(dtype=float),
        table[f"flagged_{name}"].to_numpy(dtype=bool),
        false_lesions(table),
        n_missed,
    )


def false_lesions(predictions: pd.DataFrame) -> np.ndarray:
    """Return whether each lesion is false."""
    return (predictions[OUTCOME] == "FP").to_numpy(dtype=bool)


def people_rows(predictions: pd.DataFrame) -> pd.DataFrame:
    """Return the measures of each person, for both sets of features, and their difference.

    Returns
    -------
    table : DataFrame
        One row a person: ``person``, ``n_lesions``, ``n_false``, and for each of `MEASURES`
        ``MEASURE_baseline``, ``MEASURE_saliency`` and ``MEASURE_difference``, saliency minus
        baseline, exactly 0 where they differ by rounding. The area under the curve is NaN for a
        person without both kinds of lesions.
    """
    rows = []
    for person, own in predictions.groupby(PERSON):
        false = false_lesions(own)
        row: dict[str, Any] = {PERSON: person, "n_lesions": len(own), "n_false": false.sum()}
        for name in SETS:
            probability = own[f"probability_{name}"].to_numpy(dtype=float)
            row[f"{PRIMARY}_{name}"] = log_losses(probability, false).mean()
            row[f"brier_{name}"] = squared_errors(probability, false).mean()
            row[f"auc_{name}"] = area_under_curve(probability, false)
        for measure in MEASURES:
            both = (row[f"{measure}_{name}"] for name in (BASELINE, SALIENCY))
            row[f"{measure}_difference"] = _difference(*both)
        rows.append(row)
    return pd.DataFrame(rows)


def _difference(baseline: float, saliency: float) -> float:
    """Return saliency minus baseline, 0 if it is rounding."""
    difference = saliency - baseline
    return 0.0 if abs(difference) <= _ROUNDING * max(1, abs(baseline)) else difference


def compare(people: pd.DataFrame, random_seed: int = 0) -> pd.DataFrame:
    """Return the mean over people of each difference, with its 95 % interval.

    Parameters
    ----------
    people : DataFrame
        Of `people_rows`. People are resampled, and each counts once.
    random_seed : int

    Returns
    -------
    table : DataFrame
        Index `MEASURES`; ``baseline``, ``saliency`` and ``difference`` are means over people,
        ``low`` and ``high`` the ends of the interval of the difference (NaN below
        `MIN_PARTICIPANTS` people), ``n_people`` those who have the measure.
    """
    columns = [column for measure in MEASURES for column in _columns_of(measure)]
    visits = people.rename(columns={PERSON: "participant_id"})
    means = bootstrap_means(visits, columns, random_seed=random_seed).to_dict("index")
    rows: dict[str, dict[str, float]] = {}
    for measure in MEASURES:
        *both, column = _columns_of(measure)
        found = means[column]
        rows[measure] = {name: means[of]["mean"] for name, of in zip(SETS, both, strict=True)}
        rows[measure] |= {"difference": found["mean"], "low": found["low"], "high": found["high"]}
        rows[measure] |= {"n_people": int(found["n_participants"])}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("measure")


def _columns_of(measure: str) -> Iterator[str]:
    yield from (f"{measure}_{name}" for name in SETS)
    yield f"{measure}_difference"


def judge(comparison: pd.DataFrame) -> Verdict:
    """Return whether saliency beats the baseline: the whole interval of `PRIMARY` is below 0.

    Parameters
    ----------
    comparison : DataFrame
        Of `compare`.
    """
    row = comparison.to_dict("index")[PRIMARY]
    n_people = int(row["n_people"])
    same = comparison[["difference", "low", "high"]].fillna(0).eq(0).all(axis=None)
    if np.isnan(row["low"]):
        differs = f"The log loss differs by {row['difference']:+.4f}"
        return Verdict(
            False,
            f"It cannot be shown that saliency beats the baseline: with {n_people} people there "
            f"is no 95 % interval; at least {MIN_PARTICIPANTS} are needed. "
            f"{_SAME.capitalize() if same else differs}.",
        )
    if same:
        return Verdict(False, f"Saliency does not beat the baseline: {_SAME}.")
    found = (
        f"the log loss on {n_people} left-out people differs by {row['difference']:+.4f} (95 % "
        f"interval over people {row['low']:+.4f} to {row['high']:+.4f}; below 0 is better)"
    )
    if row["high"] < 0:
        return Verdict(True, f"Saliency beats the baseline: {found}.")
    if row["low"] > 0:
        return Verdict(False, f"Saliency is worse than the baseline: {found}.")
    return Verdict(False, f"Saliency does not beat the baseline: {found}.")
