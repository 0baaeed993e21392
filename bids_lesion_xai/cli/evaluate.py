# SPDX-License-Identifier: Apache-2.0
"""``bids-lesion-xai-evaluate``: state how well a model segments labelled scans."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from bids_lesion_xai import __version__
from bids_lesion_xai.cli.arguments import Formatter, device, file_or_folder, fraction, not_negative
from bids_lesion_xai.cli.labelled import add_datasets, make_output, require_datasets, run_command
from bids_lesion_xai.conventions import DEFAULT_MIN_VOLUME_MM3, TTA
from bids_lesion_xai.errors import DataError, LesionXaiError, NotFoundError

if TYPE_CHECKING:
    from bids_lesion_xai.bids.dataset import LabelledFiles
    from bids_lesion_xai.models.bundle import Bundle
    from bids_lesion_xai.models.inference import Predictor
    from bids_lesion_xai.training.evaluate import Prediction

log = logging.getLogger(__name__)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="bids-lesion-xai-evaluate",
        description="Segment labelled scans as the app does and compare them with their reference "
        "masks: Dice and normalised Dice, lesion-wise rates, volume, surface distance, lesions by "
        "size, calibration. People whom the model was trained on are left out.",
        formatter_class=Formatter,
    )
    parser.add_argument("model", type=file_or_folder, metavar="MODEL", help="MONAI bundle folder")
    add_datasets(parser)
    parser.add_argument(
        "--output", type=file_or_folder, required=True, help="folder of the tables and the figure"
    )
    parser.add_argument(
        "--threshold",
        type=fraction,
        default=argparse.SUPPRESS,
        help="lesion probability (default: that of the model)",
    )
    parser.add_argument(
        "--peak-threshold",
        type=fraction,
        default=argparse.SUPPRESS,
        help="lesion probability that at least one voxel of a lesion has (default: that of the "
        "model)",
    )
    parser.add_argument(
        "--min-lesion-volume",
        type=not_negative,
        default=DEFAULT_MIN_VOLUME_MM3,
        metavar="MM3",
        help="smaller predicted lesions are dropped",
    )
    parser.add_argument(
        "--tta",
        choices=tuple(TTA),
        default="flip",
        help="; ".join(f"{name}: {text}" for name, text in TTA.items()),
    )
    parser.add_argument(
        "--people-of-training",
        action="store_true",
        help="do not leave out people whom the model was trained on",
    )
    parser.add_argument("--device", type=device, default="auto", help="auto, cpu, cuda or cuda:N")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command line `argv` and return the exit code."""
    return run_command(build_parser(), _run, argv)


def _run(options: argparse.Namespace) -> None:
    from bids_lesion_xai.bids.sidecar import to_json
    from bids_lesion_xai.models.bundle import read_bundle
    from bids_lesion_xai.models.inference import load_predictor
    from bids_lesion_xai.models.network import allow_tf32, check_network, choose_device
    from bids_lesion_xai.training.evaluate import Setting
    from bids_lesion_xai.training.results import clear_results, write_results

    require_datasets(options.datasets)
    bundle = read_bundle(options.model)
    check_network(bundle)
    # As the app does, unless it is told otherwise.
    allow_tf32(allowed=False)
    predictor = load_predictor(bundle, choose_device(options.device), flip=options.tta == "flip")
    chosen = _choose(options, bundle)
    stated = (getattr(options, name, None) for name in ("threshold", "peak_threshold"))
    threshold, peak = bundle.thresholds(*stated)
    setting = Setting(threshold, min_volume_mm3=options.min_lesion_volume, peak_threshold=peak)
    # Fails now, not when everything is segmented.
    make_output(options.output)
    clear_results(options.output)
    settings = {entry.person: setting for entry in chosen}
    failed: list[DataError] = []
    made_by = {
        "GeneratedBy": {"Name": "bids_lesion_xai", "Version": __version__},
        "Model": {"Name": bundle.name, "Version": bundle.version, "SHA256": bundle.sha256},
        "TestTimeAugmentation": options.tta,
        "Threshold": threshold,
        "PeakThreshold": peak,
        "MinimumVolume_mm3": options.min_lesion_volume,
        "PeopleOfTraining": options.people_of_training,
        "Datasets": [dataset.resolve().name for dataset in options.datasets],
    }
    (options.output / "evaluation.json").write_text(to_json(made_by), encoding="utf-8")
    predictions = _predictions(chosen, predictor, bundle.trained_on, failed)
    write_results(options.output, predictions, [], settings)
    log.info("wrote %s", options.output)
    if failed:
        reasons = "\n".join(map(str, failed))
        message = f"{len(failed)} of {len(chosen)} scans could not be evaluated:\n{reasons}"
        raise LesionXaiError(message)


def _choose(options: argparse.Namespace, bundle: Bundle) -> list[LabelledFiles]:
    """Return the scans to evaluate, and tell who is left out.

    Raises
    ------
    NotFoundError
        There is none.
    """
    from bids_lesion_xai.bids.dataset import find_labelled
    from bids_lesion_xai.training.scans import unseen

    scans = []
    for entry in (one for dataset in options.datasets for one in find_labelled(dataset)):
        if entry.flair and entry.t1w:
            scans.append(entry)
        else:
            missing = "T1w" if entry.flair else "FLAIR"
            log.info("%s: left out, there is no %s on the grid of the mask", entry.visit, missing)
    chosen = scans
    if options.people_of_training:
        log.warning(
            "--people-of-training: whom a model was trained on, it segments better than others"
        )
    else:
        chosen = unseen(scans, bundle)
    if not chosen:
        people = ", ".join(sorted({entry.person for entry in scans})) or "nobody"
        message = (
            "No scan with FLAIR, T1w and lesion mask was found of a person whom the model was not "
            f"trained on (found: {people}). See --people-of-training."
        )
        raise NotFoundError(message)
    return chosen


def _predictions(
    files: Sequence[LabelledFiles],
    predictor: Predictor,
    trained_on: Sequence[str],
    failed: list[DataError],
) -> Iterator[Prediction]:
    """Yield what a network says of each scan, so that one at a time is in memory.

    `failed` receives why scans cannot be read or segmented; where none can, this is raised.
    """
    from bids_lesion_xai.training.evaluate import predict
    from bids_lesion_xai.training.scans import load_scans

    for number, entry in enumerate(files, 1):
        log.info("scan %d of %d", number, len(files))
        try:
            yield from predict(predictor, load_scans([entry]), trained_on)
        except DataError as error:
            failed.append(error)
    if len(failed) == len(files):
        raise DataError("\n".join(map(str, failed)))
