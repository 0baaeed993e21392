# SPDX-License-Identifier: Apache-2.0
"""A small raw dataset of stripped phantom heads with lesions at known places."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bids_lesion_xai.bids.dataset import VisitInputs
from bids_lesion_xai.bids.visit import Visit
from bids_lesion_xai.imaging import nifti
from bids_lesion_xai.imaging.grid import Grid
from tests.phantoms import (
    CENTRE_MM,
    FLAIR,
    T1W,
    brain_mask,
    head,
    moved,
    oblique_grid,
    rigid,
    world_mm,
)

# Middle relative to the head's and radius in mm; the largest first. They lie in T1w's space.
Balls = tuple[tuple[tuple[float, float, float], float], ...]
BALLS: Balls = (((-18, 8, 10), 5.5), ((20, -14, 12), 4.5), ((-10, -24, -8), 3.8))
T1W_GRID = oblique_grid((1.4, 1.1, 1.2), flips=(-1, -1, 1), degrees=(2, 0, 4), half_extent_mm=53)
FLAIR_GRID = oblique_grid((1.2, 1.2, 3.0), flips=(-1, 1, 1), half_extent_mm=55)
# From points of T1w to points of FLAIR.
MOTION = rigid((2, -3, 2), (2, -3, 1))
BRIGHT_FLAIR, DARK_T1W = 900, 420


def write_raw(folder: Path, visits: Mapping[Visit, Balls]) -> list[VisitInputs]:
    """Write a dataset of the same head with the lesions of each visit; return what to process."""
    folder.mkdir(parents=True)
    description = {
        "Name": "phantoms",
        "BIDSVersion": "1.10.0",
        "DatasetType": "raw",
        "License": "CC0",
        "Authors": ["A. Phantom", "B. Phantom"],
    }
    (folder / "dataset_description.json").write_text(json.dumps(description), encoding="utf-8")
    (folder / "README.md").write_text("Phantom heads for the tests of the app.\n")
    flair, t1w = _stripped(FLAIR_GRID, FLAIR), _stripped(T1W_GRID, T1W)
    found = []
    for visit, balls in visits.items():
        anat = folder / visit.folder / "anat"
        anat.mkdir(parents=True)
        paths = {kind: anat / f"{visit.name}_{kind}.nii.gz" for kind in ("FLAIR", "T1w")}
        bright = np.where(_inside(FLAIR_GRID, balls), BRIGHT_FLAIR, flair).astype(np.int16)
        dark = np.where(_inside(T1W_GRID, balls), DARK_T1W, t1w).astype(np.int16)
        nifti.save(paths["FLAIR"], bright, moved(FLAIR_GRID, MOTION))
        nifti.save(paths["T1w"], dark, T1W_GRID)
        found.append(VisitInputs(visit, paths["FLAIR"], paths["T1w"], folder, ()))
    return found


def _stripped(grid: Grid, intensities: dict[str, float]) -> NDArray[np.float32]:
    """Return the brain of a phantom head, with some noise in it."""
    inside = brain_mask(grid)
    noise = np.random.default_rng(3).normal(0, 10, grid.shape)
    return np.where(inside, np.maximum(head(grid, intensities) + noise, 1), 0).astype(np.float32)


def _inside(grid: Grid, balls: Balls) -> NDArray[np.bool_]:
    place = world_mm(grid) - CENTRE_MM
    distances = [np.linalg.norm(place - middle, axis=-1) <= radius for middle, radius in balls]
    return np.any([np.zeros(grid.shape, bool), *distances], axis=0)
