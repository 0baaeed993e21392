# SPDX-License-Identifier: Apache-2.0
"""A small scan, and what a network says of it on the whole volume."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from bids_lesion_xai.explain.experiments import Finding, Scan, run_experiments
from bids_lesion_xai.models.inference import Predictor
from tests.explain.test_lesions import MULTIPLE, SHAPE, small_image, three_lesions

SPACING_MM = (1.0, 1.5, 2.0)
WINDOW, OVERLAP = (8, 12, 8), 0.3
THRESHOLD = 0.5
# Ways to compute the same map from image to logits, and what else there is.
PLAIN = {name: {"engine": name, "flip": False} for name in ("pruned", "crop", "whole")}
WAYS = {
    **PLAIN,
    "flip": {"flip": True},
    "window": {"window": WINDOW, "overlap": OVERLAP, "flip": False},
}


def small_scan(**changes: Any) -> Scan:
    """Return random tissue with three lesions, some air, and some of it normal-appearing."""
    labels = three_lesions()
    generator = torch.Generator().manual_seed(1)
    brain = torch.rand(SHAPE, generator=generator) < 0.8
    brain |= labels > 0
    normal = brain & (labels == 0) & (torch.rand(SHAPE, generator=generator) < 0.5)
    fields = {
        "image": small_image(),
        "labels": labels,
        "brain": brain,
        "normal": normal,
        "spacing_mm": SPACING_MM,
        "peak_threshold": THRESHOLD,
        "visit": "sub-01",
    }
    return Scan(**{**fields, **changes})


def uniform_scan(
    shape: tuple[int, ...], spacing_mm: tuple[float, ...], lesion: list[tuple[int, ...]]
) -> Scan:
    """Return tissue of 1 on both images, all of it brain, with one lesion of the same value."""
    labels = torch.zeros(shape, dtype=torch.int32)
    labels[tuple(np.transpose(lesion))] = 1
    everywhere = torch.ones(shape, dtype=torch.bool)
    image = torch.ones(2, *shape, dtype=torch.float64)
    return Scan(image, labels, everywhere, labels == 0, spacing_mm, THRESHOLD)


def experiment(
    name: str, network: nn.Module, scan: Scan | None = None, **arguments: Any
) -> list[Finding]:
    """Return the findings of one experiment, on one thread unless `explanation` says otherwise."""
    explanation = {"n_threads": 1, **arguments.pop("explanation", {})}
    scan = small_scan() if scan is None else scan
    return list(run_experiments([name], network, scan, explanation=explanation, **arguments))


def respond(
    network: nn.Module, image: torch.Tensor, mask: torch.Tensor, way: dict[str, Any] | None = None
) -> dict[str, float]:
    """Return the response of the network on the whole volume at the voxels of `mask`."""
    way = way or {}
    predict = Predictor(
        network, MULTIPLE, way.get("window"), way.get("overlap", 0), way.get("flip", False)
    )
    with torch.no_grad():
        logits = predict(image)
    probabilities = logits.softmax(0)[1][mask]
    return {
        "mean_probability": float(probabilities.mean()),
        "mean_logit": float(logits[1][mask].mean()),
        "detected": int((probabilities >= THRESHOLD).any()),
    }


def distances_mm(mask: NDArray[np.bool_], spacing_mm: tuple[float, ...]) -> NDArray[np.float64]:
    """Return the distance of every voxel to the nearest True one, from all pairs of voxels."""
    places = np.argwhere(np.ones(mask.shape, bool)) * spacing_mm
    lesion = np.argwhere(mask) * spacing_mm
    squares = ((places[:, None] - lesion[None]) ** 2).sum(-1)
    return np.sqrt(squares.min(1)).reshape(mask.shape)


def flair_only(network: nn.Module) -> nn.Module:
    """Return `network` blind to its second channel."""
    first = next(module for module in network.modules() if isinstance(module, nn.Conv3d))
    first.weight[:, 1] = 0
    return network


def ball_network(radius_mm: float, spacing_mm: tuple[float, ...]) -> nn.Module:
    """Return a network that sees a lesion where FLAIR is 1 on all of the ball around a voxel."""
    reach = [round(radius_mm / mm) for mm in spacing_mm]
    places = np.stack(np.indices([2 * n + 1 for n in reach]), -1) - reach
    ball = np.linalg.norm(places * spacing_mm, axis=-1) <= radius_mm + 1e-9
    layer = nn.Conv3d(2, 2, ball.shape, padding=tuple(reach)).double().requires_grad_(False)
    layer.weight[:] = 0
    layer.weight[1, 0] = 40 * torch.from_numpy(ball)
    layer.bias[:] = torch.tensor([0, -40 * (ball.sum() - 0.5)])
    return nn.Sequential(layer).eval()
