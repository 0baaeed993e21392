# SPDX-License-Identifier: Apache-2.0
"""Synthetic FLAIR and T1w of a head whose scanner nobody has seen: domain randomisation.

Every synthetic head draws its own contrasts, textures and artefacts from ranges wider than those
of real scanners (Billot et al., Medical Image Analysis 86 (2023) 102789, on why that helps).
Lesions are painted into patches, and what any scanner changes (noise, bias field, thick slices,
...) is left to the augmentation of patches, which real scans go through as well.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from bids_lesion_xai.imaging.intensity import brain_moments, normalise
from bids_lesion_xai.training import anatomy as parts
from bids_lesion_xai.training.anatomy import NUMBER, STRUCTURES
from bids_lesion_xai.training.scans import LabelledScan
from bids_lesion_xai.training.tissues import of_anatomy

log = logging.getLogger(__name__)

Image = NDArray[np.float32]
Mask = NDArray[np.bool_]

# Where lesions of multiple sclerosis lie: white matter, brainstem and middle cerebellar peduncles.
# What they reach into of cortex is left out: a network took bright cortex for lesions.
_WHERE_LESIONS_LIE = (
    parts.WHITE_MATTER,
    parts.CEREBELLAR_WHITE_MATTER,
    parts.BRAINSTEM,
    "ventral diencephalon",
)


@dataclass(frozen=True)
class SyntheticHead(LabelledScan):
    """A synthetic skull-stripped scan without lesions.

    Parameters
    ----------
    hosts : bool array, shape (X, Y, Z)
        Where lesions of multiple sclerosis may lie.
    least_brightening : float
        By how much the mean of cortex is brighter than white matter on FLAIR, in units of
        normalised intensity: lesions are rarely darker than cortex.
    tissues : uint8 array, shape (X, Y, Z)
        See `tissues.of_anatomy`.
    """

    hosts: Mask
    least_brightening: float
    tissues: NDArray[np.uint8]


def synthetic_heads(
    anatomies: Sequence[NDArray[np.uint8]], *, count: int, seed: int, workers: int = 0
) -> list[SyntheticHead]:
    """Return `count` synthetic heads; head `i` depends on `seed` and on `i` alone.

    Parameters
    ----------
    anatomies : list of uint8 arrays, shape (X, Y, Z), RAS+ axes
        From `anatomy.load_anatomies`; taken in turn.
    count, seed : int
    workers : int
        Processes that make heads; 0 makes them in this one.
    """
    heads = []
    recipe = _Recipe(anatomies, count, seed)
    for head in DataLoader(recipe, batch_size=None, num_workers=workers, collate_fn=_as_it_is):
        heads.append(head)
        if len(heads) % 20 == 0:
            log.info("made %d of %d synthetic heads", len(heads), count)
    return heads


class _Recipe(Dataset[SyntheticHead]):
    """The list of heads, each made when it is asked for."""

    def __init__(self, anatomies: Sequence[NDArray[np.uint8]], count: int, seed: int) -> None:
        self._anatomies, self._count, self._seed = anatomies, count, seed

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, i: int) -> SyntheticHead:
        if not 0 <= i < self._count:
            raise IndexError(i)
        anatomy = self._anatomies[i % len(self._anatomies)]
        # Patches and styles are drawn from (seed, i) and (seed, i, 1).
        rng = np.random.default_rng((self._seed, i, 2))
        return synthesise(anatomy, rng, name=f"synthetic/sub-{i + 1:04d}")


def _as_it_is(head: Any) -> Any:
    return head


def synthesise(
    anatomy: NDArray[np.uint8], rng: np.random.Generator, *, name: str
) -> SyntheticHead:
    """Return a synthetic skull-stripped scan of `anatomy`, without lesions.

    Parameters
    ----------
    anatomy : uint8 array, shape (X, Y, Z), RAS+ axes
        Numbers of `anatomy.STRUCTURES`.
    rng : numpy Generator
        Fixes everything that is random.
    name : str
        The person's name in the result.

    Returns
    -------
    head : SyntheticHead
        Image in units of normalised intensity, 0 outside the (imperfect) brain mask.
    """
    if rng.random() < 0.5:
        anatomy = anatomy[::-1]
    anatomy = _with_narrow_sulci(anatomy, rng)
    images = _blurred(_contrasts(anatomy, rng), rng)
    _add_artefacts(images, anatomy, rng)
    brain = _brain_mask(anatomy, rng)
    image = np.stack([_normalised(channel, brain) for channel in images])
    cortex, white = (
        image[0][anatomy == NUMBER[name]].mean() for name in (parts.CORTEX, parts.WHITE_MATTER)
    )
    hosts = np.isin(anatomy, [NUMBER[name] for name in _WHERE_LESIONS_LIE]) & brain
    return SyntheticHead(
        person=name,
        session="",
        image=image,
        lesions=np.zeros(anatomy.shape, bool),
        spacing_mm=(1.0, 1.0, 1.0),
        hosts=hosts,
        least_brightening=max(0.0, float(cortex - white)),
        tissues=of_anatomy(anatomy),
    )


def _with_narrow_sulci(anatomy: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Return a head whose sulci are more or less closed, as those of young people are.

    Where cortex lies on cortex, it is as thick and as bright as a lesion, and was taken for one by
    networks that knew open sulci alone.
    """
    half_width_voxels = int(rng.integers(0, 4))
    if half_width_voxels == 0:
        return anatomy
    cortex, fluid = NUMBER[parts.CORTEX], NUMBER[parts.FLUID]
    closed = ndimage.binary_closing(anatomy == cortex, iterations=half_width_voxels)
    return np.where(closed & (anatomy == fluid), np.uint8(cortex), anatomy)


def _contrasts(anatomy: NDArray[np.uint8], rng: np.random.Generator) -> Image:
    """Return FLAIR and T1w, each structure with its own mean and texture.

    White matter is 1 on both. On FLAIR fluid is dark and grey matter brighter than white; on T1w
    fluid is dark and grey matter between them. One head in ten breaks these rules.
    """
    unusual = rng.random() < 0.1
    flair_fluid, t1w_fluid = rng.uniform(0.0, 0.35), rng.uniform(0.05, 0.45)
    flair_cortex = rng.uniform(0.85, 1.6) if unusual else rng.uniform(1.0, 1.5)
    t1w_cortex = rng.uniform(0.5, 1.05) if unusual else rng.uniform(0.6, 0.97)
    contrast_agent = rng.random() < 0.4
    means = np.empty((2, len(STRUCTURES)), np.float32)
    for number, structure in enumerate(STRUCTURES):
        own = rng.normal(0, structure.spread, 2)
        means[0, number] = 1 + structure.grayness * (flair_cortex - 1) + own[0]
        means[1, number] = 1 + structure.grayness * (t1w_cortex - 1) + own[1]
        if number >= parts.FIRST_EXTRACEREBRAL:
            means[:, number] = rng.uniform(0, 1.5, 2)
    means[:, NUMBER[parts.OUTSIDE]] = 0
    for fluid in (parts.FLUID, parts.VENTRICLES):
        means[:, NUMBER[fluid]] = flair_fluid, t1w_fluid
    means[:, NUMBER[parts.FLUID]] *= rng.uniform(0.9, 1.4, 2)
    bright = rng.uniform(1.0, 2.2) if contrast_agent else rng.uniform(0.4, 0.9)
    means[:, NUMBER[parts.CHOROID_PLEXUS]] = rng.uniform(0.6, 1.6), bright
    means[:, NUMBER[parts.VESSELS]] = rng.uniform(0.1, 1.0), bright

    return np.stack([_textured(channel[anatomy], rng) for channel in means])


def _textured(image: Image, rng: np.random.Generator) -> Image:
    """Return an image with a fine texture and slow changes within its structures."""
    fine = rng.standard_normal(image.shape, np.float32)
    texture = ndimage.gaussian_filter(fine, rng.uniform(0.6, 1.5))
    texture *= rng.uniform(0.01, 0.05) / texture.std()
    slow = 1 + rng.uniform(0.02, 0.08) * _smooth_field(image.shape, 20, rng)
    return np.asarray((image + texture * (image > 0)) * slow, np.float32)


def _blurred(images: Image, rng: np.random.Generator) -> Image:
    """Return images with partial volume: both were never sharper than their voxels."""
    sigma = rng.uniform(0.4, 0.9, 2)
    return np.stack(
        [ndimage.gaussian_filter(image, s) for image, s in zip(images, sigma, strict=True)]
    )


def _add_artefacts(images: Image, anatomy: NDArray[np.uint8], rng: np.random.Generator) -> None:
    """Brighten FLAIR, in place, where lesions are often seen and are none."""
    flair = images[0]
    white = anatomy == NUMBER[parts.WHITE_MATTER]
    fluid = np.isin(anatomy, [NUMBER[parts.FLUID], NUMBER[parts.VENTRICLES]])
    near = _around_ventricles(anatomy)
    ventricles = anatomy[near] == NUMBER[parts.VENTRICLES]
    distance_mm = ndimage.distance_transform_edt(~ventricles)
    # The thin bright lining of the ventricles, thicker at their horns.
    caps = np.exp(-distance_mm / rng.uniform(0.4, 1.5)) * white[near]
    flair[near] += rng.uniform(0.0, 0.5) * caps * (1 + _smooth_field(caps.shape, 15, rng))
    # The septum: what lies between the two lateral ventricles.
    septum = ndimage.binary_closing(ventricles, iterations=4) & ~ventricles
    flair[near] += rng.uniform(0.0, 0.5) * ndimage.gaussian_filter(septum.astype(np.float32), 0.6)
    # Dirty white matter, bright cortex, and fluid that was not suppressed where it flows. Neither
    # tissue is small, bright and sharp anywhere, for that is a lesion.
    cortex = anatomy == NUMBER[parts.CORTEX]
    for tissue in (white, cortex):
        flair += rng.uniform(0.0, 0.12) * _blobs(anatomy.shape, 12, 0.5, rng) * tissue
    flair += rng.uniform(0.0, 1.0) * _blobs(anatomy.shape, 6, 1.5, rng) * fluid
    # Vessels in the sulci and perivascular spaces: small points, bright or dark. In white matter
    # they are full of fluid: what is bright on FLAIR there is a lesion.
    points = (rng.random(anatomy.shape, np.float32) < rng.uniform(0, 0.001)) & (anatomy > 0)
    flair_change, t1w_change = rng.uniform(-3, 3, 2).tolist()
    flair += flair_change * _points(points & ~white if flair_change > 0 else points)
    images[1] += t1w_change * _points(points)


def _points(where: Mask) -> Image:
    return np.asarray(ndimage.gaussian_filter(where.astype(np.float32), 0.7))


def _around_ventricles(anatomy: NDArray[np.uint8]) -> tuple[slice, ...]:
    """Return the box of the lateral ventricles, with a margin."""
    where = np.nonzero(anatomy == NUMBER[parts.VENTRICLES])
    margin = 10
    return tuple(slice(max(0, int(i.min()) - margin), int(i.max()) + margin + 1) for i in where)


def _smooth_field(shape: tuple[int, ...], scale: float, rng: np.random.Generator) -> Image:
    """Return a smooth random field of mean 0 and standard deviation of about 1.

    `scale` is the distance in voxels over which it changes.
    """
    coarse = rng.standard_normal([int(side // scale) + 2 for side in shape], np.float32)
    field = functional.interpolate(
        torch.from_numpy(coarse)[None, None], shape, mode="trilinear", align_corners=True
    )
    return np.asarray(field[0, 0])


def _blobs(shape: tuple[int, ...], scale: float, level: float, rng: np.random.Generator) -> Image:
    """Return smooth blobs between 0 and 1: where a random field is above `level`."""
    return np.clip(_smooth_field(shape, scale, rng) - level, 0, 1)


def _brain_mask(anatomy: NDArray[np.uint8], rng: np.random.Generator) -> Mask:
    """Return a brain mask as imperfect as those of skull strippers."""
    brain = parts.tissue(anatomy)
    closed = ndimage.binary_closing(brain, iterations=int(rng.integers(3, 9)))
    closed = ndimage.binary_fill_holes(closed)
    grown = ndimage.binary_dilation(closed, iterations=int(rng.integers(1, 4)))
    rough = _smooth_field(anatomy.shape, 10, rng) > rng.uniform(-1.5, 1.5)
    return np.asarray((anatomy > 0) & (closed | (grown & rough)))


def _normalised(channel: Image, brain: Mask) -> Image:
    return normalise(channel, brain, *brain_moments(channel, brain))
