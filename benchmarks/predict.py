# SPDX-License-Identifier: Apache-2.0
"""What windows and flips change in a segmentation, and what they cost, in one run.

    python -m benchmarks.predict MODEL DATASET [DATASET ...]

Every labelled scan is segmented by the same network in each way, at the threshold of the model.
Times are of the network alone, as multiples of the whole volume in one pass.
"""

from __future__ import annotations

import argparse
import logging
import time
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch

from bids_lesion_xai.bids.dataset import find_labelled
from bids_lesion_xai.models.bundle import read_bundle
from bids_lesion_xai.models.inference import load_predictor
from bids_lesion_xai.models.network import choose_device
from bids_lesion_xai.training.evaluate import Setting, figures, predict
from bids_lesion_xai.training.results import by_person
from bids_lesion_xai.training.scans import load_scans, load_unseen

WINDOW = (96, 96, 96)
WAYS = {
    "whole volume": {},
    "whole volume, flip": {"flip": True},
    "windows of 96, overlap 1/4": {"window": WINDOW, "overlap": 0.25},
    "windows of 96, overlap 1/2": {"window": WINDOW, "overlap": 0.5},
}
SHOWN = ("dice", "f1", "n_false_positive", "n_false_positive_over_10mm3")


def main() -> None:
    """Print one row a way: means over people, and the time relative to the first way."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.predict", description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("datasets", type=Path, nargs="+")
    parser.add_argument(
        "--people-of-training",
        action="store_true",
        help="do not leave out people whom the model was trained on",
    )
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    logging.disable(logging.INFO)
    bundle = read_bundle(options.model)
    predictor = load_predictor(bundle, choose_device(options.device))
    files = [entry for dataset in options.datasets for entry in find_labelled(dataset)]
    scans = load_scans(files) if options.people_of_training else load_unseen(files, bundle)
    setting = Setting(bundle.threshold, peak_threshold=bundle.peak_threshold)
    rows = {}
    for name, way in WAYS.items():
        own = replace(predictor, **way)
        own(torch.from_numpy(scans[0].image))
        started = time.perf_counter()
        predictions = predict(own, scans)
        seconds = (time.perf_counter() - started) / len(scans)
        of_scans = [figures(one, setting)[0] for one in predictions]
        mean = by_person(of_scans).iloc[-1][list(SHOWN)]
        rows[name] = {**mean, "seconds": seconds}
    table = pd.DataFrame(rows).T.astype(float)
    table["relative time"] = table["seconds"] / table["seconds"].iloc[0]
    print(table.round(3).to_string())


if __name__ == "__main__":
    main()
