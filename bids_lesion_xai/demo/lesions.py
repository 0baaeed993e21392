# SPDX-License-Identifier: Apache-2.0
"""Lesions of known volume in the white matter of a synthetic head."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, special
from scipy.spatial.transform import Rotation

from bids_lesion_xai.demo.head import Floats, Head, distance_mm, smooth_field
from bids_lesion_xai.errors import DataError
from bids_lesion_xai.lesions.label import CONNECTIVITY

# The logit of the white-matter fraction, times this, is about the distance to its border.
_LOGIT_MM = 0.7
_SOFTNESS_MM = 0.5
_GAP_MM = 4.0
_SPOTS_MM = 2.0


@dataclass(frozen=True)
class Lesion:
    """A lesion of white matter.

    Parameters
    ----------
    centre_mm : float64 array, shape (3,)
        Centroid, in world space of the head.
    volume_mm3 : float
    flair_contrast, t1w_contrast : float
        Intensity minus that of the tissue before, in standard deviations over the brain.
    start : tuple of int
        First voxel of `level` on the grid of the head.
    level : float32 array, shape (A, B, C)
        About the distance to the border in mm, positive inside.
    """

    centre_mm: NDArray[np.float64]
    volume_mm3: float
    flair_contrast: float
    t1w_contrast: float
    start: tuple[int, ...]
    level: Floats

    @property
    def box(self) -> tuple[slice, ...]:
        """The part of the grid of the head that `level` covers."""
        return tuple(
            slice(first, first + n) for first, n in zip(self.start, self.level.shape, strict=True)
        )


def place_lesions(
    head: Head,
    volumes_mm3: Sequence[float],
    rng: np.random.Generator,
    others: Sequence[Lesion] = (),
) -> tuple[Lesion, ...]:
    """Return lesions in the white matter of `head`, in turn beside a ventricle and away from it.

    No two touch. The volume holds for the head as it is interpolated linearly.

    Parameters
    ----------
    head : Head
    volumes_mm3 : list of float
    rng : numpy Generator
    others : list of Lesion
        Lesions that are there already.

    Raises
    ------
    DataError
        There is no room.
    """
    spots, depths_mm, ventricle_mm = _spots(head)
    placed = list(others)
    for index, volume_mm3 in enumerate(sorted(volumes_mm3, reverse=True)):
        radius_mm = _radius_mm(volume_mm3)
        beside = ventricle_mm < radius_mm + 2
        fits = (depths_mm > 0.75 * radius_mm) & (beside if index % 2 == 0 else ~beside)
        for other in placed:
            gap_mm = 1.5 * (radius_mm + _radius_mm(other.volume_mm3)) + _GAP_MM
            fits &= np.linalg.norm(spots - other.centre_mm, axis=1) > gap_mm
        grown = (_grow(head, spot, volume_mm3, rng) for spot in rng.permutation(spots[fits]))
        lesion = next((lesion for lesion in grown if lesion is not None), None)
        if lesion is None:
            message = f"no room for a lesion of {volume_mm3:g} mm3 in the white matter"
            raise DataError(message)
        placed.append(lesion)
    return tuple(placed[len(others) :])


def _spots(head: Head) -> tuple[NDArray[np.float64], Floats, Floats]:
    """Points in white matter (mm), their depth in it and their distance to a ventricle (mm)."""
    step = max(1, round(_SPOTS_MM / head.grid.spacing_mm[0]))
    some = (slice(None, None, step),) * 3
    white, fluid, brain = (values[some] > 0.5 for values in (head.white, head.fluid, head.brain))
    surface_mm = distance_mm(brain, head.grid, step)
    depth_mm = distance_mm(white, head.grid, step)
    # Fluid as deep as this is hardly ever in a sulcus.
    ventricle_mm = distance_mm(~(fluid & (surface_mm > 30)), head.grid, step)
    chosen = (surface_mm > 15) & (depth_mm > 2)
    spots = head.grid.to_world_mm(float(step) * np.argwhere(chosen))
    return spots, depth_mm[chosen], ventricle_mm[chosen]


def _radius_mm(volume_mm3: float) -> float:
    return float(np.cbrt(volume_mm3 * 3 / (4 * np.pi)))


def _grow(
    head: Head, centre_mm: NDArray[np.float64], volume_mm3: float, rng: np.random.Generator
) -> Lesion | None:
    """Return a lesion near `centre_mm`, or None if the white matter has no room for it there."""
    radius_mm = _radius_mm(volume_mm3)
    half = np.ceil((2 * radius_mm + 4) / np.array(head.grid.spacing_mm))
    centre = (centre_mm - head.grid.affine[:3, 3]) @ np.linalg.inv(head.grid.affine[:3, :3]).T
    start = np.clip(np.rint(centre) - half, 0, None).astype(int)
    stop = np.minimum(np.rint(centre) + half + 1, head.grid.shape).astype(int)
    box = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
    indices = np.moveaxis(np.indices(stop - start), 0, -1) + start
    distance_mm = _blob(head.grid.to_world_mm(indices) - centre_mm, radius_mm, rng)
    limit_mm = _LOGIT_MM * special.logit(np.clip(head.white[box], 1e-4, 1 - 1e-4))
    # Sixty-four points a voxel, interpolated as an image of the head would be.
    fine_mm, fine_limit_mm = (
        ndimage.zoom(values, 4, order=1, grid_mode=True, mode="nearest")
        for values in (distance_mm, limit_mm)
    )
    open_to_it = np.sort(fine_mm[fine_limit_mm > 0])
    needed = round(volume_mm3 / head.grid.voxel_volume_mm3 * 64)
    if needed >= open_to_it.size or open_to_it[needed] > 1.3 * radius_mm:
        return None
    level = np.minimum(open_to_it[needed] - distance_mm, limit_mm).astype(np.float32)
    if ndimage.label(level > 0, CONNECTIVITY)[1] != 1:
        return None
    return Lesion(
        centre_mm=head.grid.to_world_mm(np.argwhere(level > 0) + start).mean(axis=0),
        volume_mm3=volume_mm3,
        flair_contrast=rng.uniform(1.7, 2.3),
        t1w_contrast=rng.uniform(-1.0, -0.6),
        start=tuple(int(first) for first in start),
        level=level,
    )


def _blob(
    offsets_mm: NDArray[np.float64], radius_mm: float, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Distance to the middle of a blob: a soft minimum over three ellipsoids, made uneven."""
    stretch = rng.uniform(1.3, 2.0)
    axes = np.array([stretch, 1.0, 1.0]) / np.cbrt(stretch)
    turn = Rotation.random(random_state=rng).as_matrix()
    points = offsets_mm @ turn / axes
    middles = radius_mm * rng.uniform(-0.4, 0.4, (3, 3))
    distances = np.stack([np.linalg.norm(points - middle, axis=-1) for middle in middles])
    sharpness = 3 / radius_mm
    near = special.logsumexp(-sharpness * distances, axis=0) - np.log(len(middles))
    uneven = smooth_field(rng, near.shape, max(radius_mm, 2.0))
    return np.asarray(-near / sharpness + 0.12 * radius_mm * uneven)


def add_lesions(head: Head, lesions: Sequence[Lesion]) -> tuple[Floats, Floats]:
    """Return T1w and FLAIR of `head` with `lesions`: float32 arrays, shape (X, Y, Z).

    A lesion is darker on T1w and brighter on FLAIR, with a border about 2 mm wide.
    """
    brain = head.brain > 0.5
    t1w, flair = head.t1w.copy(), head.flair.copy()
    t1w_unit, flair_unit = float(t1w[brain].std()), float(flair[brain].std())
    for lesion in lesions:
        share = special.expit(lesion.level / _SOFTNESS_MM)
        t1w[lesion.box] += lesion.t1w_contrast * t1w_unit * share
        flair[lesion.box] += lesion.flair_contrast * flair_unit * share
    return t1w, flair


def lesion_level(head: Head, lesions: Sequence[Lesion]) -> Floats:
    """Return about the distance to the nearest lesion's border, positive inside lesions.

    Returns
    -------
    level : float32 array, shape (X, Y, Z)
        In mm; -10 away from lesions. Its zero is the border.
    """
    level = np.full(head.grid.shape, -10, np.float32)
    for lesion in lesions:
        np.maximum(level[lesion.box], lesion.level, out=level[lesion.box])
    return level
