# SPDX-License-Identifier: Apache-2.0
"""The report of one visit."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from bids_lesion_xai.bids.derivatives import DERIVATIVES, method_label
from bids_lesion_xai.bids.sidecar import read_description
from bids_lesion_xai.bids.store import Store
from bids_lesion_xai.bids.visit import Visit
from bids_lesion_xai.conventions import CHANNELS, OUTCOMES
from bids_lesion_xai.errors import DataError
from bids_lesion_xai.explain.catalogue import has_sign, is_slope
from bids_lesion_xai.group.collect import (
    is_compared,
    read_table,
    visit_experiments,
    visit_lesions,
    visit_summary,
)
from bids_lesion_xai.imaging import nifti
from bids_lesion_xai.reports import appraisal, page, quality, viewer
from bids_lesion_xai.reports.experiments import draw_experiments
from bids_lesion_xai.reports.figures import draw_overview
from bids_lesion_xai.reports.glass import draw_glass
from bids_lesion_xai.reports.lesion_charts import draw_charts, draw_profile
from bids_lesion_xai.reports.lesion_figure import draw_lesion
from bids_lesion_xai.reports.methods import cited, numbered, paragraph, read_facts, reference
from bids_lesion_xai.reports.slices import Crop, Scan

_FIGURE_DPI = 144
# Letters that a page may have, a megabyte below what is promised, and about how many of them a
# lesion has beside its figure.
_PAGE_SIZE, _LESION_SIZE = 19_000_000, 10_000
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


def write_report(store: Store, visit: Visit, *, with_viewer: bool = True) -> Path:
    """Write the figures and the report of a visit from its outputs, and return the report's path.

    Parameters
    ----------
    store : Store
    visit : Visit
    with_viewer : bool
        Whether the page has an interactive viewer, which takes some megabytes.

    Raises
    ------
    DataError
        An output is missing or cannot be read, or the table lists a lesion that is not there.
    OutputError
        The output folder cannot be written.
    """
    regions = visit_lesions(store, visit)
    lesions = regions[regions["outcome"] != "TN"]
    scan = load_scan(store, visit)
    rows: list[dict[str, Any]] = lesions.to_dict("records")  # type: ignore[assignment]
    saliency = store.facts("saliency_table", visit)
    # The name of the method stands in those of hundreds of files; else it is looked for each time.
    store = Store(store.root, method_label(saliency["Method"]))
    segmentation = store.facts("lesion_labels", visit)
    way = (saliency["Method"], saliency["Aggregation"])
    limits = appraisal.Limits(segmentation["PeakThreshold"], is_slope(*way))
    collected = viewer.Collected(scan.grid) if with_viewer else None
    experiments = visit_experiments(store, visit, regions)
    shown = _lesions(store, visit, scan, rows, limits, experiments, collected)
    facts = read_facts(store, visit)
    methods = paragraph(facts)
    keys = cited([methods])
    content = {
        "visit": visit,
        "dataset": read_description(store.root).get("Name", ""),
        "summary": visit_summary(store, visit, regions),
        "compared": is_compared(store, visit),
        "outcomes": outcome_rows(regions),
        "checks": (checks := quality.check_images(store, visit, scan)),
        "worst_check": quality.worst(checks),
        "experiments": draw_experiments(experiments),
        "segmentation": segmentation,
        "saliency": saliency,
        "has_sign": has_sign(*way),
        "saliency_facts": _SALIENCY_FACTS,
        "columns": _COLUMNS,
        "units": saliency["Units"],
        "has_maps": has_maps(store, visit, rows),
        "overview": _publish_overview(store, visit, scan),
        "glass": draw_glass(scan),
        "lesions": shown,
        "levels": Counter(lesion["level"] for lesion in shown),
        "sizes": [(name, largest) for name, largest in appraisal.SIZES.items()],
        "rules": [(rule.short, text) for rule in appraisal.RULES if (text := rule.text(limits))],
        "largest_error": appraisal.LARGEST_ERROR,
        "volumes": viewer.volumes(scan, collected, _room(shown)) if collected else None,
        "viewer_colours": viewer.colour_maps(),
        "program": viewer.program() if with_viewer else "",
        "methods": numbered(methods, keys),
        "references": [reference(key) for key in keys],
        "software": facts["Software"],
        "sources": store.facts("preproc_flair", visit)["Sources"],
    }
    html = page.render("participant.html", content)
    return store.write_text(DERIVATIVES["report"].path(visit), html)


def _room(lesions: Sequence[dict[str, Any]]) -> int:
    """Return how many letters a page with these lesions and the viewer's program leaves."""
    figures = sum(len(lesion["figure"]) + _LESION_SIZE for lesion in lesions)
    return _PAGE_SIZE - figures - len(viewer.program())


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


def _lesions(
    store: Store,
    visit: Visit,
    scan: Scan,
    rows: Sequence[dict[str, Any]],
    limits: appraisal.Limits,
    experiments: Mapping[str, pd.DataFrame],
    collected: viewer.Collected | None,
) -> list[dict[str, Any]]:
    """Return what the page shows of each lesion."""
    edge = appraisal.near_edge(scan)
    kept = has_maps(store, visit, rows)
    units = store.facts("saliency_table", visit)["Units"]
    profiles = dict(tuple(read_table(store.path("saliency_profile", visit)).groupby("index")))
    # Those of `synthetic` are of no lesion.
    of_lesions = {name: table for name, table in experiments.items() if "index" in table}
    charts = {name: dict(tuple(table.groupby("index"))) for name, table in of_lesions.items()}
    shown = []
    for row in rows:
        index, name = int(row["index"]), str(row["name"])
        if index not in edge:
            message = (
                f"{name} has a row but no voxel in the label image. Process this visit again."
            )
            raise DataError(message)
        read = _own_map if kept else _share_of_map
        maps = {channel: read(store, visit, scan, row, channel) for channel in CHANNELS}
        box = scan.boxes[index - 1]
        if collected and box:
            collected.add(name, box, maps)
        found = appraisal.doubts({**row, "near_edge": edge[index]}, limits)
        shown.append(
            {
                "row": row,
                "level": appraisal.level(found),
                "doubts": found,
                "imprecise": appraisal.imprecise(row),
                "size": appraisal.size_class(float(row["equivalent_diameter_mm"])),
                "place": appraisal.place(row, scan),
                "at_mm": viewer.voxel_of(scan, index),
                "figure": _figure(store, visit, scan, index, maps, units, len(rows)),
                "profile": draw_profile(profiles.get(index), row),
                "charts": draw_charts(
                    {key: tables[index] for key, tables in charts.items() if index in tables},
                    limits.peak_threshold,
                ),
            }
        )
    return shown


def _figure(
    store: Store,
    visit: Visit,
    scan: Scan,
    index: int,
    maps: Mapping[str, Crop],
    units: str,
    n_lesions: int,
) -> Markup:
    svg = draw_lesion(scan, index, maps, units, n_lesions)
    path = store.path("lesion_figure", visit, f"L{index:03d}")
    store.write_text(path.relative_to(store.root), svg)
    return svg


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


def _publish_overview(store: Store, visit: Visit, scan: Scan) -> str:
    with tempfile.TemporaryDirectory() as folder:
        drawn = Path(folder, "figure.png")
        draw_overview(scan).savefig(drawn, dpi=_FIGURE_DPI, pil_kwargs={"compress_level": 4})
        published = store.publish("overview_figure", drawn, visit=visit)
    return page.image_uri(published)
