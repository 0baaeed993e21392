# SPDX-License-Identifier: Apache-2.0
"""SmoothGrad saliency of single lesions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from bids_lesion_xai.errors import DataError, UsageError
from bids_lesion_xai.explain.box import Box, Indices
from bids_lesion_xai.explain.engines import Engine, choose_engine
from bids_lesion_xai.explain.noise import NoiseField
from bids_lesion_xai.explain.region import Piece

LESION_CLASS = 1


@dataclass(frozen=True)
class Attribution:
    """The saliency of one lesion.

    Parameters
    ----------
    lesion : int
        The value of the lesion in the label image.
    values : float tensor, shape (C, x, y, z)
        Signed saliency in logits per unit of the image, mean over the noise samples, on the
        lesion's receptive field; 0 everywhere else.
    offset : tuple of int
        Index in the image of ``values[:, 0, 0, 0]``.
    standard_error : float tensor, shape (C, x, y, z)
        Monte-Carlo standard error of `values` over the samples; NaN for a single sample.
    inside : float64 array, shape (N, C)
        For each sample, the mean saliency over the lesion's voxels.
    """

    lesion: int
    values: torch.Tensor
    offset: Indices
    standard_error: torch.Tensor
    inside: NDArray[np.float64]

    @property
    def box(self) -> Box:
        """Where `values` lies in the image."""
        stop = tuple(map(int.__add__, self.offset, self.values.shape[1:]))
        return Box(self.offset, stop)

    def dense(self, shape: Sequence[int]) -> torch.Tensor:
        """Return the saliency on the whole image grid of `shape` (X, Y, Z)."""
        dense = self.values.new_zeros((len(self.values), *shape))
        dense[(slice(None), *self.box.slices((0, 0, 0)))] = self.values
        return dense


def _mean(logits: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    return torch.autograd.grad(logits.mean(), image)[0]


def _sum(logits: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    return torch.autograd.grad(logits.sum(), image)[0]


def _max(logits: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    largest = torch.zeros_like(image)
    for logit in logits:
        gradient = torch.autograd.grad(logit, image, retain_graph=True)[0]
        largest = torch.where(gradient.abs() > largest.abs(), gradient, largest)
    return largest


# From the logits of a lesion's voxels, in C order, to the saliency of one sample. `max` is the
# published one: for each input voxel the gradient of the largest magnitude, with its sign, ties
# to the first voxel (Spagnolo et al., 2026, doi 10.1038/s41598-026-36560-9).
_AGGREGATIONS: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "mean": _mean,
    "sum": _sum,
    "max": _max,
}


def explain_lesions(
    network: torch.nn.Module,
    image: torch.Tensor,
    labels: torch.Tensor,
    *,
    aggregation: str = "mean",
    n_samples: int = 50,
    sigma: Sequence[float],
    seed: int = 0,
    visit: str = "",
    multiple: int = 1,
    engine: str = "auto",
) -> Iterator[Attribution]:
    """Yield the SmoothGrad saliency of every lesion, one at a time.

    With noise n_i, normal with standard deviation sigma, the saliency of a lesion of voxels L is
    the mean over the samples i of the aggregated gradients of the lesion logits z_v, v in L, with
    respect to the image, taken at the image plus n_i. It depends on nothing but the network, the
    image, the lesion's own voxels, the seed and the name of the visit.

    Parameters
    ----------
    network : torch module
        In eval mode; takes (N, C, X, Y, Z), gives logits (N, K, X, Y, Z); class 1 is lesion.
    image : float32 or float64 tensor, shape (C, X, Y, Z)
        In units of normalised intensity.
    labels : int tensor, shape (X, Y, Z)
        Lesions have values from 1 on.
    aggregation : {"mean", "sum", "max"}
    n_samples : int
    sigma : sequence of float, length C
        Standard deviation of the noise in each channel.
    seed : int
        With `visit`, fixes the noise.
    visit : str
    multiple : int
        The volume is padded with zeros at its end to sides that are multiples of this, as it is
        for the prediction.
    engine : {"auto", "pruned", "whole"}
        See `choose_engine`.

    Yields
    ------
    attribution : Attribution
        In the order of the labels.

    Raises
    ------
    DataError, UsageError
        An argument is not what is described here.

    References
    ----------
    Smilkov et al. (2017), "SmoothGrad", arXiv 1706.03825. Spagnolo et al. (2026),
    doi 10.1038/s41598-026-36560-9.
    """
    _check(network, image, labels, aggregation, n_samples, sigma)
    extent = tuple(side + -side % multiple for side in image.shape[1:])
    chosen = choose_engine(network, engine)
    scale = image.new_tensor(list(sigma))[:, None, None, None]
    noise = NoiseField(seed, visit)
    for lesion, target in _lesions(labels):
        region = chosen.region(target, extent)
        support = region.clip(tuple(image.shape[1:]))
        clean = image[(slice(None), *support.slices((0, 0, 0)))]
        voxels = labels[target.slices((0, 0, 0))] == lesion
        samples = (
            clean + scale * torch.from_numpy(noise.draw(i, len(image), support)).to(image)
            for i in range(n_samples)
        )
        gradients = (
            _gradient(chosen, sample, voxels, target, region, extent, _AGGREGATIONS[aggregation])
            for sample in samples
        )
        inside = labels[support.slices((0, 0, 0))] == lesion
        yield _average(gradients, lesion, support.start, inside)


def _lesions(labels: torch.Tensor) -> Iterator[tuple[int, Box]]:
    """Yield every lesion of `labels`, shape (X, Y, Z), in order, with its bounding box."""
    voxels = (labels > 0).nonzero()
    owners = labels[tuple(voxels.T)]
    for lesion in torch.unique(owners).tolist():
        own = voxels[owners == lesion]
        stop = own.amax(0) + 1
        yield lesion, Box(tuple(own.amin(0).tolist()), tuple(stop.tolist()))


def _gradient(
    engine: Engine,
    sample: torch.Tensor,
    voxels: torch.Tensor,
    target: Box,
    region: Box,
    extent: Indices,
    aggregate: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
) -> torch.Tensor:
    """Return the saliency, shape (C, x, y, z), of a sample that lies at the start of `region`.

    `voxels`, bool, are the lesion's within the box `target`.
    """
    sample = sample.detach().requires_grad_()
    after = [side - size for side, size in zip(region.shape, sample.shape[1:], strict=True)]
    padded = functional.pad(sample, [n for side in reversed(after) for n in (0, side)])
    logits = engine.logits(Piece(padded[None], region.start, extent), target)
    return aggregate(logits[0, LESION_CLASS][voxels], sample)


def _average(
    gradients: Iterator[torch.Tensor], lesion: int, offset: Indices, inside: torch.Tensor
) -> Attribution:
    """Reduce the saliency maps of the samples as they come (Welford's algorithm)."""
    means = []
    for count, gradient in enumerate(gradients, start=1):
        if count == 1:
            mean, squares = torch.zeros_like(gradient), torch.zeros_like(gradient)
        deviation = gradient - mean
        mean = mean + deviation / count
        squares = squares + deviation * (gradient - mean)
        means.append(gradient[:, inside].double().mean(1).cpu().numpy())
    variance_of_mean = squares / ((count - 1) * count) if count > 1 else squares * torch.nan
    return Attribution(lesion, mean, offset, variance_of_mean.sqrt(), np.stack(means))


def _check(
    network: torch.nn.Module,
    image: torch.Tensor,
    labels: torch.Tensor,
    aggregation: str,
    n_samples: int,
    sigma: Sequence[float],
) -> None:
    if any(module.training for module in network.modules()):
        message = "The network is in train mode; call network.eval() first."
        raise UsageError(message)
    if image.shape[1:] != labels.shape:
        message = (
            f"labels of shape {tuple(labels.shape)} for an image of shape {tuple(image.shape)}."
        )
        raise DataError(message)
    if not torch.isfinite(image).all():
        message = "The image has NaN or infinite voxels; finite values are expected."
        raise DataError(message)
    if aggregation not in _AGGREGATIONS:
        message = f"aggregation {aggregation!r}: one of {', '.join(_AGGREGATIONS)} is expected."
        raise UsageError(message)
    if n_samples < 1:
        message = f"{n_samples} noise samples: at least 1 is expected."
        raise UsageError(message)
    if len(sigma) != len(image) or not all(0 <= value < torch.inf for value in sigma):
        message = (
            f"sigma {tuple(sigma)}: one value of at least 0 for each of {len(image)} channels "
            "is expected."
        )
        raise UsageError(message)
