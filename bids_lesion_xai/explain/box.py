# SPDX-License-Identifier: Apache-2.0
"""Boxes of voxels on a grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch

Indices = tuple[int, ...]


@dataclass(frozen=True)
class Box:
    """The voxels from index `start` up to, but not including, `stop` on every axis.

    Indices may lie outside the grid, where a network sees its zero padding.
    """

    start: Indices
    stop: Indices

    @property
    def shape(self) -> Indices:
        """Number of voxels along each axis."""
        return tuple(stop - start for start, stop in zip(self.start, self.stop, strict=True))

    @property
    def size(self) -> int:
        """Number of voxels."""
        return prod(self.shape)

    def union(self, other: Box) -> Box:
        """Return the smallest box that holds both."""
        start = tuple(map(min, self.start, other.start))
        return Box(start, tuple(map(max, self.stop, other.stop)))

    def intersection(self, other: Box) -> Box:
        """Return the voxels of both: an empty box inside this one if there are none."""
        start = tuple(
            min(max(a, b), stop)
            for a, b, stop in zip(self.start, other.start, self.stop, strict=True)
        )
        stop = tuple(map(min, self.stop, other.stop))
        return Box(start, tuple(map(max, start, stop)))

    def grow(self, margins: Sequence[int]) -> Box:
        """Return the box with so many voxels more on both sides of each axis."""
        start = tuple(a - n for a, n in zip(self.start, margins, strict=True))
        return Box(start, tuple(b + n for b, n in zip(self.stop, margins, strict=True)))

    def clip(self, extent: Indices) -> Box:
        """Return the part of the box that lies on a grid of shape `extent`."""
        start = tuple(max(0, index) for index in self.start)
        return Box(start, tuple(map(min, self.stop, extent)))

    def slices(self, origin: Indices) -> tuple[Any, ...]:
        """Return the slices of the box in an array whose first voxel has the index `origin`."""
        return tuple(
            slice(start - first, stop - first)
            for start, stop, first in zip(self.start, self.stop, origin, strict=True)
        )


def bounding_box(mask: torch.Tensor) -> Box:
    """Return the smallest box that holds every True voxel of `mask`, bool, shape (X, Y, Z)."""
    voxels = mask.nonzero()
    start, last = voxels.amin(0).tolist(), voxels.amax(0).tolist()
    return Box(tuple(start), tuple(index + 1 for index in last))
