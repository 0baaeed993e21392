# SPDX-License-Identifier: Apache-2.0
"""What all methods have in common: a network, an image, its lesions, and gradients of these."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import torch

from bids_lesion_xai.explain.aggregate import Aggregate, VoxelGradients
from bids_lesion_xai.explain.box import Box
from bids_lesion_xai.explain.engines import Engine
from bids_lesion_xai.explain.layers import Piece
from bids_lesion_xai.explain.noise import NoiseField
from bids_lesion_xai.explain.precision import precision
from bids_lesion_xai.explain.targets import Target, slopes


@dataclass(frozen=True)
class Lesion:
    """A lesion of the label image.

    Parameters
    ----------
    label : int
    voxels : int64 tensor, shape (V, 3)
        Indices in the image, in C order.
    """

    label: int
    voxels: torch.Tensor

    @cached_property
    def box(self) -> Box:
        """The smallest box that holds all voxels."""
        start, last = self.voxels.amin(0).tolist(), self.voxels.amax(0).tolist()
        return Box(tuple(start), tuple(index + 1 for index in last))


def lesions_of(labels: torch.Tensor) -> Iterator[Lesion]:
    """Yield every lesion of `labels`, int64, shape (X, Y, Z), in the order of the labels."""
    voxels = (labels > 0).nonzero()
    owners = labels[tuple(voxels.T)]
    for label in torch.unique(owners).tolist():
        yield Lesion(label, voxels[owners == label])


@dataclass(frozen=True)
class Progress:
    """How far the explanation of a visit is.

    Parameters
    ----------
    lesion : int
        The lesion that was worked on.
    n_done, n_lesions : int
        Lesions that are finished, and all.
    sample, n_samples : int
        Samples of the lesion that are done, and the most there can be.
    share : float
        Share of all the work that is done, 0 to 1.
    """

    lesion: int
    n_done: int
    n_lesions: int
    sample: int
    n_samples: int
    share: float


@dataclass(frozen=True)
class Problem:
    """What is to be explained, and how; see `explain_lesions`.

    Parameters
    ----------
    network : torch module
    image : float tensor, shape (C, X, Y, Z)
    labels : int tensor, shape (X, Y, Z)
    engine : Engine
    target : callable
        See `bids_lesion_xai.explain.targets`.
    aggregate : callable
        See `bids_lesion_xai.explain.aggregate`.
    voxelwise : bool
        Whether `aggregate` takes a gradient for each voxel of a lesion.
    n_samples : int
    sigma : tuple of float, length C
    noise : NoiseField
    target_error : float or None
    baseline : str
    layer : str or None
    signed : bool
    allow_tf32 : bool
    n_threads : int
    memory_bytes : float
    progress : callable
    """

    network: torch.nn.Module
    image: torch.Tensor
    labels: torch.Tensor
    engine: Engine
    target: Target
    aggregate: Aggregate
    voxelwise: bool
    n_samples: int
    sigma: tuple[float, ...]
    noise: NoiseField
    target_error: float | None
    baseline: str
    layer: str | None
    signed: bool
    allow_tf32: bool
    n_threads: int
    memory_bytes: float
    progress: Callable[[Progress], None]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape (X, Y, Z) of the image."""
        return tuple(self.image.shape[1:])

    def lesions(self) -> Iterator[Lesion]:
        """Return every lesion, in the order of the labels."""
        return lesions_of(self.labels)

    def support(self, lesion: Lesion) -> Box:
        """Return the part of the image that the logits of a lesion depend on."""
        return self.engine.region(lesion.box, self.shape).clip(self.shape)

    def image_in(self, box: Box) -> torch.Tensor:
        """Return the image in a box, shape (C, x, y, z)."""
        return self.image[(slice(None), *box.slices((0, 0, 0)))]

    def inside(self, lesion: Lesion) -> tuple[torch.Tensor, ...]:
        """Return the indices of the lesion's voxels in its support, three of shape (V,)."""
        return tuple((lesion.voxels - lesion.voxels.new_tensor(self.support(lesion).start)).T)

    def gradient(self, lesion: Lesion, values: torch.Tensor) -> torch.Tensor:
        """Return the aggregated gradient of a lesion on its support, shape (C, x, y, z).

        Parameters
        ----------
        lesion : Lesion
        values : float tensor, shape (C, x, y, z)
            An image on the support of the lesion.
        """
        support, extent = self.support(lesion), self.engine.extent(self.shape)
        region = self.engine.region(lesion.box, self.shape)
        piece = Piece(values[None], support.start, extent).at(region)
        with torch.no_grad(), precision(self.image, allow_tf32=self.allow_tf32):
            logits, pull = self.engine.run(piece, lesion.box)
            places = (lesion.voxels - lesion.voxels.new_tensor(lesion.box.start)).T
            own = logits.values[(0, slice(None), *places)].T
            gradients = VoxelGradients(
                pull=pull,
                voxels=lesion.voxels,
                slopes=slopes(self.target, own),
                groups=self.engine.groups(lesion.voxels) if self.voxelwise else [],
                at_once=self._at_once(support),
                box=support,
                n_channels=len(self.image),
                extent=extent,
            )
            return self.aggregate(gradients)

    def work(self, lesion: Lesion) -> int:
        """Return the work of one sample of a lesion, in numbers made on the way."""
        once = self.engine.work(lesion.box, self.shape).elements
        return once * (1 + (len(lesion.voxels) if self.voxelwise else 1))

    def bytes_of_sample(self, lesion: Lesion) -> int:
        """Return the memory that one sample of a lesion takes, about."""
        elements = self.engine.work(lesion.box, self.shape).elements
        # Before and after each activation, and the gradients on their way back.
        inputs = len(self.image) * self.support(lesion).size
        return 4 * self.image.element_size() * (elements + inputs)

    def _at_once(self, support: Box) -> int:
        """Return how many gradients of single voxels to take at once.

        On the CPU the number is fixed, since the last bits of a product depend on it. A GPU takes
        as many as the memory holds.
        """
        if self.image.device.type == "cpu":
            return 16
        one = 40 * self.image.element_size() * len(self.image) * support.size
        return max(1, min(256, int(self.memory_bytes // one)))
