# SPDX-License-Identifier: Apache-2.0
"""The figure of one lesion: three orthogonal slices of both images, the mask and both maps.

It is an SVG of little size: images have the voxels that they show, everything else is drawn.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from matplotlib.colors import Normalize
from numpy.typing import NDArray
from PIL import Image

from bids_lesion_xai.conventions import CHANNELS
from bids_lesion_xai.reports import page
from bids_lesion_xai.reports.colours import SALIENCY_COLOURS, scale_stops
from bids_lesion_xai.reports.paths import area_path, outline_path
from bids_lesion_xai.reports.slices import VIEWS, Crop, Scan, Window, lesion_windows, upright

SCALE_BAR_MM = 10
# Colours from the most negative to the most positive value, zero in the middle.
_N_COLOURS = 255
_PALETTE = np.rint(255 * SALIENCY_COLOURS(np.linspace(0, 1, _N_COLOURS))[:, :3]).astype(np.uint8)
# Edge in pixels of a slice of FLAIR or T1w, by the number of lesions of the report up to which it
# is taken, and the quality of its compression, so that a report of hundreds stays small.
_DETAIL = ((60, 176, 82), (150, 132, 78), (350, 96, 72), (math.inf, 64, 60))


@dataclass(frozen=True)
class View:
    """What is drawn over the images of one view.

    Parameters
    ----------
    name : str
        ``axial``, ``coronal`` or ``sagittal``.
    sides : tuple of str
        What is on the left and on the right of the image.
    outline, others, others_outline, area, brain : str
        Paths of the lesion's border, of the area and border of other lesions, and of the area of
        the lesion and of the brain, in pixels.
    """

    name: str
    sides: tuple[str, str]
    outline: str
    others: str
    others_outline: str
    area: str
    brain: str


def symmetric_limit(maps: Iterable[NDArray[np.float32]], percentile: float = 99.8) -> float:
    """Return the one limit c of the colour scale -c to c that is common to all `maps`.

    It is the percentile of the magnitudes of all values that are not 0, so that a single voxel
    does not darken all others, and 1 if there is none.

    >>> symmetric_limit([np.array([0, -2.0]), np.array([1.0, 0])], percentile=100)
    2.0
    """
    magnitudes = np.concatenate([np.abs(values).ravel() for values in maps])
    magnitudes = magnitudes[magnitudes > 0]
    return float(np.percentile(magnitudes, percentile)) if magnitudes.size else 1.0


def draw_lesion(
    scan: Scan, index: int, saliency: Mapping[str, Crop], units: str, n_lesions: int = 1
) -> Markup:
    """Return the figure of one lesion as SVG.

    Parameters
    ----------
    scan : Scan
    index : int
        Number of the lesion.
    saliency : mapping of str to Crop
        Saliency of the lesion with respect to ``flair`` and ``t1w``.
    units : str
        Unit of the saliency.
    n_lesions : int
        How many figures the report has; the more, the less detail each.
    """
    windows = lesion_windows(scan, index)
    maps = [[window.of_crop(saliency[channel]) for channel in CHANNELS] for window in windows]
    limit = symmetric_limit(values for row in maps for values in row)
    side = windows[0].shape[0]
    spacing_mm = scan.grid.spacing_mm[0]
    _, tile, quality = next(row for row in _DETAIL if n_lesions <= row[0])
    content = {
        "name": f"L{index:03d}",
        "is_missed": index > scan.n_predicted,
        "side": side,
        "greys": _grey_uri(scan, windows, max(tile, side), quality),
        "maps": _map_uri(maps, limit),
        "views": [_view(scan, index, window) for window in windows],
        "bar_mm": SCALE_BAR_MM,
        "bar": round(100 * SCALE_BAR_MM / (side * spacing_mm), 2),
        "stops": scale_stops(),
        "limit": limit,
        "units": units,
    }
    return Markup(page.render("lesion_figure.svg", content))  # noqa: S704 - of a template


def _view(scan: Scan, index: int, window: Window) -> View:
    labels = upright(window.of(scan.labels), window.axis)
    brain = upright(window.of(scan.brain), window.axis)
    others = (labels > 0) & (labels != index)
    return View(
        VIEWS[window.axis],
        ("R", "L") if window.axis else ("P", "A"),
        outline_path(labels == index),
        area_path(others),
        outline_path(others),
        area_path(labels == index),
        area_path(brain),
    )


def _grey_uri(scan: Scan, windows: list[Window], tile: int, quality: int) -> str:
    """Return both images of each window, one row a window, as a smooth image."""
    rows = [
        np.hstack([_grey_tile(scan, channel, window, tile) for channel in CHANNELS])
        for window in windows
    ]
    buffer = io.BytesIO()
    sheet = Image.fromarray(np.vstack(rows)).convert("RGB")
    sheet.save(buffer, "WEBP", quality=quality, method=2)
    return page.data_uri(buffer.getvalue(), "image/webp")


def _grey_tile(scan: Scan, channel: str, window: Window, tile: int) -> NDArray[np.uint8]:
    scale = scan.greys[channel]
    black = float(scale.vmin or 0)
    shown = np.where(window.of(scan.brain), window.of(scan.images[channel]), black)
    levels = _levels(upright(shown, window.axis), scale)
    return np.asarray(Image.fromarray(levels).resize((tile, tile), Image.Resampling.BICUBIC))


def _levels(values: NDArray[np.floating], scale: Normalize) -> NDArray[np.uint8]:
    return np.asarray(np.rint(255 * np.clip(scale(values), 0, 1)), np.uint8)


def _map_uri(maps: list[list[NDArray[np.float32]]], limit: float) -> str:
    """Return both maps of each window, one row a window, in the colours of the scale."""
    rows = [
        np.hstack([upright(values, axis) for values in row])
        for row, axis in zip(maps, VIEWS, strict=True)
    ]
    middle = _N_COLOURS // 2
    places = np.rint(middle * (1 + np.clip(np.vstack(rows) / limit, -1, 1))).astype(np.uint8)
    sheet = Image.fromarray(places, "P")
    sheet.putpalette(_PALETTE.tobytes())
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG", compress_level=6)
    return page.data_uri(buffer.getvalue(), "image/png")
