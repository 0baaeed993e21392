# SPDX-License-Identifier: Apache-2.0
"""What another scanner would change in an image: augmentation of whole batches, on any device.

MONAI's transforms take one image at a time, 0.06 s a patch on one core, which would leave a GPU
waiting most of the time; these take the batch at once. Each channel of each patch draws its own
changes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional

from bids_lesion_xai.training.draws import Draws

# Images, shape (N, 1, X, Y, Z), to images of that shape.
Change = Callable[[torch.Tensor, Draws], torch.Tensor]

_RADIUS_VOXELS = 3
# Standard deviations of a brain's intensities between 0 and its mean: what a bias field multiplies
# is the intensity, not its distance from the mean.
_BIAS_LEVEL = (0.0, 3.0)
# Pieces of a random tone curve over the range of a patch, and how their slopes differ.
_PIECES = 8
_LARGEST_LOG_SLOPE = 0.6


def change_scanner(image: torch.Tensor, draws: Draws) -> torch.Tensor:
    """Return a batch as other scanners would have taken it.

    Thick slices, blur, bias field, gamma, gain, offset and noise, in this order.

    Parameters
    ----------
    image : float32 tensor, shape (B, C, X, Y, Z)
        In units of normalised intensity.
    draws : Draws
    """
    image = _sometimes(image, thick_slices, 0.1, draws)
    image = _sometimes(image, _blurred, 0.1, draws)
    image = _sometimes(image, _biased, 0.2, draws)
    image = _sometimes(image, _toned, 0.3, draws)
    own = (*image.shape[:2], 1, 1, 1)
    image = image * torch.where(draws.chance(0.8, own), draws.uniform(-0.15, 0.15, own).exp(), 1.0)
    image = image + torch.where(draws.chance(0.7, own), draws.uniform(-0.1, 0.1, own), 0.0)
    deviation = torch.where(draws.chance(0.4, own), draws.uniform(0, 0.12, own), 0.0)
    return image + deviation * draws.normal(image.shape)


def smooth(image: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """Return a batch smoothed by Gaussians of each its own width.

    Parameters
    ----------
    image : float32 tensor, shape (B, C, X, Y, Z)
    sigma : float32 tensor, shape (B,)
        Standard deviation in voxels, at most 1.
    """
    steps = torch.arange(-_RADIUS_VOXELS, _RADIUS_VOXELS + 1, device=image.device)
    weights = torch.exp(-0.5 * (steps / sigma[:, None].clamp_min(1e-3)) ** 2)
    weights = (weights / weights.sum(1, keepdim=True))[..., None, None, None, None]
    for axis in (2, 3, 4):
        before_and_after = [0] * 6
        before_and_after[2 * (4 - axis) : 2 * (4 - axis) + 2] = [_RADIUS_VOXELS] * 2
        padded = functional.pad(image, before_and_after, mode="replicate")
        side = image.shape[axis]
        image = torch.zeros_like(image)
        for k in range(len(steps)):
            image.addcmul_(weights[:, k], padded.narrow(axis, k, side))
    return image


def thick_slices(images: torch.Tensor, draws: Draws) -> torch.Tensor:
    """Return images, shape (N, 1, X, Y, Z), as slices of 2 to 5 voxels would show them.

    The slices are interpolated back. They lie along the last axis in seven images of ten.
    """
    axes = torch.where(draws.chance(0.7, (len(images),)), 2.0, draws.uniform(0, 2, (len(images),)))
    thickness = draws.uniform(2, 5, (len(images),))
    changed = []
    for image, axis, voxels in zip(images, axes.tolist(), thickness.tolist(), strict=True):
        shape = list(image.shape[1:])
        shape[int(axis)] = max(2, round(shape[int(axis)] / voxels))
        thick = functional.interpolate(image[None], size=shape, mode="area")
        changed.append(
            functional.interpolate(
                thick, size=image.shape[1:], mode="trilinear", align_corners=False
            )
        )
    return torch.cat(changed)


def _sometimes(
    image: torch.Tensor, change: Change, probability: float, draws: Draws
) -> torch.Tensor:
    """Return a batch with some of its channels changed."""
    flat = image.flatten(0, 1)[:, None]
    chosen = draws.chance(probability, (len(flat),)).nonzero()[:, 0]
    if len(chosen) == 0:
        return image
    return flat.index_copy(0, chosen, change(flat[chosen], draws)).reshape(image.shape)


def _blurred(images: torch.Tensor, draws: Draws) -> torch.Tensor:
    return smooth(images, draws.uniform(0.3, 1.0, (len(images),)))


def _biased(images: torch.Tensor, draws: Draws) -> torch.Tensor:
    """Return images times the exponential of a polynomial of second degree in space."""
    x, y, z = torch.meshgrid(
        *(torch.linspace(-1, 1, side, device=images.device) for side in images.shape[2:]),
        indexing="ij",
    )
    terms = torch.stack([x, y, z, x * y, x * z, y * z, x**2, y**2, z**2])
    coefficients = draws.uniform(-0.12, 0.12, (len(images), len(terms)))
    field = torch.einsum("nk,kxyz->nxyz", coefficients, terms)[:, None].exp()
    level = draws.uniform(*_BIAS_LEVEL, (len(images), 1, 1, 1, 1))
    return (images + level) * field - level


def _toned(images: torch.Tensor, draws: Draws) -> torch.Tensor:
    """Return images through a random rising curve, with the same mean and deviation as before.

    Scanners differ in how far fluid, white matter, cortex and lesions lie apart, not in their
    order. The curve has `_PIECES` pieces of equal width with slopes of their own.
    """
    space = (2, 3, 4)
    low, high = images.amin(space, keepdim=True), images.amax(space, keepdim=True)
    level = (images - low) / (high - low).clamp_min(1e-6) * _PIECES
    slopes = torch.exp(
        draws.uniform(-_LARGEST_LOG_SLOPE, _LARGEST_LOG_SLOPE, (len(images), _PIECES, 1, 1, 1, 1))
    )
    changed = torch.zeros_like(level)
    for piece in range(_PIECES):
        changed.addcmul_((level - piece).clamp(0, 1), slopes[:, piece])
    mean, deviation = images.mean(space, keepdim=True), images.std(space, keepdim=True)
    own_mean, own_deviation = changed.mean(space, keepdim=True), changed.std(space, keepdim=True)
    return (changed - own_mean) / own_deviation.clamp_min(1e-6) * deviation + mean
