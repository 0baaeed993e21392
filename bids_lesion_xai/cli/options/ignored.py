# SPDX-License-Identifier: Apache-2.0
"""Options of other apps that have nothing to do here: platforms and habits give them."""

from __future__ import annotations

import argparse

_IGNORED = {
    ("--notrack",): "nothing is ever sent anywhere",
    ("--no-sub", "--no_sub"): "nothing is ever sent anywhere",
    ("--no-datalad-get", "--no_datalad_get"): "files that are not here are never fetched; their "
    "visits are named and skipped",
    ("--skull-strip-fixed-seed",): "finding the brain is not random",
}


def add_ignored(parser: argparse.ArgumentParser) -> None:
    """Add options that are accepted and mean nothing."""
    group = parser.add_argument_group("accepted, without effect")
    for flags, reason in _IGNORED.items():
        group.add_argument(*flags, action="store_true", help=reason)
