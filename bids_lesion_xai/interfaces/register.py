# SPDX-License-Identifier: Apache-2.0
"""The rigid registration of an image to a T1w of the same person."""

from __future__ import annotations

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from bids_lesion_xai.imaging.grid import centre_of_mass_mm
from bids_lesion_xai.imaging.similarity import MIN_SIMILARITY, similarity
from bids_lesion_xai.interfaces.itk import Image, align_rigidly, resample, write_start

# Of 1 mm. The skull lies outside; what the metric sees at the brain's edge is cerebrospinal fluid.
METRIC_MARGIN_VOXELS = 5


def register(
    t1w: Image, moving: Image, inside: NDArray[np.bool_], transform_file: Path
) -> tuple[NDArray[np.float32], float]:
    """Write the best transform to `transform_file`; return `moving` on T1w's grid and the score.

    Headers usually agree, so the first start is no displacement. Only if its result does not
    match are the centres of mass laid on each other: of both images, then of `moving` and the
    brain, because `moving` alone may be stripped.

    Parameters
    ----------
    t1w, moving : Image
        T1w on 1 mm isotropic voxels.
    inside : bool array, shape (X, Y, Z) of `t1w`
        The brain.
    transform_file : Path
        ITK text, from points of `t1w` to points of `moving`.

    Raises
    ------
    DataError
        See `bids_lesion_xai.interfaces.itk.align_rigidly`.
    """
    region = ndimage.distance_transform_edt(~inside) <= METRIC_MARGIN_VOXELS
    brain_mm = centre_of_mass_mm(inside.astype(np.float32), t1w.grid)
    moving_mm = centre_of_mass_mm(moving.values, moving.grid)
    starts_mm = (
        np.zeros(3),
        moving_mm - centre_of_mass_mm(t1w.values, t1w.grid),
        moving_mm - brain_mm,
    )
    best: tuple[NDArray[np.float32], float] = (moving.values, -np.inf)
    with TemporaryDirectory() as folder:
        start_file, candidate_file = Path(folder, "start.txt"), Path(folder, "candidate.txt")
        for start_mm in starts_mm:
            write_start(start_file, brain_mm, start_mm)
            align_rigidly(t1w, moving, region, start_file, candidate_file)
            values = resample(moving, t1w.grid, candidate_file)
            score = similarity(t1w.values, values, inside)
            if score > best[1]:
                best = values, score
                shutil.copyfile(candidate_file, transform_file)
            if score >= MIN_SIMILARITY:
                break
    return best
