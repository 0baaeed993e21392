# SPDX-License-Identifier: Apache-2.0
"""Explanations of single lesions: the public function."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from numbers import Integral, Real

import torch

from bids_lesion_xai.conventions import INPUT_METHODS
from bids_lesion_xai.errors import UsageError
from bids_lesion_xai.explain.aggregate import AGGREGATE_FUNCTIONS
from bids_lesion_xai.explain.attribution import Attribution
from bids_lesion_xai.explain.catalogue import METHODS
from bids_lesion_xai.explain.check import (
    SMALLEST,
    check_images,
    check_names,
    check_number,
    check_numbers,
)
from bids_lesion_xai.explain.engines import CropEngine, PrunedEngine, choose_engine, evaluate
from bids_lesion_xai.explain.mirrored import MirroredEngine
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
    flip: bool = False,
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
    flip : bool
        Whether the logits are the mean of those of the image and of its mirror image along its
        first axis. Not for ``gradcam++``.
    baseline : {"zero", "brain-mean"}
        For ``integrated-gradients``: zeros, or each channel's mean over the voxels where
        any channel is not 0, at these voxels.
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
    check_names(method=method, aggregation=aggregation, target=target, baseline=baseline)
    if target_error is not None and not METHODS[method].has_noise:
        message = f"target_error {target_error}: method {method} has no noise to average."
        raise UsageError(message)
    check_images(network, image, labels)
    for name, count in (("multiple", multiple), ("n_threads", n_threads)):
        if count is not None:
            check_number(name, count, Integral, 1, torch.inf)
    check_number("n_samples", n_samples, Integral, 1, torch.inf)
    check_number("overlap", overlap, Real, 0, 1)
    check_number("memory_gb", memory_gb, Real, SMALLEST, torch.inf)
    if target_error is not None:
        check_number("target_error", target_error, Real, SMALLEST, torch.inf)
    sigmas = check_numbers("sigma", sigma, Real, len(image), 0)
    sides = None if window is None else check_numbers("window", window, Integral, 3, 1)
    chosen = choose_engine(network, engine, multiple, sides, overlap)
    if isinstance(chosen, PrunedEngine | CropEngine):
        # On a small volume, what the network takes and gives is found out at once.
        with torch.no_grad():
            evaluate(network, image.new_zeros(1, len(image), *(2 * m for m in chosen.multiple)))
    if flip:
        if method not in INPUT_METHODS:
            message = f"flip: method {method} looks into one pass of the network."
            raise UsageError(message)
        chosen = MirroredEngine(chosen, tuple(image.shape[1:]))
    log.info("engine %s", chosen.name)
    with torch.inference_mode(mode=False):
        # What was made in inference mode has no gradient.
        image = image.clone() if image.is_inference() else image.detach()
    problem = Problem(
        network=network,
        image=image,
        labels=labels.long(),
        engine=chosen,
        target=TARGET_FUNCTIONS[target],
        aggregate=AGGREGATE_FUNCTIONS[aggregation],
        voxelwise=aggregation in _VOXELWISE,
        n_samples=n_samples,
        sigma=sigmas,
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
