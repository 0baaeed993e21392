# SPDX-License-Identifier: Apache-2.0
"""Training patches: crops of labelled scans, with painted lesions and augmentation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from monai import transforms as mt
from monai.utils import convert_to_tensor
from numpy.typing import NDArray
from scipy import ndimage
from torch.utils.data import Dataset

from bids_lesion_xai.lesions.label import CONNECTIVITY
from bids_lesion_xai.training.paint import paint_lesions
from bids_lesion_xai.training.scans import LabelledScan

# A patch is cut with this margin, so that rotation and zoom rarely reach beyond the scan.
_MARGIN_VOXELS = 12
_LESION_CENTRED = 0.6
_PAINTED = 0.6
_CUT_SLAB = 0.1


class ThickSlices(mt.RandomizableTransform):
    """Blur an image as slices of 2 to 4 voxels, interpolated back, along one axis would.

    Parameters
    ----------
    prob : float
        Probability of the change, drawn for each image alone.
    """

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        """Return `image`, shape (1, X, Y, Z), unchanged or with thick slices."""
        self.randomize(None)
        if not self._do_transform:
            return image
        axis = int(self.R.choice(3, p=[0.15, 0.15, 0.7]))
        shape = list(image.shape[1:])
        shape[axis] = max(2, round(shape[axis] / self.R.uniform(2, 4)))
        thick = torch.nn.functional.interpolate(image[None], size=shape, mode="area")
        thin = torch.nn.functional.interpolate(
            thick, size=image.shape[1:], mode="trilinear", align_corners=False
        )
        return thin[0]


def _geometry(patch_size: int) -> mt.Compose:
    """Return transforms of `image` and `masks`, (2, X, Y, Z) each: where things are."""
    both = ["image", "masks"]
    return mt.Compose(
        [
            mt.RandAffined(
                both,
                prob=0.7,
                rotate_range=0.26,
                scale_range=0.12,
                shear_range=0.05,
                spatial_size=(patch_size,) * 3,
                mode=["bilinear", "nearest"],
                padding_mode="zeros",
            ),
            mt.CenterSpatialCropd(both, roi_size=(patch_size,) * 3),
            mt.RandFlipd(both, prob=0.5, spatial_axis=0),
            mt.RandFlipd(both, prob=0.2, spatial_axis=1),
            mt.RandFlipd(both, prob=0.2, spatial_axis=2),
        ]
    )


def _scanner() -> mt.Compose:
    """Return transforms of one channel, (1, X, Y, Z): what another scanner would change."""
    return mt.Compose(
        [
            ThickSlices(prob=0.25),
            mt.RandGaussianSmooth((0.3, 0.8), (0.3, 0.8), (0.3, 0.8), prob=0.1),
            mt.RandBiasField(degree=2, coeff_range=(0.0, 0.15), prob=0.2),
            mt.RandAdjustContrast(prob=0.3, gamma=(0.7, 1.5), retain_stats=True),
            mt.RandScaleIntensity(factors=0.4, prob=0.8),
            mt.RandShiftIntensity(offsets=0.3, prob=0.7),
            mt.RandGaussianNoise(prob=0.3, std=0.2),
        ]
    )


class _Shapes:
    """A lesion mask, with a voxel in the middle of each of its lesions, as flat indices."""

    def __init__(self, mask: NDArray[np.bool_]) -> None:
        self.mask = mask
        labels, count = ndimage.label(mask, CONNECTIVITY)
        sizes = np.bincount(labels.ravel(), minlength=count + 1)[1:]
        voxels = np.flatnonzero(mask)
        order = np.argsort(labels.ravel()[voxels], kind="stable")
        self.middles = voxels[order][np.cumsum(sizes) - sizes + sizes // 2]


class _Source:
    """A scan, with the voxels of its brain as flat indices."""

    def __init__(self, scan: LabelledScan) -> None:
        self.scan = scan
        self.lesions = _Shapes(scan.lesions)
        self.brain = np.flatnonzero(scan.brain)


class Patches(Dataset[dict[str, torch.Tensor]]):
    """An endless, replayable list of patches: item `i` depends on the seed and on `i` alone.

    Parameters
    ----------
    scans : list of LabelledScan
        Where patches are cut from; every person is drawn equally often.
    masks : list of bool arrays, shape (X, Y, Z)
        Lesion masks, on the grid of the scans, whose lesions may be painted into a patch.
    heads : list of LabelledScan
        Synthetic heads, another source of patches.
    synthetic_share : float
        How often a patch is cut from a synthetic head; 0 without heads, 1 without scans.
    patch_size : int
        Edge of the cubic patch in voxels.
    length : int
        Number of items.
    seed : int
    """

    def __init__(
        self,
        scans: Sequence[LabelledScan],
        masks: Sequence[NDArray[np.bool_]],
        heads: Sequence[LabelledScan] = (),
        *,
        patch_size: int,
        length: int,
        seed: int,
        synthetic_share: float = 0.0,
    ) -> None:
        self.persons = _sources(scans)
        self.heads = _sources(heads)
        self.synthetic_share = synthetic_share if heads and scans else float(bool(heads))
        self.donors = [_Shapes(mask) for mask in masks]
        self.patch_size = patch_size
        self.length = length
        self.seed = seed
        self.geometry = _geometry(patch_size)
        self.scanner = _scanner()

    def __len__(self) -> int:
        """Return the number of items."""
        return self.length

    def __getitem__(self, item: int) -> dict[str, torch.Tensor]:
        """Return `image`, shape (2, X, Y, Z), and `lesions`, shape (1, X, Y, Z), both float32."""
        rng = np.random.default_rng((self.seed, item))
        people = self.heads if rng.random() < self.synthetic_share else self.persons
        sessions = people[rng.integers(len(people))]
        source = sessions[rng.integers(len(sessions))]
        scan = source.scan
        donors = [donor for donor in self.donors if donor.mask.shape == scan.lesions.shape]
        donor = donors[rng.integers(len(donors))] if donors and rng.random() < _PAINTED else None
        box = self._box(source, donor, rng)
        image, lesions = scan.image[(slice(None), *box)], scan.lesions[box]
        if donor is not None:
            keep = rng.uniform(0.1, 0.9)
            image, painted = paint_lesions(image, donor.mask[box] & ~_near(lesions), rng, keep)
            lesions = lesions | painted
        self.geometry.set_random_state(int(rng.integers(2**31)))
        moved = self.geometry(
            {
                "image": torch.from_numpy(image.copy()),
                "masks": torch.from_numpy(np.stack([lesions, scan.brain[box]]).astype(np.float32)),
            }
        )
        lesions, brain = convert_to_tensor(moved["masks"]).split(1)
        self.scanner.set_random_state(int(rng.integers(2**31)))
        channels = [
            convert_to_tensor(self.scanner(channel)) * brain
            for channel in convert_to_tensor(moved["image"]).split(1)
        ]
        if rng.random() < _CUT_SLAB:
            _cut_slab(channels[0], lesions, rng)
        return {"image": torch.cat(channels), "lesions": lesions}

    def _box(
        self, source: _Source, donor: _Shapes | None, rng: np.random.Generator
    ) -> tuple[slice, ...]:
        """Return a box around a lesion or a brain voxel, inside the scan.

        Small lesions are drawn as often as large ones.
        """
        shapes = source.lesions if donor is None or rng.random() < 0.5 else donor
        voxels = source.brain
        if shapes.middles.size and rng.random() < _LESION_CENTRED:
            voxels = shapes.middles
        shape = source.scan.lesions.shape
        centre = np.unravel_index(voxels[rng.integers(voxels.size)], shape)
        edge = self.patch_size + 2 * _MARGIN_VOXELS
        jitter = rng.integers(-self.patch_size // 4, self.patch_size // 4 + 1, 3)
        starts = [
            int(np.clip(middle + shift - edge // 2, 0, max(0, size - edge)))
            for middle, shift, size in zip(centre, jitter, shape, strict=True)
        ]
        return tuple(slice(start, start + edge) for start in starts)


def _cut_slab(flair: torch.Tensor, lesions: torch.Tensor, rng: np.random.Generator) -> None:
    """Darken FLAIR, in place, beyond a plane, where its field of view ends; no lesion is seen."""
    axis = int(rng.choice(3, p=[0.15, 0.15, 0.7])) + 1
    side = flair.shape[axis]
    width = int(rng.integers(1, side // 3))
    start = 0 if rng.random() < 0.5 else side - width
    beyond = flair.narrow(axis, start, width)
    beyond.masked_fill_(beyond != 0, float(rng.uniform(-5, -2)))
    lesions.narrow(axis, start, width).zero_()


def _near(lesions: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return np.asarray(ndimage.binary_dilation(lesions, iterations=2))


def _sources(scans: Sequence[LabelledScan]) -> list[list[_Source]]:
    """Return the scans of each person."""
    return [
        [_Source(scan) for scan in scans if scan.person == person]
        for person in sorted({scan.person for scan in scans})
    ]
