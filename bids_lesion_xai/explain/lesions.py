# SPDX-License-Identifier: Apache-2.0
"""Explanations of single lesions: the public function."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module

import torch

from bids_lesion_xai.errors import DataError, UsageError
from bids_lesion_xai.explain.aggregate import AGGREGATE_FUNCTIONS
from bids_lesion_xai.explain.attribution import Attribution
from bids_lesion_xai.explain.catalogue import AGGREGATIONS, BASELINES, METHODS, TARGETS
from bids_lesion_xai.explain.engines import choose_engine
from bids_lesion_xai.explain.noise import NoiseField
from bids_lesion_xai.explain.problem import Problem, Progress
from bids_lesion_xai.explain.targets import TARGET_FUNCTIONS

log = logging.getLogger(__name__)

# Aggregations that take a gradient for each voxel.
_VOXELWISE = ("max", "rms")


def explain_lesions(
    network: torch.nn.Module,
    image: torch.Tensor,
    labels: torch.Tensor,
    *,
    method: str = "smoothgrad",
    aggregation: str = "mean",
    target: str = "logit",
    n_samples: int = 50,
    sigma: Sequence[float] = (0.3, 0.3),
    seed: int = 0,
    visit: str = "",
    engine: str = "auto",
    multiple: int | None = None,
    window: Sequence[int] | None = None,
    overlap: float = 0.25,
    baseline: str = "zero",
    layer: str | None = None,
    signed: bool = False,
    target_error: float | None = None,
    allow_tf32: bool = False,
    n_threads: int | None = None,
    memory_gb: float = 1.5,
    progress: Callable[[Progress], None] = lambda _: None,
) -> Iterator[Attribution]:
    """Yield the saliency of every lesion, one at a time.

    The target t_v of a voxel v is made of the logits at v. Its gradient with respect to the image
    is taken at the image, or at points about it, aggregated over the voxels L of a lesion, and
    reduced over the points. The result depends on nothing but the network, the image, the lesion's
    own voxels, and, for methods with noise, the seed and the name of the visit: not on other
    lesions, their order, or the number of threads.

    Parameters
    ----------
    network : torch module
        In eval mode; takes (N, C, X, Y, Z), gives logits (N, K, X, Y, Z); class 1 is lesion.
    image : float32 or float64 tensor, shape (C, X, Y, Z)
        In units of normalised intensity, on the device and of the type of the network.
    labels : int tensor, shape (X, Y, Z)
        Lesions have values from 1 on.
    method : str
        ``gradient``; ``smoothgrad``, ``smoothgrad-squared`` and ``vargrad``: mean, mean square
        and variance of the gradients at `n_samples` noisy images; ``integrated-gradients``: the
        mean gradient on the way from `baseline`, at `n_samples` points, times the way;
        ``gradcam++``: one map (one channel) from the activations of `layer`.
    aggregation : {"mean", "sum", "max", "rms"}
        Of the gradients of the voxels in L. ``max`` takes, for each input voxel and sample, the
        one of the largest magnitude, with its sign, that of the first voxel in C order if two are
        equal; ``rms`` the root mean square.
    target : {"logit", "logodds", "probability"}
        The logit of lesion; minus the log-sum-exp of the other logits; its softmax probability.
    n_samples : int
        At most; see `target_error`.
    sigma : sequence of float, length C
        Standard deviation of the noise in each channel.
    seed : int
        With `visit`, fixes the noise.
    visit : str
    engine : {"auto", "pruned", "crop", "window", "whole"}
        How gradients are computed; see `choose_engine`. All that are accepted are exact.
    multiple : int, optional
        The volume is padded with zeros at its end to sides that are multiples of this, as it is
        for the prediction; by default of the network's strides where these are known.
    window : sequence of int, optional
        Shape of the sliding windows, for a network whose prediction is their blend.
    overlap : float
        Of neighbouring windows, as a fraction of their sides.
    baseline : {"zero", "brain-mean"}
        For ``integrated-gradients``: zeros, or each channel's mean over the voxels that are not 0
        in all channels, at these voxels.
    layer : str, optional
        For ``gradcam++``: the name of a module in `network`; by default the published one.
    signed : bool
        For ``gradcam++``: whether negative values are kept.
    target_error : float, optional
        Stop a lesion when the standard error at the peak of its map, the value of the largest
        magnitude, is at most this fraction of it; after five samples or more.
    allow_tf32 : bool
        Whether a GPU may round what it multiplies to 10 bits: each product is off by up to one in
        a thousand then.
    n_threads : int, optional
        Threads on the CPU; by default those of torch. With the engines ``pruned`` and ``crop``,
        their number changes no bit.
    memory_gb : float
        About what samples that are computed side by side may take; one always runs. On a GPU it
        limits how many gradients are taken at a time.
    progress : callable
        Called with a `Progress` after each sample.

    Returns
    -------
    attributions : iterator of Attribution
        In the order of the labels.

    Raises
    ------
    DataError, UsageError
        An argument is not what is described here.

    References
    ----------
    Spagnolo et al. (2026), doi 10.1038/s41598-026-36560-9. Each module of
    `bids_lesion_xai.explain.methods` names the source of its method.
    """
    for name, value, known in (
        ("method", method, METHODS),
        ("aggregation", aggregation, AGGREGATIONS),
        ("target", target, TARGETS),
        ("baseline", baseline, BASELINES),
    ):
        if value not in known:
            message = f"{name} {value!r}: one of {', '.join(known)} is expected."
            raise UsageError(message)
    if target_error is not None and not METHODS[method].has_noise:
        message = f"target_error {target_error}: method {method} has no noise to average."
        raise UsageError(message)
    _check_images(network, image, labels)
    _check_numbers(image, n_samples, sigma, overlap, target_error, n_threads, memory_gb)
    if window is not None and (len(window) != image.ndim - 1 or min(window) < 1):
        message = f"window {tuple(window)}: three numbers of at least 1 are expected."
        raise UsageError(message)
    chosen = choose_engine(
        network, engine, multiple, None if window is None else tuple(window), overlap
    )
    log.info("engine %s", chosen.name)
    problem = Problem(
        network=network,
        image=image.detach(),
        labels=labels,
        engine=chosen,
        target=TARGET_FUNCTIONS[target],
        aggregate=AGGREGATE_FUNCTIONS[aggregation],
        voxelwise=aggregation in _VOXELWISE,
        n_samples=n_samples,
        sigma=tuple(sigma),
        noise=NoiseField(seed, visit),
        target_error=target_error,
        baseline=baseline,
        layer=layer,
        signed=signed,
        allow_tf32=allow_tf32,
        n_threads=n_threads or torch.get_num_threads(),
        memory_bytes=memory_gb * 2**30,
        progress=progress,
    )
    module = import_module(f"bids_lesion_xai.explain.methods.{METHODS[method].module}")
    attributions: Iterator[Attribution] = module.Method(problem).explain()
    return attributions


def _check_images(network: torch.nn.Module, image: torch.Tensor, labels: torch.Tensor) -> None:
    if any(module.training for module in network.modules()):
        message = "The network is in train mode; call network.eval() first."
        raise UsageError(message)
    if image.ndim != 4 or image.dtype not in (torch.float32, torch.float64):
        message = (
            f"image of shape {tuple(image.shape)} and type {image.dtype}; (C, X, Y, Z) and "
            "float32 or float64 are expected."
        )
        raise DataError(message)
    if image.shape[1:] != labels.shape:
        message = (
            f"labels of shape {tuple(labels.shape)} for an image of shape {tuple(image.shape)}; "
            "the same X, Y, Z are expected."
        )
        raise DataError(message)
    if labels.dtype.is_floating_point or labels.dtype.is_complex or labels.device != image.device:
        message = (
            f"labels of {labels.dtype} on {labels.device}; whole numbers on {image.device} are "
            "expected."
        )
        raise DataError(message)
    if not torch.isfinite(image).all():
        message = "The image has NaN or infinite voxels; finite values are expected."
        raise DataError(message)
    weight = next(network.parameters(), image)
    if (weight.dtype, weight.device) != (image.dtype, image.device):
        message = (
            f"image of {image.dtype} on {image.device}, network of {weight.dtype} on "
            f"{weight.device}; the same are expected."
        )
        raise UsageError(message)


def _check_numbers(
    image: torch.Tensor,
    n_samples: int,
    sigma: Sequence[float],
    overlap: float,
    target_error: float | None,
    n_threads: int | None,
    memory_gb: float,
) -> None:
    if len(sigma) != len(image) or not all(0 <= value < torch.inf for value in sigma):
        message = (
            f"sigma {tuple(sigma)}: one value of at least 0 for each of {len(image)} channels "
            "is expected."
        )
        raise UsageError(message)
    for name, value, is_right, expected in (
        ("n_samples", n_samples, n_samples >= 1, "at least 1"),
        ("overlap", overlap, 0 <= overlap < 1, "at least 0 and below 1"),
        ("target_error", target_error, target_error is None or target_error > 0, "above 0"),
        ("n_threads", n_threads, n_threads is None or n_threads >= 1, "at least 1"),
        ("memory_gb", memory_gb, memory_gb > 0, "above 0"),
    ):
        if not is_right:
            message = f"{name} {value}: a number {expected} is expected."
            raise UsageError(message)
