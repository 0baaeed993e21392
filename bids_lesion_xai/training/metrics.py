# SPDX-License-Identifier: Apache-2.0
"""How well a predicted lesion mask agrees with a reference mask, by voxel and by lesion."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from monai.metrics import compute_average_surface_distance
from numpy.typing import NDArray
from scipy import ndimage, optimize

from bids_lesion_xai.lesions.label import CONNECTIVITY
from bids_lesion_xai.training.losses import REFERENCE_LOAD

# Lower edges of the classes of lesion size.
SIZE_CLASSES_MM3 = {"<10": 0.0, "10-50": 10.0, "50-250": 50.0, ">=250": 250.0}
_NOTABLE_MM3 = 10.0
# Keeps lesions of 10 voxels of 1 mm3 at 10 mm3 despite a rounded affine.
_TOLERANCE = 1e-6
_LEAST_IOU = 0.25


@dataclass(frozen=True)
class Agreement:
    """Agreement of a predicted with a reference mask.

    Lesions are 18-connected components. With any overlap, a predicted lesion is false if no voxel
    of it lies in the reference, and a reference lesion is missed if no voxel of it is predicted.

    Parameters
    ----------
    dice : float
        Overlap of the voxels; 1 if both masks are empty.
    normalised_dice : float
        Dice as if the reference filled a thousandth of the grid, which makes scans of few and of
        many lesions comparable (Raina et al., ISBI 2023).
    n_reference, n_missed : int
        Reference lesions, and those of them that are missed.
    n_predicted, n_false_positive : int
        Predicted lesions, and those of them that are false.
    n_false_positive_over_10mm3 : int
        False lesions of more than 10 mm3.
    tpr, fdr : float
        Part of the reference lesions that is found, part of the predicted ones that is false; nan
        where there are none.
    f1 : float
        Harmonic mean of `tpr` and 1 - `fdr`; 1 if there is no lesion at all.
    tpr_iou25, fdr_iou25, f1_iou25 : float
        The same where a lesion counts as found, or true, if it has a partner: n / n_reference,
        1 - n / n_predicted and 2 n / (n_predicted + n_reference), where n lesions can be paired
        one to one so that the intersection of a pair is at least a quarter of its union.
    volume_mm3, reference_volume_mm3 : float
    volume_error : float
        (volume - reference) / reference; nan for an empty reference.
    surface_distance_mm : float
        Mean distance between the surfaces of the masks, both ways; nan if one is empty.
    """

    dice: float
    normalised_dice: float
    n_reference: int
    n_missed: int
    n_predicted: int
    n_false_positive: int
    n_false_positive_over_10mm3: int
    tpr: float
    fdr: float
    f1: float
    tpr_iou25: float
    fdr_iou25: float
    f1_iou25: float
    volume_mm3: float
    reference_volume_mm3: float
    volume_error: float
    surface_distance_mm: float


class Lesions:
    """The lesions of a mask beside those of another one.

    Parameters
    ----------
    mask, other : bool arrays, shape (X, Y, Z)
    voxel_volume_mm3 : float

    Attributes
    ----------
    labels : int array, shape (X, Y, Z)
        Lesions of `mask`, numbered from 1.
    volumes_mm3 : float array, shape (lesions,)
    touched : bool array, shape (lesions,)
        Whether a voxel of the lesion lies in `other`.
    """

    def __init__(
        self, mask: NDArray[np.bool_], other: NDArray[np.bool_], voxel_volume_mm3: float
    ) -> None:
        self.labels, count = ndimage.label(mask, CONNECTIVITY)
        sizes = np.bincount(self.labels.ravel(), minlength=count + 1)[1:]
        self.volumes_mm3 = sizes * voxel_volume_mm3
        self.touched = np.bincount(self.labels[other], minlength=count + 1)[1:] > 0

    def __len__(self) -> int:
        """Return the number of lesions."""
        return len(self.volumes_mm3)


def agreement(
    predicted: NDArray[np.bool_],
    reference: NDArray[np.bool_],
    spacing_mm: tuple[float, float, float],
) -> Agreement:
    """Return the agreement of two masks on one grid.

    Parameters
    ----------
    predicted, reference : bool arrays, shape (X, Y, Z)
    spacing_mm : tuple of float
        Voxel sizes along the axes.
    """
    voxel_mm3 = math.prod(spacing_mm)
    found = Lesions(predicted, reference, voxel_mm3)
    true = Lesions(reference, predicted, voxel_mm3)
    false = ~found.touched
    both = int((predicted & reference).sum())
    n_predicted, n_reference = int(predicted.sum()), int(reference.sum())
    tpr, precision = _mean(true.touched), _mean(found.touched)
    notable = found.volumes_mm3 > _NOTABLE_MM3 * (1 + _TOLERANCE)
    n_pairs = _n_pairs(found, true)
    return Agreement(
        dice=_dice(both, n_predicted, n_reference, 1.0),
        normalised_dice=_dice(both, n_predicted, n_reference, _weight(reference)),
        n_reference=len(true),
        n_missed=int((~true.touched).sum()),
        n_predicted=len(found),
        n_false_positive=int(false.sum()),
        n_false_positive_over_10mm3=int((false & notable).sum()),
        tpr=tpr,
        fdr=1 - precision,
        f1=_f1(tpr, precision),
        tpr_iou25=n_pairs / len(true) if len(true) else math.nan,
        fdr_iou25=1 - n_pairs / len(found) if len(found) else math.nan,
        f1_iou25=_dice(n_pairs, len(found), len(true), 1.0),
        volume_mm3=n_predicted * voxel_mm3,
        reference_volume_mm3=n_reference * voxel_mm3,
        volume_error=n_predicted / n_reference - 1 if n_reference else math.nan,
        surface_distance_mm=_surface_distance_mm(predicted, reference, spacing_mm),
    )


def dice_and_f1(predicted: NDArray[np.bool_], reference: NDArray[np.bool_]) -> tuple[float, float]:
    """Return `dice` and `f1` of `Agreement` alone, which is quicker."""
    found, true = Lesions(predicted, reference, 1.0), Lesions(reference, predicted, 1.0)
    both = int((predicted & reference).sum())
    return (
        _dice(both, int(predicted.sum()), int(reference.sum()), 1.0),
        _f1(_mean(true.touched), _mean(found.touched)),
    )


def by_size(
    predicted: NDArray[np.bool_], reference: NDArray[np.bool_], voxel_volume_mm3: float
) -> list[dict[str, Any]]:
    """Return one row for each of `SIZE_CLASSES_MM3`: reference and predicted lesions of that size.

    Parameters
    ----------
    predicted, reference : bool arrays, shape (X, Y, Z)
    voxel_volume_mm3 : float

    Returns
    -------
    rows : list of dict
        `size_mm3`, `n_reference`, `n_missed`, `n_predicted`, `n_false_positive`.
    """
    found = Lesions(predicted, reference, voxel_volume_mm3)
    true = Lesions(reference, predicted, voxel_volume_mm3)
    edges = np.array([*SIZE_CLASSES_MM3.values()]) * (1 - _TOLERANCE)
    classes = [np.digitize(lesions.volumes_mm3, edges) - 1 for lesions in (true, found)]
    return [
        {
            "size_mm3": name,
            "n_reference": int((classes[0] == number).sum()),
            "n_missed": int((classes[0][~true.touched] == number).sum()),
            "n_predicted": int((classes[1] == number).sum()),
            "n_false_positive": int((classes[1][~found.touched] == number).sum()),
        }
        for number, name in enumerate(SIZE_CLASSES_MM3)
    ]


def _dice(both: int, n_predicted: int, n_reference: int, weight: float) -> float:
    """Return Dice with false positive voxels weighted by `weight`."""
    denominator = 2 * both + weight * (n_predicted - both) + (n_reference - both)
    return 2 * both / denominator if denominator else 1.0


def _weight(reference: NDArray[np.bool_]) -> float:
    load = float(reference.mean())
    if load in (0, 1):
        return 1.0
    return (1 - REFERENCE_LOAD) * load / (REFERENCE_LOAD * (1 - load))


def _mean(values: NDArray[np.bool_]) -> float:
    return float(values.mean()) if values.size else math.nan


def _f1(tpr: float, precision: float) -> float:
    if math.isnan(tpr) and math.isnan(precision):
        return 1.0
    if math.isnan(tpr) or math.isnan(precision) or tpr + precision == 0:
        return 0.0
    return 2 * tpr * precision / (tpr + precision)


def _n_pairs(found: Lesions, true: Lesions) -> int:
    """Return the largest number of one-to-one pairs with enough intersection over union."""
    inside = (found.labels > 0) & (true.labels > 0)
    pairs, common = np.unique(
        np.stack([found.labels[inside], true.labels[inside]]), axis=1, return_counts=True
    )
    sizes = [np.bincount(lesions.labels.ravel()) for lesions in (found, true)]
    union = sizes[0][pairs[0]] + sizes[1][pairs[1]] - common
    matches = np.zeros((len(found), len(true)))
    matches[tuple(pairs - 1)] = common >= _LEAST_IOU * union
    rows, columns = optimize.linear_sum_assignment(matches, maximize=True)
    return int(matches[rows, columns].sum())


def _surface_distance_mm(
    predicted: NDArray[np.bool_],
    reference: NDArray[np.bool_],
    spacing_mm: tuple[float, float, float],
) -> float:
    if not (predicted.any() and reference.any()):
        return math.nan
    distance = compute_average_surface_distance(
        torch.from_numpy(predicted)[None, None],
        torch.from_numpy(reference)[None, None],
        include_background=True,
        symmetric=True,
        spacing=[float(mm) for mm in spacing_mm],
    )
    return float(distance)
