# SPDX-License-Identifier: Apache-2.0
"""Visits that stand out from the others, by robust distances from the median."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

# Below, a median and its deviation say little of what is usual.
LEAST_VISITS = 6
# Robust standard deviations (Iglewicz and Hoaglin, How to Detect and Handle Outliers, 1993).
LARGEST_DISTANCE = 3.5
# The median absolute deviation of normal values, in standard deviations.
_NORMAL = 0.6745


@dataclass(frozen=True)
class Measure:
    """A column of `group_participants` that visits are compared in.

    Parameters
    ----------
    name : str
        In words.
    scale : callable
        Applied before visits are compared.
    only_low : bool
        Whether high values are welcome.
    """

    name: str
    scale: Callable[[Any], Any] = lambda values: values
    only_low: bool = False


def _doublings(values: Any) -> Any:
    return np.log2(1 + values)


MEASURES = {
    "n_lesions": Measure("number of lesions", _doublings),
    "lesion_volume_mm3": Measure("lesion volume", _doublings),
    "brain_volume_mm3": Measure("brain volume"),
    "registration_similarity": Measure("registration similarity", only_low=True),
    "mean_probability": Measure("mean probability of lesions"),
    "flair_share": Measure("FLAIR share"),
}


def find_outliers(visits: pd.DataFrame) -> pd.DataFrame:
    """Return one row a value that stands out.

    Parameters
    ----------
    visits : DataFrame
        The output ``group_participants``.

    Returns
    -------
    DataFrame
        ``row``, the number of the row in `visits`; ``measure``, ``value``, ``median``, and
        ``distance`` from it in robust standard deviations, negative below.
    """
    found = []
    for column, measure in MEASURES.items():
        values = visits[column].to_numpy(float)
        scaled = measure.scale(values)
        known = np.isfinite(scaled)
        if known.sum() < LEAST_VISITS:
            continue
        middle = float(np.median(scaled[known]))
        spread = float(np.median(np.abs(scaled[known] - middle))) / _NORMAL
        if not spread:
            continue
        distances = (scaled - middle) / spread
        is_far = (distances < -LARGEST_DISTANCE) | (
            (distances > LARGEST_DISTANCE) & (not measure.only_low)
        )
        for row in np.flatnonzero(known & is_far):
            found.append(
                {
                    "row": int(row),
                    "measure": column,
                    "value": float(values[row]),
                    "median": float(np.median(values[known])),
                    "distance": float(distances[row]),
                }
            )
    return pd.DataFrame(found, columns=["row", "measure", "value", "median", "distance"])
