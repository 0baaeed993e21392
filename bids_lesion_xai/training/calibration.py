# SPDX-License-Identifier: Apache-2.0
"""How far a predicted probability can be taken at its word, and where to cut it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special

BINS = 15
_NEUTRAL = 0.5
THRESHOLDS = tuple(round(0.05 * step, 2) for step in range(2, 19))

Curve = Mapping[float, float]


def reliability(
    probability: NDArray[np.floating[Any]], lesions: NDArray[np.bool_]
) -> list[dict[str, float]]:
    """Return the reliability curve: what part of the voxels of each probability are lesion.

    Parameters
    ----------
    probability : float array, shape (voxels,)
        Between 0 and 1.
    lesions : bool array, shape (voxels,)

    Returns
    -------
    rows : list of dict
        `from` and `to`, the edges of `BINS` equal bins, `n_voxels`, `probability` (mean) and
        `lesion_part`, both 0 where a bin is empty.
    """
    which = np.minimum((probability * BINS).astype(int), BINS - 1)
    n_voxels = np.bincount(which, minlength=BINS)
    some = np.maximum(n_voxels, 1)
    mean = np.bincount(which, probability, minlength=BINS) / some
    part = np.bincount(which, lesions, minlength=BINS) / some
    return [
        {
            "from": number / BINS,
            "to": (number + 1) / BINS,
            "n_voxels": int(n_voxels[number]),
            "probability": float(mean[number]),
            "lesion_part": float(part[number]),
        }
        for number in range(BINS)
    ]


def expected_calibration_error(rows: Sequence[Mapping[str, float]]) -> float:
    """Return the mean distance of `probability` and `lesion_part`, weighted by `n_voxels`.

    References
    ----------
    Guo et al., "On calibration of modern neural networks", ICML 2017.
    """
    total = sum(row["n_voxels"] for row in rows)
    return sum(
        row["n_voxels"] / total * abs(row["probability"] - row["lesion_part"]) for row in rows
    )


def fit_temperature(
    log_odds: Sequence[NDArray[np.float32]], lesions: Sequence[NDArray[np.bool_]]
) -> float:
    """Return the temperature that log-odds are divided by so that they are most likely.

    Parameters
    ----------
    log_odds : list of float32 arrays, shape (voxels,)
        Of lesion against background, one array for each scan; every scan weighs the same.
    lesions : list of bool arrays, shape (voxels,)

    Returns
    -------
    temperature : float
        Between 0.1 and 10.

    References
    ----------
    Guo et al., "On calibration of modern neural networks", ICML 2017.
    """

    def cost(log_temperature: float) -> float:
        scale = np.float32(np.exp(-log_temperature))
        # -log p of the true class is softplus of minus its log-odds.
        return float(
            np.mean(
                [
                    np.mean(-special.log_expit(scale * np.where(true, odds, -odds)))
                    for odds, true in zip(log_odds, lesions, strict=True)
                ]
            )
        )

    bounds = (np.log(0.1), np.log(10))
    best = optimize.minimize_scalar(cost, bounds=bounds, method="bounded")
    return float(np.exp(best.x))


def choose_threshold(scores_by_person: Sequence[Curve]) -> float:
    """Return the threshold with the highest mean score over people, or 0.5 if that is as good.

    It is as good unless the mean gain over 0.5 exceeds its standard error over people: the best of
    many thresholds on a few people is another one by chance, and suits the next person less.

    Parameters
    ----------
    scores_by_person : list of dict
        For each person, the score (mean over sessions) at each threshold, 0.5 among them, e.g.
        Dice.

    References
    ----------
    The one-standard-error rule of Breiman et al., "Classification and regression trees", 1984.
    """
    thresholds = list(scores_by_person[0])
    means = [np.mean([curve[at] for curve in scores_by_person]) for at in thresholds]
    best = thresholds[int(np.argmax(means))]
    gains = np.array([curve[best] - curve[_NEUTRAL] for curve in scores_by_person])
    if len(gains) < 2 or gains.mean() <= gains.std(ddof=1) / np.sqrt(len(gains)):
        return _NEUTRAL
    return best
