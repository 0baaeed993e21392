# SPDX-License-Identifier: Apache-2.0
"""The figure of a visit: slices of the whole brain with all lesions, and of the registration.

Slices are axial and coronal in radiological view: the person's right is on the left of the image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import Colormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray
from scipy import ndimage

from bids_lesion_xai.reports.colours import (
    CHANNEL_COLOURS,
    GROUND,
    LESION_COLOUR,
    MISSED_COLOUR,
)
from bids_lesion_xai.reports.slices import Scan, overview_slices

_GREYS = colormaps["gray"]
_TEXT = "#e3e8ee"
# A dark rim that keeps text and lines legible on a bright image.
_HALO = (withStroke(linewidth=2.2, foreground="#0f1114a0"),)


def outline(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the edges of voxels between inside and outside of a plane.

    Parameters
    ----------
    mask : bool array, shape (X, Y)

    Returns
    -------
    segments : float64 array, shape (N, 2, 2)
        Two points (x, y) each, in voxel indices; voxel 0 spans -0.5 to 0.5.

    Examples
    --------
    >>> len(outline(np.ones((3, 2), bool)))
    10
    """
    padded = np.pad(mask, 1)
    across = np.argwhere(padded[1:, 1:-1] != padded[:-1, 1:-1]) - 0.5
    along = np.argwhere(padded[1:-1, 1:] != padded[1:-1, :-1]) - 0.5
    return np.concatenate(
        [
            np.stack([across, np.add(across, (0, 1))], axis=1),
            np.stack([along, np.add(along, (1, 0))], axis=1),
        ]
    )


def draw_overview(scan: Scan) -> Figure:
    """Return the figure of a visit: FLAIR with all lesions, and with the edges of T1w.

    Lesions that were missed have another colour.
    """
    figure = Figure(figsize=(9.6, 11.6), facecolor=GROUND)
    grid = figure.add_gridspec(
        4, 4, left=0.01, right=0.99, bottom=0.01, top=0.99, wspace=0.02, hspace=0.03
    )
    box = scan.brain_box
    for place, k in enumerate(overview_slices(scan, n_slices=12)):
        axes = figure.add_subplot(grid[divmod(place, 4)])
        _show_flair(axes, scan, 2, k, box)
        plane = scan.labels[box[0], box[1], k]
        missed = plane > scan.n_predicted
        _draw_outline(axes, (plane > 0) & ~missed, linewidth=1.1)
        _draw_outline(axes, missed, linewidth=1.1, colour=MISSED_COLOUR)
    middle = [(part.start + part.stop) // 2 for part in box]
    # Off the middle plane, which holds hardly any edge of the brain.
    sagittal = middle[0] + (box[0].stop - box[0].start) // 8
    views = ((2, middle[2]), (2, (middle[2] + box[2].stop) // 2), (1, middle[1]), (0, sagittal))
    for place, (axis, index) in enumerate(views):
        axes = figure.add_subplot(grid[3, place])
        _show_flair(axes, scan, axis, index, box)
        plane = scan.plane("t1w", axis, index)[_in_plane(box, axis)]
        _draw_edges(axes, plane, CHANNEL_COLOURS["t1w"])
    return figure


def edges(plane: NDArray[np.float32], sigma: float = 1.2) -> NDArray[np.float64]:
    """Return a field whose zero crossings are the strong edges of a plane; NaN elsewhere.

    It is the Laplacian of the plane smoothed by a Gaussian of `sigma` voxels, where the gradient
    is among the steepest fifth of all that are not 0.

    References
    ----------
    Marr and Hildreth, Proceedings B 207 (1980), doi 10.1098/rspb.1980.0020.
    """
    smooth = plane.astype(np.float64)
    steepness = ndimage.gaussian_gradient_magnitude(smooth, sigma)
    steep = steepness[steepness > 1e-3 * steepness.max()]
    if not steep.size:
        return np.full(plane.shape, np.nan)
    laplacian = ndimage.gaussian_laplace(smooth, sigma)
    return np.where(steepness >= np.percentile(steep, 80), laplacian, np.nan)


def _in_plane(parts: Sequence[Any], axis: int) -> tuple[Any, ...]:
    return tuple(part for other, part in enumerate(parts) if other != axis)


def _show_flair(axes: Axes, scan: Scan, axis: int, index: int, box: Sequence[slice]) -> None:
    plane = scan.plane("flair", axis, index)[_in_plane(box, axis)]
    spacing_mm = _in_plane(scan.grid.spacing_mm, axis)
    _show(axes, plane, scan.greys["flair"], _GREYS, spacing_mm, mirrored=axis != 0)
    _mark_sides(axes, "RL" if axis else "PA", 0.95)


def _show(
    axes: Axes,
    plane: NDArray[np.float32],
    scale: Normalize,
    colours: Colormap,
    spacing_mm: tuple[float, ...],
    *,
    mirrored: bool = True,
) -> None:
    """Show a plane of shape (A, B) with A to the right, or to the left if `mirrored`."""
    axes.set_axis_off()
    interpolation = "bicubic" if colours is _GREYS else "nearest"
    aspect = spacing_mm[1] / spacing_mm[0]
    axes.imshow(
        plane.T,
        cmap=colours,
        norm=scale,
        aspect=aspect,
        interpolation=interpolation,
        origin="lower",
    )
    if mirrored:
        axes.invert_xaxis()


def _draw_outline(
    axes: Axes,
    mask: NDArray[np.bool_],
    linewidth: float,
    alpha: float = 1,
    colour: str = LESION_COLOUR,
) -> None:
    segments = list(outline(mask))
    # Two collections: as a path effect, the rim of one segment would cover its neighbours.
    for shade, width in ((GROUND, linewidth + 0.8), (colour, linewidth)):
        lines = LineCollection(
            segments, colors=shade, linewidths=width, alpha=alpha, capstyle="round"
        )
        axes.add_collection(lines, autolim=False)


def _draw_edges(axes: Axes, plane: NDArray[np.float32], colour: str) -> None:
    field = edges(plane)
    if np.isfinite(field).any():
        axes.contour(field.T, levels=[0], colors=colour, linewidths=0.9)


def _note(axes: Axes, x: float, y: float, text: str) -> None:
    axes.text(
        x,
        y,
        text,
        transform=axes.transAxes,
        ha="left" if x < 0.5 else "right",
        va="center",
        color=_TEXT,
        size=8.5,
        path_effects=_HALO,
    )


def _mark_sides(axes: Axes, sides: str, y: float) -> None:
    for x, side in zip((0.03, 0.97), sides, strict=True):
        _note(axes, x, y, side)
