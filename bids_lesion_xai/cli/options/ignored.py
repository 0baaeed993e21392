# SPDX-License-Identifier: Apache-2.0
"""Options of other apps that have nothing to do here: platforms and habits give them."""

from __future__ import annotations

import argparse

_FLAGS = {
    "--notrack": "nothing is ever sent anywhere",
    "--no-sub": "nothing is ever sent anywhere",
    "--no-datalad-get": "files that are not here are never fetched; their visits are named and "
    "skipped",
    "--skull-strip-fixed-seed": "finding the brain is not random",
}


def add_ignored(parser: argparse.ArgumentParser) -> None:
    """Add options that are accepted and mean nothing."""
    group = parser.add_argument_group("accepted, without effect")
    for flag, reason in _FLAGS.items():
        group.add_argument(flag, action="store_true", help=reason)
    group.add_argument(
        "--output-layout",
        choices=("bids",),
        default="bids",
        help="the outputs are BIDS derivatives; there is no other way",
    )
    group.add_argument(
        "--skull-strip-template",
        metavar="TEMPLATE",
        help="the brain is found without a template",
    )
