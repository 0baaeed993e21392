# SPDX-License-Identifier: Apache-2.0
"""Layers of a convolutional network, evaluated and differentiated in boxes only.

A convolution computes an output voxel from a bounded box of its input. Walking back from a box of
logits gives, layer by layer, the box that is needed (`needed`); walking forward computes just
these boxes, with zeros where a layer would see its own padding (`forward`). The way back of the
gradient goes through the same boxes: beside its output, `forward` returns the function that takes
a gradient with respect to the output, in any box and zero elsewhere, to the gradient with respect
to the input. Values and gradients are those of the whole volume: nothing is approximated, whatever
the position of a box relative to the strides or the faces of the volume.

The arithmetic per axis, for output indices a to b (b included), stride s, padding p, kernel k and
dilation d, follows Dumoulin and Visin (2016), "A guide to convolution arithmetic for deep
learning", arXiv 1603.07285:

- convolution: inputs s a - p to s b - p + d (k - 1);
- transposed convolution: inputs ceil((a + p - d (k - 1)) / s) to floor((b + p) / s).

The gradient of each of the two is the other, with the same kernel.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from operator import mul
from typing import Protocol

import torch
from torch.nn import functional

from bids_lesion_xai.explain.box import Box, Indices
from bids_lesion_xai.explain.kernel import Kernel

_ONE = (1, 1, 1)


@dataclass(frozen=True)
class Piece:
    """A part of a feature map, or of the gradient with respect to one.

    Parameters
    ----------
    values : float tensor, shape (N, C, x, y, z)
    start : tuple of int
        Index in the whole feature map of the first voxel of `values`.
    extent : tuple of int
        Shape (X, Y, Z) of the whole feature map.
    """

    values: torch.Tensor
    start: Indices
    extent: Indices

    @property
    def box(self) -> Box:
        """Where the values lie in the whole feature map."""
        stop = (start + n for start, n in zip(self.start, self.values.shape[2:], strict=True))
        return Box(self.start, tuple(stop))

    def cut(self, box: Box) -> torch.Tensor:
        """Return the values in `box`, with zeros where the piece has none."""
        inside = box.intersection(self.box)
        values = self.values[(..., *inside.slices(self.start))]
        margins = [
            margin
            for axis in (2, 1, 0)
            for margin in (
                inside.start[axis] - box.start[axis],
                box.stop[axis] - inside.stop[axis],
            )
        ]
        return functional.pad(values, margins) if any(margins) else values

    def clip(self) -> Piece:
        """Return the part of the piece that lies on the feature map."""
        inside = self.box.clip(self.extent)
        return self if inside == self.box else self.at(inside)

    def at(self, box: Box) -> Piece:
        """Return the piece in `box`, with zeros where it has no values."""
        return Piece(self.cut(box), box.start, self.extent)

    def add(self, other: Piece) -> Piece:
        """Return the sum of two gradients, each zero where it has no values.

        It may be written over the values of this one.
        """
        whole = (
            self if self.box.union(other.box) == self.box else self.at(self.box.union(other.box))
        )
        whole.values[(..., *other.box.slices(whole.start))] += other.values
        return whole


# From the gradient with respect to the output of a layer to that with respect to its input. The
# values of the first may be overwritten.
Pull = Callable[[Piece], Piece]


@dataclass(frozen=True)
class Work:
    """What it takes to evaluate something.

    Parameters
    ----------
    elements : int
        Numbers that are made on the way, and about as many are kept for the way back.
    operations : int
        Multiplications and additions; a gradient on its way back takes as many.
    """

    elements: int
    operations: int

    def __add__(self, other: Work) -> Work:
        """Return the sum."""
        return Work(self.elements + other.elements, self.operations + other.operations)


class Layer(Protocol):
    """How boxes and gradients go through one layer."""

    @property
    def stride(self) -> Indices:
        """Input voxels a step of the output; 1 for what goes up."""

    def needed(self, box: Box) -> Box:
        """Return the box of the input that the output in `box` depends on, not clipped."""

    def extent(self, extent: Indices) -> Indices:
        """Return the shape of the output for an input of shape `extent`."""

    def work(self, box: Box) -> Work:
        """Return what the output in `box` takes, away from the faces of the volume."""

    def forward(self, piece: Piece, box: Box) -> tuple[Piece, Pull]:
        """Return the output in `box`, and the way back of a gradient.

        Parameters
        ----------
        piece : Piece
            The input, at least where `needed` says and the feature map reaches.
        box : Box
            Part of the output, inside its extent. The way back takes gradients inside of it.
        """


@dataclass(frozen=True, eq=False)
class Convolution:
    """A convolution with zero padding.

    Parameters
    ----------
    kernel : Kernel
    bias : float tensor, shape (out,), or None
    """

    kernel: Kernel
    bias: torch.Tensor | None

    @property
    def stride(self) -> Indices:
        return self.kernel.stride

    def needed(self, box: Box) -> Box:
        return self.kernel.under(box)

    def work(self, box: Box) -> Work:
        weight = self.kernel.weight
        return Work(box.size * len(weight), 2 * box.size * weight.numel())

    def extent(self, extent: Indices) -> Indices:
        k = self.kernel
        axes = zip(extent, k.padding, k.reach, k.stride, strict=True)
        return tuple((n + 2 * p - r - 1) // s + 1 for n, p, r, s in axes)

    def forward(self, piece: Piece, box: Box) -> tuple[Piece, Pull]:
        values = self.kernel.gather(piece.cut(self.needed(box)), self.bias)
        extent = piece.extent

        def pull(gradient: Piece) -> Piece:
            reached = self.kernel.under(gradient.box)
            return Piece(self.kernel.scatter(gradient.values), reached.start, extent).clip()

        return Piece(values, box.start, self.extent(extent)), pull


@dataclass(frozen=True, eq=False)
class TransposedConvolution:
    """A transposed convolution.

    Parameters
    ----------
    kernel : Kernel
    bias : float tensor, shape (out,), or None
    output_padding : tuple of int
    """

    kernel: Kernel
    bias: torch.Tensor | None
    output_padding: Indices
    stride = _ONE

    def needed(self, box: Box) -> Box:
        return self.kernel.over(box)

    def work(self, box: Box) -> Work:
        kernel = self.kernel
        n_out = kernel.weight.shape[1] * kernel.groups
        inputs = self.needed(box).size
        return Work(box.size * n_out, 2 * inputs * kernel.weight.numel())

    def extent(self, extent: Indices) -> Indices:
        k = self.kernel
        axes = zip(extent, k.padding, k.reach, k.stride, self.output_padding, strict=True)
        return tuple(s * (n - 1) - 2 * p + r + 1 + extra for n, p, r, s, extra in axes)

    def forward(self, piece: Piece, box: Box) -> tuple[Piece, Pull]:
        source = piece.at(self.needed(box))
        spread = self.kernel.scatter(source.values, self.bias)
        first = self.kernel.under(source.box).start
        extent = piece.extent

        def pull(gradient: Piece) -> Piece:
            inputs = self.needed(gradient.box).clip(extent)
            values = self.kernel.gather(gradient.cut(self.kernel.under(inputs)))
            return Piece(values, inputs.start, extent)

        return Piece(spread[(..., *box.slices(first))], box.start, self.extent(extent)), pull


class _SameGrid:
    """A layer that computes each voxel from the same voxel."""

    stride = _ONE

    def needed(self, box: Box) -> Box:
        return box

    def extent(self, extent: Indices) -> Indices:
        return extent

    def work(self, box: Box) -> Work:
        return Work(0, 0)


@dataclass(frozen=True, eq=False)
class Affine(_SameGrid):
    """A factor and a summand for each channel: a batch norm with the statistics of the training.

    Parameters
    ----------
    scale, shift : float tensors, shape (C,)
    """

    scale: torch.Tensor
    shift: torch.Tensor

    def forward(self, piece: Piece, box: Box) -> tuple[Piece, Pull]:
        scale, shift = self.scale[:, None, None, None], self.shift[:, None, None, None]

        def pull(gradient: Piece) -> Piece:
            return replace(gradient, values=gradient.values.mul_(scale))

        return Piece(piece.cut(box) * scale + shift, box.start, piece.extent), pull


@dataclass(frozen=True, eq=False)
class Activation(_SameGrid):
    """A function of each voxel.

    Parameters
    ----------
    function : callable
        Of a float tensor, shape (N, C, x, y, z).
    """

    function: Callable[[torch.Tensor], torch.Tensor]

    def forward(self, piece: Piece, box: Box) -> tuple[Piece, Pull]:
        with torch.enable_grad():
            source = piece.cut(box).detach().requires_grad_()
            # The function may work in place.
            values = self.function(source.clone())
            (slope,) = torch.autograd.grad(values, source, torch.ones_like(values))

        def pull(gradient: Piece) -> Piece:
            here = slope[(..., *gradient.box.slices(box.start))]
            return replace(gradient, values=gradient.values.mul_(here))

        return Piece(values.detach(), box.start, piece.extent), pull


@dataclass(frozen=True, eq=False)
class Rectifier(_SameGrid):
    """The identity for positive values, and a slope for the others: ReLU and its kin.

    Parameters
    ----------
    slope : float
    in_place : bool
        Whether the input may be overwritten. The slope is at least 0 then, so that the sign of a
        value can be read from the output.
    """

    slope: float
    in_place: bool

    def forward(self, piece: Piece, box: Box) -> tuple[Piece, Pull]:
        source = piece.cut(box)
        values = functional.leaky_relu(source, self.slope, self.in_place)
        kept = values if self.in_place else source

        def pull(gradient: Piece) -> Piece:
            here = kept[(..., *gradient.box.slices(box.start))].expand_as(gradient.values)
            torch.ops.aten.leaky_relu_backward.grad_input(
                *(gradient.values, here, self.slope, self.in_place), grad_input=gradient.values
            )
            return gradient

        return Piece(values, box.start, piece.extent), pull


@dataclass(frozen=True, eq=False)
class Chain:
    """Layers one after the other; with none of them, the identity.

    Parameters
    ----------
    layers : tuple of Layer
    """

    layers: tuple[Layer, ...]

    @property
    def stride(self) -> Indices:
        stride = _ONE
        for layer in self.layers:
            stride = tuple(map(mul, stride, layer.stride))
        return stride

    def needed(self, box: Box) -> Box:
        for layer in reversed(self.layers):
            box = layer.needed(box)
        return box

    def extent(self, extent: Indices) -> Indices:
        for layer in self.layers:
            extent = layer.extent(extent)
        return extent

    def work(self, box: Box) -> Work:
        work = Work(0, 0)
        for layer in reversed(self.layers):
            work += layer.work(box)
            box = layer.needed(box)
        return work

    def forward(self, piece: Piece, box: Box) -> tuple[Piece, Pull]:
        if not self.layers:
            return piece.at(box), lambda gradient: gradient
        extents = [piece.extent]
        for layer in self.layers[:-1]:
            extents.append(layer.extent(extents[-1]))
        boxes = [box]
        for layer, extent in zip(self.layers[:0:-1], extents[:0:-1], strict=True):
            boxes.append(layer.needed(boxes[-1]).clip(extent))
        pulls = []
        for layer, wanted in zip(self.layers, reversed(boxes), strict=True):
            piece, pull = layer.forward(piece, wanted)
            pulls.append(pull)

        def pull_all(gradient: Piece) -> Piece:
            for pull in reversed(pulls):
                gradient = pull(gradient)
            return gradient

        return piece, pull_all


@dataclass(frozen=True, eq=False)
class Residual:
    """The sum of a branch and a shortcut.

    Parameters
    ----------
    branch, shortcut : Layer
    """

    branch: Layer
    shortcut: Layer

    @property
    def stride(self) -> Indices:
        return self.branch.stride

    def needed(self, box: Box) -> Box:
        return self.branch.needed(box).union(self.shortcut.needed(box))

    def extent(self, extent: Indices) -> Indices:
        return self.branch.extent(extent)

    def work(self, box: Box) -> Work:
        return self.branch.work(box) + self.shortcut.work(box)

    def forward(self, piece: Piece, box: Box) -> tuple[Piece, Pull]:
        branch, pull_branch = self.branch.forward(piece, box)
        shortcut, pull_shortcut = self.shortcut.forward(piece, box)

        def pull(gradient: Piece) -> Piece:
            own = replace(gradient, values=gradient.values.clone())
            return pull_branch(own).add(pull_shortcut(gradient))

        return replace(branch, values=branch.values + shortcut.values), pull
