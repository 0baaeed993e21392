# SPDX-License-Identifier: Apache-2.0
"""The mean of the logits of an image and of its mirror image, and its gradients."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from bids_lesion_xai.explain.box import Box, Indices
from bids_lesion_xai.explain.engines import Engine
from bids_lesion_xai.explain.layers import Piece, Work
from bids_lesion_xai.explain.stages import PullBatch


@dataclass(frozen=True)
class MirroredEngine:
    """Averages the logits of an image and of its mirror image along the first axis. Exact.

    The image is mirrored before it is padded, as it is for the prediction.

    Parameters
    ----------
    engine : Engine
        Computes the logits of each of the two.
    shape : tuple of int
        Shape (X, Y, Z) of the image.
    """

    engine: Engine
    shape: Indices

    @property
    def name(self) -> str:
        """Name of the engine inside, in the catalogue."""
        return self.engine.name

    @property
    def side_by_side(self) -> bool:
        """Whether a sample is small."""
        return self.engine.side_by_side

    def extent(self, shape: Indices) -> Indices:
        """Return `shape`: each of the two engines pads an image of its own."""
        return shape

    def region(self, target: Box, shape: Indices) -> Box:
        """Return the part of the image that the logits in `target` need."""
        plain = self.engine.region(target, shape).clip(shape)
        mirrored = self.engine.region(self._mirror(target), shape).clip(shape)
        return plain.union(self._mirror(mirrored))

    def work(self, target: Box, shape: Indices) -> Work:
        """Return what the logits in `target` take, about."""
        return self.engine.work(target, shape) + self.engine.work(self._mirror(target), shape)

    def run(self, piece: Piece, target: Box) -> tuple[Piece, PullBatch]:
        """Return the logits in `target`, and the way back of gradients to the image."""
        plain, pull_plain = self.engine.run(*self._side(piece, target))
        mirrored, pull_mirrored = self.engine.run(*self._mirror_side(piece, target))

        def pull(gradients: Piece) -> Iterator[Piece]:
            half = Piece(gradients.values / 2, gradients.start, gradients.extent)
            # Copied now: an engine may write over the gradients that it pulls.
            mirrored_half = self._mirror_piece(half)
            sides = (
                _one_by_one(pull_plain(self._of_engine(half))),
                _one_by_one(pull_mirrored(self._of_engine(mirrored_half))),
            )
            for one, other in zip(*sides, strict=True):
                yield self._of_image(one).add(self._mirror_piece(self._of_image(other)))

        return self._mean(plain, mirrored, target), pull

    def logits(self, piece: Piece, target: Box) -> Piece:
        """Return the logits in `target` of a batch of images."""
        plain = self.engine.logits(*self._side(piece, target))
        return self._mean(plain, self.engine.logits(*self._mirror_side(piece, target)), target)

    def groups(self, voxels: torch.Tensor) -> list[torch.Tensor]:
        """Return the voxels in groups whose gradients are taken together on both sides."""
        mirrored = voxels.clone()
        mirrored[:, 0] = self.shape[0] - 1 - voxels[:, 0]
        groups = []
        for group in self.engine.groups(voxels):
            groups += [group[part] for part in self.engine.groups(mirrored[group])]
        return groups

    def _side(self, piece: Piece, target: Box) -> tuple[Piece, Box]:
        return self._of_engine(piece).at(self.engine.region(target, self.shape)), target

    def _mirror_side(self, piece: Piece, target: Box) -> tuple[Piece, Box]:
        return self._side(self._mirror_piece(piece), self._mirror(target))

    def _mean(self, plain: Piece, mirrored: Piece, target: Box) -> Piece:
        both = (plain.cut(target) + self._mirror_piece(mirrored).cut(target)) / 2
        return Piece(both, target.start, self.shape)

    def _mirror(self, box: Box) -> Box:
        side = self.shape[0]
        return Box((side - box.stop[0], *box.start[1:]), (side - box.start[0], *box.stop[1:]))

    def _mirror_piece(self, piece: Piece) -> Piece:
        return Piece(piece.values.flip(2), self._mirror(piece.box).start, piece.extent)

    def _of_engine(self, piece: Piece) -> Piece:
        return Piece(piece.values, piece.start, self.engine.extent(self.shape))

    def _of_image(self, piece: Piece) -> Piece:
        return Piece(piece.values, piece.start, self.shape).clip()


def _one_by_one(pieces: Iterator[Piece]) -> Iterator[Piece]:
    for piece in pieces:
        for values in torch.split(piece.values, 1):
            yield Piece(values, piece.start, piece.extent)
