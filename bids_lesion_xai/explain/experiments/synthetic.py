# SPDX-License-Identifier: Apache-2.0
"""How the network responds to lesions of known size and contrast in normal-appearing tissue.

Spheres are put into normal-appearing white matter, one at a time: their intensity is added to the
image, brighter on FLAIR, darker on T1w, as lesions are, so that the texture of the tissue stays.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from math import ceil, inf
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from bids_lesion_xai.explain.box import Box, Indices, bounding_box
from bids_lesion_xai.explain.experiments.scan import Scan
from bids_lesion_xai.explain.experiments.study import Finding, Study, Tell
from bids_lesion_xai.explain.experiments.surroundings import Surroundings
from bids_lesion_xai.explain.noise import NoiseField
from bids_lesion_xai.explain.problem import Lesion

# From the smallest lesion that the criteria of McDonald count, 3 mm (Thompson et al. 2018, doi
# 10.1016/S1474-4422(17)30470-2), up.
DIAMETERS_MM = (3.0, 5.0, 8.0)
CONTRASTS = (0.0, 0.5, 1.0, 2.0, 3.0)
MARGINS_MM = (0.0, 1.0, 2.0, 4.0, 8.0, inf)
# What a unit of contrast adds to each channel.
_SIGNS = {"flair": (1, 0), "t1w": (0, -1), "both": (1, -1)}
# Points along each axis of a voxel that tell how much of it lies in a sphere.
_POINTS = 8


def run(
    study: Study,
    *,
    diameters_mm: Sequence[float] = DIAMETERS_MM,
    contrasts: Sequence[float] = CONTRASTS,
    margins_mm: Sequence[float] = MARGINS_MM,
    n_positions: int = 8,
    surroundings_mm: float = 2.0,
) -> Iterator[Finding]:
    """Yield, for each position and diameter, the response to synthetic lesions.

    All diameters have the same positions: those where the largest one that fits anywhere lies,
    with its surroundings, in normal-appearing white matter. Larger ones are left out. The score is
    taken over the voxels that lie in the sphere by half or more, or the one that does most.

    Parameters
    ----------
    study : Study
    diameters_mm : sequence of float
    contrasts : sequence of float
        In units of normalised intensity; the same for FLAIR, which becomes brighter, and T1w,
        which becomes darker.
    margins_mm : sequence of float
        Beyond them, by the distance from the voxels of the synthetic lesion, the brain is 0, as
        for the fill ``zero`` of `perilesional`; infinity shows the whole image.
    n_positions : int
        At most; the centres are at least the largest diameter apart.
    surroundings_mm : float
        So much around a sphere is normal-appearing, too.

    Yields
    ------
    finding : Finding
        Of no lesion and without numbers. Rows: ``position``, counted from 1, the indices ``x``,
        ``y`` and ``z`` of the centre, ``diameter_mm``, ``channel`` (flair, t1w or both),
        ``contrast``, ``margin_mm``, ``mean_probability``, ``detected``.
    """
    scan = study.scan
    fitting, centres = _centres(scan, diameters_mm, n_positions, surroundings_mm)
    spheres = [
        Sphere(position, centre, diameter, scan.spacing_mm)
        for position, centre in enumerate(centres, start=1)
        for diameter in fitting
    ]
    lesions = study.one_by_one(sphere.lesion(scan) for sphere in spheres)
    for sphere, (lesion, tell) in zip(spheres, lesions, strict=True):
        rows = _rows(study, sphere, lesion, tell, contrasts, margins_mm)
        yield Finding("synthetic", None, rows, {})


@dataclass(frozen=True)
class Sphere:
    """A synthetic lesion.

    Parameters
    ----------
    position : int
        Number of its position.
    centre : tuple of int
        Index of the voxel it is centred on.
    diameter_mm : float
    spacing_mm : tuple of float
    """

    position: int
    centre: Indices
    diameter_mm: float
    spacing_mm: tuple[float, float, float]

    @property
    def box(self) -> Box:
        """A box that holds every voxel that is partly in the sphere."""
        reach = [ceil(self.diameter_mm / 2 / mm + 0.5) for mm in self.spacing_mm]
        return Box(self.centre, tuple(index + 1 for index in self.centre)).grow(reach)

    def shares(self) -> NDArray[np.float64]:
        """Return how much of each voxel of the box lies in the sphere, 0 to 1."""
        points = (np.arange(_POINTS) + 0.5) / _POINTS - 0.5
        squares = []
        for start, stop, centre, mm in zip(
            self.box.start, self.box.stop, self.centre, self.spacing_mm, strict=True
        ):
            steps = np.arange(start, stop)[:, None] - centre + points
            squares.append((steps.ravel() * mm) ** 2)
        x, y, z = squares
        inside = x[:, None, None] + y[:, None] + z <= (self.diameter_mm / 2) ** 2
        sides = [n for side in self.box.shape for n in (side, _POINTS)]
        return np.asarray(inside.reshape(sides).mean((1, 3, 5)))

    def lesion(self, scan: Scan) -> Lesion:
        """Return the voxels that count as the lesion."""
        shares = self.shares()
        inside = np.argwhere(shares >= min(0.5, float(shares.max()))) + self.box.start
        return Lesion(self.position, torch.from_numpy(inside).to(scan.labels.device))

    def added(self, scan: Scan, support: Box) -> torch.Tensor:
        """Return how much of each voxel of `support` lies in the sphere, shape (x, y, z)."""
        shares = torch.from_numpy(self.shares()).to(scan.image)
        common = self.box.intersection(support)
        added = scan.image.new_zeros(support.shape)
        added[common.slices(support.start)] = shares[common.slices(self.box.start)]
        return added


def _rows(
    study: Study,
    sphere: Sphere,
    lesion: Lesion,
    tell: Tell,
    contrasts: Sequence[float],
    margins_mm: Sequence[float],
) -> list[dict[str, Any]]:
    support = study.scorer.support(lesion)
    view = Surroundings(study.scan, lesion, support)
    plain, added = study.scan.image_in(support), sphere.added(study.scan, support)

    def image(steps: tuple[float, ...], margin_mm: float) -> torch.Tensor:
        changed = plain + plain.new_tensor(steps)[:, None, None, None] * added
        return changed.masked_fill(view.hidden(margin_mm), 0)

    # Without contrast, all channels have one image.
    asked = {
        (channel, contrast, margin): (tuple(contrast * sign for sign in _SIGNS[channel]), margin)
        for channel, contrast, margin in product(_SIGNS, contrasts, margins_mm)
    }
    images = {key: partial(image, *key) for key in asked.values()}
    found = {}
    for key, response in zip(images, study.scorer.responses(lesion, images.values()), strict=True):
        found[key] = response
        tell(len(found), len(images))
    return [
        {
            "position": sphere.position,
            **dict(zip("xyz", sphere.centre, strict=True)),
            "diameter_mm": sphere.diameter_mm,
            "channel": channel,
            "contrast": contrast,
            "margin_mm": margin,
            "mean_probability": found[key].mean_probability,
            "detected": found[key].detected,
        }
        for (channel, contrast, margin), key in asked.items()
    ]


def _centres(
    scan: Scan, diameters_mm: Sequence[float], n_positions: int, surroundings_mm: float
) -> tuple[list[float], list[Indices]]:
    """Return the diameters that fit, and random voxels where the largest of them does."""
    # One voxel around the box is not normal-appearing, be it beyond the face of the volume.
    box = bounding_box(scan.normal)
    normal = np.pad(scan.normal[box.slices((0, 0, 0))].numpy(force=True), 1)
    depth_mm = ndimage.distance_transform_edt(normal, sampling=scan.spacing_mm)[1:-1, 1:-1, 1:-1]
    depth_mm = depth_mm.round(4)
    fitting = [d for d in diameters_mm if depth_mm.max() > d / 2 + surroundings_mm]
    if not fitting:
        return [], []
    voxels = np.argwhere(depth_mm > max(fitting) / 2 + surroundings_mm) + box.start
    around = Box(tuple(voxels.min(0).tolist()), tuple((voxels.max(0) + 1).tolist()))
    # Each voxel has a random number of its own, whatever other voxels are normal-appearing.
    noise = NoiseField(scan.seed, f"{scan.visit}/synthetic").draw(0, 1, around)[0]
    order = np.argsort(-noise[tuple((voxels - around.start).T)], kind="stable")
    return fitting, _apart(voxels[order], scan.spacing_mm, max(fitting), n_positions)


def _apart(
    voxels: NDArray[np.int64], spacing_mm: Sequence[float], least_mm: float, count: int
) -> list[Indices]:
    """Return the first voxels, at most `count`, that are at least `least_mm` apart."""
    chosen: list[Indices] = []
    while len(voxels) and len(chosen) < count:
        chosen.append(tuple(voxels[0].tolist()))
        distances_mm = np.linalg.norm((voxels - voxels[0]) * spacing_mm, axis=1)
        voxels = voxels[distances_mm >= least_mm]
    return chosen
