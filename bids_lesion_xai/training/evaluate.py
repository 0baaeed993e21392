# SPDX-License-Identifier: Apache-2.0
"""Segmenting labelled scans as the app does, and stating how well it went."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import special

from bids_lesion_xai.conventions import DEFAULT_MIN_VOLUME_MM3
from bids_lesion_xai.errors import naming
from bids_lesion_xai.lesions.label import label_lesions, reaching
from bids_lesion_xai.models.inference import Predictor, lesion_log_odds, require_finite
from bids_lesion_xai.training.calibration import (
    THRESHOLDS,
    choose_threshold,
    expected_calibration_error,
    fit_temperature,
    reliability,
)
from bids_lesion_xai.training.metrics import agreement, by_size, dice_and_f1
from bids_lesion_xai.training.scans import LabelledScan

log = logging.getLogger(__name__)

# A threshold of 0 would be reached by every voxel, one of 1 by none.
_LEAST_THRESHOLD = 0.001


@dataclass(frozen=True)
class Prediction:
    """What a network says of a scan.

    Parameters
    ----------
    scan : LabelledScan
    log_odds : float32 array, shape (X, Y, Z)
        Of lesion against background; -inf outside the brain, where the app takes no lesion.
    trained_on : tuple of str
        People in the training data of the network.
    """

    scan: LabelledScan
    log_odds: NDArray[np.float32]
    trained_on: tuple[str, ...] = ()


@dataclass(frozen=True)
class Setting:
    """How log-odds become lesions.

    Parameters
    ----------
    threshold : float
        Lesion probability.
    temperature : float
        What the log-odds are divided by.
    peak_threshold : float
        Lesion probability that a voxel of each lesion reaches; 0 asks for the threshold alone.
    min_volume_mm3 : float
        Smaller predicted lesions are dropped.
    """

    threshold: float
    temperature: float = 1.0
    peak_threshold: float = 0.0
    min_volume_mm3: float = DEFAULT_MIN_VOLUME_MM3


def predict(
    predictor: Predictor, scans: Iterable[LabelledScan], trained_on: Sequence[str] = ()
) -> list[Prediction]:
    """Return what a network says of every scan, float32, computed on the network's device.

    Raises
    ------
    DataError
        It is not finite somewhere in the brain.
    """
    predictions = []
    for scan in scans:
        with torch.inference_mode(), naming(f"{scan.person} {scan.session}".rstrip()):
            logits = predictor(torch.from_numpy(scan.image))
            require_finite(logits, scan.brain, predictor.name)
            odds = lesion_log_odds(logits).cpu().numpy()
        odds = np.where(scan.brain, odds, -np.inf).astype(np.float32)
        predictions.append(Prediction(scan, odds, tuple(trained_on)))
        log.info("segmented %s %s", scan.person, scan.session)
    return predictions


def segment(prediction: Prediction, setting: Setting) -> NDArray[np.bool_]:
    """Return the predicted lesion mask, bool, shape (X, Y, Z)."""
    # Comparing log-odds saves the exponential of every voxel.
    odds = prediction.log_odds
    voxel, peak = setting.temperature * special.logit([setting.threshold, setting.peak_threshold])
    voxel_mm3 = float(np.prod(prediction.scan.spacing_mm))
    found = reaching(odds >= voxel, odds, peak)
    return label_lesions(found, voxel_mm3, setting.min_volume_mm3) > 0


def figures(
    prediction: Prediction, setting: Setting
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the figures of a scan, and those of its lesions by size.

    Returns
    -------
    row : dict
        `person`, `session`, `trained_on`, the fields of `Agreement`, thresholds and temperature,
        and `calibration_error`, before and after the temperature, of the voxels in the brain.
    sizes : list of dict
        `person`, `session` and the columns of `metrics.by_size`.
    """
    scan = prediction.scan
    predicted = segment(prediction, setting)
    who = {"person": scan.person, "session": scan.session}
    row = {
        **who,
        "trained_on": list(prediction.trained_on),
        **asdict(agreement(predicted, scan.lesions, scan.spacing_mm)),
        "threshold": setting.threshold,
        "peak_threshold": setting.peak_threshold,
        "temperature": setting.temperature,
        "calibration_error_raw": expected_calibration_error(curve(prediction, 1.0)),
        "calibration_error": expected_calibration_error(curve(prediction, setting.temperature)),
    }
    log.info(
        "%s %s: Dice %.3f, lesion F1 %.3f, false lesions %d of %d, missed %d of %d",
        *(scan.person, scan.session, row["dice"], row["f1"], row["n_false_positive"]),
        *(row["n_predicted"], row["n_missed"], row["n_reference"]),
    )
    voxel_mm3 = float(np.prod(scan.spacing_mm))
    return row, [{**who, **size} for size in by_size(predicted, scan.lesions, voxel_mm3)]


def curve(prediction: Prediction, temperature: float) -> list[dict[str, float]]:
    """Return the reliability curve of the voxels in the brain."""
    odds, lesions = _in_brain(prediction)
    return reliability(1 / (1 + np.exp(-odds.astype(np.float64) / temperature)), lesions)


def fit(predictions: Sequence[Prediction], peak_threshold: float) -> Setting:
    """Return the temperature and the threshold that suit these predictions best.

    The temperature is the median over people of the one that is most likely: a single person
    whose lesions are missed would make a network unsure of everything. The threshold is
    `choose_threshold`'s for Dice plus lesion-wise F1.

    Parameters
    ----------
    predictions : list of Prediction
    peak_threshold : float
        Lesion probability that a voxel of each lesion reaches, before any temperature.
    """
    scored = [(prediction, _scores(prediction, peak_threshold)) for prediction in predictions]
    return _fit(scored, peak_threshold)


def fit_on_others(
    predictions: Sequence[Prediction],
    groups: Mapping[str, Sequence[str]],
    default: Setting,
    peak_threshold: float,
) -> dict[str, Setting]:
    """Return, for each person, what suits the people outside their group best.

    Nothing is fitted on who is judged.

    Parameters
    ----------
    predictions : list of Prediction
    groups : dict of list of str
        People of each group.
    default : Setting
        Where there is nobody outside the group.
    peak_threshold : float
        See `fit`.
    """
    scored = [(prediction, _scores(prediction, peak_threshold)) for prediction in predictions]
    settings = {}
    for people in groups.values():
        others = [one for one in scored if one[0].scan.person not in people]
        setting = _fit(others, peak_threshold) if others else default
        settings.update(dict.fromkeys(people, setting))
    return settings


def _scores(prediction: Prediction, peak_threshold: float) -> dict[float, float]:
    """Return Dice plus lesion-wise F1 at each of `THRESHOLDS`, before any temperature."""
    scores = {}
    for threshold in THRESHOLDS:
        predicted = segment(prediction, Setting(threshold, peak_threshold=peak_threshold))
        scores[threshold] = sum(dice_and_f1(predicted, prediction.scan.lesions))
    return scores


def _fit(
    scored: Sequence[tuple[Prediction, dict[float, float]]], peak_threshold: float
) -> Setting:
    sessions: dict[str, list[tuple[Prediction, dict[float, float]]]] = {}
    for one in scored:
        sessions.setdefault(one[0].scan.person, []).append(one)
    # Of background alone, the most likely is the surest.
    with_lesions = [
        own for own in sessions.values() if any(one.scan.lesions.any() for one, _ in own)
    ]
    temperature = float(np.median([_temperature(own) for own in with_lesions] or [1.0]))
    by_person = [
        {at: float(np.mean([scores[at] for _, scores in own])) for at in THRESHOLDS}
        for own in sessions.values()
    ]
    # The temperature moves the probability of the voxels that are just lesion, and of peaks.
    log_odds = special.logit([choose_threshold(by_person), peak_threshold]) / temperature
    threshold, peak = np.clip(special.expit(log_odds), _LEAST_THRESHOLD, 1 - _LEAST_THRESHOLD)
    return Setting(round(float(threshold), 3), temperature, peak_threshold=round(float(peak), 3))


def _temperature(scored: Sequence[tuple[Prediction, Any]]) -> float:
    pairs = [_in_brain(prediction) for prediction, _ in scored]
    return fit_temperature([odds for odds, _ in pairs], [lesions for _, lesions in pairs])


def _in_brain(prediction: Prediction) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    brain = np.isfinite(prediction.log_odds)
    return prediction.log_odds[brain], prediction.scan.lesions[brain]
