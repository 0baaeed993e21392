# SPDX-License-Identifier: Apache-2.0
"""Synthetic heads: a template of the brain with skull, scalp, face and neck, deformed at random.

A head is determined by the template and the random generator.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from bids_lesion_xai.imaging.grid import Grid

Floats = NDArray[np.float32]


class Tissue(IntEnum):
    """What fills a voxel; the index into `T1W` and `FLAIR`."""

    AIR = 0
    WHITE_MATTER = 1
    GREY_MATTER = 2
    FLUID = 3
    BONE = 4
    MARROW = 5
    FAT = 6
    SKIN = 7
    MUSCLE = 8


# Intensity of each `Tissue` relative to white matter.
T1W = np.array([0, 1, 0.76, 0.28, 0.08, 0.75, 1.3, 0.7, 0.55], np.float32)
FLAIR = np.array([0, 1, 1.1, 0.2, 0.05, 0.5, 1.15, 0.6, 0.4], np.float32)

# Distances from the hull of the brain (mm): fluid, then bone around marrow.
_FLUID_MM, _TABLE_MM, _MARROW_MM, _SKULL_MM = 2.0, 3.5, 6.0, 7.5
_SCALP_MM = 14.0
_SKIN_MM, _FAT_MM = 2.0, 5.0
_HULL_CLOSING_MM = 15.0
_FLUID_FAVOUR = 5.0
# Ellipsoids of the face and neck: (centre, semi-axes) in mm, world coordinates of MNI space.
_SOFT_PARTS = (
    ((0, 42, -78), (60, 50, 70)),
    ((0, 96, -66), (14, 16, 24)),
    ((0, -42, -110), (58, 62, 75)),
)
_SINUSES = (
    ((26, 60, -66), (12, 16, 15)),
    ((-26, 60, -66), (12, 16, 15)),
    ((0, 62, -66), (8, 34, 20)),
    ((0, 12, -96), (12, 8, 40)),
)
_ORBITS = (((33, 58, -42), (19, 24, 17)), ((-33, 58, -42), (19, 24, 17)))
_EYES = (((33, 68, -42), (12, 12, 12)), ((-33, 68, -42), (12, 12, 12)))


@dataclass(frozen=True)
class Template:
    """A brain without skull.

    Parameters
    ----------
    grid : Grid
        In MNI space, with room for a whole head; voxel axes along world axes.
    white, grey, brain : float32 array, shape (X, Y, Z)
        Fraction of a voxel, 0 to 1. Brain includes its fluid.
    """

    grid: Grid
    white: Floats
    grey: Floats
    brain: Floats


@dataclass(frozen=True)
class Head:
    """A head, free of lesions, noise and bias field.

    Parameters
    ----------
    grid : Grid
    white, fluid, brain : float32 array, shape (X, Y, Z)
        Fraction of a voxel, 0 to 1. The brain includes its fluid.
    t1w, flair : float32 array, shape (X, Y, Z)
        Intensity in units of the white matter's.
    """

    grid: Grid
    white: Floats
    fluid: Floats
    brain: Floats
    t1w: Floats
    flair: Floats


def smooth_field(
    rng: np.random.Generator, shape: Sequence[int], knots: float | Sequence[float]
) -> Floats:
    """Return a random field: a cubic B-spline with normally distributed coefficients.

    Parameters
    ----------
    rng : numpy Generator
    shape : tuple of int
        Shape (X, Y, Z) of the field.
    knots : float or three of them
        Distance in voxels between the knots.

    Returns
    -------
    field : float32 array, shape (X, Y, Z)
        Each voxel has expectation 0 and variance 1.
    """
    spacings = np.broadcast_to(np.asarray(knots, float), 3)
    x, y, z = (_spline(n, spacing) for n, spacing in zip(shape, spacings, strict=True))
    values = rng.standard_normal((x.shape[1], y.shape[1], z.shape[1]), np.float32)
    return np.asarray(np.einsum("ai,bj,ck,ijk->abc", x, y, z, values, optimize=True))


def _spline(n: int, spacing: float) -> Floats:
    position = np.arange(n) / spacing
    knot = np.arange(int(position[-1]) + 4) - 1
    u = np.abs(position[:, None] - knot)
    near = 2 / 3 - u**2 + u**3 / 2
    weights = np.where(u < 1, near, np.clip(2 - u, 0, None) ** 3 / 6)
    weights /= np.linalg.norm(weights, axis=1, keepdims=True)
    return np.asarray(weights, np.float32)


def surround(template: Template, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Return the tissue around the brain of `template`.

    Parameters
    ----------
    template : Template
    rng : numpy Generator
        For the fat among the muscles.

    Returns
    -------
    labels : uint8 array, shape (X, Y, Z)
        Values of `Tissue`; fluid inside the brain.
    """
    grid = template.grid
    hull_mm = _hull_distance_mm(template)
    inside = hull_mm < _SCALP_MM
    for part in _SOFT_PARTS:
        inside |= _ellipsoid(grid, part)
    depth_mm = _upsample(distance_mm(inside[::2, ::2, ::2], grid, 2), grid.shape)
    inside = depth_mm > 0.5
    fatty = smooth_field(rng, grid.shape, [5 / mm for mm in grid.spacing_mm]) > 0.7
    labels = np.where(fatty, Tissue.FAT, Tissue.MUSCLE).astype(np.uint8)
    for part in _ORBITS:
        labels[_ellipsoid(grid, part)] = Tissue.FAT
    labels[depth_mm < _FAT_MM] = Tissue.FAT
    labels[depth_mm < _SKIN_MM] = Tissue.SKIN
    for part in _SINUSES:
        labels[_ellipsoid(grid, part)] = Tissue.AIR
    labels[hull_mm < _SKULL_MM] = Tissue.BONE
    labels[hull_mm < _MARROW_MM] = Tissue.MARROW
    labels[hull_mm < _TABLE_MM] = Tissue.BONE
    for part in _EYES:
        labels[_ellipsoid(grid, part)] = Tissue.FLUID
    labels[hull_mm < _FLUID_MM] = Tissue.FLUID
    labels[~inside] = Tissue.AIR
    return labels


def _hull_distance_mm(template: Template) -> Floats:
    """Signed distance to the brain's surface with its hollows filled, negative inside."""
    brain = template.brain[::2, ::2, ::2] > 0.5
    grown = distance_mm(~brain, template.grid, 2) < _HULL_CLOSING_MM
    hull = distance_mm(grown, template.grid, 2) > _HULL_CLOSING_MM
    signed = distance_mm(~hull, template.grid, 2) - distance_mm(hull, template.grid, 2)
    return _upsample(signed, template.grid.shape)


def distance_mm(mask: NDArray[np.bool_], grid: Grid, step: int = 1) -> Floats:
    """Return the distance of every voxel of `mask` to the nearest one outside it.

    Parameters
    ----------
    mask : bool array, shape (X, Y, Z)
        Every `step`-th voxel of `grid`.
    grid : Grid
    step : int

    Returns
    -------
    distance_mm : float32 array, shape (X, Y, Z)
        0 outside `mask`.
    """
    spacing = [step * mm for mm in grid.spacing_mm]
    return np.asarray(ndimage.distance_transform_edt(mask, spacing), np.float32)


def _upsample(values: Floats, shape: Sequence[int]) -> Floats:
    """Undo ``[::2, ::2, ::2]`` by linear interpolation, after some smoothing."""
    smooth = ndimage.gaussian_filter(values, 1.0)
    half = np.diag([0.5] * 3)
    return np.asarray(
        ndimage.affine_transform(smooth, half, output_shape=shape, order=1, mode="nearest")
    )


def _ellipsoid(
    grid: Grid, part: tuple[tuple[float, float, float], tuple[float, float, float]]
) -> NDArray[np.bool_]:
    axes = [
        grid.affine[axis, 3] + grid.affine[axis, axis] * np.arange(n)
        for axis, n in enumerate(grid.shape)
    ]
    x, y, z = (
        ((axis - centre) / radius) ** 2 for axis, centre, radius in zip(axes, *part, strict=True)
    )
    return np.asarray(x[:, None, None] + y[:, None] + z < 1)


def make_head(template: Template, around: NDArray[np.uint8], rng: np.random.Generator) -> Head:
    """Return a random head: the template scaled, deformed smoothly and folded its own way.

    Parameters
    ----------
    template : Template
    around : uint8 array, shape (X, Y, Z)
        From `surround`.
    rng : numpy Generator

    Returns
    -------
    head : Head
        On the grid of the template.
    """
    where = _deformation(template.grid, rng)
    white, grey, brain = (
        np.asarray(ndimage.map_coordinates(values, where, order=1))
        for values in (template.white, template.grey, template.brain)
    )
    labels = np.asarray(ndimage.map_coordinates(around, where, order=0))
    knots = [4 / mm for mm in template.grid.spacing_mm]
    # A power sharpens the fractions, which are means over many people; the random factors decide
    # where they are undecided: every head has folds of its own. Fluid is favoured because a mean
    # of many heads has lost most of it in the sulci.
    fluid = _FLUID_FAVOUR * np.clip(brain - white - grey, 0, 1) ** 2
    fluid *= np.exp(0.5 * smooth_field(rng, template.grid.shape, knots))
    grey = grey**2 * np.exp(0.5 * smooth_field(rng, template.grid.shape, knots))
    white = white**2
    scale = brain / np.maximum(white + grey + fluid, 1e-6)
    fractions = [fraction * scale for fraction in (white, grey, fluid)]
    texture = 1 + 0.025 * smooth_field(rng, template.grid.shape, knots)
    t1w, flair = (
        (contrast[labels] * (1 - brain) + _mix(fractions, contrast)) * texture
        for contrast in (T1W, FLAIR)
    )
    return Head(template.grid, fractions[0], fractions[2], brain, t1w, flair)


def _mix(fractions: Sequence[Floats], contrast: Floats) -> Floats:
    tissues = (Tissue.WHITE_MATTER, Tissue.GREY_MATTER, Tissue.FLUID)
    parts = [
        fraction * contrast[tissue] for fraction, tissue in zip(fractions, tissues, strict=True)
    ]
    return np.asarray(np.sum(parts, axis=0), np.float32)


def _deformation(grid: Grid, rng: np.random.Generator) -> Floats:
    """Voxel of the template, shape (3, X, Y, Z), for every voxel of the head."""
    factors = 1 + 0.03 * rng.uniform(-1, 1, 3)
    where = np.empty((3, *grid.shape), np.float32)
    for axis, (n, mm, factor) in enumerate(zip(grid.shape, grid.spacing_mm, factors, strict=True)):
        line = n / 2 + factor * (np.arange(n, dtype=np.float32) - n / 2)
        bend_mm = 2.0 * smooth_field(rng, grid.shape, [40 / mm for mm in grid.spacing_mm])
        where[axis] = np.expand_dims(line, [a for a in range(3) if a != axis]) + bend_mm / mm
    return where
