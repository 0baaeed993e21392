# SPDX-License-Identifier: Apache-2.0
"""``bids-lesion-xai-train``: train the segmentation network and write it as a MONAI bundle."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from bids_lesion_xai.cli.arguments import (
    Formatter,
    above_zero,
    device,
    file_or_folder,
    fraction,
    positive,
    whole,
)
from bids_lesion_xai.cli.labelled import add_datasets, make_output, require_datasets, run_command
from bids_lesion_xai.errors import NotFoundError, UsageError
from bids_lesion_xai.training.options import LOSS_NAMES, NETWORKS, TrainingOptions

if TYPE_CHECKING:
    from bids_lesion_xai.training.folds import Material

_LOCK = "training.lock"
# Any of these is in the folder of a training from its start on.
_OF_A_TRAINING = (_LOCK, "checkpoint.pt", "folds")
_OF_A_BUNDLE = ("configs", "docs", "models")


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="bids-lesion-xai-train",
        description="Train the segmentation network on labelled scans and write a MONAI bundle. "
        "A run that was stopped goes on where it was when the same command is given again.",
        formatter_class=Formatter,
    )
    add_datasets(parser, "; masks without images serve as shapes of painted lesions")
    parser.add_argument(
        "--output",
        type=file_or_folder,
        required=True,
        help="bundle folder to write; its name is that of the model",
    )
    parser.add_argument("--bundle-version", default="0.1.0", metavar="TEXT", help="of the model")
    parser.add_argument(
        "--head-labels",
        type=file_or_folder,
        metavar="FOLDER",
        help="label maps of whole heads (FreeSurfer's numbers) that synthetic heads are made from",
    )
    parser.add_argument(
        "--synthetic-heads",
        type=positive,
        default=TrainingOptions.synthetic_heads,
        help="number of synthetic heads",
    )
    parser.add_argument(
        "--synthetic-share",
        type=fraction,
        default=TrainingOptions.synthetic_share,
        help="how often a patch is cut from a synthetic head",
    )
    parser.add_argument(
        "--tissue-weight",
        type=above_zero,
        default=TrainingOptions.tissue_weight,
        help="unet learns fluid, grey and white matter beside lesions, with this weight of their "
        "cross entropy; the bundle is without them (default: not at all)",
    )
    parser.add_argument(
        "--statistics-noise",
        type=above_zero,
        default=TrainingOptions.statistics_noise,
        help="how far mean and deviation of feature maps of unet are drawn from their own, as a "
        "multiple of how they differ over a batch of at least 2; 1 has helped people of sites "
        "that nobody was trained on (default: not at all)",
    )
    parser.add_argument(
        "--leave-out",
        nargs="+",
        default=[],
        metavar="DATASET/sub-LABEL",
        help="people who are kept out of the training and whom the result is evaluated on",
    )
    parser.add_argument(
        "--cross-validate",
        nargs="+",
        choices=("person", "site"),
        default=[],
        help="train once more without each person, or without each dataset, in OUTPUT/folds, and "
        "state what these networks reach on who was left out; with person, threshold and "
        "temperature of the bundle are chosen on the people left out",
    )
    parser.add_argument(
        "--network",
        choices=NETWORKS,
        default=TrainingOptions.network,
        help="architecture",
    )
    parser.add_argument(
        "--loss", choices=LOSS_NAMES, default=TrainingOptions.loss, help="loss function"
    )
    for option, unit in (
        ("steps", "optimiser steps"),
        ("batch_size", "patches in a step"),
        ("patch_size", "edge of a patch in voxels"),
    ):
        parser.add_argument(
            f"--{option.replace('_', '-')}",
            type=positive,
            default=getattr(TrainingOptions, option),
            help=unit,
        )
    parser.add_argument(
        "--fold-steps",
        type=positive,
        default=argparse.SUPPRESS,
        help="optimiser steps of the networks of --cross-validate (default: as many)",
    )
    parser.add_argument(
        "--learning-rate", type=above_zero, default=TrainingOptions.learning_rate, help="peak rate"
    )
    parser.add_argument("--seed", type=whole, default=0, help="seed of weights and patches")
    parser.add_argument(
        "--threshold",
        type=fraction,
        default=0.5,
        help="lesion probability, where --cross-validate person does not choose it",
    )
    parser.add_argument(
        "--peak-threshold",
        type=fraction,
        default=0.98,
        help="lesion probability that at least one voxel of a lesion has, or it is dropped",
    )
    parser.add_argument(
        "--workers",
        type=whole,
        default=max(1, (os.cpu_count() or 1) // 2),
        help="processes that make patches",
    )
    parser.add_argument("--device", type=device, default="auto", help="auto, cpu, cuda or cuda:N")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command line `argv` and return the exit code."""
    return run_command(build_parser(), _run, argv)


def _run(options: argparse.Namespace) -> None:
    from bids_lesion_xai.bids.dataset import find_labelled
    from bids_lesion_xai.models.network import choose_device
    from bids_lesion_xai.training.anatomy import load_anatomies
    from bids_lesion_xai.training.folds import Material
    from bids_lesion_xai.training.trial import Trial

    _check(options)
    files = [entry for dataset in options.datasets for entry in find_labelled(dataset)]
    anatomies = load_anatomies(options.head_labels) if options.head_labels else []
    material = Material(tuple(files), tuple(anatomies))
    _require_some_left(options, material)
    names = [field.name for field in fields(TrainingOptions) if hasattr(options, field.name)]
    trial = Trial(
        material,
        TrainingOptions(**{name: getattr(options, name) for name in names}),
        fold_steps=getattr(options, "fold_steps", options.steps),
        threshold=options.threshold,
        peak_threshold=options.peak_threshold,
        left_out=options.leave_out,
        device=choose_device(options.device),
        version=options.bundle_version,
        output=options.output,
    )
    with _alone_in(options.output):
        # With person, a threshold is chosen, at which lesion-free heads of sites are judged, too.
        for way in sorted(set(options.cross_validate)):
            trial.leave_out_each(way)
        trial.train()


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Keep a folder from a second training, which would write over the checkpoints of the first.

    Raises
    ------
    UsageError
        A training is at work there, or it holds a model that comes from elsewhere.
    """
    from filelock import FileLock, Timeout

    make_output(folder)
    content = {path.name for path in folder.iterdir()}
    if content & set(_OF_A_BUNDLE) and not content & set(_OF_A_TRAINING):
        message = f"--output {folder}: a model is there, and not its training. Name a new folder."
        raise UsageError(message)
    try:
        with FileLock(folder / _LOCK, blocking=False):
            yield
    except Timeout as error:
        message = f"--output {folder}: another training is at work there. Name another folder."
        raise UsageError(message) from error


def _check(options: argparse.Namespace) -> None:
    from bids_lesion_xai.training.architectures import ARCHITECTURES

    require_datasets(options.datasets)
    if options.head_labels and not options.head_labels.is_dir():
        message = f"--head-labels {options.head_labels}: a folder of label maps is expected."
        raise NotFoundError(message)
    network = ARCHITECTURES[options.network]
    if options.patch_size % network.multiple or options.patch_size < network.smallest:
        message = (
            f"--patch-size {options.patch_size}: a multiple of {network.multiple} of at least "
            f"{network.smallest} is expected for {options.network}."
        )
        raise UsageError(message)
    if options.patch_size == network.multiple and options.batch_size == 1:
        message = (
            f"--batch-size 1: with --patch-size {options.patch_size}, the deepest map is a single "
            "voxel, which batch norm cannot normalise. Take more patches, or larger ones."
        )
        raise UsageError(message)
    if options.tissue_weight and options.network != "unet":
        message = f"--tissue-weight: unet is expected, {options.network} learns lesions alone."
        raise UsageError(message)
    if options.statistics_noise and (options.network != "unet" or options.batch_size < 2):
        message = (
            "--statistics-noise: unet and a --batch-size of at least 2 are expected; the other "
            "networks have no batch norm, and a single patch differs from no other."
        )
        raise UsageError(message)


def _require_some_left(options: argparse.Namespace, material: Material) -> None:
    """Check that every network has somebody to be trained on, before hours are spent on one."""
    people = material.people
    unknown = sorted(set(options.leave_out) - set(people))
    if unknown:
        message = (
            f"--leave-out {', '.join(unknown)}: not among the labelled people with FLAIR and T1w, "
            f"{', '.join(people) or 'of whom there is none'}."
        )
        raise UsageError(message)
    left = material.of_others(options.leave_out)
    if not left.people:
        message = "--leave-out: nobody is left to train on."
        if not people:
            message = "No scan with FLAIR, T1w and lesion mask was found in the datasets."
        raise NotFoundError(message)
    for way, groups in (("person", left.people), ("site", left.sites)):
        if way in options.cross_validate and len(groups) == 1:
            beside = " beside those of --leave-out" if options.leave_out else ""
            message = (
                f"--cross-validate {way}: there is one {way} alone{beside}, {next(iter(groups))}; "
                "without it, nobody is left to train on."
            )
            raise NotFoundError(message)
