# SPDX-License-Identifier: Apache-2.0
"""A small output folder as the participant level leaves it, with invented images and numbers."""

from __future__ import annotations

import csv
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from html.parser import HTMLParser
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import ndimage

from bids_lesion_xai.bids.derivatives import DERIVATIVES, SALIENCY_UNITS, method_label
from bids_lesion_xai.bids.provenance import complete
from bids_lesion_xai.bids.sidecar import generator, to_json
from bids_lesion_xai.bids.store import Store
from bids_lesion_xai.bids.visit import Visit
from bids_lesion_xai.conventions import CHANNELS, SHELLS_MM
from bids_lesion_xai.imaging import nifti
from bids_lesion_xai.imaging.grid import Grid

TWO_SESSIONS = (Visit("01", "01"), Visit("01", "02"))
WITHOUT_LESION = TWO_SESSIONS[1]
ONE_SAMPLE = Visit("02", "01")
VISITS = (*TWO_SESSIONS, ONE_SAMPLE)
CROWDED = Visit("crowd")

_SHAPE = (34, 40, 30)
_MARGIN = 12
_MODEL = {
    "Name": "phantom_unet",
    "Version": "0.1.0",
    "SHA256": "0" * 64,
    "TestTimeAugmentation": "none",
}
# Voxel indices of the middle of a lesion, and its radius in mm.
Ball = tuple[tuple[int, int, int], float]
_BALLS: Mapping[Visit, tuple[Ball, ...]] = {
    TWO_SESSIONS[0]: (((12, 20, 15), 3.2), ((24, 26, 18), 2.0), ((20, 12, 11), 1.5)),
    WITHOUT_LESION: (),
    ONE_SAMPLE: (((22, 18, 14), 2.6),),
}


def oblique_grid(shape: tuple[int, int, int] = _SHAPE) -> Grid:
    """Return a grid of 1 mm whose axes are turned by some degrees and shifted."""
    a, b = np.radians((8, -5))
    turn_z = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    turn_x = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    affine = np.eye(4)
    affine[:3, :3] = turn_z @ turn_x
    affine[:3, 3] = (-15.5, -22.25, -9.75)
    return Grid(shape, affine)


def publish_outputs(
    root: Path,
    visits: Iterable[Visit] = VISITS,
    method: str = "smoothgrad",
    facts: Mapping[str, Any] | None = None,
) -> Store:
    """Publish the phantoms of `visits` in this order, and return a reader of them.

    Sidecars state `method` and what else `facts` holds.
    """
    store = Store(root, method_label(method))
    stated = {"Method": method, **(facts or {})}
    _describe(store, "bids_lesion_xai of phantoms & more")
    for visit in visits:
        flair, t1w, labels = phantom(visit)
        publish_visit(store, visit, oblique_grid(), flair, t1w, labels, stated)
    return Store(root)


def _describe(store: Store, name: str) -> None:
    description = {"Name": name, "GeneratedBy": [generator()]}
    store.write_text("dataset_description.json", to_json(description))


def publish_crowd(root: Path, n_lesions: int = 300) -> Store:
    """Publish a visit of many lesions of all sizes, and return a reader of it."""
    shape = (100, 120, 90)
    generator = np.random.default_rng(3)
    middle = (np.array(shape) - 1) / 2
    radius = np.sqrt((((np.indices(shape).T - middle) / (middle - 1)) ** 2).sum(-1)).T
    places = [
        place
        for place in product(*(range(6, size - 6, 9) for size in shape))
        if radius[place] < 0.9
    ]
    labels = np.zeros(shape, np.int32)
    ball = np.indices((9, 9, 9)) - 4
    # The largest first, for they have the lowest numbers.
    sizes_mm = np.linspace(3.9, 1.1, n_lesions)
    for number, (place, radius_mm) in enumerate(
        zip(generator.permutation(places), sizes_mm, strict=False), start=1
    ):
        box = tuple(slice(centre - 4, centre + 5) for centre in place)
        labels[box][(ball**2).sum(0) <= radius_mm**2] = number
    texture = ndimage.gaussian_filter(generator.standard_normal(shape), 1.5) * 3
    flair = np.where(radius < 1, texture + 3 * (labels > 0), 0).astype(np.float32)
    t1w = np.where(radius < 1, -texture - (labels > 0), 0).astype(np.float32)
    store = Store(root)
    _describe(store, "a crowd")
    publish_visit(store, CROWDED, oblique_grid(shape), flair, t1w, labels, {})
    return store


def phantom(
    visit: Visit,
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int32]]:
    """Return FLAIR, T1w and the lesions of a visit; 0 outside an ellipsoid brain."""
    axes = np.indices(_SHAPE)
    middle = (np.array(_SHAPE).reshape(3, 1, 1, 1) - 1) / 2
    radius = np.sqrt((((axes - middle) / (middle - 1)) ** 2).sum(0))
    generator = np.random.default_rng(7)
    texture = ndimage.gaussian_filter(generator.standard_normal(_SHAPE), 1.5) * 3
    labels = np.zeros(_SHAPE, np.int32)
    for number, (centre, radius_mm) in enumerate(_BALLS[visit], start=1):
        place = np.array(centre).reshape(3, 1, 1, 1)
        labels[((axes - place) ** 2).sum(0) <= radius_mm**2] = number
    brain = radius < 1
    flair = np.where(brain, texture + 3 * (labels > 0) + (radius > 0.8), 0)
    t1w = np.where(brain, -texture - (labels > 0) - (radius > 0.8), 0)
    return flair.astype(np.float32), t1w.astype(np.float32), labels


def publish_visit(
    store: Store,
    visit: Visit,
    grid: Grid,
    flair: NDArray[np.float32],
    t1w: NDArray[np.float32],
    labels: NDArray[np.int32],
    facts: Mapping[str, Any],
) -> None:
    """Publish all outputs of a visit that reports and the group level read."""
    n_samples = 1 if visit == ONE_SAMPLE else 50
    brain = flair != 0
    volume_mm3 = float(brain.sum() * grid.voxel_volume_mm3)
    publisher = _Publisher(store, visit, {"BrainVolume_mm3": volume_mm3, **facts})
    publisher.image("preproc_t1w", t1w, grid)
    publisher.image("preproc_flair", flair, grid)
    publisher.image("brain_mask", brain, grid)
    probability = ndimage.gaussian_filter((labels > 0).astype(np.float32), 0.7)
    publisher.image("lesion_probability", probability, grid)
    publisher.image("lesion_labels", labels, grid)
    rows, profiles = [], []
    for index, box in enumerate(ndimage.find_objects(labels), start=1):
        support = box_with_margin(box, labels.shape)
        near, maps = labels[support], _saliency(labels[support], index)
        rows.append(saliency_row(near, index, maps, n_samples))
        profiles += profile_rows(near, index, maps)
        start = tuple(part.start for part in support)
        for channel, values in maps.items():
            crop = grid.crop(start, values.shape)
            publisher.image(f"lesion_saliency_{channel}", values, crop, f"L{index:03d}")
    images = {"flair": flair, "t1w": t1w}
    publisher.table(
        "lesion_table", described(lesion_rows(labels, probability, grid), labels, images)
    )
    publisher.table("saliency_table", rows)
    publisher.table("saliency_profile", profiles)
    complete(store, visit, {})


class _Publisher:
    """Publishes the files of one visit, with an invented sidecar where the table asks for one."""

    def __init__(self, store: Store, visit: Visit, facts: Mapping[str, Any]) -> None:
        self.store = store
        self.visit = visit
        self.facts = {**_FACTS, **facts}

    def image(self, key: str, values: NDArray[Any], grid: Grid, lesion: str | None = None) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = nifti.save(Path(folder, "image.nii.gz"), values, grid)
            self._publish(key, path, lesion)

    def table(self, key: str, rows: list[dict[str, Any]]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "table.tsv")
            table = pd.DataFrame(rows, columns=list(DERIVATIVES[key].columns))
            table.to_csv(path, sep="\t", index=False, na_rep="n/a")
            self._publish(key, path)

    def _publish(self, key: str, path: Path, lesion: str | None = None) -> None:
        facts = {name: self.facts.get(name, "invented") for name in DERIVATIVES[key].facts}
        if "NumberOfSamples" in facts:
            facts["NumberOfSamples"] = 1 if self.visit == ONE_SAMPLE else 50
        self.store.publish(key, path, facts, visit=self.visit, lesion=lesion)


_FACTS: Mapping[str, Any] = {
    "Model": _MODEL,
    "BiasCorrection": "full",
    "RegistrationMethod": "rigid",
    "RegistrationSimilarity": 0.625,
    "Threshold": 0.5,
    "PeakThreshold": 0.5,
    "MinimumVolume_mm3": 6.0,
    "Connectivity": 18,
    "Method": "smoothgrad",
    "Aggregation": "mean",
    "Target": "logit",
    "Units": SALIENCY_UNITS,
    "TargetError": None,
    "NoiseLevel": 0.05,
    "NoiseRule": "robust",
    "Baseline": None,
    "Engine": "pruned",
    "NoiseStandardDeviation": {"FLAIR": 0.281, "T1w": 0.243},
    "RandomSeed": 42,
    "Device": "cpu",
}


def lesion_rows(
    labels: NDArray[np.int32], probability: NDArray[np.float32], grid: Grid
) -> list[dict[str, Any]]:
    """Return the rows of the lesion table."""
    rows = []
    for index, box in enumerate(ndimage.find_objects(labels), start=1):
        inside = labels[box] == index
        n_voxels = int(inside.sum())
        volume = n_voxels * grid.voxel_volume_mm3
        first = [part.start for part in box]
        centroid = grid.to_world_mm(np.argwhere(inside).mean(0) + first)
        box_columns = {
            f"bbox_{axis}_{end}": value
            for axis, part in zip("xyz", box, strict=True)
            for end, value in (("first", part.start), ("last", part.stop - 1))
        }
        rows.append(
            {
                "index": index,
                "name": f"L{index:03d}",
                "volume_mm3": volume,
                "n_voxels": n_voxels,
                **{
                    f"centroid_{axis}_mm": value
                    for axis, value in zip("xyz", centroid, strict=True)
                },
                "mean_probability": float(probability[box][inside].mean()),
                "peak_probability": float(probability[box][inside].max()),
                "equivalent_diameter_mm": float(np.cbrt(6 * volume / np.pi)),
                **box_columns,
            }
        )
    return rows


def compare_with_reference(store: Store, visit: Visit, outcomes: Sequence[str]) -> None:
    """Publish the regions of a visit as if its lesions had these outcomes.

    The last rows of the lesion table, of those that are no lesions then, are left out of it.
    """
    path = store.path("lesion_table", visit)
    rows = pd.read_csv(path, sep="\t", dtype={"name": str}, keep_default_na=False)
    rows["outcome"] = list(outcomes)
    publisher = _Publisher(store, visit, {})
    labels, grid = nifti.load(store.path("lesion_labels", visit), np.int32)
    predicted = rows["outcome"].isin(["TP", "FP"])
    publisher.image("region_labels", labels, grid)
    publisher.table("region_table", rows.to_dict("records"))
    publisher.image("lesion_labels", np.where(labels <= predicted.sum(), labels, 0), grid)
    publisher.table("lesion_table", rows[predicted].to_dict("records"))


def described(
    rows: list[dict[str, Any]],
    labels: NDArray[np.int32],
    images: Mapping[str, NDArray[np.float32]],
) -> list[dict[str, Any]]:
    """Return the rows with the intensities of the lesions, as without mask and tissue map."""
    filled = []
    boxes = ndimage.find_objects(labels)
    for row in rows:
        support = box_with_margin(boxes[row["index"] - 1], labels.shape)
        inside = labels[support] == row["index"]
        rim = (ndimage.distance_transform_edt(~inside) <= 3) & (labels[support] == 0)
        means = {
            channel: (float(values[support][inside].mean()), float(values[support][rim].mean()))
            for channel, values in images.items()
        }
        intensities = {
            f"{channel}_{key}": value
            for channel, (own, around) in means.items()
            for key, value in (
                ("intensity", own),
                ("intensity_rim", around),
                ("contrast", own - around),
            )
        }
        filled.append({**row, "outcome": None, "location": "unknown", **intensities})
    return filled


def box_with_margin(box: tuple[slice, ...], shape: tuple[int, ...]) -> tuple[slice, ...]:
    """Return a bounding box with the room that a saliency map takes around a lesion."""
    return tuple(
        slice(max(part.start - _MARGIN, 0), min(part.stop + _MARGIN, size))
        for part, size in zip(box, shape, strict=True)
    )


def _saliency(labels: NDArray[np.int32], index: int) -> dict[str, NDArray[np.float32]]:
    """Return invented maps, positive in the lesion and negative around it, where they are not 0.

    Parameters
    ----------
    labels : int32 array, shape (X, Y, Z)
        In the box of `box_with_margin`.
    index : int
    """
    inside = labels == index
    generator = np.random.default_rng(index)
    values = {}
    for channel, (strength, width) in {"flair": (0.09, 1.2), "t1w": (-0.04, 2.0)}.items():
        near, far = (ndimage.gaussian_filter(inside * 1.0, w) for w in (width, 2 * width))
        noise = ndimage.gaussian_filter(generator.standard_normal(labels.shape), 1.0)
        field = strength * (near - 0.8 * far + 0.12 * noise * (far > 0.002))
        values[channel] = field.astype(np.float32)
    return values


def saliency_row(
    labels: NDArray[np.int32],
    index: int,
    maps: Mapping[str, NDArray[np.float32]],
    n_samples: int,
) -> dict[str, Any]:
    """Return the row of the saliency table; no standard error for a single sample."""
    inside = labels == index
    distance = ndimage.distance_transform_edt(~inside)
    totals = {channel: float(np.abs(values).sum()) for channel, values in maps.items()}
    row: dict[str, Any] = {
        "index": index,
        "name": f"L{index:03d}",
        "n_samples": n_samples,
        "flair_share": totals["flair"] / sum(totals.values()),
        "flair_share_se": 0.01 if n_samples > 1 else np.nan,
    }
    for channel in CHANNELS:
        values = maps[channel].astype(np.float64)
        peak = values.ravel()[np.abs(values).argmax()]
        error = abs(peak) * 0.06 if n_samples > 1 else np.nan
        numbers = {
            "peak": peak,
            "peak_se": error,
            "mean_inside": values[inside].mean(),
            "mean_inside_se": error / 2,
        }
        for inner, outer in zip((0, *SHELLS_MM), SHELLS_MM, strict=False):
            shell = (distance > inner) & (distance <= outer)
            numbers[f"mean_shell_{outer}mm"] = values[shell].mean()
        for side, where in (("inside", inside), ("outside", ~inside)):
            numbers[f"positive_{side}"] = values[where].clip(min=0).sum()
            numbers[f"negative_{side}"] = values[where].clip(max=0).sum()
        places_mm = np.unique(distance)
        mass = ndimage.sum(
            np.abs(values), np.searchsorted(places_mm, distance), range(places_mm.size)
        )
        for percent in (50, 90, 95):
            enough = mass.cumsum() >= percent / 100 * mass.sum() * (1 - 1e-12)
            numbers[f"distance_{percent}_mm"] = places_mm[enough.argmax()]
        numbers["sign_balance"] = values.sum() / np.abs(values).sum()
        numbers["compactness"] = _gyration(inside * 1.0) / _gyration(np.abs(values))
        row |= {f"{channel}_{key}": float(value) for key, value in numbers.items()}
    return row


def profile_rows(
    labels: NDArray[np.int32], index: int, maps: Mapping[str, NDArray[np.float32]]
) -> list[dict[str, Any]]:
    """Return the rows of a lesion in the table of its saliency by distance."""
    inside = labels == index
    distance = ndimage.distance_transform_edt(~inside) - ndimage.distance_transform_edt(inside)
    rows = []
    for channel in CHANNELS:
        for near in np.arange(-3, 10, 0.5):
            shell = (distance > near) & (distance <= near + 0.5)
            if shell.any():
                values = maps[channel][shell]
                row = {"index": index, "name": f"L{index:03d}", "channel": channel}
                row |= {"near_mm": near, "far_mm": near + 0.5, "n_voxels": values.size}
                row |= {"mean": values.mean(), "positive": values.clip(min=0).sum()}
                rows.append(row | {"negative": values.clip(max=0).sum()})
    return rows


def _gyration(weights: NDArray[np.floating]) -> float:
    """Return the root mean square distance from the centroid, in voxels of 1 mm."""
    places = np.argwhere(weights > 0)
    own = weights[tuple(places.T)] / weights.sum()
    return float(np.sqrt(own @ ((places - own @ places) ** 2).sum(1)))


class Html(HTMLParser):
    """What a page holds: numbers by row, ids, links, and everything that it loads."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text
        self.ids: list[str] = []
        self.links: list[str] = []
        self.sources: list[str] = []
        self.uses: list[str] = []
        self.alternatives: list[str] = []
        self.numbers: dict[str, str] = {}
        self.lesions: dict[str, dict[str, str]] = {}
        self.visits: dict[str, dict[str, str]] = {}
        self.outcomes: dict[str, dict[str, str]] = {}
        self._row = self.numbers
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {key: value or "" for key, value in attrs}
        if "id" in values:
            self.ids.append(values["id"])
        if tag == "a":
            self.links.append(values["href"])
        else:
            named = [
                values[key] for key in ("src", "href", "srcset", "xlink:href") if key in values
            ]
            self.sources += [name for name in named if not name.startswith("#")]
            self.uses += [name[1:] for name in named if name.startswith("#")]
        if tag == "img":
            self.alternatives.append(values["alt"])
        if values.get("role") == "img":
            self.alternatives.append(values["aria-label"])
        self._take_number(tag, values)

    def _take_number(self, tag: str, values: dict[str, str]) -> None:
        if tag == "article":
            self._row = self.lesions.setdefault(values["id"], {})
        elif "data-lesion" in values:
            self._row = self.lesions.setdefault(values["data-lesion"], {})
        elif "data-outcome" in values:
            self._row = self.outcomes.setdefault(values["data-outcome"], {})
        elif "data-visit" in values:
            self._row = self.visits.setdefault(values["data-visit"], {})
        elif tag == "data":
            before = self._row.setdefault(values["data-column"], values["value"])
            assert before == values["value"]


def raw_rows(*paths: Path) -> list[dict[str, str]]:
    """Return the rows of TSV files side by side, every value as the text that the files hold."""
    tables = []
    for path in paths:
        with path.open(encoding="utf-8", newline="") as lines:
            tables.append(list(csv.DictReader(lines, delimiter="\t")))
    return [{k: v for row in rows for k, v in row.items()} for rows in zip(*tables, strict=True)]


def same_number(shown: str, stored: str) -> bool:
    """Tell whether two texts state the very same number, or both none."""
    return shown == stored or ("n/a" not in (shown, stored) and float(shown) == float(stored))
