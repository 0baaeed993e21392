# SPDX-License-Identifier: Apache-2.0
"""Tables and figure of an evaluation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from bids_lesion_xai.training.evaluate import Prediction, Setting, curve, figures
from bids_lesion_xai.training.metrics import SIZE_CLASSES_MM3

# Figures that are averaged over the sessions of a person, then over people.
AVERAGED = (
    "dice",
    "normalised_dice",
    "tpr",
    "fdr",
    "f1",
    "tpr_iou25",
    "fdr_iou25",
    "f1_iou25",
    "n_false_positive",
    "n_false_positive_over_10mm3",
    "volume_error",
    "surface_distance_mm",
    "calibration_error_raw",
    "calibration_error",
)

_FIGURE = "evaluation.png"
_FILES = (
    *("scans.tsv", "people.tsv", "lesion_sizes.tsv", "reliability.tsv", "lesion_free.tsv"),
    _FIGURE,
)
# Told apart by colour-blind readers (Okabe and Ito, "Color universal design", 2008).
_COLOURS = ("#0072b2", "#e69f00", "#009e73", "#d55e00")


def clear_results(folder: Path) -> None:
    """Remove what `write_results` wrote into a folder before."""
    for name in _FILES:
        (folder / name).unlink(missing_ok=True)


def write_results(
    folder: Path,
    predictions: Iterable[Prediction],
    lesion_free: Iterable[Prediction],
    settings: Mapping[str, Setting],
) -> list[dict[str, Any]]:
    """Write tables and a figure of how well scans are segmented, and return the rows of the scans.

    Parameters
    ----------
    folder : Path
        Receives `scans.tsv`, `people.tsv`, `lesion_sizes.tsv`, `reliability.tsv` and
        `evaluation.png`, and `lesion_free.tsv` if there is such a head.
    predictions, lesion_free : iterable of Prediction
        Of real scans, and of synthetic heads without a lesion. Of each, only figures are kept.
    settings : dict of Setting
        For each person.

    Returns
    -------
    rows : list of dict
        See `evaluate.figures`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows, sizes, curves = [], [], []
    for prediction in predictions:
        setting = settings[prediction.scan.person]
        row, size = figures(prediction, setting)
        rows.append(row)
        sizes += size
        who = {"person": row["person"], "session": row["session"]}
        for stage, temperature in (("raw", 1.0), ("scaled", setting.temperature)):
            curves += [{**who, "log_odds": stage, **one} for one in curve(prediction, temperature)]
    free = [figures(one, settings[one.scan.person])[0] for one in lesion_free]
    tables = {
        "scans": _of_scans(rows),
        "people": by_person(rows),
        "lesion_sizes": pd.DataFrame(sizes),
        "reliability": pd.DataFrame(curves),
    }
    if free:
        columns = ["person", "trained_on"]
        columns += ["n_false_positive", "n_false_positive_over_10mm3", "volume_mm3"]
        tables["lesion_free"] = _of_scans(free)[columns]
    for name, table in tables.items():
        table.to_csv(
            folder / f"{name}.tsv", sep="\t", index=False, na_rep="n/a", float_format="%.6g"
        )
    draw(tables).savefig(folder / _FIGURE, dpi=150)
    return [*rows, *free]


def _of_scans(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    return pd.DataFrame([{**row, "trained_on": ", ".join(row["trained_on"])} for row in rows])


def by_person(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Return the figures averaged over the sessions of each person, and their mean over people.

    Returns
    -------
    table : DataFrame
        One row a person and a last one called ``mean``; columns `person` and those of `AVERAGED`
        that the rows have, for bundles of earlier versions lack some. What is nan for some is the
        mean of the others.
    """
    table = pd.DataFrame(rows)
    people = table.groupby("person")[[name for name in AVERAGED if name in table]].mean()
    people.loc["mean"] = people.mean()
    return people.reset_index()


def draw(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """Return a figure of the tables `people`, `lesion_sizes` and `reliability`."""
    figure = Figure(figsize=(13, 4.6), layout="constrained")
    overlap, size, calibration = figure.subplots(1, 3)
    people = tables["people"]
    positions = np.arange(len(people))
    shown = (("dice", "Dice"), ("f1", "lesion-wise F1"))
    for offset, ((column, name), colour) in enumerate(zip(shown, _COLOURS[:2], strict=True)):
        overlap.barh(positions + 0.38 * offset, people[column], 0.36, label=name, color=colour)
    overlap.set_yticks(positions + 0.19, people["person"])
    overlap.invert_yaxis()
    overlap.set(xlim=(0, 1), title="People")

    sums = tables["lesion_sizes"].drop(columns=["person", "session"]).groupby("size_mm3").sum()
    sums = sums.reindex(list(SIZE_CLASSES_MM3))
    positions = np.arange(len(sums))
    parts = {
        "reference lesions found": 1 - sums["n_missed"] / sums["n_reference"],
        "predicted lesions false": sums["n_false_positive"] / sums["n_predicted"],
    }
    for offset, ((name, values), colour) in enumerate(
        zip(parts.items(), _COLOURS[2:], strict=True)
    ):
        size.bar(positions + 0.38 * offset, values, 0.36, label=name, color=colour)
    size.set_xticks(positions + 0.19, sums.index)
    size.set(ylim=(0, 1), title="Lesions by size", xlabel="volume in mm³")

    calibration.plot([0, 1], [0, 1], color="0.7", linewidth=1)
    stages = tables["reliability"].groupby("log_odds", sort=False)
    for (stage, curve_of_stage), colour in zip(stages, _COLOURS[:2], strict=True):
        weight = curve_of_stage["n_voxels"]
        columns = ["probability", "lesion_part"]
        weighted = (
            curve_of_stage[columns].mul(weight, axis=0).groupby(curve_of_stage["from"]).sum()
        )
        points = weighted.div(weight.groupby(curve_of_stage["from"]).sum(), axis=0)
        line = points["probability"], points["lesion_part"]
        calibration.plot(*line, marker="o", label=f"log-odds {stage}", color=colour)
    calibration.set(xlim=(0, 1), ylim=(0, 1), title="Calibration", xlabel="predicted probability")
    calibration.set_ylabel("part of the voxels that is lesion")
    for axes in (overlap, size, calibration):
        below = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.12), "frameon": False}
        axes.legend(ncols=2, **below)
    return figure
