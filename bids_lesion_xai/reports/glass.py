# SPDX-License-Identifier: Apache-2.0
"""Where lesions lie: the brain as if of glass, seen along its three axes."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from bids_lesion_xai.reports import page
from bids_lesion_xai.reports.paths import area_path
from bids_lesion_xai.reports.slices import VIEWS, Scan, upright

_GAP = 14
# The brain's surface is smoothed by so many voxels before it is lit.
_SMOOTHING = 1.6


@dataclass(frozen=True)
class Glass:
    """Three views of a brain beside each other, in pixels of one voxel.

    Parameters
    ----------
    width, height : int
    views : list of dict
        ``name``, ``uri``, ``x``, ``y``, ``width``, ``height``, and ``sides``, of each view.
    lesions : dict of int to dict
        Of each lesion: ``paths``, its maximum projections with their x and y, and ``centres``,
        the middles of these.
    """

    width: int
    height: int
    views: list[dict[str, object]]
    lesions: dict[int, dict[str, object]]


def draw_glass(scan: Scan) -> Glass:
    """Return the brain of a visit with the maximum projection of each lesion."""
    brain, labels = scan.brain[scan.brain_box], scan.labels[scan.brain_box]
    planes = {axis: upright(_surface(brain, axis), axis) for axis in VIEWS}
    height = max(plane.shape[0] for plane in planes.values())
    views: list[dict[str, object]] = []
    places: dict[int, tuple[int, int]] = {}
    x = 0
    for axis, plane in planes.items():
        rows, columns = plane.shape
        places[axis] = (x, (height - rows) // 2)
        views.append(
            {
                "name": VIEWS[axis],
                "uri": _light_uri(plane),
                "x": x,
                "y": places[axis][1],
                "width": columns,
                "height": rows,
                "sides": ("R", "L") if axis else ("P", "A"),
            }
        )
        x += columns + _GAP
    lesions = {
        index: _projected(labels[part] == index, part, labels.shape, places)
        for index, part in enumerate(ndimage.find_objects(labels), start=1)
        if part is not None
    }
    return Glass(x - _GAP, height, views, lesions)


def _projected(
    inside: NDArray[np.bool_],
    part: tuple[slice, ...],
    shape: tuple[int, ...],
    places: dict[int, tuple[int, int]],
) -> dict[str, object]:
    paths, centres = [], []
    for axis, (x, y) in places.items():
        across, up = (other for other in range(3) if other != axis)
        plane = np.zeros((shape[across], shape[up]), bool)
        plane[part[across], part[up]] = inside.any(axis=axis)
        image = upright(plane, axis)
        paths.append((x, y, area_path(image)))
        row, column = np.argwhere(image).mean(axis=0) + 0.5
        centres.append((round(x + column, 1), round(y + row, 1)))
    return {"paths": paths, "centres": centres}


def _surface(brain: NDArray[np.bool_], axis: int) -> NDArray[np.float64]:
    """Return how much of a glass surface is seen along an axis: most where it is steep."""
    solid = ndimage.gaussian_filter(brain.sum(axis=axis).astype(float), _SMOOTHING)
    steep = np.hypot(*np.gradient(solid))
    seen = 1 - 1 / np.sqrt(1 + (steep / 6) ** 2)
    return np.where(brain.any(axis=axis), 0.10 + 0.75 * seen, 0)


def _light_uri(opacity: NDArray[np.float64]) -> str:
    """Return an opacity as an image of one grey that is legible on white as on black."""
    image = np.full((*opacity.shape, 4), (118, 138, 160, 0), np.uint8)
    image[..., 3] = np.rint(255 * np.clip(opacity, 0, 1))
    buffer = io.BytesIO()
    Image.fromarray(image, "RGBA").save(buffer, "WEBP", quality=70, method=4)
    return page.data_uri(buffer.getvalue(), "image/webp")
