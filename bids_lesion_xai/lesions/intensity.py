# SPDX-License-Identifier: Apache-2.0
"""Image intensities of lesions and of the tissue around them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

# The rim that a lesion is compared with reaches this far from it.
RIM_MM = 3.0


def intensity_numbers(
    images: Mapping[str, NDArray[np.float32]],
    labels: NDArray[np.int32],
    brain: NDArray[np.bool_],
    spacing_mm: Sequence[float],
) -> Iterator[dict[str, float]]:
    """Yield the intensities of every region, in the order of the labels.

    Parameters
    ----------
    images : mapping of channel to float32 array, shape (X, Y, Z)
        In standard deviations of the brain.
    labels : int32 array, shape (X, Y, Z)
        Regions have the values 1 to their number.
    brain : bool array, shape (X, Y, Z)
    spacing_mm : sequence of float

    Yields
    ------
    numbers : dict
        For each channel ``intensity``: mean over the region; ``intensity_rim``: mean over the
        brain outside all regions and at most `RIM_MM` from this one (Euclidean, between voxel
        centres), NaN if there is no such voxel; ``contrast``: the first minus the second.
    """
    margin = [int(np.ceil(RIM_MM / mm)) for mm in spacing_mm]
    for index, box in enumerate(ndimage.find_objects(labels), start=1):
        around = tuple(
            slice(max(0, axis.start - m), axis.stop + m)
            for axis, m in zip(box, margin, strict=True)
        )
        near = labels[around]
        distance = ndimage.distance_transform_edt(near != index, sampling=spacing_mm)
        # An affine that was stored as float32 puts a neighbour a hair further than 3 mm.
        rim = (distance.round(4) <= RIM_MM) & (near == 0) & brain[around]
        numbers = {}
        for channel, values in images.items():
            own = float(values[around][near == index].mean(dtype=np.float64))
            outside = values[around][rim]
            of_rim = float(outside.mean(dtype=np.float64)) if outside.size else float("nan")
            numbers[f"{channel}_intensity"] = own
            numbers[f"{channel}_intensity_rim"] = of_rim
            numbers[f"{channel}_contrast"] = own - of_rim
        yield numbers
