# SPDX-License-Identifier: Apache-2.0
"""What the viewer within a report needs: small volumes, as text that a page may hold."""

from __future__ import annotations

import base64
import gzip
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import nibabel as nb
import numpy as np
from numpy.typing import NDArray

from bids_lesion_xai.conventions import CHANNELS
from bids_lesion_xai.imaging.grid import Grid
from bids_lesion_xai.reports.colours import LESION_COLOUR, MISSED_COLOUR, SALIENCY_COLOURS
from bids_lesion_xai.reports.lesion_figure import symmetric_limit
from bids_lesion_xai.reports.slices import Crop, Scan

# Saliency is averaged over cubes of the first of these edges that leaves it small enough.
_EDGES = (1, 2, 3, 4)
_MARGIN_MM = 15.0
# Steps from zero to the end of the scale: more would be noise that takes room.
_STEPS = 31
# Of compression; the highest takes several times as long for some percent.
_LEVEL = 6
# Of the scale, from zero to its end.
_DARKEST = 0.4
_OTHERS_COLOUR = "#9fb0c3"


@dataclass(frozen=True)
class Volumes:
    """The volumes of a viewer, each a base64 text of a compressed NIfTI image.

    Parameters
    ----------
    images : dict
        ``flair``, ``t1w`` and ``labels``.
    saliency : dict of str to dict
        By the name of the lesion: ``flair``, ``t1w``, and ``limit``, the end of the colour scale.
    edge_mm : int
        Edge of the cubes that the saliency is averaged over.
    """

    images: dict[str, str]
    saliency: dict[str, dict[str, Any]]
    edge_mm: int


@dataclass
class Collected:
    """Saliency of lesions, gathered one by one, so that no more than one whole map is held."""

    grid: Grid
    parts: dict[str, tuple[dict[str, NDArray[np.int8]], Grid, float]] = field(default_factory=dict)

    def add(self, name: str, box: tuple[slice, ...], maps: Mapping[str, Crop]) -> None:
        """Take the maps of a lesion in and around its bounding box."""
        margin = [int(np.ceil(_MARGIN_MM / mm)) for mm in self.grid.spacing_mm]
        start = [max(part.start - n, 0) for part, n in zip(box, margin, strict=True)]
        stop = [
            min(part.stop + n, size)
            for part, n, size in zip(box, margin, self.grid.shape, strict=True)
        ]
        shape = [b - a for a, b in zip(start, stop, strict=True)]
        values = {key: _part(crop, start, shape) for key, crop in maps.items()}
        limit = symmetric_limit(values.values())
        self.parts[name] = (
            {key: quantised(part, limit) for key, part in values.items()},
            self.grid.crop(tuple(start), tuple(shape)),
            limit,
        )

    def encoded(self, room: int) -> tuple[dict[str, dict[str, Any]], int]:
        """Return the maps as text, and the edge in voxels of the cubes they are averaged over.

        Parameters
        ----------
        room : int
            Number of letters that they may have, if any edge makes them so small.
        """
        for edge in _EDGES[:-1]:
            texts = self._texts(edge, room)
            if len(texts) == len(self.parts):
                return texts, edge
        return self._texts(_EDGES[-1], math.inf), _EDGES[-1]

    def _texts(self, edge: int, room: float) -> dict[str, dict[str, Any]]:
        """Return the maps as text, until there is no more room."""
        texts: dict[str, dict[str, Any]] = {}
        for name, part in self.parts.items():
            made = _encoded(part, edge)
            room -= sum(len(made[channel]) for channel in CHANNELS)
            if room < 0:
                break
            texts[name] = made
        return texts


def volumes(scan: Scan, collected: Collected, room: int) -> Volumes:
    """Return the volumes of a visit, in `room` letters of text if any."""
    box = scan.brain_box
    grid = scan.grid.crop(
        tuple(part.start for part in box), tuple(part.stop - part.start for part in box)
    )
    images = {channel: nifti_text(_greys(scan, channel)[box], grid) for channel in CHANNELS}
    labels = scan.labels[box].astype(np.uint16)
    images["labels"] = nifti_text(labels, grid, are_labels=True)
    saliency, edge = collected.encoded(room - sum(map(len, images.values())))
    return Volumes(images, saliency, edge)


def quantised(values: NDArray[np.float32], limit: float) -> NDArray[np.int8]:
    """Return values as whole steps of the scale, which ends at ±`limit`.

    >>> quantised(np.array([-9.0, 0, 0.5, 1]), 1).tolist()
    [-31, 0, 16, 31]
    """
    return np.asarray(np.rint(_STEPS * np.clip(values / limit, -1, 1)), np.int8)


def nifti_text(
    values: NDArray[Any], grid: Grid, slope: float = 1.0, *, are_labels: bool = False
) -> str:
    """Return an image as a base64 text; voxels hold `slope` times their number."""
    image = nb.Nifti1Image(values, grid.affine)
    image.set_qform(grid.affine, code=1)
    image.set_sform(grid.affine, code=1)
    image.header.set_xyzt_units("mm")
    image.header.set_slope_inter(slope, 0)
    if are_labels:
        image.header.set_intent("label")
    return base64.b64encode(gzip.compress(image.to_bytes(), _LEVEL, mtime=0)).decode("ascii")


def voxel_of(scan: Scan, index: int) -> list[float]:
    """Return where a lesion is looked at: its voxel nearest to its centre, in mm (RAS+)."""
    box = scan.boxes[index - 1]
    if box is None:
        message = f"there is no lesion {index}"
        raise ValueError(message)
    places = np.argwhere(scan.labels[box] == index)
    nearest = places[((places - places.mean(axis=0)) ** 2).sum(axis=1).argmin()]
    first = np.array([part.start for part in box])
    return [round(float(value), 2) for value in scan.grid.to_world_mm(nearest + first)]


@cache
def program() -> str:
    """Return the source of NiiVue, compressed, as a base64 text."""
    path = Path(__file__).parent / "vendor" / "niivue.umd.js"
    return base64.b64encode(gzip.compress(path.read_bytes(), _LEVEL, mtime=0)).decode("ascii")


def colour_maps() -> dict[str, Any]:
    """Return the colours of the viewer as its script takes them."""
    places = np.linspace(0.5, 1, 9)
    return {
        "positive": _colour_map(places),
        "negative": _colour_map(1 - places),
        "lesion": _parts(LESION_COLOUR),
        "missed": _parts(MISSED_COLOUR),
        "others": _parts(_OTHERS_COLOUR),
    }


def _colour_map(places: NDArray[np.float64]) -> dict[str, list[int]]:
    """Return colours from little to much."""
    amount = np.linspace(0, 1, places.size)
    # Of the dark colours near zero, which would only dim the image, those further on are taken.
    shown = 0.5 + (places - 0.5) * np.maximum(amount, _DARKEST) / np.maximum(amount, 1e-9)
    shown[0] = 0.5 + np.sign(places[-1] - 0.5) * _DARKEST / 2
    colours = np.rint(255 * SALIENCY_COLOURS(shown)).astype(int)
    steps = np.rint(255 * amount).astype(int)
    named = dict(zip("RGB", colours[:, :3].T.tolist(), strict=True))
    # Zero is clear.
    return {**named, "A": [0] + [255] * (places.size - 1), "I": steps.tolist()}


def _parts(colour: str) -> list[int]:
    return [int(colour[place : place + 2], 16) for place in (1, 3, 5)]


def _greys(scan: Scan, channel: str) -> NDArray[np.uint8]:
    scaled = np.clip(scan.greys[channel](scan.images[channel]), 0, 1)
    return np.where(scan.brain, np.rint(1 + 254 * scaled), 0).astype(np.uint8)


def _part(crop: Crop, start: list[int], shape: list[int]) -> NDArray[np.float32]:
    """Return the voxels of a crop in a box of the whole grid, 0 where it has none."""
    part = np.zeros(shape, np.float32)
    low = [max(a, b) for a, b in zip(start, crop.offset, strict=True)]
    high = [
        min(a + n, b + m)
        for a, n, b, m in zip(start, shape, crop.offset, crop.values.shape, strict=True)
    ]
    if all(b > a for a, b in zip(low, high, strict=True)):
        here, there = (
            tuple(
                slice(a - first, b - first) for a, b, first in zip(low, high, origin, strict=True)
            )
            for origin in (start, crop.offset)
        )
        part[here] = crop.values[there]
    return part


def _encoded(part: tuple[dict[str, NDArray[np.int8]], Grid, float], edge: int) -> dict[str, Any]:
    maps, grid, limit = part
    coarse = _coarse_grid(grid, edge)
    texts = {
        channel: nifti_text(_averaged(values, edge), coarse, limit / _STEPS)
        for channel, values in maps.items()
    }
    return {**texts, "limit": limit}


def _averaged(values: NDArray[np.int8], edge: int) -> NDArray[np.int8]:
    if edge == 1:
        return values
    padded = np.pad(values.astype(np.float32), [(0, -n % edge) for n in values.shape])
    x, y, z = (n // edge for n in padded.shape)
    cubes = padded.reshape(x, edge, y, edge, z, edge)
    return np.asarray(np.rint(cubes.mean(axis=(1, 3, 5))), np.int8)


def _coarse_grid(grid: Grid, edge: int) -> Grid:
    affine = grid.affine.copy()
    affine[:3, :3] *= edge
    affine[:3, 3] = grid.to_world_mm(np.full(3, (edge - 1) / 2))
    x, y, z = (-(-n // edge) for n in grid.shape)
    return Grid((x, y, z), affine)
