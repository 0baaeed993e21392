# SPDX-License-Identifier: Apache-2.0
"""Numbers of a saliency map in and around its lesion, and the map of all lesions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from bids_lesion_xai.conventions import (
    CHANNELS,
    PROFILE_REACH_MM,
    PROFILE_STEP_MM,
    SALIENCY_PERCENTAGES,
    SHELLS_MM,
)
from bids_lesion_xai.explain.attribution import Attribution
from bids_lesion_xai.explain.box import Box, bounding_box
from bids_lesion_xai.explain.reductions import channel_shares


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


@dataclass(frozen=True)
class LesionMap:
    """The saliency of one lesion on a box that reaches `PROFILE_REACH_MM` beyond it.

    Parameters
    ----------
    values, standard_error : float64 arrays, shape (C, x, y, z)
        Saliency and its Monte-Carlo standard error.
    distance_mm : float64 array, shape (x, y, z)
        To the lesion, 0 inside; see `distance_mm`.
    depth_mm : float64 array, shape (x, y, z)
        From a voxel of the lesion to the nearest voxel outside, 0 outside.
    spacing_mm : tuple of float
    """

    values: NDArray[np.float64]
    standard_error: NDArray[np.float64]
    distance_mm: NDArray[np.float64]
    depth_mm: NDArray[np.float64]
    spacing_mm: tuple[float, ...]


def lesion_map(
    attribution: Attribution, labels: NDArray[np.int32], spacing_mm: Sequence[float]
) -> LesionMap:
    """Return the saliency of a lesion with the place of every voxel relative to the lesion.

    Parameters
    ----------
    attribution : Attribution
        With the channels FLAIR and T1w.
    labels : int32 array, shape (X, Y, Z)
    spacing_mm : sequence of float
    """
    own = labels[attribution.box.slices((0, 0, 0))] == attribution.lesion
    tight = bounding_box(torch.from_numpy(own))
    margin = [int(np.ceil(PROFILE_REACH_MM / mm)) for mm in spacing_mm]
    axes = list(zip(attribution.offset, margin, strict=True))
    around = Box(
        tuple(i + offset - m for i, (offset, m) in zip(tight.start, axes, strict=True)),
        tuple(i + offset + m for i, (offset, m) in zip(tight.stop, axes, strict=True)),
    )
    box = around.clip(labels.shape).union(attribution.box)
    inside = labels[box.slices((0, 0, 0))] == attribution.lesion
    place = (slice(None), *attribution.box.slices(box.start))
    values, error = np.zeros((2, len(CHANNELS), *box.shape))
    values[place] = attribution.values.numpy(force=True)
    error[place] = attribution.standard_error.numpy(force=True)
    return LesionMap(
        values,
        error,
        distance_mm(inside, spacing_mm),
        distance_mm(~inside, spacing_mm),
        tuple(spacing_mm),
    )


def lesion_numbers(attribution: Attribution, of_lesion: LesionMap) -> dict[str, float]:
    """Return the row of the saliency table of one lesion, without its index and name.

    Parameters
    ----------
    attribution : Attribution
        With the channels FLAIR and T1w.
    of_lesion : LesionMap
        The same on its box.
    """
    flair = list(CHANNELS).index("flair")
    numbers: dict[str, float] = {
        "n_samples": attribution.n_samples,
        "flair_share": float(channel_shares(attribution.values)[flair]),
        "flair_share_se": float(attribution.share_error[flair]),
    }
    for i, channel in enumerate(CHANNELS):
        found = channel_numbers(of_lesion, i, float(attribution.inside_error[i]))
        numbers |= {f"{channel}_{key}": value for key, value in found.items()}
    return numbers


def channel_numbers(of_lesion: LesionMap, channel: int, inside_error: float) -> dict[str, float]:
    """Return the numbers of one channel's saliency map.

    Parameters
    ----------
    of_lesion : LesionMap
    channel : int
    inside_error : float
        Monte-Carlo standard error of the mean saliency over the lesion's voxels.

    Returns
    -------
    numbers : dict
        ``peak``: value of the largest magnitude (the first in C order), ``mean_inside``, both with
        standard errors; ``mean_shell_Xmm``: mean over the voxels beyond the shell before and up to
        X mm away, NaN where the shell has no voxel; sums of positive and negative values inside
        and outside; ``distance_P_mm``: of `absolute_distances`; ``sign_balance``: sum of the
        values over the sum of the absolute values, -1 to 1; ``compactness``: of `compactness`.
        The last three are NaN for a map of zeros.
    """
    values, distance = of_lesion.values[channel], of_lesion.distance_mm
    inside = distance == 0
    peak = np.unravel_index(np.abs(values).argmax(), values.shape)
    shells = zip((0, *SHELLS_MM), SHELLS_MM, strict=False)
    total = np.abs(values).sum()
    return {
        "peak": float(values[peak]),
        "peak_se": float(of_lesion.standard_error[channel][peak]),
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
        **absolute_distances(values, distance),
        "sign_balance": float(values.sum() / total) if total else float("nan"),
        "compactness": compactness(values, inside, of_lesion.spacing_mm),
    }


def absolute_distances(
    values: NDArray[np.float64], distance: NDArray[np.float64]
) -> dict[str, float]:
    """Return the distances within which given percentages of the absolute saliency lie.

    Parameters
    ----------
    values, distance : float64 arrays, shape (x, y, z)

    Returns
    -------
    distances : dict
        ``distance_P_mm`` for each P of `SALIENCY_PERCENTAGES`: the smallest distance of a voxel
        from the lesion such that the voxels up to it hold P percent; 0 if those of the lesion do.
    """
    order = distance.argsort(axis=None, kind="stable")
    mass = np.abs(values).ravel()[order].cumsum()
    if not mass[-1]:
        return {f"distance_{percent}_mm": float("nan") for percent in SALIENCY_PERCENTAGES}
    places = {
        # A part of all may exceed the sum by a rounding.
        percent: min(int(np.searchsorted(mass, percent / 100 * mass[-1])), mass.size - 1)
        for percent in SALIENCY_PERCENTAGES
    }
    return {
        f"distance_{percent}_mm": float(distance.ravel()[order[place]])
        for percent, place in places.items()
    }


def compactness(
    values: NDArray[np.float64], inside: NDArray[np.bool_], spacing_mm: Sequence[float]
) -> float:
    """Return how close together the absolute saliency lies, compared with the lesion's voxels.

    Parameters
    ----------
    values : float64 array, shape (x, y, z)
    inside : bool array, shape (x, y, z)
    spacing_mm : sequence of float

    Returns
    -------
    compactness : float
        Radius of gyration of the lesion's voxels over that of all voxels weighted by the absolute
        saliency: 1 if the saliency is spread like the lesion, small if it is spread wide.
    """
    wide = _gyration_mm(np.abs(values), spacing_mm)
    return _gyration_mm(inside.astype(np.float64), spacing_mm) / wide if wide else float("nan")


def _gyration_mm(weights: NDArray[np.float64], spacing_mm: Sequence[float]) -> float:
    """Return the root mean square distance from the centroid; 0 if all weights are 0."""
    total, square = weights.sum(), 0.0
    for axis, mm in enumerate(spacing_mm):
        others = tuple(other for other in range(weights.ndim) if other != axis)
        share = weights.sum(others) / (total or 1)
        places = np.arange(share.size) * mm
        square += float(share @ (places - share @ places) ** 2)
    return float(np.sqrt(square))


def radial_profile(of_lesion: LesionMap) -> Iterator[dict[str, Any]]:
    """Yield the signed saliency by distance from the border of the lesion, in tidy rows.

    Outside, a voxel's distance is that to the nearest voxel of the lesion; inside, minus that to
    the nearest voxel outside; between voxel centres, Euclidean. Steps of `PROFILE_STEP_MM` without
    a voxel have no row: on a grid of 1 mm no voxel lies between 0 and 0.5 mm.

    Parameters
    ----------
    of_lesion : LesionMap

    Yields
    ------
    row : dict
        ``channel``; ``near_mm`` and ``far_mm``, the ends of the step, the far one inclusive, both
        negative inside; ``n_voxels``, ``mean``, and the sums ``positive`` and ``negative``.
    """
    n_steps = round(PROFILE_REACH_MM / PROFILE_STEP_MM)
    for side, distance in ((-1, of_lesion.depth_mm), (1, of_lesion.distance_mm)):
        step = np.ceil(distance / PROFILE_STEP_MM).astype(np.int64)
        step[step > n_steps] = 0
        for number in np.unique(step[step > 0])[::side]:
            here = step == number
            ends = {
                "near_mm": side * (number - 1) * PROFILE_STEP_MM,
                "far_mm": side * number * PROFILE_STEP_MM,
            }
            for channel, values in zip(CHANNELS, of_lesion.values[:, here], strict=True):
                yield {
                    "channel": channel,
                    **ends,
                    "n_voxels": values.size,
                    "mean": float(values.mean()),
                    "positive": float(values[values > 0].sum()),
                    "negative": float(values[values < 0].sum()),
                }


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


def _mean(values: NDArray[np.floating]) -> float:
    return float(values.mean()) if values.size else float("nan")
