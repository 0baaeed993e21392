# SPDX-License-Identifier: Apache-2.0
"""How well a predicted lesion mask agrees with a reference mask."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from bids_lesion_xai.conventions import DEFAULT_MIN_VOLUME_MM3
from bids_lesion_xai.lesions.label import CONNECTIVITY, label_lesions
from bids_lesion_xai.models.inference import lesion_probability, predict_logits
from bids_lesion_xai.models.network import PUBLISHED_MULTIPLE
from bids_lesion_xai.training.scans import LabelledScan

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Agreement:
    """Agreement of a predicted with a reference mask.

    A predicted lesion is a true positive if any of its voxels lies in the reference, a reference
    lesion is missed if no voxel of it is predicted (18-connectivity, any overlap).

    Parameters
    ----------
    dice : float
        Overlap of the voxels; 1 if both masks are empty.
    n_predicted, n_false_positive : int
        Predicted lesions, and those of them that are false.
    n_reference, n_missed : int
        Reference lesions, and those of them that are missed.
    volume_mm3, reference_volume_mm3 : float
    """

    dice: float
    n_predicted: int
    n_false_positive: int
    n_reference: int
    n_missed: int
    volume_mm3: float
    reference_volume_mm3: float


def agreement(
    predicted: NDArray[np.bool_], reference: NDArray[np.bool_], voxel_volume_mm3: float
) -> Agreement:
    """Return the agreement of two masks on one grid.

    Parameters
    ----------
    predicted, reference : bool arrays, shape (X, Y, Z)
    voxel_volume_mm3 : float
    """
    found, n_predicted = _touched(predicted, reference)
    hit, n_reference = _touched(reference, predicted)
    total = int(predicted.sum() + reference.sum())
    return Agreement(
        dice=2 * int((predicted & reference).sum()) / total if total else 1.0,
        n_predicted=n_predicted,
        n_false_positive=n_predicted - found,
        n_reference=n_reference,
        n_missed=n_reference - hit,
        volume_mm3=float(predicted.sum() * voxel_volume_mm3),
        reference_volume_mm3=float(reference.sum() * voxel_volume_mm3),
    )


def _touched(lesions: NDArray[np.bool_], other: NDArray[np.bool_]) -> tuple[int, int]:
    """Return how many lesions have a voxel in `other`, and how many lesions there are."""
    labels, count = ndimage.label(lesions, CONNECTIVITY)
    return len(set(np.unique(labels[other])) - {0}), int(count)


def evaluate(
    network: torch.nn.Module,
    scans: Sequence[LabelledScan],
    *,
    threshold: float,
    device: torch.device,
    min_volume_mm3: float = DEFAULT_MIN_VOLUME_MM3,
) -> list[dict[str, Any]]:
    """Segment every scan as the app does, and return one row of figures for each.

    Parameters
    ----------
    network : torch module
        In eval mode.
    scans : list of LabelledScan
        Of people the network was not trained on.
    threshold : float
    device : torch device
    min_volume_mm3 : float
        Smaller predicted lesions are dropped.

    Returns
    -------
    rows : list of dict
        `person`, `session` and the fields of `Agreement`.
    """
    rows = []
    for scan in scans:
        image = torch.from_numpy(scan.image).to(device)
        with torch.inference_mode():
            logits = predict_logits(network, image, PUBLISHED_MULTIPLE)
            probability = lesion_probability(logits).cpu().numpy()
        voxel_volume = float(np.prod(scan.spacing_mm))
        labels = label_lesions(probability >= threshold, voxel_volume, min_volume_mm3)
        figures = asdict(agreement(labels > 0, scan.lesions, voxel_volume))
        log.info(
            "%s %s: Dice %.3f, false positives %d, missed %d",
            *(scan.person, scan.session, figures["dice"]),
            *(figures["n_false_positive"], figures["n_missed"]),
        )
        rows.append({"person": scan.person, "session": scan.session, **figures})
    return rows
