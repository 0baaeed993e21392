# SPDX-License-Identifier: Apache-2.0
"""Options: how images become lesions."""

from __future__ import annotations

import argparse

from bids_lesion_xai.cli.arguments import add_choice, file_or_folder, fraction, not_negative
from bids_lesion_xai.conventions import DEFAULT_MIN_VOLUME_MM3, TTA
from bids_lesion_xai.models.bundle import DEFAULT_BUNDLE


def add_segmentation(parser: argparse.ArgumentParser) -> None:
    """Add what chooses how images become lesions."""
    group = parser.add_argument_group("how to preprocess and segment")
    strip = group.add_mutually_exclusive_group()
    strip.add_argument(
        *("--skull-strip", "--skull-strip-t1w"),
        choices=("auto", "force", "skip"),
        default="auto",
        help="find the brain always (force), never (skip: the images are stripped), or only if "
        "the T1w still has a skull (auto)",
    )
    strip.add_argument(
        "--skull-stripped",
        dest="skull_strip",
        action="store_const",
        const="skip",
        default="auto",
        help="the same as --skull-strip skip",
    )
    group.add_argument(
        "--registration",
        choices=("auto", "force", "skip"),
        default="auto",
        help="register FLAIR to T1w always (force), never (skip: the headers are right), or "
        "unless both are stripped and on one grid already, and match (auto)",
    )
    group.add_argument(
        "--model",
        type=file_or_folder,
        default=DEFAULT_BUNDLE,
        metavar="FOLDER",
        help="MONAI bundle; the shipped one if not given",
    )
    group.add_argument(
        "--threshold",
        type=fraction,
        metavar="P",
        help="lesion probability from which a voxel is lesion; the model's own if not given",
    )
    group.add_argument(
        "--peak-threshold",
        type=fraction,
        metavar="P",
        help="lesion probability that at least one voxel of a lesion has, or it is dropped; the "
        "model's own if not given, and never below --threshold",
    )
    group.add_argument(
        "--min-lesion-volume",
        type=not_negative,
        default=DEFAULT_MIN_VOLUME_MM3,
        metavar="MM3",
        help="smaller lesions are dropped",
    )
    add_choice(
        group, "--tta", TTA, "what is segmented and explained, by default as --preset says: "
    )
