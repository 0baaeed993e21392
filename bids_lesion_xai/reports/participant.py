# SPDX-License-Identifier: Apache-2.0
"""The report of one visit."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from bids_lesion_xai.bids.derivatives import DERIVATIVES
from bids_lesion_xai.bids.sidecar import read_description
from bids_lesion_xai.bids.store import Store
from bids_lesion_xai.bids.visit import Visit
from bids_lesion_xai.conventions import CHANNELS, OUTCOMES
from bids_lesion_xai.group.collect import (
    is_compared,
    visit_experiments,
    visit_lesions,
    visit_summary,
)
from bids_lesion_xai.imaging import nifti
from bids_lesion_xai.reports import page
from bids_lesion_xai.reports.experiments import draw_experiments
from bids_lesion_xai.reports.figures import draw_lesion, draw_overview
from bids_lesion_xai.reports.slices import Crop, Scan

_FIGURE_DPI = 144
_PROFILE_MARGINS = {"left": 0.15, "right": 0.985, "bottom": 0.19, "top": 0.9}
_COLUMNS = {**DERIVATIVES["lesion_table"].columns, **DERIVATIVES["saliency_table"].columns}
_OUTCOME_MEANS = (
    *("volume_mm3", "mean_probability", "flair_share"),
    *(f"{channel}_{key}" for channel in CHANNELS for key in ("peak", "mean_inside", "contrast")),
)
_SALIENCY_FACTS = (
    ("Method", "Explanation"),
    ("Aggregation", "Aggregation over a lesion's voxels"),
    ("Target", "Explained quantity"),
    ("NumberOfSamples", "Samples"),
    ("NoiseLevel", "Noise level, of the intensity range"),
    ("NoiseRule", "Intensity range"),
    ("NoiseStandardDeviation", "Standard deviation of the noise"),
    ("RandomSeed", "Random seed"),
    ("Engine", "Engine"),
    ("Device", "Device"),
)


def write_report(store: Store, visit: Visit) -> Path:
    """Write the figures and the report of a visit from its outputs, and return the report's path.

    Raises
    ------
    DataError
        An output is missing or cannot be read.
    OutputError
        The output folder cannot be written.
    """
    regions = visit_lesions(store, visit)
    lesions = regions[regions["outcome"] != "TN"]
    scan = load_scan(store, visit)
    rows: list[dict[str, Any]] = lesions.to_dict("records")  # type: ignore[assignment]
    saliency = store.facts("saliency_table", visit)
    kept = has_maps(store, visit, rows)
    content = {
        "visit": visit,
        "dataset": read_description(store.root).get("Name", ""),
        "summary": visit_summary(store, visit, regions),
        "compared": is_compared(store, visit),
        "outcomes": outcome_rows(regions),
        "experiments": draw_experiments(visit_experiments(store, visit, regions)),
        "segmentation": store.facts("lesion_labels", visit),
        "saliency": saliency,
        "saliency_facts": _SALIENCY_FACTS,
        "columns": _COLUMNS,
        "units": saliency["Units"],
        "has_maps": kept,
        "overview": _publish_figure(store, "overview_figure", draw_overview(scan), visit),
        "lesions": [
            {
                "row": row,
                "figure": _lesion_figure(store, visit, scan, row, saliency["Units"], kept=kept),
                "profile": draw_profile(row),
            }
            for row in rows
        ],
    }
    html = page.render("participant.html", content)
    return store.write_text(DERIVATIVES["report"].path(visit), html)


def load_scan(store: Store, visit: Visit) -> Scan:
    """Read the images of a visit, its brain mask, and its lesions, missed ones too."""
    images = {
        channel: nifti.load(store.path(f"preproc_{channel}", visit))[0] for channel in CHANNELS
    }
    brain, _ = nifti.load(store.path("brain_mask", visit), np.bool_)
    labels, grid = nifti.load(store.path("lesion_labels", visit), np.int32)
    n_predicted = int(labels.max(initial=0))
    if is_compared(store, visit):
        labels, _ = nifti.load(store.path("region_labels", visit), np.int32)
        regions = visit_lesions(store, visit)
        labels[np.isin(labels, regions.loc[regions["outcome"] == "TN", "index"])] = 0
    return Scan(grid, images, brain, labels, n_predicted)


def outcome_rows(regions: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the means over the regions of each outcome, none without a reference mask."""
    rows: list[dict[str, Any]] = []
    for outcome, meaning in OUTCOMES.items():
        own = regions[regions["outcome"] == outcome]
        if len(own):
            means = own[list(_OUTCOME_MEANS)].astype(float).mean()
            named = dict(zip(_OUTCOME_MEANS, means, strict=True))
            rows.append({"outcome": outcome, "meaning": meaning, "n": len(own), **named})
    return rows


def draw_profile(row: dict[str, Any]) -> str:
    """Return the chart of mean saliency by distance from a lesion, as a URI.

    Parameters
    ----------
    row : dict
        The lesion's row of the saliency table. The mean inside has an error bar of one standard
        error.
    """
    places = range(len(page.PROFILE))
    with page.chart(5.4, 2.6, _PROFILE_MARGINS) as (figure, axes):
        page.zero_line(axes)
        for channel, name in CHANNELS.items():
            style: dict[str, Any] = {"color": page.CHANNEL_COLOURS[channel], "clip_on": False}
            values = [row[f"{channel}_{key}"] for key, _ in page.PROFILE]
            marker = page.CHANNEL_MARKERS[channel] + "-"
            axes.plot(places, values, marker, markersize=5, label=name, **style)
            axes.errorbar(0, values[0], row[f"{channel}_mean_inside_se"], capsize=4, **style)
        page.profile_axis(axes)
        # Small values share a power of ten, so that their labels leave room for the axis' name.
        axes.ticklabel_format(axis="y", scilimits=(-2, 3), useMathText=True)
        axes.legend()
        return page.chart_uri(figure)


def _lesion_figure(
    store: Store, visit: Visit, scan: Scan, row: dict[str, Any], units: str, *, kept: bool
) -> str:
    """Draw and publish the figure of a lesion, and return it as a URI."""
    read = _own_map if kept else _share_of_map
    crops = {channel: read(store, visit, scan, row, channel) for channel in CHANNELS}
    figure = draw_lesion(scan, int(row["index"]), crops, units)
    return _publish_figure(store, "lesion_figure", figure, visit, str(row["name"]))


def _own_map(store: Store, visit: Visit, scan: Scan, row: dict[str, Any], channel: str) -> Crop:
    path = store.path(f"lesion_saliency_{channel}", visit, str(row["name"]))
    values, grid = nifti.load(path)
    return Crop(values, grid.offset_in(scan.grid))


def _share_of_map(
    store: Store, visit: Visit, scan: Scan, row: dict[str, Any], channel: str
) -> Crop:
    """Return the map of all lesions where this one is the nearest; a missed lesion has none."""
    values, _ = nifti.load(store.path(f"saliency_{channel}", visit))
    return Crop(np.where(scan.nearest == row["index"], values, np.float32(0)), (0, 0, 0))


def has_maps(store: Store, visit: Visit, rows: Sequence[dict[str, Any]]) -> bool:
    """Tell whether the maps of single lesions were kept, or there is none to keep."""
    names = [str(row["name"]) for row in rows]
    paths = (store.path("lesion_saliency_flair", visit, name) for name in names)
    return not names or any(path.is_file() for path in paths)


def _publish_figure(
    store: Store, key: str, figure: Figure, visit: Visit, lesion: str | None = None
) -> str:
    with tempfile.TemporaryDirectory() as folder:
        drawn = Path(folder, "figure.png")
        figure.savefig(drawn, dpi=_FIGURE_DPI, pil_kwargs={"compress_level": 4})
        published = store.publish(key, drawn, visit=visit, lesion=lesion)
    return page.image_uri(published)
