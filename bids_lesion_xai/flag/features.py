# SPDX-License-Identifier: Apache-2.0
"""What the flag knows of a lesion. Pure functions of the table of lesions.

None of the saliency features changes when all saliency is multiplied by a number, as the
temperature of a model does: they are ratios to the peak, parts of a sum, and distances.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import special

from bids_lesion_xai.conventions import CHANNELS, SHELLS_MM
from bids_lesion_xai.errors import DataError

_Values = NDArray[np.float64]

# A probability that was rounded to 0 or 1 still has log-odds.
_LEAST_PROBABILITY = 1e-6
_PERCENTAGES = (50, 90, 95)


@dataclass(frozen=True)
class Feature:
    """A number of a lesion.

    Parameters
    ----------
    text : str
        What it is.
    columns : tuple of str
        Of the output ``group_lesions``; what `compute` takes, in this order.
    compute : callable
        From float arrays of shape (lesions,) to another; NaN where the feature is not defined.
    """

    text: str
    columns: tuple[str, ...]
    compute: Callable[..., _Values]


def _log_odds(probability: _Values) -> _Values:
    clipped = np.clip(probability, _LEAST_PROBABILITY, 1 - _LEAST_PROBABILITY)
    return np.asarray(special.logit(clipped))


def _itself(values: _Values) -> _Values:
    return values


def _ratio(part: _Values, whole: _Values) -> _Values:
    missing = np.full(whole.shape, np.nan)
    return np.asarray(np.divide(part, whole, out=missing, where=whole != 0))


def _to_peak(value: _Values, peak: _Values) -> _Values:
    return _ratio(value, np.abs(peak))


def _balance(positive: _Values, negative: _Values) -> _Values:
    return _ratio(positive + negative, positive - negative)


def _outside_part(
    positive_inside: _Values,
    negative_inside: _Values,
    positive_outside: _Values,
    negative_outside: _Values,
) -> _Values:
    outside = positive_outside - negative_outside
    return _ratio(outside, outside + positive_inside - negative_inside)


def _of_channel(channel: str) -> dict[str, Feature]:
    name = CHANNELS[channel]
    inside = ("positive_inside", "negative_inside")
    rows: dict[str, tuple[str, tuple[str, ...], Callable[..., _Values]]] = {
        "inside": ("mean inside over the absolute peak", ("mean_inside", "peak"), _to_peak),
        **{
            f"shell_{mm}mm": (
                f"mean in the shell that ends {mm} mm away, over the absolute peak",
                (f"mean_shell_{mm}mm", "peak"),
                _to_peak,
            )
            for mm in SHELLS_MM
        },
        "outside_part": (
            "part of the absolute saliency outside the lesion, 0 to 1",
            (*inside, "positive_outside", "negative_outside"),
            _outside_part,
        ),
        "balance_inside": (
            "sum over the sum of the absolute values, in the lesion, -1 to 1",
            inside,
            _balance,
        ),
        "balance": (
            "sum over the sum of the absolute values, -1 to 1",
            ("sign_balance",),
            _itself,
        ),
        **{
            f"log_distance_{percent}": (
                f"natural logarithm of 1 + distance in mm that holds {percent} % of the absolute "
                "saliency",
                (f"distance_{percent}_mm",),
                np.log1p,
            )
            for percent in _PERCENTAGES
        },
        "compactness": (
            "radius of gyration of the lesion over that of the absolute saliency",
            ("compactness",),
            _itself,
        ),
    }
    return {
        f"{channel}_{key}": Feature(
            f"saliency of {name}: {text}",
            tuple(f"{channel}_{column}" for column in columns),
            compute,
        )
        for key, (text, columns, compute) in rows.items()
    }


_BASELINE = {
    "log_volume": Feature("natural logarithm of the volume in mm3", ("volume_mm3",), np.log),
    "mean_log_odds": Feature(
        "log-odds of the mean lesion probability", ("mean_probability",), _log_odds
    ),
    "peak_log_odds": Feature(
        "log-odds of the largest lesion probability", ("peak_probability",), _log_odds
    ),
}

FEATURES: dict[str, Feature] = {
    **_BASELINE,
    "flair_share": Feature(
        "share of FLAIR in the absolute saliency of both images, 0 to 1",
        ("flair_share",),
        _itself,
    ),
    **{key: feature for channel in CHANNELS for key, feature in _of_channel(channel).items()},
}

# What is compared: does saliency tell more than volume and probability alone?
BASELINE, SALIENCY = "baseline", "saliency"
SETS: dict[str, tuple[str, ...]] = {BASELINE: tuple(_BASELINE), SALIENCY: tuple(FEATURES)}


def columns_of(names: Iterable[str]) -> tuple[str, ...]:
    """Return the columns of the table of lesions that features are computed from.

    >>> columns_of(["log_volume", "flair_inside"])
    ('volume_mm3', 'flair_mean_inside', 'flair_peak')
    """
    return tuple(dict.fromkeys(column for name in names for column in FEATURES[name].columns))


def feature_values(table: pd.DataFrame, names: Sequence[str]) -> _Values:
    """Return the features of lesions.

    Parameters
    ----------
    table : DataFrame
        One row a lesion, with the columns of the output ``group_lesions``.
    names : sequence of str
        Keys of `FEATURES`.

    Returns
    -------
    values : float64 array, shape (lesions, names)
        NaN where a feature is not defined, as for a shell without voxels.

    Raises
    ------
    DataError
        A column is missing or holds no numbers.
    """
    missing = [column for column in columns_of(names) if column not in table]
    if missing:
        message = (
            f"the table of lesions lacks the columns {', '.join(missing)}: another version of the "
            "app wrote it. Run the participant and the group level again."
        )
        raise DataError(message)
    values = np.empty((len(table), len(names)))
    for number, name in enumerate(names):
        feature = FEATURES[name]
        values[:, number] = feature.compute(*(_numbers(table[key]) for key in feature.columns))
    return values


def _numbers(column: pd.Series) -> _Values:
    try:
        return column.to_numpy(dtype=np.float64, na_value=np.nan)
    except (TypeError, ValueError) as error:
        message = (
            f"the column {column.name} of the table of lesions holds something else than numbers "
            f"({error}). Run the group level again."
        )
        raise DataError(message) from error
