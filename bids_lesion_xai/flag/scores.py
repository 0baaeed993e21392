# SPDX-License-Identifier: Apache-2.0
"""How well probabilities of being false agree with what is false. Pure functions of arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, roc_auc_score

Values = NDArray[np.float64]
Mask = NDArray[np.bool_]

MOST_BINS = 10
# A probability of 0 or 1 has a finite loss.
_LEAST_PROBABILITY = 1e-12


def log_losses(probability: Values, false: Mask) -> Values:
    """Return minus the natural logarithm of the probability of what came true, by lesion."""
    clipped = np.clip(probability, _LEAST_PROBABILITY, 1 - _LEAST_PROBABILITY)
    return np.asarray(-np.log(np.where(false, clipped, 1 - clipped)))


def squared_errors(probability: Values, false: Mask) -> Values:
    """Return the squared distance from 0 or 1, by lesion; its mean is the Brier score."""
    return (probability - false) ** 2


def area_under_curve(probability: Values, false: Mask) -> float:
    """Return the chance that a false lesion gets a higher probability than a true one.

    NaN if there are not both.
    """
    return float(roc_auc_score(false, probability)) if _both(false) else np.nan


def reliability(probability: Values, false: Mask) -> list[dict[str, float]]:
    """Return the reliability curve in bins of equal numbers of lesions.

    Parameters
    ----------
    probability : float64 array, shape (lesions,)
    false : bool array, shape (lesions,)

    Returns
    -------
    rows : list of dict
        ``n_lesions``, ``probability`` (mean) and ``false_part``, from the lowest probability on.

    References
    ----------
    Nixon et al., "Measuring calibration in deep learning", CVPR workshops 2019.
    """
    order = np.argsort(probability, kind="stable")
    return [
        {
            "n_lesions": int(rows.size),
            "probability": float(probability[rows].mean()),
            "false_part": float(false[rows].mean()),
        }
        for rows in np.array_split(order, min(MOST_BINS, order.size))
    ]


def calibration_error(probability: Values, false: Mask) -> float:
    """Return the mean distance of the two sides of `reliability`, weighted by lesions."""
    rows = reliability(probability, false)
    return sum(
        row["n_lesions"] / false.size * abs(row["probability"] - row["false_part"]) for row in rows
    )


def calibration_line(probability: Values, false: Mask) -> tuple[float, float]:
    """Return slope and intercept of the true log-odds over the predicted ones.

    They are 1 and 0 for calibrated probabilities; a slope below 1 means that they are too sure.
    NaN if the lesions are all true or all false, or if one probability parts the true ones from
    the false ones: such a line gets ever steeper, and does not exist.

    References
    ----------
    Cox, Biometrika 45 (1958), doi 10.1093/biomet/45.3-4.562.
    """
    predicted = special.logit(np.clip(probability, _LEAST_PROBABILITY, 1 - _LEAST_PROBABILITY))
    if not _both(false) or _parted(predicted[false], predicted[~false]):
        return np.nan, np.nan
    regression = LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-8)
    line = regression.fit(predicted[:, None], false)
    return float(line.coef_[0, 0]), float(line.intercept_[0])


def _parted(first: Values, second: Values) -> bool:
    """Tell whether all of the one are above all of the other, or equal at most."""
    return bool(first.max() <= second.min() or second.max() <= first.min())


def lesion_rates(kept: Mask, false: Mask, n_missed: int) -> dict[str, float]:
    """Return lesion-wise precision, recall and F1 when only some lesions are kept.

    Parameters
    ----------
    kept, false : bool arrays, shape (lesions,)
    n_missed : int
        Lesions of the reference that were not found. A true lesion that is not kept is one more.

    Returns
    -------
    rates : dict
        ``precision`` (NaN if nothing is kept), ``recall`` (NaN if there is nothing to find), and
        ``f1``, their harmonic mean.
    """
    n_kept, n_true = int(kept.sum()), int((kept & ~false).sum())
    n_all = int((~false).sum()) + n_missed
    return {
        "precision": n_true / n_kept if n_kept else np.nan,
        "recall": n_true / n_all if n_all else np.nan,
        "f1": 2 * n_true / (n_kept + n_all) if n_kept + n_all else np.nan,
    }


def best_cut(probability: Values, false: Mask, n_missed: int, cuts: Sequence[float]) -> float:
    """Return the cut with the highest F1 when lesions above it are dropped.

    Parameters
    ----------
    probability : float64 array, shape (lesions,)
    false : bool array, shape (lesions,)
    n_missed : int
        See `lesion_rates`.
    cuts : sequence of float
        Of equal ones, the highest wins: it drops fewest.
    """
    # Where nothing is kept and nothing is to be found, F1 is NaN, of which none is the highest.
    f1 = {cut: lesion_rates(probability <= cut, false, n_missed)["f1"] for cut in cuts}
    return max(cuts, key=lambda cut: (np.nan_to_num(f1[cut]), cut))


def scores(probability: Values, flagged: Mask, false: Mask, n_missed: int) -> dict[str, Any]:
    """Return all figures of probabilities of people who were left out.

    Parameters
    ----------
    probability : float64 array, shape (lesions,)
        Of being false.
    flagged, false : bool arrays, shape (lesions,)
    n_missed : int
        See `lesion_rates`.
    """
    slope, intercept = calibration_line(probability, false)
    before = lesion_rates(np.ones_like(false), false, n_missed)
    after = lesion_rates(~flagged, false, n_missed)
    return {
        "n_lesions": false.size,
        "n_false": int(false.sum()),
        "n_missed": n_missed,
        "log_loss": float(log_losses(probability, false).mean()),
        "brier": float(squared_errors(probability, false).mean()),
        "auc": area_under_curve(probability, false),
        "average_precision": _average_precision(probability, false),
        "calibration_error": calibration_error(probability, false),
        "calibration_slope": slope,
        "calibration_intercept": intercept,
        "n_flagged": int(flagged.sum()),
        "n_flagged_false": int((flagged & false).sum()),
        **{f"{key}_before": value for key, value in before.items()},
        **{f"{key}_after": value for key, value in after.items()},
    }


def _average_precision(probability: Values, false: Mask) -> float:
    return float(average_precision_score(false, probability)) if _both(false) else np.nan


def _both(false: Mask) -> bool:
    return bool(false.any() and not false.all())
