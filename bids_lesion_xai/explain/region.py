# SPDX-License-Identifier: Apache-2.0
"""Evaluating a convolutional network only where a box of its output depends on.

Every layer of a convolutional network without global operations computes an output voxel from a
bounded box of its input. Walking back from a box of logits gives, layer by layer, the box that is
needed; walking forward then computes just these boxes, with zeros where a layer would see its own
padding. The values, and the gradients through them, are those of the whole volume: nothing is
approximated, whatever the position of the box relative to the strides or the faces of the volume.

The arithmetic per axis, for output indices a to b (b included), stride s, padding p, kernel k and
dilation d, follows Dumoulin and Visin (2016), "A guide to convolution arithmetic for deep
learning", arXiv 1603.07285:

- convolution: inputs s a - p to s b - p + d (k - 1);
- transposed convolution: inputs ceil((a + p - d (k - 1)) / s) to floor((b + p) / s).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from monai.networks.blocks import ResidualUnit
from monai.networks.layers.simplelayers import SkipConnection
from monai.networks.nets import UNet
from torch import nn
from torch.nn import functional

from bids_lesion_xai.explain.box import Box, Indices


class UnboundedError(ValueError):
    """The network has a layer whose receptive field is unbounded or not known."""


@dataclass(frozen=True)
class Piece:
    """A part of a feature map.

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

    def cut(self, box: Box) -> torch.Tensor:
        """Return the values in `box`, with zeros where it reaches beyond the feature map."""
        inside = box.clip(self.extent)
        values = self.values[(..., *inside.slices(self.start))]
        margins = [
            margin
            for axis in reversed(range(len(self.extent)))
            for margin in (
                inside.start[axis] - box.start[axis],
                box.stop[axis] - inside.stop[axis],
            )
        ]
        return functional.pad(values, margins) if any(margins) else values


def needed(module: nn.Module, box: Box) -> Box:
    """Return the box of the input of `module` that its output in `box` depends on, not clipped.

    Raises
    ------
    UnboundedError
        `module` holds a layer whose receptive field is unbounded or not known.
    """
    return _rule(module).needed(module, box)


def evaluate(module: nn.Module, piece: Piece, box: Box) -> Piece:
    """Return the output of `module` in `box`.

    Parameters
    ----------
    module : torch module
        In eval mode, of layers that `needed` accepts.
    piece : Piece
        The input, at least where `needed` says and the feature map reaches.
    box : Box
        Part of the output, inside its extent.
    """
    return _rule(module).evaluate(module, piece, box)


class _Rule(Protocol):
    """How boxes go through one kind of layer."""

    def needed(self, module: Any, box: Box) -> Box: ...
    def extent(self, module: Any, extent: Indices) -> Indices: ...
    def evaluate(self, module: Any, piece: Piece, box: Box) -> Piece: ...


class _Pointwise:
    """A layer that computes each voxel from the same voxel."""

    def needed(self, module: nn.Module, box: Box) -> Box:
        return box

    def extent(self, module: nn.Module, extent: Indices) -> Indices:
        return extent

    def evaluate(self, module: nn.Module, piece: Piece, box: Box) -> Piece:
        return Piece(module(piece.cut(box)), box.start, piece.extent)


class _BatchNorm(_Pointwise):
    """A batch norm with the statistics of the training."""

    def needed(self, module: Any, box: Box) -> Box:
        if module.running_mean is None:
            message = "batch norm without running statistics looks at the whole volume"
            raise UnboundedError(message)
        return box


class _Convolution:
    """A convolution with zero padding."""

    def needed(self, module: nn.Conv3d, box: Box) -> Box:
        padding, reach = _padding(module), _reach(module)
        start = tuple(s * a - p for s, a, p in zip(module.stride, box.start, padding, strict=True))
        stop = tuple(
            s * (b - 1) - p + r + 1
            for s, b, p, r in zip(module.stride, box.stop, padding, reach, strict=True)
        )
        return Box(start, stop)

    def extent(self, module: nn.Conv3d, extent: Indices) -> Indices:
        return tuple(
            (n + 2 * p - r - 1) // s + 1
            for n, p, r, s in zip(
                extent, _padding(module), _reach(module), module.stride, strict=True
            )
        )

    def evaluate(self, module: nn.Conv3d, piece: Piece, box: Box) -> Piece:
        values = functional.conv3d(
            piece.cut(self.needed(module, box)),
            module.weight,
            module.bias,
            module.stride,
            0,
            module.dilation,
            module.groups,
        )
        return Piece(values, box.start, self.extent(module, piece.extent))


class _TransposedConvolution:
    """A transposed convolution."""

    def needed(self, module: nn.ConvTranspose3d, box: Box) -> Box:
        padding, reach = _padding(module), _reach(module)
        gaps = (s > r + 1 for s, r in zip(module.stride, reach, strict=True))
        beyond = (e > p for e, p in zip(module.output_padding, padding, strict=True))
        if any(gaps) or any(beyond):
            message = f"{module} has outputs that depend on no input"
            raise UnboundedError(message)
        start = tuple(
            -((r - a - p) // s)
            for a, p, r, s in zip(box.start, padding, reach, module.stride, strict=True)
        )
        stop = tuple(
            (b - 1 + p) // s + 1 for b, p, s in zip(box.stop, padding, module.stride, strict=True)
        )
        return Box(start, stop)

    def extent(self, module: nn.ConvTranspose3d, extent: Indices) -> Indices:
        return tuple(
            s * (n - 1) - 2 * p + r + 1 + extra
            for n, p, r, s, extra in zip(
                extent,
                _padding(module),
                _reach(module),
                module.stride,
                module.output_padding,
                strict=True,
            )
        )

    def evaluate(self, module: nn.ConvTranspose3d, piece: Piece, box: Box) -> Piece:
        inputs = self.needed(module, box)
        values = functional.conv_transpose3d(
            piece.cut(inputs),
            module.weight,
            module.bias,
            module.stride,
            groups=module.groups,
            dilation=module.dilation,
        )
        first = tuple(
            s * i - p
            for s, i, p in zip(module.stride, inputs.start, _padding(module), strict=True)
        )
        return Piece(
            values[(..., *box.slices(first))], box.start, self.extent(module, piece.extent)
        )


class _Chain:
    """Layers one after the other."""

    def needed(self, module: nn.Sequential, box: Box) -> Box:
        for layer in reversed(module):
            box = needed(layer, box)
        return box

    def extent(self, module: nn.Sequential, extent: Indices) -> Indices:
        for layer in module:
            extent = _rule(layer).extent(layer, extent)
        return extent

    def evaluate(self, module: nn.Sequential, piece: Piece, box: Box) -> Piece:
        extents = [piece.extent]
        for layer in module:
            extents.append(_rule(layer).extent(layer, extents[-1]))
        boxes = [box]
        for layer, extent in zip(reversed(module), reversed(extents[1:-1]), strict=False):
            boxes.append(needed(layer, boxes[-1]).clip(extent))
        for layer, wanted in zip(module, reversed(boxes), strict=True):
            piece = evaluate(layer, piece, wanted)
        return piece


class _Skip:
    """The input, concatenated with what a branch makes of it."""

    def needed(self, module: SkipConnection, box: Box) -> Box:
        if module.mode != "cat":
            message = f"skip connection of mode {module.mode!r}; 'cat' is expected"
            raise UnboundedError(message)
        return needed(module.submodule, box).union(box)

    def extent(self, module: SkipConnection, extent: Indices) -> Indices:
        return extent

    def evaluate(self, module: SkipConnection, piece: Piece, box: Box) -> Piece:
        branch = evaluate(module.submodule, piece, box)
        values = torch.cat([piece.cut(box), branch.values], dim=module.dim)
        return Piece(values, box.start, piece.extent)


class _Residual:
    """The sum of a branch and a shortcut."""

    def needed(self, module: ResidualUnit, box: Box) -> Box:
        return needed(module.conv, box).union(needed(module.residual, box))

    def extent(self, module: ResidualUnit, extent: Indices) -> Indices:
        return _rule(module.conv).extent(module.conv, extent)

    def evaluate(self, module: ResidualUnit, piece: Piece, box: Box) -> Piece:
        branch = evaluate(module.conv, piece, box)
        shortcut = evaluate(module.residual, piece, box)
        return Piece(branch.values + shortcut.values, box.start, branch.extent)


class _Network:
    """A network whose layers are all in its attribute `model`."""

    def needed(self, module: UNet, box: Box) -> Box:
        return needed(module.model, box)

    def extent(self, module: UNet, extent: Indices) -> Indices:
        return _rule(module.model).extent(module.model, extent)

    def evaluate(self, module: UNet, piece: Piece, box: Box) -> Piece:
        return evaluate(module.model, piece, box)


# Keyed by what a module computes, not by its class: a subclass that computes something else is
# unknown here.
_RULES: dict[Callable[..., Any], _Rule] = {
    nn.Conv3d.forward: _Convolution(),
    nn.ConvTranspose3d.forward: _TransposedConvolution(),
    nn.Sequential.forward: _Chain(),
    SkipConnection.forward: _Skip(),
    ResidualUnit.forward: _Residual(),
    UNet.forward: _Network(),
    nn.BatchNorm3d.forward: _BatchNorm(),
    **{
        layer.forward: _Pointwise()
        for layer in (
            nn.Identity,
            nn.Dropout,
            nn.Dropout3d,
            nn.ELU,
            nn.GELU,
            nn.LeakyReLU,
            nn.Mish,
            nn.PReLU,
            nn.ReLU,
            nn.SELU,
            nn.Sigmoid,
            nn.SiLU,
            nn.Softplus,
            nn.Tanh,
        )
    },
}


def _rule(module: nn.Module) -> _Rule:
    rule = _RULES.get(type(module).forward)
    if rule is None:
        message = f"the receptive field of {type(module).__name__} is not known"
        raise UnboundedError(message)
    return rule


def _padding(module: nn.Conv3d | nn.ConvTranspose3d) -> Indices:
    padding = module.padding
    if isinstance(padding, str) or module.padding_mode != "zeros":
        message = f"padding {padding!r} of mode {module.padding_mode!r}; zeros are expected"
        raise UnboundedError(message)
    if any(p > r for p, r in zip(padding, _reach(module), strict=True)):
        message = f"{module} has outputs that depend on its padding alone"
        raise UnboundedError(message)
    return padding


def _reach(module: nn.Conv3d | nn.ConvTranspose3d) -> Indices:
    """Return the distance d (k - 1) between the first and the last tap of the kernel."""
    return tuple(d * (k - 1) for d, k in zip(module.dilation, module.kernel_size, strict=True))
