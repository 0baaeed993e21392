# SPDX-License-Identifier: Apache-2.0
"""Options: the level group."""

from __future__ import annotations

import argparse


def add_group(parser: argparse.ArgumentParser) -> None:
    """Add what the level group does beside its tables."""
    group = parser.add_argument_group("the level group")
    group.add_argument(
        "--group-by",
        nargs="+",
        default=[],
        metavar="COLUMN",
        help="columns of participants.tsv that people are compared by; a "
        "column of numbers gives slopes, others levels that are compared in pairs",
    )
    group.add_argument(
        "--follow-lesions",
        action="store_true",
        help="find out which lesions of the sessions of one person are the "
        "same, so that changes over time are told",
    )
