# SPDX-License-Identifier: Apache-2.0
"""What the figures show: slices of a visit's images, and windows around lesions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import numpy as np
from matplotlib.colors import Normalize
from numpy.typing import NDArray
from scipy import ndimage

from bids_lesion_xai.imaging.grid import Grid

_MARGIN_MM = 12.0
_MIN_WINDOW_MM = 44.0
# Area of a slice of the brain, relative to the largest, below which it is a tip.
_TIP = 0.12
# Voxel axes that views look along: axial, coronal, sagittal.
VIEWS = {2: "axial", 1: "coronal", 0: "sagittal"}

_Number = TypeVar("_Number", bound=np.generic)


@dataclass(frozen=True)
class Scan:
    """The preprocessed images of a visit and its lesions, on one grid.

    Parameters
    ----------
    grid : Grid
        Of cubes; axes near right, anterior and superior.
    images : mapping of str to float32 array, shape (X, Y, Z)
        ``flair`` and ``t1w``, in units of normalised intensity.
    brain : bool array, shape (X, Y, Z)
    labels : int32 array, shape (X, Y, Z)
        Number of the lesion, 0 where there is none.
    n_predicted : int
        Lesions of higher numbers are of a reference mask, and were missed.
    """

    grid: Grid
    images: Mapping[str, NDArray[np.float32]]
    brain: NDArray[np.bool_]
    labels: NDArray[np.int32]
    n_predicted: int

    @cached_property
    def greys(self) -> dict[str, Normalize]:
        """Grey scale of each image: the 1 to 99.8 percentile of the brain, black to white."""
        return {
            channel: Normalize(*np.percentile(values[self.brain], (1, 99.8)))
            for channel, values in self.images.items()
        }

    @cached_property
    def boxes(self) -> list[tuple[slice, slice, slice] | None]:
        """Bounding box of lesion 1, 2, ...; None for a number that no lesion has."""
        return list(ndimage.find_objects(self.labels))

    @cached_property
    def brain_box(self) -> tuple[slice, slice, slice]:
        """Bounding box of the brain."""
        box: tuple[slice, slice, slice] = ndimage.find_objects(self.brain.astype(np.uint8))[0]
        return box

    @cached_property
    def nearest(self) -> NDArray[np.int32]:
        """The predicted lesion nearest to each voxel, 0 if there is none."""
        # It imports torch, and is needed where single maps were not kept alone.
        from bids_lesion_xai.explain.summary import nearest_lesion

        predicted = np.where(self.labels <= self.n_predicted, self.labels, 0)
        if not predicted.any():
            return predicted
        return nearest_lesion(predicted, self.grid.spacing_mm)

    def plane(self, channel: str, axis: int, index: int) -> NDArray[np.float32]:
        """Return the slice `index` across a voxel axis, 2D, with black outside the brain."""
        # Indexed, for `take` would copy the whole volume first.
        brain, values = (
            np.moveaxis(volume, axis, 0)[index] for volume in (self.brain, self.images[channel])
        )
        return np.where(brain, values, np.float32(self.greys[channel].vmin or 0))


@dataclass(frozen=True)
class Crop:
    """An array that fills a box of a larger grid and is 0 elsewhere.

    Parameters
    ----------
    values : float32 array, shape (A, B, C)
    offset : tuple of int
        Index on the larger grid of the first voxel.
    """

    values: NDArray[np.float32]
    offset: tuple[int, int, int]


@dataclass(frozen=True)
class Window:
    """A square part of a slice.

    Parameters
    ----------
    axis : int
        Voxel axis that the slice lies across: 2 is axial, 1 coronal, 0 sagittal.
    index : int
        Of the slice along `axis`.
    start : tuple of int
        First index along the two other axes, in their order; may lie outside the grid.
    shape : tuple of int
        Number of voxels along these.
    """

    axis: int
    index: int
    start: tuple[int, int]
    shape: tuple[int, int]

    def of(self, volume: NDArray[_Number], fill: float = 0) -> NDArray[_Number]:
        """Return what the window shows of a volume, `fill` where it leaves it."""
        plane = np.moveaxis(volume, self.axis, 0)[self.index]
        return cut(plane, self.start, self.shape, fill)

    def of_crop(self, crop: Crop) -> NDArray[np.float32]:
        """Return what the window shows of a crop of a larger volume."""
        index = self.index - crop.offset[self.axis]
        if not 0 <= index < crop.values.shape[self.axis]:
            return np.zeros(self.shape, crop.values.dtype)
        first = [begin for axis, begin in enumerate(crop.offset) if axis != self.axis]
        x, y = (begin - offset for begin, offset in zip(self.start, first, strict=True))
        plane = np.moveaxis(crop.values, self.axis, 0)[index]
        return cut(plane, (x, y), self.shape)


def cut(
    plane: NDArray[_Number], start: tuple[int, int], shape: tuple[int, int], fill: float = 0
) -> NDArray[_Number]:
    """Return the part of `plane` of `shape` voxels from `start` on, `fill` where it leaves it.

    >>> cut(np.ones((2, 2)), (-1, 1), (3, 2)).tolist()
    [[0.0, 0.0], [1.0, 0.0], [1.0, 0.0]]
    """
    part = np.full(shape, fill, plane.dtype)
    first = [max(begin, 0) for begin in start]
    last = [min(begin + n, size) for begin, n, size in zip(start, shape, plane.shape, strict=True)]
    if all(end > begin for begin, end in zip(first, last, strict=True)):
        target = [slice(a - s, b - s) for a, b, s in zip(first, last, start, strict=True)]
        part[tuple(target)] = plane[first[0] : last[0], first[1] : last[1]]
    return part


def lesion_windows(scan: Scan, index: int) -> list[Window]:
    """Return the windows around a lesion: axial, coronal and sagittal, of one size.

    Each shows the slice that holds most of the lesion's voxels, with the lesion in the middle and
    a margin of at least 12 mm around it.
    """
    box = scan.boxes[index - 1]
    if box is None:
        message = f"there is no lesion {index}"
        raise ValueError(message)
    inside = scan.labels[box] == index
    spacing_mm = scan.grid.spacing_mm
    extents_mm = [(part.stop - part.start) * mm for part, mm in zip(box, spacing_mm, strict=True)]
    side_mm = max(_MIN_WINDOW_MM, max(extents_mm) + 2 * _MARGIN_MM)
    n = int(np.ceil(side_mm / min(spacing_mm) - 1e-3))
    first = [(part.start + part.stop - n) // 2 for part in box]
    windows = []
    for axis in VIEWS:
        x, y = (other for other in range(3) if other != axis)
        voxels = inside.sum((x, y))
        place = box[axis].start + int(voxels.argmax())
        windows.append(Window(axis, place, (first[x], first[y]), (n, n)))
    return windows


def upright(plane: NDArray[_Number], axis: int) -> NDArray[_Number]:
    """Return the slice of shape (A, B) across `axis` as rows of an image, top to bottom.

    Axial and coronal slices show the person's right on the left, sagittal ones the front on the
    right.

    >>> upright(np.array([[1, 2], [3, 4]]), 2).tolist()
    [[4, 2], [3, 1]]
    """
    rows = plane.T[::-1]
    return rows if axis == 0 else rows[:, ::-1]


def overview_slices(scan: Scan, n_slices: int) -> list[int]:
    """Return axial slices that spread over the brain and show as many lesions as they can.

    The brain, without the tips that hold no lesion, is divided into `n_slices` slabs. Of each, the
    slice with most voxels of lesions that no slice below shows is taken; if there is none, the
    middle one.
    """
    area = scan.brain.sum((0, 1))
    lesions = (scan.labels > 0).any((0, 1))
    filled = np.flatnonzero((area > _TIP * area.max()) | lesions)
    chosen: list[int] = []
    for slab in np.array_split(filled, n_slices):
        if not slab.size:
            continue
        labels = scan.labels[:, :, slab]
        shown = np.unique(scan.labels[:, :, chosen])
        n_voxels = ((labels > 0) & ~np.isin(labels, shown)).sum((0, 1))
        best = int(n_voxels.argmax()) if n_voxels.any() else slab.size // 2
        chosen.append(int(slab[best]))
    return chosen
