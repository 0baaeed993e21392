# SPDX-License-Identifier: Apache-2.0
"""Labelled scans for training and evaluation."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import nibabel as nb
import numpy as np
from numpy.typing import NDArray

from bids_lesion_xai.bids.dataset import LabelledFiles
from bids_lesion_xai.errors import DataError
from bids_lesion_xai.imaging.intensity import brain_moments, normalise

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LabelledScan:
    """A skull-stripped scan with its lesion mask.

    Parameters
    ----------
    person : str
        ``DATASET/sub-LABEL``: sessions of one person share it.
    session : str
        Label without ``ses-``, or empty.
    image : float32 array, shape (2, X, Y, Z)
        FLAIR and T1w in units of normalised intensity, RAS+ axes, 0 outside the brain.
    lesions : bool array, shape (X, Y, Z)
    spacing_mm : tuple of float
    """

    person: str
    session: str
    image: NDArray[np.float32]
    lesions: NDArray[np.bool_]
    spacing_mm: tuple[float, float, float]

    @property
    def brain(self) -> NDArray[np.bool_]:
        """Where the FLAIR image is not background, bool, shape (X, Y, Z)."""
        return np.asarray(self.image[0] != 0)


def _canonical(path: Path) -> nb.Nifti1Image:
    return nb.as_closest_canonical(nb.load(path))


def _values(path: Path) -> NDArray[np.float32]:
    return np.asarray(_canonical(path).dataobj, np.float32)


def _normalised(path: Path) -> NDArray[np.float32]:
    values = _values(path)
    return normalise(values, values != 0, *brain_moments(values, values != 0))


def load_scans(files: Iterable[LabelledFiles]) -> list[LabelledScan]:
    """Read every entry of `files` that has FLAIR, T1w and mask.

    Raises
    ------
    DataError
        The three images of one scan lie on different grids.
    """
    scans = []
    for entry in files:
        if entry.flair is None or entry.t1w is None:
            continue
        image = np.stack([_normalised(entry.flair), _normalised(entry.t1w)])
        mask = _canonical(entry.mask)
        if mask.shape != image.shape[1:]:
            message = (
                f"{entry.person}: mask {mask.shape} and images {image.shape[1:]} differ in shape."
            )
            raise DataError(message)
        x_mm, y_mm, z_mm = (float(mm) for mm in mask.header.get_zooms()[:3])
        lesions = np.asarray(mask.dataobj) > 0
        scans.append(LabelledScan(entry.person, entry.session, image, lesions, (x_mm, y_mm, z_mm)))
        log.info("read %s %s: %d lesion voxels", entry.person, entry.session, lesions.sum())
    return scans


def load_masks(files: Iterable[LabelledFiles]) -> list[NDArray[np.bool_]]:
    """Read the lesion mask, bool, shape (X, Y, Z), RAS+ axes, of every entry of `files`."""
    return [_values(entry.mask) > 0 for entry in files]
