# SPDX-License-Identifier: Apache-2.0
"""Training patches: crops of labelled scans, with painted lesions and augmentation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from monai import transforms as mt
from numpy.typing import NDArray
from scipy import ndimage
from torch.utils.data import Dataset

from bids_lesion_xai.training.paint import paint_lesions
from bids_lesion_xai.training.scans import LabelledScan

# A patch is cut with this margin, so that rotation and zoom rarely reach beyond the scan.
_MARGIN_VOXELS = 12
_LESION_CENTRED = 0.6


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


def _augmentation(patch_size: int) -> mt.Compose:
    """Return transforms of a dict of `flair`, `t1w`, `lesions`, `brain`, each (1, X, Y, Z)."""
    images = ["flair", "t1w"]
    everything = [*images, "lesions", "brain"]
    return mt.Compose(
        [
            mt.RandAffined(
                everything,
                prob=0.7,
                rotate_range=0.26,
                scale_range=0.12,
                shear_range=0.05,
                spatial_size=(patch_size,) * 3,
                mode=["bilinear", "bilinear", "nearest", "nearest"],
                padding_mode="zeros",
            ),
            mt.CenterSpatialCropd(everything, roi_size=(patch_size,) * 3),
            mt.RandFlipd(everything, prob=0.5, spatial_axis=0),
            mt.RandFlipd(everything, prob=0.2, spatial_axis=1),
            mt.RandFlipd(everything, prob=0.2, spatial_axis=2),
            *(
                transform
                for name in images
                for transform in (
                    _on(name, ThickSlices(prob=0.4)),
                    mt.RandGaussianSmoothd(name, (0.3, 0.8), (0.3, 0.8), (0.3, 0.8), prob=0.15),
                    mt.RandBiasFieldd(name, degree=2, coeff_range=(0.0, 0.15), prob=0.3),
                    mt.RandAdjustContrastd(name, prob=0.4, gamma=(0.7, 1.5), retain_stats=True),
                    mt.RandScaleIntensityd(name, factors=0.2, prob=0.7),
                    mt.RandShiftIntensityd(name, offsets=0.2, prob=0.7),
                    mt.RandGaussianNoised(name, prob=0.4, std=0.2),
                )
            ),
        ]
    )


class _OnKey(mt.RandomizableTransform, mt.MapTransform):
    """Apply a random transform of one image to one key of a dict."""

    def __init__(self, key: str, transform: mt.RandomizableTransform) -> None:
        mt.MapTransform.__init__(self, key)
        mt.RandomizableTransform.__init__(self, 1.0)
        self.transform = transform

    def set_random_state(self, seed: int | None = None, state: Any = None) -> _OnKey:
        """Seed the wrapped transform."""
        super().set_random_state(seed, state)
        self.transform.set_random_state(seed, state)
        return self

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        """Return a dict with every key of this transform changed."""
        return dict(sample) | {
            key: self.transform(sample[key]) for key in self.key_iterator(sample)
        }


def _on(key: str, transform: mt.RandomizableTransform) -> _OnKey:
    return _OnKey(key, transform)


class Patches(Dataset[dict[str, torch.Tensor]]):
    """An endless, replayable list of patches: item `i` depends on the seed and on `i` alone.

    Parameters
    ----------
    scans : list of LabelledScan
        Where patches are cut from; every person is drawn equally often.
    masks : list of bool arrays, shape (X, Y, Z)
        Lesion masks, on the grid of the scans, whose lesions may be painted into a patch.
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
        *,
        patch_size: int,
        length: int,
        seed: int,
    ) -> None:
        self.persons = [
            [scan for scan in scans if scan.person == person]
            for person in sorted({scan.person for scan in scans})
        ]
        self.masks = masks
        self.patch_size = patch_size
        self.length = length
        self.seed = seed
        self.augmentation = _augmentation(patch_size)

    def __len__(self) -> int:
        """Return the number of items."""
        return self.length

    def __getitem__(self, item: int) -> dict[str, torch.Tensor]:
        """Return `image`, shape (2, X, Y, Z), and `lesions`, shape (1, X, Y, Z), both float32."""
        rng = np.random.default_rng((self.seed, item))
        sessions = self.persons[rng.integers(len(self.persons))]
        scan = sessions[rng.integers(len(sessions))]
        donors = [mask for mask in self.masks if mask.shape == scan.lesions.shape]
        donor = donors[rng.integers(len(donors))] if donors and rng.random() < 0.6 else None
        box = self._box(scan, donor, rng)
        image, lesions = scan.image[(slice(None), *box)], scan.lesions[box]
        if donor is not None:
            keep = rng.uniform(0.1, 0.9)
            image, painted = paint_lesions(image, donor[box] & ~_near(lesions), rng, keep)
            lesions = lesions | painted
        self.augmentation.set_random_state(int(rng.integers(2**31)))
        sample = self.augmentation(
            {
                "flair": torch.from_numpy(image[:1].copy()),
                "t1w": torch.from_numpy(image[1:].copy()),
                "lesions": torch.from_numpy(lesions[None].astype(np.float32)),
                "brain": torch.from_numpy(scan.brain[box][None].astype(np.float32)),
            }
        )
        brain = sample["brain"].as_tensor()
        channels = [sample[name].as_tensor() * brain for name in ("flair", "t1w")]
        return {"image": torch.cat(channels), "lesions": sample["lesions"].as_tensor()}

    def _box(
        self, scan: LabelledScan, donor: NDArray[np.bool_] | None, rng: np.random.Generator
    ) -> tuple[slice, ...]:
        """Return a box around a lesion voxel or a brain voxel, inside the scan."""
        wanted = scan.lesions if donor is None else scan.lesions | donor
        if rng.random() > _LESION_CENTRED or not wanted.any():
            wanted = scan.brain
        voxels = np.flatnonzero(wanted)
        centre = np.unravel_index(voxels[rng.integers(voxels.size)], wanted.shape)
        edge = self.patch_size + 2 * _MARGIN_VOXELS
        jitter = rng.integers(-self.patch_size // 4, self.patch_size // 4 + 1, 3)
        starts = [
            int(np.clip(middle + shift - edge // 2, 0, max(0, size - edge)))
            for middle, shift, size in zip(centre, jitter, wanted.shape, strict=True)
        ]
        return tuple(slice(start, start + edge) for start in starts)


def _near(lesions: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return np.asarray(ndimage.binary_dilation(lesions, iterations=2))
