# SPDX-License-Identifier: Apache-2.0
"""``bids-lesion-xai-train``: train the segmentation network and write it as a MONAI bundle."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bids_lesion_xai.cli.parser import fraction, positive
from bids_lesion_xai.cli.user import name_the_user
from bids_lesion_xai.errors import LesionXaiError, NotFoundError, UsageError

if TYPE_CHECKING:
    import torch

    from bids_lesion_xai.bids.dataset import LabelledFiles
    from bids_lesion_xai.training.trainer import TrainingOptions


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="bids-lesion-xai-train",
        description="Train the segmentation network on labelled scans and write a MONAI bundle. "
        "A run that was stopped goes on where it was when the same command is given again.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "datasets",
        nargs="+",
        type=Path,
        metavar="DATASET",
        help="BIDS derivative dataset with skull-stripped FLAIR and T1w (desc-brain or "
        "desc-preproc) and lesion masks (label-lesion or label-L) on one 1 mm grid; masks "
        "without images serve as shapes of painted lesions",
    )
    parser.add_argument("--output", type=Path, required=True, help="bundle folder to write")
    evaluation = parser.add_mutually_exclusive_group()
    evaluation.add_argument(
        "--leave-out",
        nargs="+",
        default=[],
        metavar="DATASET/sub-LABEL",
        help="people who are kept out of the training and whom the result is evaluated on",
    )
    evaluation.add_argument(
        "--cross-validate",
        action="store_true",
        help="train once more for every person with images, without that person, in "
        "OUTPUT/folds, and state what these networks reach on the person left out; the bundle "
        "itself is trained on all",
    )
    parser.add_argument("--steps", type=positive, default=3000, help="optimiser steps")
    parser.add_argument("--batch-size", type=positive, default=2, help="patches in a step")
    parser.add_argument(
        "--patch-size", type=positive, default=80, help="edge of a patch in voxels"
    )
    parser.add_argument("--learning-rate", type=float, default=1e-3, help="peak learning rate")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights and patches")
    parser.add_argument("--threshold", type=fraction, default=0.5, help="lesion probability")
    parser.add_argument("--workers", type=int, default=1, help="processes that make patches")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command line `argv` and return the exit code."""
    options = build_parser().parse_args(argv)
    name_the_user()
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", force=True
    )
    logging.getLogger("bidsschematools").setLevel(logging.WARNING)
    try:
        _run(options)
    except LesionXaiError as error:
        sys.stderr.write(f"bids-lesion-xai-train: {error}\n")
        return error.exit_code
    return 0


def _run(options: argparse.Namespace) -> None:
    from bids_lesion_xai.bids.dataset import find_labelled
    from bids_lesion_xai.training.trainer import TrainingOptions
    from bids_lesion_xai.training.write import write_bundle

    _check(options)
    files = [entry for dataset in options.datasets for entry in find_labelled(dataset)]
    _require_known(options.leave_out, files)
    training = TrainingOptions(
        steps=options.steps,
        batch_size=options.batch_size,
        patch_size=options.patch_size,
        learning_rate=options.learning_rate,
        seed=options.seed,
        workers=options.workers,
    )
    people = sorted({entry.person for entry in files if entry.flair and entry.t1w})
    figures: list[dict[str, Any]] = []
    for person in people if options.cross_validate else ():
        folder = options.output / "folds" / person.replace("/", "_")
        figures += _train(options, training, files, [person], folder)[1]
    network, own = _train(options, training, files, options.leave_out, options.output)
    write_bundle(
        options.output,
        network,
        trained_on=[person for person in people if person not in options.leave_out],
        training=training,
        threshold=options.threshold,
        evaluation=figures + own,
    )


def _train(
    options: argparse.Namespace,
    training: TrainingOptions,
    files: Sequence[LabelledFiles],
    left_out: Sequence[str],
    folder: Path,
) -> tuple[torch.nn.Module, list[dict[str, Any]]]:
    """Train without the people `left_out`; return the network and its figures on them."""
    from bids_lesion_xai.models.network import choose_device
    from bids_lesion_xai.training.evaluate import evaluate
    from bids_lesion_xai.training.scans import load_masks, load_scans
    from bids_lesion_xai.training.trainer import train

    device = choose_device(options.device)
    kept = [entry for entry in files if entry.person not in left_out]
    scans = load_scans(kept)
    if not scans:
        message = "No scan with FLAIR, T1w and lesion mask is left to train on."
        raise NotFoundError(message)
    folder.mkdir(parents=True, exist_ok=True)
    network = train(scans, load_masks(kept), training, device=device, folder=folder)
    others = load_scans(entry for entry in files if entry.person in left_out)
    figures = evaluate(network, others, threshold=options.threshold, device=device)
    trained_on = sorted({scan.person for scan in scans})
    return network, [{**row, "trained_on": trained_on} for row in figures]


def _check(options: argparse.Namespace) -> None:
    for dataset in options.datasets:
        if not dataset.is_dir():
            message = f"{dataset} is not a folder; a BIDS derivative dataset is expected."
            raise NotFoundError(message)
    if options.patch_size % 16 or options.patch_size <= 0:
        message = f"--patch-size {options.patch_size}: a positive multiple of 16 is expected."
        raise UsageError(message)


def _require_known(left_out: Sequence[str], files: Sequence[LabelledFiles]) -> None:
    unknown = set(left_out) - {entry.person for entry in files}
    if unknown:
        message = (
            f"--leave-out {', '.join(sorted(unknown))}: not among the labelled people "
            f"{', '.join(sorted({entry.person for entry in files}))}."
        )
        raise UsageError(message)
