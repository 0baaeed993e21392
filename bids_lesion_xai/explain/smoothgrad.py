# SPDX-License-Identifier: Apache-2.0
"""SmoothGrad saliency of single lesions."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from bids_lesion_xai.conventions import LESION_CLASS
from bids_lesion_xai.errors import DataError, UsageError
from bids_lesion_xai.explain.box import Box, Indices
from bids_lesion_xai.explain.engines import Engine, PrunedEngine, choose_engine
from bids_lesion_xai.explain.noise import NoiseField
from bids_lesion_xai.explain.region import Piece


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
    n_threads: int = 1,
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
    n_threads : int
        Threads on the CPU. With the pruned engine, their number changes no bit.

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
    common = _Common(
        engine=choose_engine(network, engine),
        image=image,
        labels=labels,
        extent=tuple(side + -side % multiple for side in image.shape[1:]),
        scale=image.new_tensor(list(sigma))[:, None, None, None],
        noise=NoiseField(seed, visit),
        aggregate=_AGGREGATIONS[aggregation],
    )
    lesions = list(_lesions(labels))
    jobs = ((*lesion, sample) for lesion in lesions for sample in range(n_samples))
    with _workers(common.engine, n_threads) as workers:
        gradients = _map_in_order(workers, common.gradient, jobs, ahead=2 * n_threads)
        for lesion, target in lesions:
            _, support = common.boxes(target)
            inside = labels[support.slices((0, 0, 0))] == lesion
            yield _average(islice(gradients, n_samples), lesion, support.start, inside)


def _lesions(labels: torch.Tensor) -> Iterator[tuple[int, Box]]:
    """Yield every lesion of `labels`, shape (X, Y, Z), in order, with its bounding box."""
    voxels = (labels > 0).nonzero()
    owners = labels[tuple(voxels.T)]
    for lesion in torch.unique(owners).tolist():
        own = voxels[owners == lesion]
        stop = own.amax(0) + 1
        yield lesion, Box(tuple(own.amin(0).tolist()), tuple(stop.tolist()))


@dataclass(frozen=True)
class _Common:
    """What the samples of all lesions have in common; `extent` is the padded shape (X, Y, Z)."""

    engine: Engine
    image: torch.Tensor
    labels: torch.Tensor
    extent: Indices
    scale: torch.Tensor
    noise: NoiseField
    aggregate: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

    def boxes(self, target: Box) -> tuple[Box, Box]:
        """Return the region that the engine wants for `target`, and its part in the image."""
        region = self.engine.region(target, self.extent)
        return region, region.clip(tuple(self.image.shape[1:]))

    def gradient(self, lesion: int, target: Box, sample: int) -> torch.Tensor:
        """Return the saliency of one sample, shape (C, x, y, z), on the part in the image."""
        region, support = self.boxes(target)
        drawn = torch.from_numpy(self.noise.draw(sample, len(self.image), support))
        clean = self.image[(slice(None), *support.slices((0, 0, 0)))]
        noisy = (clean + self.scale * drawn.to(clean)).detach().requires_grad_()
        after = [n - m for n, m in zip(region.shape, support.shape, strict=True)]
        padded = functional.pad(noisy, [n for side in reversed(after) for n in (0, side)])
        logits = self.engine.logits(Piece(padded[None], region.start, self.extent), target)
        voxels = self.labels[target.slices((0, 0, 0))] == lesion
        return self.aggregate(logits[0, LESION_CLASS][voxels], noisy)


@contextmanager
def _workers(engine: Engine, n_threads: int) -> Iterator[ThreadPoolExecutor]:
    """Give threads to run samples in.

    The boxes of the pruned engine are too small to share the work on one among threads: each
    thread works on a sample of its own, so that the number of threads changes no bit. A whole
    volume takes much memory and shares well: its samples come one after the other.
    """
    before = torch.get_num_threads()
    n_workers = n_threads if isinstance(engine, PrunedEngine) else 1
    workers = ThreadPoolExecutor(
        n_workers, initializer=torch.set_num_threads, initargs=(n_threads // n_workers,)
    )
    try:
        yield workers
    finally:
        workers.shutdown(cancel_futures=True)
        torch.set_num_threads(before)


def _map_in_order(
    workers: ThreadPoolExecutor,
    function: Callable[..., torch.Tensor],
    jobs: Iterable[tuple[Any, ...]],
    ahead: int,
) -> Iterator[torch.Tensor]:
    """Yield the results of `jobs` in their order, computing at most `ahead` of them in advance."""
    pending: deque[Future[torch.Tensor]] = deque()
    for job in jobs:
        pending.append(workers.submit(function, *job))
        if len(pending) > ahead:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()


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
