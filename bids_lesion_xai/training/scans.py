# SPDX-License-Identifier: Apache-2.0
"""Labelled scans for training and evaluation."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nb
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from bids_lesion_xai.bids.dataset import LabelledFiles
from bids_lesion_xai.errors import DataError, naming
from bids_lesion_xai.imaging import nifti
from bids_lesion_xai.imaging.grid import Grid
from bids_lesion_xai.imaging.intensity import brain_moments, normalise
from bids_lesion_xai.models.bundle import Bundle

log = logging.getLogger(__name__)

# What a model learns, and a volume, is of voxels of 1 mm.
_SPACING_TOLERANCE_MM = 0.05
_APART_MM = 0.1
# Of fewer, a mask could be that of somebody else.
_FEWEST_VOXELS = 30


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


def load_scans(files: Iterable[LabelledFiles]) -> list[LabelledScan]:
    """Read every entry of `files` that has FLAIR, T1w and mask.

    Raises
    ------
    DataError
        An image cannot be read, has another grid than the others of its scan or no voxels of
        1 mm, a brain has no contrast, or a mask marks nothing inside of it.
    """
    scans = []
    for entry in files:
        if entry.flair is None or entry.t1w is None:
            continue
        with naming(entry.visit):
            scans.append(_load_scan(entry, entry.flair, entry.t1w))
        log.info("read %s: %d lesion voxels", entry.visit, scans[-1].lesions.sum())
    return scans


def unseen(files: Sequence[LabelledFiles], bundle: Bundle) -> list[LabelledFiles]:
    """Return the entries of everybody whom a model was not trained on.

    Its people are told by their names and, in a dataset that is called otherwise, by their lesion
    masks; a mask that cannot be read tells nobody.
    """
    named = {entry.person for entry in files} & set(bundle.trained_on)
    others = [entry for entry in files if entry.person not in named]
    known = {entry.person for entry in others if _checksum(entry) in bundle.trained_masks}
    for person in sorted(named):
        log.info("%s: left out, the model was trained on a person of this name", person)
    for person in sorted(known):
        log.info("%s: left out, the model was trained on a mask of this person", person)
    return [entry for entry in others if entry.person not in known]


def mask_checksum(mask: NDArray[np.bool_]) -> str:
    """Return what tells a lesion mask from others wherever it lies on its grid.

    Parameters
    ----------
    mask : bool array, shape (X, Y, Z)

    Returns
    -------
    str
        SHA-256 of the box around the lesions; empty if they have so few voxels that masks of
        others may be the same.
    """
    if np.count_nonzero(mask) < _FEWEST_VOXELS:
        return ""
    (box,) = ndimage.find_objects(mask.astype(np.uint8))
    content = str(mask[box].shape).encode() + np.packbits(mask[box]).tobytes()
    return hashlib.sha256(content).hexdigest()


def load_masks(files: Iterable[LabelledFiles]) -> list[NDArray[np.bool_]]:
    """Read the lesion mask, bool, shape (X, Y, Z), RAS+ axes, of every entry of `files`.

    Raises
    ------
    DataError
        A mask cannot be read, is none, or has no voxels of 1 mm.
    """
    masks = []
    for entry in files:
        with naming(entry.visit):
            masks.append(_read_lesions(entry.mask)[0])
    return masks


def read_1mm(path: Path) -> tuple[NDArray[np.float32], Grid]:
    """Read an image with voxels of 1 mm.

    Returns
    -------
    values : float32 array, shape (X, Y, Z), RAS+ axes
    grid : Grid

    Raises
    ------
    DataError
        The image cannot be read, or has other voxels.
    """
    return _on_1mm(path, *nifti.load(path))


def _read_lesions(path: Path) -> tuple[NDArray[np.bool_], Grid]:
    """Read a lesion mask as `read_1mm` reads an image, and as the app reads one."""
    shares, grid = _on_1mm(path, *nifti.load_mask(path, "Look at it."))
    return shares >= nifti.MARKED_FROM, grid


def _on_1mm(
    path: Path, values: NDArray[np.float32], grid: Grid
) -> tuple[NDArray[np.float32], Grid]:
    image = nb.as_closest_canonical(nb.Nifti1Image(values, grid.affine))
    if max(abs(mm - 1) for mm in grid.spacing_mm) > _SPACING_TOLERANCE_MM:
        sizes = " x ".join(f"{mm:.3g}" for mm in grid.spacing_mm)
        message = f"{path.name} has voxels of {sizes} mm; resample all images to 1 mm."
        raise DataError(message)
    return np.asarray(image.dataobj, np.float32), Grid(image.shape, image.affine)


def _checksum(entry: LabelledFiles) -> str:
    try:
        return mask_checksum(_read_lesions(entry.mask)[0])
    except DataError:
        return ""


def _load_scan(entry: LabelledFiles, flair: Path, t1w: Path) -> LabelledScan:
    lesions, grid = _read_lesions(entry.mask)
    images = []
    for path in (flair, t1w):
        values, own = read_1mm(path)
        if not own.same_as(grid, _APART_MM):
            message = (
                f"{path.name} and {entry.mask.name} lie on different grids; one is expected, as "
                "after registration."
            )
            raise DataError(message)
        images.append(normalise(values, values != 0, *brain_moments(values, values != 0)))
    brain = images[0] != 0
    if lesions.any() and not lesions[brain].any():
        message = (
            f"{entry.mask.name} marks nothing inside of the brain of {flair.name}; a mask that "
            "was drawn on it is expected. Look at both: is it the mask of another visit?"
        )
        raise DataError(message)
    return LabelledScan(entry.person, entry.session, np.stack(images), lesions, grid.spacing_mm)
