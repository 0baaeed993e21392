# SPDX-License-Identifier: Apache-2.0
"""The classifier as plain numbers: applied, written and read without scikit-learn or pickle."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import special

from bids_lesion_xai.errors import DataError, NotFoundError
from bids_lesion_xai.flag.features import FEATURES, feature_values

FORMAT = 1
_NUMBERS = ("fill", "mean", "scale", "coefficients")


@dataclass(frozen=True)
class Flag:
    """A logistic regression on standardised features.

    The probability that a lesion is false is the logistic function of ``intercept`` plus the sum
    of ``coefficients * (features - mean) / scale``, where ``fill`` stands for missing features.

    Parameters
    ----------
    features : tuple of str
        Keys of `FEATURES`; the tuples of numbers are in the same order.
    fill, mean, scale : tuple of float
        Median, mean and standard deviation over the lesions of the training.
    coefficients : tuple of float
        Change of the log-odds for each standard deviation.
    intercept : float
    cut : float
        A lesion of a higher probability is flagged.
    strength : float
        C of scikit-learn: the smaller, the more the coefficients were drawn to 0.
    weight : float
        The smaller, the more so those of saliency; 0 if they were left out.
    facts : mapping
        What else a reader should know; plain data.
    """

    features: tuple[str, ...]
    fill: tuple[float, ...]
    mean: tuple[float, ...]
    scale: tuple[float, ...]
    coefficients: tuple[float, ...]
    intercept: float
    cut: float
    strength: float
    weight: float
    facts: Mapping[str, Any] = field(default_factory=dict)


def flag_probability(flag: Flag, table: pd.DataFrame) -> NDArray[np.float64]:
    """Return the probability of each lesion that it is false.

    Parameters
    ----------
    flag : Flag
    table : DataFrame
        One row a lesion, with the columns of the output ``group_lesions``. A lesion's probability
        does not depend on the other rows.

    Raises
    ------
    DataError
        A column is missing or holds no numbers.
    """
    values = feature_values(table, flag.features)
    values = np.where(np.isnan(values), flag.fill, values)
    standard = (values - flag.mean) / flag.scale
    # Row by row: a product of matrices rounds a row by where it stands.
    log_odds = (standard * flag.coefficients).sum(axis=1) + flag.intercept
    return np.asarray(special.expit(log_odds))


def to_json(flag: Flag) -> str:
    """Return `flag` as JSON text; every number is the very one."""
    texts = {name: FEATURES[name].text for name in flag.features}
    content = {"format": FORMAT, **asdict(flag), "descriptions": texts}
    return json.dumps(content, indent=2, allow_nan=False) + "\n"


def load_flag(path: Path) -> Flag:
    """Read a classifier from a file of `to_json`.

    Raises
    ------
    NotFoundError
        There is no such file.
    DataError
        It is no such classifier.
    """
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        fill, mean, scale, coefficients = (tuple(map(float, content[key])) for key in _NUMBERS)
        flag = Flag(
            tuple(map(str, content["features"])),
            fill,
            mean,
            scale,
            coefficients,
            intercept=float(content["intercept"]),
            cut=float(content["cut"]),
            strength=float(content["strength"]),
            weight=float(content["weight"]),
            facts=dict(content["facts"]),
        )
        wrong = _wrong(flag, content.get("format"))
    except FileNotFoundError as error:
        message = f"{path} does not exist; flag.json of bids-lesion-xai-flag is expected."
        raise NotFoundError(message) from error
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        message = (
            f"{path} is no classifier ({type(error).__name__}: {error}); flag.json of "
            "bids-lesion-xai-flag is expected."
        )
        raise DataError(message) from error
    if wrong:
        message = f"{path} is no classifier that can be used: {wrong}. Train it again."
        raise DataError(message)
    return flag


def _wrong(flag: Flag, version: object) -> str:
    """Return what is wrong with a classifier that was read; nothing if it is right."""
    numbers = [getattr(flag, name) for name in _NUMBERS]
    unknown = [name for name in flag.features if name not in FEATURES]
    if version != FORMAT:
        return f"its format is {version}, {FORMAT} is expected"
    if unknown:
        return f"its features {', '.join(unknown)} are not known"
    if {len(part) for part in numbers} != {len(flag.features)}:
        return "it does not have one number for each feature"
    flat = [value for part in numbers for value in part]
    if not all(map(math.isfinite, [*flat, flag.intercept, flag.cut])) or 0 in flag.scale:
        return "it has numbers that are not finite, or a scale of 0"
    return ""
