# SPDX-License-Identifier: Apache-2.0
"""Numbers of a saliency map in and around its lesion, and the map of all lesions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from bids_lesion_xai.conventions import CHANNELS, SHELLS_MM
from bids_lesion_xai.explain.attribution import Attribution
from bids_lesion_xai.explain.box import Box, bounding_box


def distance_mm(lesion: NDArray[np.bool_], spacing_mm: Sequence[float]) -> NDArray[np.float64]:
    """Return the Euclidean distance of every voxel centre to the nearest voxel of the lesion.

    It is rounded to a tenth of a micrometre: an affine that was stored as float32 puts the
    neighbours along one axis a hair closer than 1 mm, and those along another a hair further.

    Parameters
    ----------
    lesion : bool array, shape (X, Y, Z)
    spacing_mm : sequence of float
    """
    return np.asarray(ndimage.distance_transform_edt(~lesion, sampling=spacing_mm)).round(4)


def channel_numbers(
    values: NDArray[np.floating],
    standard_error: NDArray[np.floating],
    distance: NDArray[np.float64],
    inside_error: float,
) -> dict[str, float]:
    """Return the numbers of one channel's saliency map.

    Parameters
    ----------
    values, standard_error : float arrays, shape (X, Y, Z)
        Saliency and its Monte-Carlo standard error.
    distance : float64 array, shape (X, Y, Z)
        Distance in mm to the lesion, 0 inside; see `distance_mm`.
    inside_error : float
        Monte-Carlo standard error of the mean saliency over the lesion's voxels.

    Returns
    -------
    numbers : dict
        ``peak``: value of the largest magnitude (the first in C order), ``mean_inside``, both with
        standard errors; ``mean_shell_Xmm``: mean over the voxels beyond the shell before and up to
        X mm away, NaN where the shell has no voxel; sums of positive and negative values inside
        and outside.
    """
    values = values.astype(np.float64)
    inside = distance == 0
    peak = np.unravel_index(np.abs(values).argmax(), values.shape)
    shells = zip((0, *SHELLS_MM), SHELLS_MM, strict=False)
    return {
        "peak": float(values[peak]),
        "peak_se": float(standard_error[peak]),
        "mean_inside": float(values[inside].mean()),
        "mean_inside_se": inside_error,
        **{
            f"mean_shell_{outer}mm": _mean(values[(distance > inner) & (distance <= outer)])
            for inner, outer in shells
        },
        "positive_inside": float(values[inside & (values > 0)].sum()),
        "negative_inside": float(values[inside & (values < 0)].sum()),
        "positive_outside": float(values[~inside & (values > 0)].sum()),
        "negative_outside": float(values[~inside & (values < 0)].sum()),
    }


def channel_share(values: NDArray[np.floating], channel: int) -> float:
    """Return the share of one channel in the sum of the absolute values; NaN if all are 0.

    Parameters
    ----------
    values : float array, shape (C, X, Y, Z)
    channel : int
    """
    totals = np.abs(values).sum((1, 2, 3), dtype=np.float64)
    return float(totals[channel] / totals.sum()) if totals.any() else float("nan")


def nearest_lesion(labels: NDArray[np.int32], spacing_mm: Sequence[float]) -> NDArray[np.int32]:
    """Return for every voxel the label of the lesion nearest to it, one of them if two are.

    Parameters
    ----------
    labels : int32 array, shape (X, Y, Z)
        With at least one lesion.
    spacing_mm : sequence of float
    """
    indices = ndimage.distance_transform_edt(
        labels == 0, sampling=spacing_mm, return_distances=False, return_indices=True
    )
    return np.asarray(labels[tuple(indices)])


def lesion_numbers(
    attribution: Attribution, labels: NDArray[np.int32], spacing_mm: Sequence[float]
) -> dict[str, float]:
    """Return the row of the saliency table of one lesion, without its index and name.

    Parameters
    ----------
    attribution : Attribution
        With the channels FLAIR and T1w.
    labels : int32 array, shape (X, Y, Z)
    spacing_mm : sequence of float
    """
    own = labels[attribution.box.slices((0, 0, 0))] == attribution.lesion
    tight = bounding_box(torch.from_numpy(own))
    margin = [int(np.ceil(SHELLS_MM[-1] / mm)) for mm in spacing_mm]
    axes = list(zip(attribution.offset, margin, strict=True))
    around = Box(
        tuple(i + offset - m for i, (offset, m) in zip(tight.start, axes, strict=True)),
        tuple(i + offset + m for i, (offset, m) in zip(tight.stop, axes, strict=True)),
    )
    box = around.clip(labels.shape).union(attribution.box)
    distance = distance_mm(labels[box.slices((0, 0, 0))] == attribution.lesion, spacing_mm)
    place = (slice(None), *attribution.box.slices(box.start))
    values, error = np.zeros((2, len(CHANNELS), *box.shape))
    values[place] = attribution.values.numpy(force=True)
    error[place] = attribution.standard_error.numpy(force=True)
    numbers: dict[str, float] = {
        "n_samples": attribution.n_samples,
        "flair_share": channel_share(values, list(CHANNELS).index("flair")),
    }
    for i, channel in enumerate(CHANNELS):
        found = channel_numbers(values[i], error[i], distance, float(attribution.inside_error[i]))
        numbers |= {f"{channel}_{key}": value for key, value in found.items()}
    return numbers


def _mean(values: NDArray[np.floating]) -> float:
    return float(values.mean()) if values.size else float("nan")
