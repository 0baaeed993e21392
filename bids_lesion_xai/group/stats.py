# SPDX-License-Identifier: Apache-2.0
"""Statistics over lesions, visits and participants. Pure functions of tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from scipy import stats

# An interval of a bootstrap over n people lies between the smallest and the largest of their
# values, which holds a symmetric distribution's mean with probability 1 - 2^(1 - n) only: below
# 6 people no such interval reaches 95 %.
MIN_PARTICIPANTS = 6
N_RESAMPLES = 4000


def summarise_lesions(lesions: pd.DataFrame, means: Mapping[str, str]) -> dict[str, float]:
    """Return the numbers of one visit from the table of its lesions.

    Parameters
    ----------
    lesions : DataFrame
        One row a lesion, with ``volume_mm3``; no row if there is no lesion.
    means : mapping of str to str
        Name of a number to the column whose mean over the lesions it is. Missing values are left
        out; the mean of nothing is NaN.

    Returns
    -------
    dict
        ``n_lesions`` (int), ``lesion_volume_mm3``, ``median_lesion_volume_mm3`` and `means`.

    Examples
    --------
    >>> lesions = pd.DataFrame({"volume_mm3": [8.0, 2.0, 5.0], "share": [0.5, 0.7, 0.9]})
    >>> {key: round(value, 3) for key, value in summarise_lesions(lesions, {"s": "share"}).items()}
    {'n_lesions': 3, 'lesion_volume_mm3': 15.0, 'median_lesion_volume_mm3': 5.0, 's': 0.7}
    """
    volumes = lesions["volume_mm3"].astype(float)
    return {
        "n_lesions": len(lesions),
        "lesion_volume_mm3": float(volumes.sum()),
        "median_lesion_volume_mm3": float(volumes.median()) if len(lesions) else np.nan,
        **{name: float(lesions[column].astype(float).mean()) for name, column in means.items()},
    }


def participant_means(visits: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """Return the mean over each participant's visits, one row a participant.

    Parameters
    ----------
    visits : DataFrame
        One row a visit, with ``participant_id`` and `columns`. Missing values are left out.
    columns : sequence of str
    """
    values = visits[list(columns)].astype(float)
    return values.groupby(visits["participant_id"].to_numpy()).mean()


def bootstrap_means(
    visits: pd.DataFrame,
    columns: Sequence[str],
    *,
    n_resamples: int = N_RESAMPLES,
    confidence: float = 0.95,
    random_seed: int = 0,
) -> pd.DataFrame:
    """Return the mean over participants of each column, with its bootstrap interval.

    Lesions are nested in visits and visits in people, so people are resampled: each counts once,
    with the mean over the visits, each the mean over its lesions. The interval is Hesterberg's
    expanded percentile interval, with the small-sample correction of a t interval.

    Parameters
    ----------
    visits : DataFrame
        With ``participant_id`` and `columns`. Who has no value in a column is left out of it.
    columns : sequence of str
    n_resamples, random_seed : int
        The same seed and visits give the same interval.
    confidence : float

    Returns
    -------
    DataFrame
        By column: ``mean``, ``low``, ``high`` (NaN below `MIN_PARTICIPANTS`), ``n_participants``.

    References
    ----------
    Hesterberg, The American Statistician 69 (2015), doi 10.1080/00031305.2015.1089789.
    """
    people = participant_means(visits, columns)
    rows = {}
    for column in columns:
        values = people[column].dropna().to_numpy()
        low, high = _interval(values, n_resamples, confidence, random_seed)
        mean = float(values.mean()) if values.size else np.nan
        rows[column] = {"mean": mean, "low": low, "high": high, "n_participants": values.size}
    return pd.DataFrame.from_dict(rows, orient="index")


def _interval(
    values: np.ndarray, n_resamples: int, confidence: float, random_seed: int
) -> tuple[float, float]:
    n = values.size
    if n < MIN_PARTICIPANTS:
        return np.nan, np.nan
    drawn = np.random.default_rng(random_seed).integers(0, n, (n_resamples, n))
    means = values[drawn].mean(axis=1)
    quantile = stats.t.ppf((1 - confidence) / 2, n - 1) * np.sqrt(n / (n - 1))
    tail = float(stats.norm.cdf(quantile))
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)
