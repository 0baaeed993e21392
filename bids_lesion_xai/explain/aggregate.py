# SPDX-License-Identifier: Apache-2.0
"""From the gradients of a lesion's voxels to one map: in one pass back, or voxel by voxel.

Gradients of single voxels are reduced as they come; none is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from bids_lesion_xai.explain.box import Box
from bids_lesion_xai.explain.layers import Piece
from bids_lesion_xai.explain.stages import PullBatch


@dataclass(frozen=True)
class VoxelGradients:
    """The gradients of the targets of a lesion's voxels with respect to the image.

    Parameters
    ----------
    pull : callable
        From gradients with respect to the logits to gradients with respect to the image.
    voxels : int64 tensor, shape (V, 3)
        Indices in the volume, in C order.
    slopes : float tensor, shape (V, K)
        Derivatives of the target of each voxel with respect to its logits.
    groups : list of int64 tensors
        The voxels whose gradients are taken together, as positions in `voxels`, ascending.
    at_once : int
        Most gradients to take at once.
    box : Box
        Where the image is.
    n_channels : int
        Of the image.
    extent : tuple of int
        Shape (X, Y, Z) of the logits of the whole volume.
    """

    pull: PullBatch
    voxels: torch.Tensor
    slopes: torch.Tensor
    groups: list[torch.Tensor]
    at_once: int
    box: Box
    n_channels: int
    extent: tuple[int, ...]

    def total(self, weight: float) -> torch.Tensor:
        """Return `weight` times the sum over the voxels, shape (C, x, y, z), in one pass back."""
        start = self.voxels.amin(0)
        places = (self.voxels - start).T
        logits = self._no_logits(1, self.voxels)
        logits[(0, slice(None), *places)] = weight * self.slopes.T
        (gradient,) = self.pull(Piece(logits, tuple(start.tolist()), self.extent))
        return gradient.cut(self.box)[0]

    def single(self) -> Iterator[tuple[torch.Tensor, Piece]]:
        """Yield the gradients of single voxels, some at a time, and their positions in `voxels`.

        On a GPU that runs out of memory, fewer are taken at a time from then on.
        """
        at_once = self.at_once
        for group in self.groups:
            done = 0
            while done < len(group):
                try:
                    for positions, part in self._batch(group[done : done + at_once]):
                        yield positions, part
                        done += len(positions)
                except torch.OutOfMemoryError:
                    if at_once == 1:
                        raise
                    at_once = max(1, min(at_once, len(group) - done) // 2)
                    torch.cuda.empty_cache()

    def common(self, piece: Piece) -> tuple[tuple[slice, ...], torch.Tensor]:
        """Return where a piece lies in `box`, as an index after channels, and its values there."""
        box = piece.box.intersection(self.box)
        return (slice(None), *box.slices(self.box.start)), piece.cut(box)

    def _batch(self, positions: torch.Tensor) -> Iterator[tuple[torch.Tensor, Piece]]:
        voxels = self.voxels[positions]
        start = voxels.amin(0)
        logits = self._no_logits(len(voxels), voxels)
        order = torch.arange(len(voxels), device=voxels.device)
        x, y, z = (voxels - start).T
        logits[order, :, x, y, z] = self.slopes[positions]
        done = 0
        for part in self.pull(Piece(logits, tuple(start.tolist()), self.extent)):
            count = len(part.values)
            yield positions[done : done + count], part
            done += count

    def zeros(self) -> torch.Tensor:
        """Return a map of zeros, shape (C, x, y, z), in `box`."""
        # In memory, channels come last, as they do in gradients.
        return self.slopes.new_zeros((*self.box.shape, self.n_channels)).permute(3, 0, 1, 2)

    def _no_logits(self, count: int, voxels: torch.Tensor) -> torch.Tensor:
        shape = (voxels.amax(0) - voxels.amin(0) + 1).tolist()
        return self.slopes.new_zeros((count, self.slopes.shape[1], *shape))


Aggregate = Callable[[VoxelGradients], torch.Tensor]


def _mean(gradients: VoxelGradients) -> torch.Tensor:
    return gradients.total(1 / len(gradients.voxels))


def _sum(gradients: VoxelGradients) -> torch.Tensor:
    return gradients.total(1)


def _max(gradients: VoxelGradients) -> torch.Tensor:
    """Keep the value of the largest magnitude, with its sign.

    It is the largest or the smallest value. Only where these are opposite does it matter which
    voxel came first: then, which is rare, the gradients are taken once more.
    """
    high, low = gradients.zeros(), gradients.zeros()
    for _, piece in gradients.single():
        here, values = gradients.common(piece)
        for value in values:
            torch.maximum(high[here], value, out=high[here])
            torch.minimum(low[here], value, out=low[here])
    largest = torch.where(high > -low, high, low)
    opposite = (high == -low) & (high > 0)
    if not opposite.any():
        return largest
    owner = torch.full_like(high, len(gradients.voxels), dtype=torch.int64)
    for positions, piece in gradients.single():
        here, values = gradients.common(piece)
        for position, value in zip(positions, values, strict=True):
            first = opposite[here] & (value.abs() == high[here]) & (position < owner[here])
            largest[here] = torch.where(first, value, largest[here])
            owner[here] = torch.where(first, position, owner[here])
    return largest


def _rms(gradients: VoxelGradients) -> torch.Tensor:
    squares = gradients.zeros()
    for _, piece in gradients.single():
        here, values = gradients.common(piece)
        for value in values:
            squares[here].addcmul_(value, value)
    return squares.div_(len(gradients.voxels)).sqrt_()


AGGREGATE_FUNCTIONS: dict[str, Aggregate] = {
    "mean": _mean,
    "sum": _sum,
    "max": _max,
    "rms": _rms,
}
