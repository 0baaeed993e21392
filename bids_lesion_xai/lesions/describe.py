# SPDX-License-Identifier: Apache-2.0
"""Everything that the lesion table says of a region but its name and outcome."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bids_lesion_xai.imaging.grid import Grid
from bids_lesion_xai.lesions.intensity import intensity_numbers
from bids_lesion_xai.lesions.location import locations
from bids_lesion_xai.lesions.table import lesion_rows


@dataclass(frozen=True)
class Scan:
    """The images of a visit on one grid.

    Parameters
    ----------
    images : mapping of channel to float32 array, shape (X, Y, Z)
        In standard deviations of the brain.
    brain : bool array, shape (X, Y, Z)
    probability : float32 array, shape (X, Y, Z)
        Of lesion.
    tissues : int32 array, shape (X, Y, Z), or None
        FreeSurfer's numbers.
    grid : Grid
    """

    images: Mapping[str, NDArray[np.float32]]
    brain: NDArray[np.bool_]
    probability: NDArray[np.float32]
    tissues: NDArray[np.int32] | None
    grid: Grid


def describe(
    scan: Scan, labels: NDArray[np.int32], outcomes: tuple[str, ...] | None = None
) -> list[dict[str, Any]]:
    """Return the rows of the lesion table, in the order of the labels.

    Parameters
    ----------
    scan : Scan
    labels : int32 array, shape (X, Y, Z)
        Regions have the values 1 to their number.
    outcomes : tuple of str, optional
        Of the regions in their order; missing without a reference mask.
    """
    rows = lesion_rows(labels, scan.probability, scan.grid)
    spacing_mm = scan.grid.spacing_mm
    return [
        {**row, "outcome": outcome, **place, **intensities}
        for row, outcome, place, intensities in zip(
            rows,
            outcomes or [None] * len(rows),
            locations(labels, scan.tissues, spacing_mm),
            intensity_numbers(scan.images, labels, scan.brain, spacing_mm),
            strict=True,
        )
    ]
