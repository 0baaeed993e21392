# SPDX-License-Identifier: Apache-2.0
"""The participants of the demo dataset and what is seen of them at each visit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bids_lesion_xai.bids.visit import Visit
from bids_lesion_xai.demo.head import Head, Template, make_head
from bids_lesion_xai.demo.lesions import Lesion, add_lesions, lesion_level, place_lesions
from bids_lesion_xai.demo.scanner import Scan, resample, rigid, take_image
from bids_lesion_xai.imaging.grid import Grid

# Streams of random numbers: what a generator is keyed by beside the seed and the person.
SURROUNDINGS, _ANATOMY, _LESIONS, _SCANS = range(4)


class Protocol(NamedTuple):
    """How the voxels of an image lie in the scanner.

    The field of view is centred at `centre_mm`, turned by `degrees` about the axes of the world,
    and its voxel axes point along the anatomical directions `axes` before it is turned.
    """

    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    axes: str
    degrees: tuple[float, float, float]
    centre_mm: tuple[float, float, float]
    n_subslices: int

    @property
    def grid(self) -> Grid:
        """The grid of the image in world space of the scanner."""
        directions = np.stack([_DIRECTIONS[axis] for axis in self.axes], axis=1)
        affine = rigid(self.degrees, self.centre_mm)
        affine[:3, :3] = affine[:3, :3] @ directions * self.spacing_mm
        affine[:3, 3] -= affine[:3, :3] @ ((np.array(self.shape) - 1) / 2)
        return Grid(self.shape, affine)


_DIRECTIONS: dict[str, NDArray[np.float64]] = {
    letter: sign * np.eye(3)[axis]
    for axis, letters in enumerate(("RL", "AP", "SI"))
    for letter, sign in zip(letters, (1.0, -1.0), strict=True)
}
# Sagittal slices of 1.2 mm for T1w, axial ones of 3 mm for FLAIR, tilted as a planner would.
T1W_PROTOCOL = Protocol((240, 224, 160), (1.0, 1.0, 1.2), "PSR", (4, 3, -2), (1, -13, -3), 1)
FLAIR_PROTOCOL = Protocol((256, 256, 62), (0.9, 0.9, 3.0), "LPS", (-9, 0, 1), (0, -13, 6), 3)


class Person(NamedTuple):
    """A participant: facts for `participants.tsv` and the volumes of the lesions in mm3."""

    label: str
    age: int
    sex: str
    volumes_mm3: tuple[float, ...]
    new_volumes_mm3: tuple[float, ...] = ()

    @property
    def visits(self) -> list[Visit]:
        """The visits; new lesions come with a second one."""
        return [Visit(self.label, session) for session in ("01", "02")[: self.n_visits]]

    @property
    def n_visits(self) -> int:
        """One, or two where there are new lesions."""
        return 2 if self.new_volumes_mm3 else 1


PEOPLE = (
    Person("01", 34, "F", (800, 420, 260, 170, 120, 85, 60, 45, 30, 20), (300, 70)),
    Person("02", 47, "M", (600, 350, 200, 150, 100, 75, 50, 35, 25)),
)


@dataclass(frozen=True)
class Sample:
    """Everything about one visit.

    Parameters
    ----------
    visit : Visit
    lesions : tuple of Lesion
    t1w, flair : Scan
    images : dict
        int16 array for each of ``T1w`` and ``FLAIR``, on the grids of the scans.
    lesion_mask, brain_mask : bool array
        On the grid of T1w.
    """

    visit: Visit
    lesions: tuple[Lesion, ...]
    t1w: Scan
    flair: Scan
    images: dict[str, NDArray[np.int16]]
    lesion_mask: NDArray[np.bool_]
    brain_mask: NDArray[np.bool_]


def make_person(
    person: Person, number: int, template: Template, around: NDArray[np.uint8], seed: int
) -> list[Sample]:
    """Return all visits of a participant; a function of its arguments alone.

    Parameters
    ----------
    person : Person
    number : int
        Keys the random numbers, with `seed`.
    template : Template
    around : uint8 array, shape (X, Y, Z)
        From `surround`.
    seed : int
    """
    head = make_head(template, around, np.random.default_rng([seed, _ANATOMY, number]))
    rng = np.random.default_rng([seed, _LESIONS, number])
    lesions = place_lesions(head, person.volumes_mm3, rng)
    samples = []
    for session, visit in enumerate(person.visits):
        if session > 0:
            lesions += place_lesions(head, person.new_volumes_mm3, rng, lesions)
        visit_rng = np.random.default_rng([seed, _SCANS, number, session])
        samples.append(_scan(visit, head, lesions, visit_rng))
    return samples


def _scan(
    visit: Visit, head: Head, lesions: tuple[Lesion, ...], rng: np.random.Generator
) -> Sample:
    pose = rigid(rng.uniform(-4, 4, 3), rng.uniform(-3, 3, 3))
    sign = rng.choice([-1, 1], (2, 3))
    motion = rigid(sign[0] * rng.uniform(0.5, 2.5, 3), sign[1] * rng.uniform(0.5, 3, 3))
    t1w = Scan(T1W_PROTOCOL.grid, pose, T1W_PROTOCOL.n_subslices)
    flair = Scan(FLAIR_PROTOCOL.grid, motion @ pose, FLAIR_PROTOCOL.n_subslices)
    with_lesions = add_lesions(head, lesions)
    images = {
        suffix: take_image(values, head.grid, scan, rng)
        for suffix, values, scan in zip(("T1w", "FLAIR"), with_lesions, (t1w, flair), strict=True)
    }
    level = lesion_level(head, lesions)
    lesion_mask = resample(level, head.grid, t1w, outside=float(level.min())) > 0
    brain_mask = resample(head.brain, head.grid, t1w) > 0.5
    return Sample(visit, lesions, t1w, flair, images, lesion_mask, brain_mask)
