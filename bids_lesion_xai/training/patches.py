# SPDX-License-Identifier: Apache-2.0
"""Batches of training patches: cut, moved, painted and augmented, on any device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch.nn import functional
from torch.utils.data import Dataset

from bids_lesion_xai.lesions.label import CONNECTIVITY
from bids_lesion_xai.lesions.normal import normal_white_matter
from bids_lesion_xai.training.augment import change_scanner
from bids_lesion_xai.training.draws import Draws
from bids_lesion_xai.training.paint import fade_lesions, paint_lesions
from bids_lesion_xai.training.scans import LabelledScan
from bids_lesion_xai.training.synthesis import SyntheticHead
from bids_lesion_xai.training.tissues import of_scan

# A patch is cut larger than it will be, so that rotation and zoom rarely reach beyond.
_CUT_FACTOR = 1.375
_LESION_CENTRED = 0.6
_PAINTED = 0.8
_TWO_DONORS = 0.5
_NO_LARGE_LESION = 0.25
_LARGE_LESION_VOXELS = 300
_CUT_SLAB = 0.1
# How often a patch is turned, zoomed and sheared. The others keep their voxels, and with them the
# sharpness that a network will meet.
_TURNED = 0.5
_ROTATION_RADIANS, _ZOOM, _SHEAR = 0.26, 0.15, 0.05
# Of each brain, so many voxels are drawn once, to be the centres of patches without lesions.
_BRAIN_VOXELS = 4096
# First and last plane of the brain, as fractions of the sides of the MNI152 grid (RAS+).
_BRAIN_IN_MNI = np.array([(0.14, 0.86), (0.12, 0.88), (0.08, 0.80)])
# Bits of a voxel; above them stands the number of its tissue.
_LESION, _BRAIN, _HOST, _TISSUE = 1, 2, 4, 8


@dataclass(frozen=True)
class Placement:
    """Where a voxel of a scan lies in a donor: ``scale * voxel + offset``, along each axis."""

    scale: NDArray[np.float64]
    offset: NDArray[np.float64]

    def to_scan(self, voxel: NDArray[np.integer]) -> NDArray[np.int64]:
        """Return the voxel of the scan that is nearest to a voxel of the donor, shape (3,)."""
        return np.rint((voxel - self.offset) / self.scale).astype(np.int64)


class Donor:
    """A lesion mask whose lesions are painted, each by itself.

    Parameters
    ----------
    mask : bool array, shape (X, Y, Z)
    device : torch device
    """

    def __init__(self, mask: NDArray[np.bool_], device: torch.device) -> None:
        labels, self.sizes = _labelled(mask)
        self.shape = np.array(mask.shape)
        self.middles = _middles(labels, self.sizes)
        # With a plane of zeros at the end of each axis, for what lies beyond.
        self.labels = torch.from_numpy(np.pad(labels.astype(np.int16), (0, 1))).to(device)

    def on_cube(self, placement: Placement, start: NDArray[np.int64], edge: int) -> torch.Tensor:
        """Return the labels in a cube of a scan, int16, shape (X, Y, Z); 0 beyond the mask."""
        labels = self.labels
        for axis in range(3):
            voxels = start[axis] + np.arange(edge)
            index = np.rint(placement.scale[axis] * voxels + placement.offset[axis])
            index[(index < 0) | (index > self.shape[axis])] = self.shape[axis]
            chosen = torch.from_numpy(index.astype(np.int64)).to(labels.device)
            labels = labels.index_select(axis, chosen)
        return labels


class _Source:
    """A scan on the device, with places for the centres of patches."""

    def __init__(self, scan: LabelledScan, device: torch.device) -> None:
        rng = np.random.default_rng(0)
        self.shape = np.array(scan.lesions.shape)
        self.head = isinstance(scan, SyntheticHead)
        self.least_brightening = scan.least_brightening if isinstance(scan, SyntheticHead) else 0.0
        hosts = scan.hosts if isinstance(scan, SyntheticHead) else _white_matter(scan)
        tissues = (
            scan.tissues if isinstance(scan, SyntheticHead) else of_scan(scan.image[1], scan.brain)
        )
        self.middles = _middles(*_labelled(scan.lesions))
        self.inside = scan.brain
        chosen = rng.choice(np.flatnonzero(self.inside), _BRAIN_VOXELS)
        self.brain = np.transpose(np.unravel_index(chosen, scan.lesions.shape))
        self.around = torch.from_numpy(_around(scan)).to(device)
        self.image = torch.from_numpy(scan.image).half().to(device)
        bits = _LESION * scan.lesions + _BRAIN * scan.brain + _HOST * hosts + _TISSUE * tissues
        self.bits = torch.from_numpy(bits.astype(np.uint8)).to(device)

    def has_brain(self, voxel: NDArray[np.int64]) -> bool:
        """Return whether a voxel, which may lie beyond the scan, is in the brain."""
        within = (voxel >= 0).all() and (voxel < self.shape).all()
        return bool(within and self.inside[tuple(voxel)])

    def place(self, donor: Donor, rng: np.random.Generator) -> Placement:
        """Return where the lesions of a donor go: mirrored or not, moved a little."""
        if self.head:
            low, high = _BRAIN_IN_MNI.T
            scale = (high - low) * donor.shape / self.shape
            offset = low * donor.shape + scale / 2 - 0.5
        else:
            scale, offset = np.ones(3), np.zeros(3)
        if rng.random() < 0.5:
            scale = scale * (-1, 1, 1)
            offset = np.array([donor.shape[0] - 1 - offset[0], *offset[1:]])
        return Placement(scale, offset + rng.normal(0, 0.015, 3) * donor.shape)


class Patches(Dataset[dict[str, torch.Tensor]]):
    """A replayable list of batches: item `i` depends on the seed and on `i` alone.

    Parameters
    ----------
    scans : list of LabelledScan
        Where patches are cut from; every person is drawn equally often.
    masks : list of bool arrays, shape (X, Y, Z)
        Lesion masks, on a grid like MNI152's, whose lesions are painted into patches.
    heads : list of SyntheticHead
        Another source of patches, free of lesions until some are painted.
    synthetic_share : float
        How often a patch is cut from a synthetic head; 0 without heads, 1 without scans.
    patch_size : int
        Edge of the cubic patch in voxels.
    batch_size : int
        Patches in an item.
    length : int
        Number of items.
    seed : int
        Fixes the items, on one kind of device.
    device : torch device
        Where scans are kept and items are made.
    """

    def __init__(
        self,
        scans: Sequence[LabelledScan],
        masks: Sequence[NDArray[np.bool_]],
        heads: Sequence[SyntheticHead] = (),
        *,
        patch_size: int,
        batch_size: int,
        length: int,
        seed: int,
        synthetic_share: float = 0.0,
        device: torch.device | None = None,
    ) -> None:
        self.device = device or torch.device("cpu")
        self.persons = _sources(scans, self.device)
        self.heads = _sources(heads, self.device)
        self.synthetic_share = synthetic_share if heads and scans else float(bool(heads))
        self.donors = [Donor(mask, self.device) for mask in masks if mask.any()]
        # Most people have few lesions; a network must have seen the others as well.
        loads = np.array([donor.sizes.sum() for donor in self.donors]) ** 0.5
        self.donor_chances = loads / max(loads.sum(), 1.0)
        self.patch_size, self.batch_size = patch_size, batch_size
        self.cut_size = int(patch_size * _CUT_FACTOR)
        self.length = length
        self.seed = seed

    def __len__(self) -> int:
        """Return the number of items."""
        return self.length

    def __getitem__(self, item: int) -> dict[str, torch.Tensor]:
        """Return a batch.

        Returns
        -------
        image : float32 tensor, shape (B, 2, X, Y, Z)
        lesions : float32 tensor, shape (B, 1, X, Y, Z)
        tissues : int64 tensor, shape (B, X, Y, Z)
            See `tissues`; `UNKNOWN` in lesions and outside the brain.
        """
        rng = np.random.default_rng((self.seed, item))
        draws = Draws(int(rng.integers(2**63)), self.device)
        sources = [self._source(rng) for _ in range(self.batch_size)]
        cuts = torch.zeros(self.batch_size, 4, *[self.cut_size] * 3, device=self.device)
        parts = [self._fill(cut, source, rng) for source, cut in zip(sources, cuts, strict=True)]
        image, codes = self._moved(cuts, rng)
        bits, labels = codes[:, :1].to(torch.uint8), codes[:, 1].long()
        lesions, inside = (bits & _LESION) != 0, (bits & _BRAIN) != 0
        shapes = torch.stack([own[:, label] for own, label in zip(parts, labels, strict=True)])
        shapes *= (bits & _HOST) != 0
        around = torch.stack([source.around for source in sources])
        image = fade_lesions(image, lesions.float(), around, draws)
        least = torch.tensor([source.least_brightening for source in sources], device=self.device)
        least = least * draws.uniform(1.0, 1.7, least.shape)
        image, painted = paint_lesions(image, shapes, least, draws)
        image = change_scanner(image, draws)
        lesions = (lesions | painted) & inside
        for i in np.flatnonzero(rng.random(self.batch_size) < _CUT_SLAB):
            cut_slab(image[i, 0], lesions[i, 0], rng)
        tissues = (bits // _TISSUE * (inside & ~lesions))[:, 0].long()
        return {"image": image * inside, "lesions": lesions.float(), "tissues": tissues}

    def _source(self, rng: np.random.Generator) -> _Source:
        people = self.heads if rng.random() < self.synthetic_share else self.persons
        sessions = people[rng.integers(len(people))]
        return sessions[rng.integers(len(sessions))]

    def _fill(self, cut: torch.Tensor, source: _Source, rng: np.random.Generator) -> torch.Tensor:
        """Fill a cube of zeros with a part of a scan, and say what is to be painted.

        Parameters
        ----------
        cut : float32 tensor, shape (4, X, Y, Z)
            Receives FLAIR, T1w, bits, and the labels of lesions that could be painted.
        source : _Source
        rng : numpy Generator

        Returns
        -------
        parts : float32 tensor, shape (3, labels)
            What each label is in each channel of what `paint_lesions` calls shapes.
        """
        donors: list[tuple[Donor, Placement]] = []
        if self.donors and rng.random() < _PAINTED:
            count = 2 if rng.random() < _TWO_DONORS else 1
            which = rng.choice(len(self.donors), size=count, p=self.donor_chances)
            chosen = [self.donors[i] for i in which]
            donors = [(donor, source.place(donor, rng)) for donor in chosen]
        start = self._centre(source, donors, rng) - self.cut_size // 2
        cut[:2] = _cube(source.image, start, self.cut_size)
        cut[2] = _cube(source.bits, start, self.cut_size)
        keep = rng.uniform(0.25, 1.0)
        small_only = rng.random() < _NO_LARGE_LESION
        parts = [np.zeros((3, 1), np.float32)]
        for donor, placement in donors:
            labels = donor.on_cube(placement, start, self.cut_size)
            before = sum(own.shape[1] for own in parts) - 1
            cut[3] = torch.where(labels > 0, labels + before, cut[3])
            parts.append(_parts(donor, keep, small_only, rng))
        return torch.from_numpy(np.concatenate(parts, axis=1)).to(self.device)

    def _centre(
        self,
        source: _Source,
        donors: Sequence[tuple[Donor, Placement]],
        rng: np.random.Generator,
    ) -> NDArray[np.int64]:
        """Return a voxel near a lesion, or anywhere in the brain.

        Small lesions are drawn as often as large ones.
        """
        own = [source.middles] if len(source.middles) else []
        places = own + [placement.to_scan(donor.middles) for donor, placement in donors]
        if places and rng.random() < _LESION_CENTRED:
            voxels = places[rng.integers(len(places))]
            centre = voxels[rng.integers(len(voxels))]
        else:
            centre = source.brain[rng.integers(len(source.brain))]
        if not source.has_brain(centre):
            centre = source.brain[rng.integers(len(source.brain))]
        jitter = rng.integers(-self.patch_size // 4, self.patch_size // 4 + 1, 3)
        return np.asarray(centre + jitter)

    def _moved(
        self, cuts: torch.Tensor, rng: np.random.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return cubes cropped and mirrored, and some of them turned, zoomed and sheared.

        The first two channels, images, are interpolated linearly; of the others the nearest
        voxel is taken, so that small lesions keep their size.
        """
        margin = (self.cut_size - self.patch_size) // 2
        moved = _cube(cuts, np.full(3, margin), self.patch_size)
        turned = np.flatnonzero(rng.random(len(cuts)) < _TURNED)
        if len(turned):
            moved[turned] = self._turned(cuts[turned], rng)
        mirrored = np.flatnonzero(rng.random(len(cuts)) < 0.5)
        moved[mirrored] = moved[mirrored].flip(2)
        return moved[:, :2], moved[:, 2:]

    def _turned(self, cuts: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        """Return cubes turned, zoomed and sheared, each in its own way, and cropped."""
        matrices = np.stack([_random_affine(rng) for _ in range(len(cuts))])
        # affine_grid takes the axes in reverse order, and both cubes from -1 to 1.
        theta = np.zeros((len(cuts), 3, 4), np.float32)
        theta[:, :, :3] = matrices[:, ::-1, ::-1] * (self.patch_size / self.cut_size)
        size = [*cuts.shape[:2], *[self.patch_size] * 3]
        grid = functional.affine_grid(
            torch.from_numpy(theta).to(self.device), size, align_corners=False
        )
        image = functional.grid_sample(cuts[:, :2], grid, align_corners=False)
        codes = functional.grid_sample(cuts[:, 2:], grid, mode="nearest", align_corners=False)
        return torch.cat([image, codes], 1)


def cut_slab(flair: torch.Tensor, lesions: torch.Tensor, rng: np.random.Generator) -> None:
    """Darken FLAIR, in place, beyond a plane, where its field of view ends; no lesion is seen.

    Parameters
    ----------
    flair : float32 tensor, shape (X, Y, Z)
    lesions : bool tensor, shape (X, Y, Z)
    rng : numpy Generator
    """
    axis = int(rng.choice(3, p=[0.15, 0.15, 0.7]))
    side = flair.shape[axis]
    width = int(rng.integers(1, side // 3))
    start = 0 if rng.random() < 0.5 else side - width
    flair.narrow(axis, start, width).fill_(float(rng.uniform(-5, -2)))
    lesions.narrow(axis, start, width).zero_()


def _random_affine(rng: np.random.Generator) -> NDArray[np.float64]:
    """Return a rotation, zoom and shear."""
    matrix = np.eye(3)
    for first, second in ((0, 1), (0, 2), (1, 2)):
        angle = rng.uniform(-_ROTATION_RADIANS, _ROTATION_RADIANS)
        turn = np.eye(3)
        turn[first, first] = turn[second, second] = np.cos(angle)
        turn[first, second], turn[second, first] = -np.sin(angle), np.sin(angle)
        matrix = matrix @ turn
    shear = np.eye(3) + rng.uniform(-_SHEAR, _SHEAR, (3, 3)) * (1 - np.eye(3))
    return matrix @ shear @ np.diag(rng.uniform(1 - _ZOOM, 1 + _ZOOM, 3))


def _parts(
    donor: Donor, keep: float, small_only: bool, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Return what to paint for each label of a donor from 1 on, shape (3, labels).

    The rows are whether it is painted, and its parts of brightening and darkening.
    """
    count = len(donor.sizes)
    kept = rng.random(count) < keep
    if small_only:
        kept &= donor.sizes <= _LARGE_LESION_VOXELS
    bright, dark = rng.uniform(0.7, 1.4, count), rng.uniform(0.0, 2.0, count)
    return np.array([kept, kept * bright, kept * dark], np.float32)


def _cube(volume: torch.Tensor, start: NDArray[np.int64], edge: int) -> torch.Tensor:
    """Return a cube of the last three axes, with zeros beyond the volume."""
    padding = []
    for axis, first in zip((-3, -2, -1), start.tolist(), strict=True):
        side = volume.shape[axis]
        low, high = min(max(0, first), side), max(0, min(side, first + edge))
        volume = volume.narrow(axis, low, max(0, high - low))
        before = min(edge, max(0, -first))
        padding.append((before, edge - before - max(0, high - low)))
    return functional.pad(volume, [n for pair in reversed(padding) for n in pair])


def _labelled(mask: NDArray[np.bool_]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Return a number for each lesion, from 1 on, and their sizes in voxels."""
    labels, count = ndimage.label(mask, CONNECTIVITY)
    return labels, np.bincount(labels.ravel(), minlength=count + 1)[1:]


def _middles(labels: NDArray[np.int32], sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return a voxel in the middle of each lesion, whatever its size, shape (lesions, 3)."""
    voxels = np.flatnonzero(labels)
    order = np.argsort(labels.ravel()[voxels], kind="stable")
    middle = voxels[order][np.cumsum(sizes) - sizes + sizes // 2]
    return np.transpose(np.unravel_index(middle, labels.shape))


def _around(scan: LabelledScan) -> NDArray[np.float32]:
    """Return the median of each channel 2 to 3 voxels from lesions; 0 where no brain is there."""
    rim = _near(scan, 3) & ~_near(scan, 1) & scan.brain
    if not rim.any():
        return np.zeros(2, np.float32)
    return np.asarray(np.median(scan.image[:, rim], axis=1), np.float32)


def _white_matter(scan: LabelledScan) -> NDArray[np.bool_]:
    """Return white matter without lesions.

    A network that has seen lesions painted into cortex takes bright cortex for lesions.
    """
    flair, t1w = scan.image
    white = normal_white_matter(flair, t1w, scan.brain, scan.lesions, scan.spacing_mm)
    # Normal white matter is without its outermost voxels.
    return np.asarray(ndimage.binary_dilation(white) & scan.brain)


def _near(scan: LabelledScan, voxels: int) -> NDArray[np.bool_]:
    return np.asarray(ndimage.binary_dilation(scan.lesions, iterations=voxels))


def _sources(scans: Sequence[LabelledScan], device: torch.device) -> list[list[_Source]]:
    """Return the scans of each person."""
    return [
        [_Source(scan, device) for scan in scans if scan.person == person]
        for person in sorted({scan.person for scan in scans})
    ]
