# SPDX-License-Identifier: Apache-2.0
"""Brain masks: is an image skull-stripped already, and is a mask plausible."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from bids_lesion_xai.errors import DataError
from bids_lesion_xai.imaging.grid import Grid

# A brain of an adult holds 0.9 to 2.0 L. A slab of slices shows less; one below 0.3 L, 20 mm thick
# across the middle, is too little to count lesions. A mask above 2.5 L holds scalp and neck.
MIN_BRAIN_VOLUME_ML = 300
MAX_BRAIN_VOLUME_ML = 2500
# The largest brain, with its ventricles. A head with its scalp holds 3.5 to 5 L.
MAX_STRIPPED_VOLUME_ML = 2100
# A brain cropped tightly touches the faces of the volume with its poles only, 11 % of a face if
# the slices are 4 mm thick; a neck, or the cut of a slab, covers more.
MAX_TOUCHED_SHARE = 0.2
MAX_FACES_TOUCHED = 1
# Voxels that differ from the background, yet lie apart from the brain.
MAX_STRAY_SHARE = 0.01


def foreground(values: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Return where `values` differs from the background, which is the median of the outer faces.

    Parameters
    ----------
    values : float array, shape (X, Y, Z)
    """
    faces = [np.take(values, (0, -1), axis).ravel() for axis in range(3)]
    return np.asarray(values != np.median(np.concatenate(faces)))


def solid(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the largest component of `mask` (voxels that share a face), its holes filled.

    An empty mask stays empty.
    """
    components, _ = ndimage.label(mask)
    sizes = np.bincount(components.ravel())
    sizes[0] = 0
    largest = int(sizes.argmax())
    return np.asarray(ndimage.binary_fill_holes((components == largest) & mask))


def is_stripped(values: NDArray[np.floating], grid: Grid) -> bool:
    """Tell whether `values` shows a brain and nothing else.

    It does if the background is exactly constant (fewer than 1 % of the voxels that differ from
    it lie apart from the largest component), and the component, its holes filled, is no larger
    than a brain and clear of all but one face of the volume.

    Parameters
    ----------
    values : float array, shape (X, Y, Z)
        A native image, not resampled.
    grid : Grid
    """
    different = foreground(values)
    brain = solid(different)
    stray = np.count_nonzero(different & ~brain)
    touched = [np.take(brain, face, axis).mean() for axis in range(3) for face in (0, -1)]
    return bool(
        brain.any()
        and stray <= MAX_STRAY_SHARE * np.count_nonzero(brain)
        and volume_mm3(brain, grid) / 1000 <= MAX_STRIPPED_VOLUME_ML
        and np.count_nonzero(np.array(touched) > MAX_TOUCHED_SHARE) <= MAX_FACES_TOUCHED
    )


def volume_mm3(mask: NDArray[np.bool_], grid: Grid) -> float:
    """Return the volume of `mask`, shape (X, Y, Z), in mm3."""
    return float(np.count_nonzero(mask) * grid.voxel_volume_mm3)


def require_plausible(mask: NDArray[np.bool_], grid: Grid) -> NDArray[np.bool_]:
    """Return `mask`, shape (X, Y, Z), if a brain can have its volume.

    Raises
    ------
    DataError
        It is smaller than 300 or larger than 2500 mL.
    """
    volume = volume_mm3(mask, grid) / 1000
    if not MIN_BRAIN_VOLUME_ML <= volume <= MAX_BRAIN_VOLUME_ML:
        message = (
            f"The brain mask holds {volume:.0f} mL; {MIN_BRAIN_VOLUME_ML} to "
            f"{MAX_BRAIN_VOLUME_ML} mL are expected. Look at T1w: is it a whole head, or a brain? "
            "If it is skull-stripped, use --skull-strip skip; if not, --skull-strip force."
        )
        raise DataError(message)
    return mask
