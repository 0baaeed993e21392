# SPDX-License-Identifier: Apache-2.0
"""Grad-CAM++ of single lesions (Chattopadhyay et al. 2018, arXiv 1710.11063).

The published work (Spagnolo et al. 2026, doi 10.1038/s41598-026-36560-9) takes it for a class and
a lesion, from a layer of the decoder. With the activations A_k of the layer's channels, and the
gradient G_k of the lesion's aggregated target with respect to them, the map is the sum over k of
w_k A_k with w_k = sum over voxels of alpha max(G_k, 0) and
alpha = G_k^2 / (2 G_k^2 + sum over voxels of A_k G_k^3), cut off below 0 unless it is to be
signed. The factor exp(score) of the original is left out: it is the same for all channels, so
that it scales the map, and it overflows for a score over a whole lesion.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.nn import functional

from bids_lesion_xai.errors import UsageError
from bids_lesion_xai.explain.aggregate import VoxelGradients
from bids_lesion_xai.explain.attribution import Attribution
from bids_lesion_xai.explain.box import Box
from bids_lesion_xai.explain.engines import evaluate
from bids_lesion_xai.explain.layers import Piece
from bids_lesion_xai.explain.precision import precision
from bids_lesion_xai.explain.problem import Lesion, Problem, Progress
from bids_lesion_xai.explain.targets import slopes

# Of the published U-Net: a transposed convolution whose output has half the resolution.
PUBLISHED_LAYER = "model.1.submodule.2.conv"


class Method:
    """Grad-CAM++ of a layer, resampled linearly to the grid of the image.

    Resampling takes the layer to span the volume, as MONAI does: for a layer of half the
    resolution this is half a voxel off the centres of its strided convolution.

    Parameters
    ----------
    problem : Problem

    Raises
    ------
    UsageError
        The layer does not exist, or the engine evaluates windows.
    """

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self._name = PUBLISHED_LAYER if problem.layer is None else problem.layer
        layers = dict(problem.network.named_modules())
        if self._name not in layers:
            known = ", ".join(name for name, one in layers.items() if not [*one.children()])
            message = f"layer {self._name!r}: one of {known} is expected."
            raise UsageError(message)
        if problem.engine.name == "window":
            message = "gradcam++ explains the whole volume, not windows. Leave the window out."
            raise UsageError(message)
        self._layer = layers[self._name]

    def explain(self) -> Iterator[Attribution]:
        """Yield the map of every lesion, shape (1, X, Y, Z), in the order of their labels."""
        lesions = list(self._problem.lesions())
        if not lesions:
            return
        logits, activations = self._forward()
        for n_done, lesion in enumerate(lesions, start=1):
            values = self._map(lesion, logits, activations)
            share = n_done / len(lesions)
            self._problem.progress(Progress(lesion.label, n_done, len(lesions), 1, 1, share))
            yield Attribution(
                lesion=lesion.label,
                values=values,
                offset=(0, 0, 0),
                standard_error=torch.zeros_like(values),
                inside_error=torch.zeros(1, dtype=torch.float64),
                share_error=torch.zeros(1, dtype=torch.float64),
                n_samples=1,
                engine="whole",
            )

    @torch.inference_mode(mode=False)
    def _forward(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the logits and what the layer gave for them, both with their way back."""
        problem = self._problem
        kept: list[torch.Tensor] = []

        def keep(_module: Any, _inputs: Any, output: torch.Tensor) -> torch.Tensor:
            kept.append(output.detach().requires_grad_())
            # A layer after this one may work in place.
            return kept[-1].clone()

        whole = Box((0, 0, 0), problem.engine.extent(problem.shape))
        padded = Piece(problem.image[None], (0, 0, 0), whole.stop).cut(whole)
        exactly = precision(problem.image, allow_tf32=problem.allow_tf32)
        with self._layer.register_forward_hook(keep), torch.enable_grad(), exactly:
            logits = evaluate(problem.network, padded)
        if len(kept) != 1 or kept[0].ndim != padded.ndim:
            message = f"layer {self._name!r} does not give one feature map; choose another."
            raise UsageError(message)
        return logits, kept[0]

    @torch.inference_mode(mode=False)
    def _map(
        self, lesion: Lesion, logits: torch.Tensor, activations: torch.Tensor
    ) -> torch.Tensor:
        problem, places = self._problem, lesion.voxels.T
        whole = Box((0, 0, 0), tuple(activations.shape[2:]))

        def pull(gradients: Piece) -> Iterator[Piece]:
            for gradient in gradients.values:
                own = logits[(..., *gradients.box.slices((0, 0, 0)))]
                (values,) = torch.autograd.grad(
                    own, activations, gradient[None], retain_graph=True
                )
                yield Piece(values, whole.start, whole.stop)

        own = logits.detach()[(0, slice(None), *places)].T
        gradient = problem.aggregate(
            VoxelGradients(
                pull=pull,
                voxels=lesion.voxels,
                slopes=slopes(problem.target, own),
                groups=[torch.arange(len(lesion.voxels), device=own.device)],
                at_once=1,
                box=whole,
                n_channels=activations.shape[1],
                extent=tuple(logits.shape[2:]),
            )
        )
        low = weighted_activations(activations.detach()[0], gradient)
        low = low if problem.signed else low.clamp_(min=0)
        side = tuple(logits.shape[2:])
        high = functional.interpolate(low[None, None], side, mode="trilinear")[0]
        return high[(slice(None), *Box((0, 0, 0), problem.shape).slices((0, 0, 0)))].clone()


def weighted_activations(activations: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    """Return the sum of the weighted activations, shape (x, y, z); see the module.

    Parameters
    ----------
    activations, gradient : float tensors, shape (K, x, y, z)
    """
    sums = (activations * gradient**3).sum((1, 2, 3), keepdim=True)
    below = 2 * gradient**2 + sums
    alpha = torch.where(below == 0, 0, gradient**2 / below)
    weights = (alpha * gradient.clamp(min=0)).sum((1, 2, 3), keepdim=True)
    return (weights * activations).sum(0)
