# SPDX-License-Identifier: Apache-2.0
"""Simulated people with true and false lesions, as the group level lists them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import special

from bids_lesion_xai.conventions import CHANNELS, SHELLS_MM
from bids_lesion_xai.group.collect import write_table


def simulate(
    n_people: int = 12,
    n_lesions: int = 60,
    *,
    signal: float = 0.0,
    leak: float = 0.0,
    seed: int = 0,
) -> pd.DataFrame:
    """Return lesions that volume and probability tell something of, and saliency perhaps more.

    Parameters
    ----------
    n_people, n_lesions : int
        Each person has `n_lesions`, and a quarter as many are missed.
    signal : float
        Standard deviations by which saliency differs between true and false lesions.
    leak : float
        Standard deviations by which it differs between people of many and of few false lesions,
        whatever the single lesion is.
    seed : int
    """
    rng = np.random.default_rng(seed)
    tables = []
    for number in range(n_people):
        rate = rng.uniform(0.2, 0.6)
        false = rng.random(n_lesions) < rate
        shift = signal * false + leak * rng.normal() + leak * 5 * (rate - 0.4)
        rows = _found(rng, false, shift)
        missed = pd.DataFrame({"volume_mm3": rng.uniform(6, 20, n_lesions // 4)})
        table = pd.concat([rows, missed.assign(outcome="FN")], ignore_index=True)
        table.insert(0, "participant_id", f"sub-{number + 1:02}")
        table.insert(1, "session_id", np.nan)
        table.insert(2, "index", np.arange(1, len(table) + 1))
        table.insert(3, "name", [f"L{index:03}" for index in table["index"]])
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def _found(rng: np.random.Generator, false: np.ndarray, shift: np.ndarray) -> pd.DataFrame:
    n = false.size
    mean = special.expit(rng.normal(1.0 - 0.8 * false, 0.8))
    columns = {
        "volume_mm3": np.exp(rng.normal(3.5 - 0.7 * false, 0.9)),
        "mean_probability": mean,
        "peak_probability": mean + (1 - mean) * rng.uniform(0.2, 0.8, n),
        "n_samples": np.full(n, 50),
        "flair_share": special.expit(rng.normal(1, 0.5, n)),
    }
    for channel in CHANNELS:
        peak = np.exp(rng.normal(-3, 0.3, n))
        own = {"peak": peak, "mean_inside": peak * rng.uniform(0.3, 0.8, n)}
        own |= {f"mean_shell_{mm}mm": peak * rng.normal(0, 0.1, n) for mm in SHELLS_MM}
        own["positive_inside"], own["negative_inside"] = rng.uniform(1, 2, n), -rng.random(n)
        own["positive_outside"], own["negative_outside"] = rng.uniform(1, 2, n), -rng.random(n)
        for mm in (50, 90, 95):
            own[f"distance_{mm}_mm"] = np.exp(rng.normal(mm / 50, 0.2, n))
        own |= {"sign_balance": rng.uniform(-1, 1, n), "compactness": rng.uniform(0.2, 1, n)}
        columns |= {f"{channel}_{key}": values for key, values in own.items()}
    columns["flair_mean_shell_1mm"] += columns["flair_peak"] * 0.1 * shift
    columns["t1w_mean_shell_10mm"][::7] = np.nan
    return pd.DataFrame(columns).assign(outcome=np.where(false, "FP", "TP"))


def write_run(folder: Path, table: pd.DataFrame, source: str | None = None) -> Path:
    """Write an output folder of the group level with the lesions `table`, and return it."""
    folder.mkdir(parents=True)
    write_table(table, folder / "group_lesions.tsv")
    if source is not None:
        description = {"Name": "out", "SourceDatasets": [{"URL": source}]}
        (folder / "dataset_description.json").write_text(json.dumps(description))
    return folder
