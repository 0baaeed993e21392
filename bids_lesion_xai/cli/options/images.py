# SPDX-License-Identifier: Apache-2.0
"""Options: which images."""

from __future__ import annotations

import argparse

from bids_lesion_xai.cli.arguments import file_or_folder, labels, named_folder


def add_images(parser: argparse.ArgumentParser) -> None:
    """Add what chooses participants, sessions and their images."""
    group = parser.add_argument_group("which images")
    group.add_argument(
        *("--participant-label", "--participant-labels"),
        nargs="+",
        type=labels("sub-"),
        default=[],
        metavar="LABEL",
        help="participants to process, with or without sub-; several by spaces or commas; @FILE "
        "takes those in a file, such as participants.tsv; all if not given",
    )
    group.add_argument(
        *("--session-label", "--session-labels", "--session-id"),
        nargs="+",
        type=labels("ses-"),
        default=[],
        metavar="LABEL",
        help="sessions to process, with or without ses-, given in the same ways; all if not given",
    )
    group.add_argument(
        "--bids-filter-file",
        type=file_or_folder,
        metavar="FILE",
        help="JSON file with the keys flair and t1w that says which images may be taken, such as "
        '{"flair": {"acquisition": ["3D", "2D"], "run": 1, "ceagent": null}}: a value, a list '
        'with the preferred value first, null for an absent and "*" for any entity',
    )
    group.add_argument(
        "--bids-database-dir",
        type=file_or_folder,
        metavar="FOLDER",
        help="folder of an index by pybids (layout_index.sqlite), used instead of looking for the "
        "files; it is made if it is not there, and anew if folders of the dataset are younger",
    )
    group.add_argument(
        "--bids-database-wipe",
        action="store_true",
        help="make the index of --bids-database-dir anew in any case",
    )
    group.add_argument(
        "--reference-masks",
        type=file_or_folder,
        metavar="DATASET",
        help="BIDS derivatives with masks label-lesion_mask or label-L_mask in the space of T1w "
        "or FLAIR: lesions are told right from wrong, and missed lesions and control regions are "
        "explained as well",
    )
    group.add_argument(
        "--tissue-maps",
        type=file_or_folder,
        metavar="DATASET",
        help="BIDS derivatives with desc-aseg_dseg or desc-aparcaseg_dseg in the space of T1w, as "
        "fMRIPrep writes them: where each lesion lies, and normal-appearing white matter, come "
        "from these",
    )
    group.add_argument(
        *("-d", "--derivatives"),
        nargs="+",
        action="extend",
        type=named_folder,
        default=[],
        metavar="[NAME=]DATASET",
        help="BIDS derivatives whose desc-brain_mask in the space of T1w, and label-lesion_mask "
        "or label-L_mask, are taken for the visits that have them, instead of being computed; "
        "NAME is that of the dataset in the output, that of its folder if not given",
    )
    group.add_argument(
        "--existing-lesion-mask",
        type=file_or_folder,
        metavar="DATASET",
        help="BIDS derivatives with masks label-lesion_mask or label-L_mask in the space of T1w "
        "or FLAIR, drawn by hand or by another tool: these lesions are explained, not those that "
        "the model finds, and a visit without a mask is skipped",
    )
    group.add_argument(
        *("--skip-bids-validation", "--skip-bids-validator"),
        action="store_true",
        help="do not run the BIDS validator on the input",
    )
    group.add_argument(
        "--subject-anatomical-reference",
        choices=("sessionwise",),
        default="sessionwise",
        help="every session has a reference of its own, its T1w; there is no other way",
    )
