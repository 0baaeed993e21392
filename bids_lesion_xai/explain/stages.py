# SPDX-License-Identifier: Apache-2.0
"""A network as stages, evaluated and differentiated in boxes: U-Net levels within levels.

The way back of many gradients at once is the place where time is won or lost. Near the bottom of
a U-Net boxes are small and kernels large, so that many gradients should share the reading of a
kernel; near its top boxes are large, and more than one gradient at a time overflows the cache.
`Level.forward` therefore takes a batch of gradients down together and gives it back in parts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from operator import mul
from typing import Protocol

import torch

from bids_lesion_xai.explain.box import Box, Indices
from bids_lesion_xai.explain.layers import Layer, Piece, Work

PullBatch = Callable[[Piece], Iterator[Piece]]


class Stage(Protocol):
    """How boxes and batches of gradients go through a part of a network."""

    @property
    def multiple(self) -> Indices:
        """Sides of the input must be multiples of these."""

    def needed(self, box: Box) -> Box:
        """Return the box of the input that the output in `box` depends on, not clipped."""

    def work(self, box: Box) -> Work:
        """Return what the output in `box` takes, away from the faces of the volume."""

    def forward(self, piece: Piece, box: Box) -> tuple[Piece, PullBatch]:
        """Return the output in `box`, and the way back of a batch of gradients.

        The way back yields the gradients with respect to the input in the order of the batch, some
        at a time.
        """


@dataclass(frozen=True, eq=False)
class Plain:
    """Layers without skip connections: the bottom of a U-Net, or a whole network.

    Parameters
    ----------
    layer : Layer
    """

    layer: Layer

    @property
    def multiple(self) -> Indices:
        return self.layer.stride

    def needed(self, box: Box) -> Box:
        return self.layer.needed(box)

    def work(self, box: Box) -> Work:
        return self.layer.work(box)

    def forward(self, piece: Piece, box: Box) -> tuple[Piece, PullBatch]:
        output, pull = self.layer.forward(piece, box)
        return output, lambda gradients: iter((pull(gradients),))


@dataclass(frozen=True, eq=False)
class Level:
    """A level of a U-Net: down, the levels below beside a skip connection, and up.

    Parameters
    ----------
    down : Layer
    inner : Stage
    up : Layer
        Of the channels of `down` and, after them, those of `inner`.
    batch_elements : int
        A batch of gradients is parted before `down` so that none has more elements than this,
        unless a single gradient has.
    """

    down: Layer
    inner: Stage
    up: Layer
    batch_elements: int

    @property
    def multiple(self) -> Indices:
        return tuple(map(mul, self.down.stride, self.inner.multiple))

    def needed(self, box: Box) -> Box:
        joined = self.up.needed(box)
        return self.down.needed(self.inner.needed(joined).union(joined))

    def work(self, box: Box) -> Work:
        joined = self.up.needed(box)
        wanted = self.inner.needed(joined).union(joined)
        return self.up.work(box) + self.inner.work(joined) + self.down.work(wanted)

    def forward(self, piece: Piece, box: Box) -> tuple[Piece, PullBatch]:
        extent = self.down.extent(piece.extent)
        joined_box = self.up.needed(box).clip(extent)
        wanted = self.inner.needed(joined_box).union(joined_box).clip(extent)
        features, pull_down = self.down.forward(piece, wanted)
        inner, pull_inner = self.inner.forward(features, joined_box)
        joined = replace(inner, values=torch.cat([features.cut(joined_box), inner.values], 1))
        output, pull_up = self.up.forward(joined, box)
        n_channels = features.values.shape[1]

        def pull(gradients: Piece) -> Iterator[Piece]:
            joined = pull_up(gradients)
            done = 0
            for part in pull_inner(replace(joined, values=joined.values[:, n_channels:])):
                count = len(part.values)
                skipped = joined.values[done : done + count, :n_channels]
                done += count
                whole = part.add(replace(joined, values=skipped))
                at_once = max(1, self.batch_elements // whole.values[0].numel())
                for values in torch.split(whole.values, at_once):
                    yield pull_down(replace(whole, values=values))

        return output, pull
