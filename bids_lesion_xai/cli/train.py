# SPDX-License-Identifier: Apache-2.0
"""``bids-lesion-xai-train``: train the segmentation network and write it as a MONAI bundle."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bids_lesion_xai.cli.parser import fraction, positive
from bids_lesion_xai.cli.user import name_the_user
from bids_lesion_xai.errors import LesionXaiError, NotFoundError, UsageError
from bids_lesion_xai.training.options import LOSS_NAMES, NETWORKS, TrainingOptions

if TYPE_CHECKING:
    from bids_lesion_xai.bids.dataset import LabelledFiles
    from bids_lesion_xai.training.folds import Fold, Material


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
    parser.add_argument(
        "--head-labels",
        type=Path,
        metavar="FOLDER",
        help="label maps of whole heads (FreeSurfer's numbers) that synthetic heads are made from",
    )
    parser.add_argument(
        "--synthetic-heads", type=positive, default=60, help="number of synthetic heads"
    )
    parser.add_argument(
        "--synthetic-share",
        type=fraction,
        default=TrainingOptions.synthetic_share,
        help="how often a patch is cut from a synthetic head",
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
        "--learning-rate", type=float, default=TrainingOptions.learning_rate, help="peak rate"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of weights and patches")
    parser.add_argument(
        "--threshold",
        type=fraction,
        default=0.5,
        help="lesion probability, where --cross-validate person does not choose it",
    )
    parser.add_argument(
        "--workers",
        type=int,
        default=max(1, (os.cpu_count() or 1) // 2),
        help="processes that make patches",
    )
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
    from bids_lesion_xai.training.anatomy import load_anatomies
    from bids_lesion_xai.training.folds import Material

    _check(options)
    files = [entry for dataset in options.datasets for entry in find_labelled(dataset)]
    _require_known(options.leave_out, files)
    names = {field.name for field in fields(TrainingOptions)}
    training = TrainingOptions(
        **{name: value for name, value in vars(options).items() if name in names}
    )
    anatomies = load_anatomies(options.head_labels) if options.head_labels else []
    trial = _Trial(options, training, Material(tuple(files), tuple(anatomies)))
    for way in options.cross_validate:
        trial.leave_out_each(way)
    trial.train()


class _Trial:
    """A network for users, and others that tell what it is worth.

    Parameters
    ----------
    options : Namespace
    training : TrainingOptions
    material : Material
    """

    def __init__(
        self, options: argparse.Namespace, training: TrainingOptions, material: Material
    ) -> None:
        from bids_lesion_xai.models.network import choose_device
        from bids_lesion_xai.training.evaluate import Setting

        self._training, self._material = training, material
        self._output, self._left_out = options.output, options.leave_out
        self._device = choose_device(options.device)
        self._default = self._chosen = Setting(options.threshold)
        self._rows: list[dict[str, Any]] = []

    def leave_out_each(self, way: str) -> None:
        """Train without each ``person``, or each ``site``, and write what comes of it."""
        from bids_lesion_xai.training.evaluate import fit
        from bids_lesion_xai.training.folds import leave_out

        material = self._material
        groups = {person: [person] for person in material.people}
        if way == "site":
            groups = material.sites
        folder = self._output / "folds" / way
        folds = [
            leave_out(material, people, self._training, self._device, folder / name)
            for name, people in groups.items()
        ]
        if way == "person":
            self._chosen = fit([one for fold in folds for one in fold.predictions])
        self._judge(way, folds, groups)

    def train(self) -> None:
        """Train the network for users, and write it as a bundle."""
        from bids_lesion_xai.training.folds import predict_left_out, train_on
        from bids_lesion_xai.training.write import write_bundle

        material = self._material
        if self._left_out:
            material = material.without(self._left_out)
        network = train_on(material, self._training, self._device, self._output)
        if self._left_out:
            fold = predict_left_out(self._material, self._left_out, network, self._training)
            self._judge("chosen", [fold], {"chosen": self._left_out})
        write_bundle(
            self._output,
            network,
            trained_on=material.people,
            training=self._training,
            setting=self._chosen,
            evaluation=self._rows,
        )

    def _judge(self, way: str, folds: Sequence[Fold], groups: Mapping[str, Sequence[str]]) -> None:
        from bids_lesion_xai.training.evaluate import fit_on_others
        from bids_lesion_xai.training.results import write_results

        predictions = [one for fold in folds for one in fold.predictions]
        free = [one for fold in folds for one in fold.lesion_free]
        settings = fit_on_others(predictions, groups, self._default)
        settings |= {one.scan.person: self._chosen for one in free}
        rows = write_results(self._output / "evaluation" / way, predictions, free, settings)
        self._rows += [{"left_out": way, **row} for row in rows]


def _check(options: argparse.Namespace) -> None:
    from bids_lesion_xai.training.architectures import ARCHITECTURES

    for dataset in options.datasets:
        if not dataset.is_dir():
            message = f"{dataset} is not a folder; a BIDS derivative dataset is expected."
            raise NotFoundError(message)
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


def _require_known(left_out: Sequence[str], files: Sequence[LabelledFiles]) -> None:
    unknown = set(left_out) - {entry.person for entry in files}
    if unknown:
        message = (
            f"--leave-out {', '.join(sorted(unknown))}: not among the labelled people "
            f"{', '.join(sorted({entry.person for entry in files}))}."
        )
        raise UsageError(message)
