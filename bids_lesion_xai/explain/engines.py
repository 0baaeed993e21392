# SPDX-License-Identifier: Apache-2.0
"""Ways to compute the logits of a box and their gradients with respect to the image.

There are two maps from image to logits. One evaluates the whole volume, padded at its end, in one
pass; `pruned`, `crop` and `whole` are exact ways to differentiate it. The other blends sliding
windows; `window` differentiates through the blend.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import prod
from typing import Protocol

import torch
from monai.data.utils import compute_importance_map, dense_patch_slices
from monai.networks.nets import UNet
from torch.utils.checkpoint import checkpoint

from bids_lesion_xai.errors import UsageError
from bids_lesion_xai.explain.box import Box, Indices
from bids_lesion_xai.explain.catalogue import ENGINES
from bids_lesion_xai.explain.layers import Piece, Work
from bids_lesion_xai.explain.stages import PullBatch, Stage
from bids_lesion_xai.explain.translate import UnboundedError, translate

# Width of the Gaussian relative to the window: MONAI's default, and the published one.
_SIGMA_SCALE = 0.125
# What a batch of gradients may hold beside the kernels in 2 MB of cache a core, and on a GPU.
_BATCH_ELEMENTS = {"cpu": 2**16, "cuda": 2**28}


class Engine(Protocol):
    """A way to compute the logits of a box and their gradients."""

    @property
    def name(self) -> str:
        """Name in the catalogue."""

    @property
    def side_by_side(self) -> bool:
        """Whether a sample is small, so that each thread should work on one of its own."""

    def extent(self, shape: Indices) -> Indices:
        """Return the shape of the padded volume for an image of `shape`."""

    def region(self, target: Box, shape: Indices) -> Box:
        """Return the part of the padded volume that the logits in `target` need."""

    def work(self, target: Box, shape: Indices) -> Work:
        """Return what the logits in `target` take, about."""

    def run(self, piece: Piece, target: Box) -> tuple[Piece, PullBatch]:
        """Return the logits in `target`, and the way back of gradients to the image.

        Parameters
        ----------
        piece : Piece
            The image in the region of `target`, shape (1, C, x, y, z).
        target : Box
        """

    def logits(self, piece: Piece, target: Box) -> Piece:
        """Return the logits in `target` of a batch of images, with nothing kept for gradients.

        Parameters
        ----------
        piece : Piece
            The images in the region of `target`, shape (N, C, x, y, z).
        target : Box
        """

    def groups(self, voxels: torch.Tensor) -> list[torch.Tensor]:
        """Return the voxels, shape (V, 3), in groups whose gradients are taken together.

        Returns
        -------
        groups : list of int64 tensors
            Positions in `voxels`, ascending in each.
        """


@dataclass(frozen=True)
class PrunedEngine:
    """Computes, layer by layer, only what the target depends on. Exact.

    Parameters
    ----------
    stage : Stage
    multiple : tuple of int
        The volume is padded to sides that are multiples of these.
    """

    stage: Stage
    multiple: Indices
    name = "pruned"
    side_by_side = True

    def extent(self, shape: Indices) -> Indices:
        return _padded(shape, self.multiple)

    def region(self, target: Box, shape: Indices) -> Box:
        return self.stage.needed(target).clip(self.extent(shape))

    def work(self, target: Box, shape: Indices) -> Work:
        return self.stage.work(target)

    def run(self, piece: Piece, target: Box) -> tuple[Piece, PullBatch]:
        return self.stage.forward(piece, target)

    @torch.no_grad()
    def logits(self, piece: Piece, target: Box) -> Piece:
        return self.stage.forward(piece, target)[0]

    def groups(self, voxels: torch.Tensor) -> list[torch.Tensor]:
        """Group voxels of one receptive field: in a U-Net, of the same cells of its bottom."""
        # Axes do not mix: the field along each follows from the index along it.
        fields = {
            index: self.stage.needed(Box((index,) * 3, (index + 1,) * 3))
            for index in torch.unique(voxels).tolist()
        }
        groups: dict[tuple[tuple[int, int], ...], list[int]] = {}
        for position, voxel in enumerate(voxels.tolist()):
            field = tuple(
                (fields[index].start[axis], fields[index].stop[axis])
                for axis, index in enumerate(voxel)
            )
            groups.setdefault(field, []).append(position)
        return [torch.tensor(group, device=voxels.device) for group in groups.values()]


@dataclass(frozen=True)
class WholeEngine:
    """Differentiates the whole volume by autograd: for networks of any kind, and the oracle.

    Parameters
    ----------
    network : torch module
    multiple : tuple of int
        The volume is padded to sides that are multiples of these.
    """

    network: torch.nn.Module
    multiple: Indices
    name = "whole"
    side_by_side = False

    def extent(self, shape: Indices) -> Indices:
        return _padded(shape, self.multiple)

    def region(self, target: Box, shape: Indices) -> Box:
        return Box((0,) * len(shape), self.extent(shape))

    def work(self, target: Box, shape: Indices) -> Work:
        return Work(self.region(target, shape).size, 0)

    def run(self, piece: Piece, target: Box) -> tuple[Piece, PullBatch]:
        with torch.enable_grad():
            image = piece.values.detach().requires_grad_()
            logits = evaluate(self.network, image)[(..., *target.slices(piece.start))]
        return _by_autograd(logits, target, image, piece)

    @torch.no_grad()
    def logits(self, piece: Piece, target: Box) -> Piece:
        logits = evaluate(self.network, piece.values)[(..., *target.slices(piece.start))]
        return Piece(logits, target.start, piece.extent)

    def groups(self, voxels: torch.Tensor) -> list[torch.Tensor]:
        return [torch.arange(len(voxels), device=voxels.device)]


@dataclass(frozen=True)
class CropEngine(WholeEngine):
    """Differentiates the receptive field of the target by autograd. Exact.

    Parameters
    ----------
    network : torch module
    multiple : tuple of int
        Of the strides of `network`, so that a crop meets them in the phase of the volume.
    stage : Stage
        The same network, for its receptive field.
    """

    stage: Stage
    name = "crop"
    side_by_side = True

    def work(self, target: Box, shape: Indices) -> Work:
        return self.stage.work(self.region(target, shape))

    def region(self, target: Box, shape: Indices) -> Box:
        field = self.stage.needed(target)
        start = tuple(a - a % m for a, m in zip(field.start, self.multiple, strict=True))
        stop = tuple(b + -b % m for b, m in zip(field.stop, self.multiple, strict=True))
        return Box(start, stop).clip(self.extent(shape))


@dataclass(frozen=True)
class WindowEngine:
    """Differentiates the blend of sliding windows by autograd.

    Windows lie, and are blended, as by `monai.inferers.sliding_window_inference` in mode
    ``gaussian``: an image that is smaller than a window is padded with zeros on both sides.

    Parameters
    ----------
    network : torch module
    window : tuple of int
        Shape of a window.
    overlap : float
        Of neighbouring windows, as a fraction of their sides.
    """

    network: torch.nn.Module
    window: Indices
    overlap: float
    name = "window"
    side_by_side = False

    def extent(self, shape: Indices) -> Indices:
        return shape

    def windows(self, target: Box, shape: Indices) -> list[Box]:
        """Return the windows that overlap `target`, in indices of the image."""
        sides = tuple(map(max, shape, self.window))
        before = [(side - n) // 2 for side, n in zip(sides, shape, strict=True)]
        steps = [
            side if side == n else max(1, int(side * (1 - self.overlap)))
            for side, n in zip(self.window, sides, strict=True)
        ]
        places = dense_patch_slices(sides, self.window, steps)
        starts = (
            tuple(int(one.start) - b for one, b in zip(place, before, strict=True))
            for place in places
        )
        boxes = (Box(start, tuple(map(int.__add__, start, self.window))) for start in starts)
        return [box for box in boxes if box.intersection(target).size]

    def region(self, target: Box, shape: Indices) -> Box:
        first, *others = self.windows(target, shape)
        for other in others:
            first = first.union(other)
        return first

    def work(self, target: Box, shape: Indices) -> Work:
        return Work(sum(box.size for box in self.windows(target, shape)), 0)

    def run(self, piece: Piece, target: Box) -> tuple[Piece, PullBatch]:
        with torch.enable_grad():
            image = piece.values.detach().requires_grad_()
            blend = self._blend(replace(piece, values=image), target)
        return _by_autograd(blend, target, image, piece)

    @torch.no_grad()
    def logits(self, piece: Piece, target: Box) -> Piece:
        return Piece(self._blend(piece, target), target.start, piece.extent)

    def _blend(self, piece: Piece, target: Box) -> torch.Tensor:
        values = piece.values
        importance = compute_importance_map(
            self.window,
            mode="gaussian",
            sigma_scale=_SIGMA_SCALE,
            device=values.device,
            dtype=values.dtype,
        )
        total = values.new_zeros(target.shape)
        parts = []
        windows = self.windows(target, piece.extent)
        for box in windows:
            common = box.intersection(target)
            weight = importance[common.slices(box.start)]
            total[common.slices(target.start)] += weight
            logits = self._of_window(values[(..., *box.slices(piece.start))], len(windows))
            part = Piece(
                logits[(..., *common.slices(box.start))] * weight, common.start, piece.extent
            )
            parts.append(part.cut(target))
        return torch.stack(parts).sum(0) / total

    def _of_window(self, image: torch.Tensor, n_windows: int) -> torch.Tensor:
        """Return the logits of a window; of several, each is evaluated again for its gradients.

        So one window's feature maps are in memory, however many overlap the target.
        """
        if n_windows == 1 or not image.requires_grad:
            return evaluate(self.network, image)
        logits: torch.Tensor = checkpoint(evaluate, self.network, image, use_reentrant=False)
        return logits

    def groups(self, voxels: torch.Tensor) -> list[torch.Tensor]:
        return [torch.arange(len(voxels), device=voxels.device)]


def choose_engine(
    network: torch.nn.Module,
    name: str,
    multiple: int | None,
    window: Indices | None,
    overlap: float,
) -> Engine:
    """Return the engine called `name` for `network`.

    Parameters
    ----------
    network : torch module
    name : {"auto", "pruned", "crop", "window", "whole"}
        ``auto`` is ``window`` if a window is given; else ``pruned`` where the receptive field of
        the network is known, and ``whole`` where it is not.
    multiple : int or None
        The volume is padded to sides that are multiples of this; None takes those of the strides
        of the network where they are known, else 1.
    window : tuple of int or None
        Shape of the sliding windows; None means that the whole volume is evaluated at once.
    overlap : float
        Of neighbouring windows.

    Raises
    ------
    UsageError
        The name is unknown, or the engine is not exact for this network.
    """
    if name not in ENGINES:
        message = f"engine {name!r}: one of {', '.join(ENGINES)} is expected."
        raise UsageError(message)
    if window and name not in ("auto", "window"):
        message = f"engine {name} explains the whole volume, not windows. Use engine window."
        raise UsageError(message)
    if window:
        return WindowEngine(network, window, overlap)
    if name == "window":
        message = "engine window: the shape of the window is expected, e.g. (96, 96, 96)."
        raise UsageError(message)
    return _engine_of_volume(network, name, multiple)


def _engine_of_volume(network: torch.nn.Module, name: str, multiple: int | None) -> Engine:
    weight = next(network.parameters(), torch.empty(0))
    try:
        stage = translate(network, _BATCH_ELEMENTS["cuda" if weight.is_cuda else "cpu"])
    except UnboundedError as error:
        if name in ("auto", "whole"):
            own = _stated_strides(network) if isinstance(network, UNet) else (1, 1, 1)
            return WholeEngine(network, own if multiple is None else (multiple,) * 3)
        message = f"engine {name}: {error}. Use engine whole or window."
        raise UsageError(message) from error
    strides = stage.multiple
    multiples = strides if multiple is None else (multiple,) * 3
    if any(given % own for given, own in zip(multiples, strides, strict=True)):
        message = f"multiple {multiple}: a multiple of the strides {strides} is expected."
        raise UsageError(message)
    if name == "whole":
        return WholeEngine(network, multiples)
    if name == "crop":
        return CropEngine(network, multiples, stage)
    return PrunedEngine(stage, multiples)


def _stated_strides(network: UNet) -> Indices:
    """Return the product of the strides of a U-Net along each axis, whatever its norm is."""
    strides = [(s,) * 3 if isinstance(s, int) else s for s in network.strides]
    return tuple(map(prod, zip(*strides, strict=True)))


def evaluate(network: torch.nn.Module, image: torch.Tensor) -> torch.Tensor:
    """Return the logits, shape (N, K, X, Y, Z), of images (N, C, X, Y, Z).

    Raises
    ------
    UsageError
        The network does not take the image, or gives something else.
    """
    shape = tuple(image.shape)
    try:
        logits = network(image)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ValueError, IndexError, TypeError, AssertionError) as error:
        reason = str(error).strip().partition("\n")[0]
        message = (
            f"The network does not take an image of shape {shape}: {reason}. Check its channels, "
            "and state the multiple or the window that its sides must have."
        )
        raise UsageError(message) from error
    is_tensor = isinstance(logits, torch.Tensor) and logits.ndim == len(shape)
    if not is_tensor or logits.shape[1] < 2 or logits.shape[2:] != image.shape[2:]:
        found = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        message = (
            f"The network gives {found} for an image of shape {shape}; logits of shape "
            f"{(1, 'K', *shape[2:])} with K of at least 2 classes are expected."
        )
        raise UsageError(message)
    return logits  # type: ignore[no-any-return]


def _padded(shape: Indices, multiple: Indices) -> Indices:
    return tuple(n + -n % m for n, m in zip(shape, multiple, strict=True))


def _by_autograd(
    logits: torch.Tensor, target: Box, image: torch.Tensor, piece: Piece
) -> tuple[Piece, PullBatch]:
    def pull(gradients: Piece) -> Iterator[Piece]:
        for gradient in gradients.cut(target):
            (values,) = torch.autograd.grad(logits, image, gradient[None], retain_graph=True)
            yield Piece(values, piece.start, piece.extent)

    return Piece(logits.detach(), target.start, piece.extent), pull
