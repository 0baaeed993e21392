# SPDX-License-Identifier: Apache-2.0
"""Label maps of whole heads, and what each structure looks like on FLAIR and T1w."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bids_lesion_xai.errors import DataError, NotFoundError, naming
from bids_lesion_xai.training.scans import read_1mm

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Structure:
    """A structure of the head.

    Parameters
    ----------
    name : str
    labels : tuple of int
        FreeSurfer's numbers of the structure, left and right; those from 500 on are SynthSeg's for
        what lies outside the brain.
    grayness : float
        0 is as white matter, 1 as cortex; between and beyond, a point on that line. Cortex is the
        brighter one on FLAIR and the darker one on T1w.
    spread : float
        Standard deviation of the structure's own deviation, in units of the distance between white
        matter and fluid.
    """

    name: str
    labels: tuple[int, ...]
    grayness: float = 0.0
    spread: float = 0.03


FLUID = "fluid"
OUTSIDE = "outside"
WHITE_MATTER = "white matter"
CEREBELLAR_WHITE_MATTER = "cerebellar white matter"
BRAINSTEM = "brainstem"
CORTEX = "cortex"
VENTRICLES = "lateral ventricles"
CHOROID_PLEXUS = "choroid plexus"
VESSELS = "vessels"

# Grayness is a weak prior that a synthetic head scatters around: iron darkens the pallidum on
# FLAIR, limbic cortex is brighter than the rest.
STRUCTURES = (
    Structure(OUTSIDE, (0,)),
    # With 25 and 57, lesions of the people that the maps were made from, none of which is to be
    # seen in a head without lesions.
    Structure(WHITE_MATTER, (2, 41, 25, 57)),
    Structure(CORTEX, (3, 42), 1.0),
    Structure(VENTRICLES, (4, 43, 72)),
    Structure(FLUID, (5, 14, 15, 24, 44)),
    Structure(CEREBELLAR_WHITE_MATTER, (7, 46), 0.2, 0.05),
    Structure("cerebellar cortex", (8, 47), 0.9, 0.05),
    Structure("thalamus", (10, 49), 0.6, 0.05),
    Structure("caudate", (11, 50), 1.0, 0.05),
    Structure("putamen", (12, 51), 0.9, 0.05),
    Structure("pallidum", (13, 52), 0.1, 0.06),
    Structure(BRAINSTEM, (16,), 0.3, 0.06),
    Structure("hippocampus", (17, 53), 1.2, 0.05),
    Structure("amygdala", (18, 54), 1.2, 0.05),
    Structure("accumbens", (26, 58), 1.0, 0.05),
    Structure("ventral diencephalon", (28, 60), 0.4, 0.05),
    Structure("optic chiasm", (85,), 0.6, 0.1),
    Structure(VESSELS, (30, 62)),
    Structure(CHOROID_PLEXUS, (136, 137, 163, 164)),
    *(
        Structure(f"extracerebral {label}", (label,))
        for label in (502, 506, 507, 508, 509, 511, 512, 514, 515, 516, 530)
    ),
)
NUMBER = {structure.name: number for number, structure in enumerate(STRUCTURES)}
# The first of the structures outside the brain.
FIRST_EXTRACEREBRAL = NUMBER[CHOROID_PLEXUS] + 1
_MARGIN_VOXELS = 4


def load_anatomy(path: Path) -> NDArray[np.uint8]:
    """Read a label map with voxels of 1 mm; see `scans.read_1mm` and `to_structures`."""
    labels, _ = read_1mm(path)
    with naming(path.name):
        return to_structures(labels)


def to_structures(labels: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return the structures of a head, cut to the brain.

    Parameters
    ----------
    labels : float32 array, shape (X, Y, Z), RAS+ axes
        FreeSurfer's and SynthSeg's numbers.

    Returns
    -------
    anatomy : uint8 array, shape (X, Y, Z), RAS+ axes
        Numbers of `STRUCTURES`.

    Raises
    ------
    DataError
        A label is unknown, or there is no white matter or no ventricle.
    """
    known = {label: number for number, one in enumerate(STRUCTURES) for label in one.labels}
    # One more entry, the last, for labels beyond.
    table = np.full(max(known) + 2, len(STRUCTURES), np.uint8)
    table[list(known)] = list(known.values())
    whole = np.rint(labels)
    anatomy = table[np.clip(whole, -1, max(known) + 1).astype(np.int32)]
    anatomy[whole != labels] = len(STRUCTURES)
    if (anatomy == len(STRUCTURES)).any():
        unknown = [f"{label:g}" for label in np.unique(labels[anatomy == len(STRUCTURES)])[:10]]
        message = f"unknown labels {', '.join(unknown)}; FreeSurfer's and SynthSeg's are known."
        raise DataError(message)
    brain = tissue(anatomy)
    for name in (WHITE_MATTER, VENTRICLES):
        if not (anatomy == NUMBER[name]).any():
            numbers = STRUCTURES[NUMBER[name]].labels
            message = f"no {name} (labels {numbers}); a label map is expected."
            raise DataError(message)
    box = tuple(
        slice(max(0, int(where.min()) - _MARGIN_VOXELS), int(where.max()) + 1 + _MARGIN_VOXELS)
        for where in np.nonzero(brain)
    )
    return np.ascontiguousarray(anatomy[box])


def load_anatomies(folder: Path) -> list[NDArray[np.uint8]]:
    """Read every label map (``*.nii.gz``) of a folder, in the order of their names.

    Raises
    ------
    NotFoundError
        There is none.
    DataError
        One is not a label map.
    """
    paths: Iterable[Path] = sorted(folder.glob("*.nii.gz"))
    anatomies = [load_anatomy(path) for path in paths]
    if not anatomies:
        message = f"{folder}: no label map (*.nii.gz) found."
        raise NotFoundError(message)
    log.info("read %d label maps of heads", len(anatomies))
    return anatomies


def tissue(anatomy: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return where brain tissue is: no fluid outside the ventricles, nothing extracerebral."""
    brain = (anatomy != NUMBER[OUTSIDE]) & (anatomy < FIRST_EXTRACEREBRAL)
    return np.asarray(brain & (anatomy != NUMBER[FLUID]))
