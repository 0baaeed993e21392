# SPDX-License-Identifier: Apache-2.0
"""Options: which part of the work is done, and how a run goes on."""

from __future__ import annotations

import argparse

from bids_lesion_xai.cli.arguments import file_or_folder


def add_running(parser: argparse.ArgumentParser) -> None:
    """Add what chooses which part of the work is done, and how."""
    group = parser.add_argument_group("how to run")
    part = group.add_mutually_exclusive_group()
    part.add_argument(
        "--dry-run",
        action="store_true",
        help="tell for every visit which images would be taken, which not and why, and about how "
        "much time, memory and disk it would take; write nothing",
    )
    part.add_argument(
        "--reports-only",
        action="store_true",
        help="make the reports anew from what is in OUTPUT_DIR; neither images of BIDS_DIR nor "
        "intermediate files are needed",
    )
    part.add_argument(
        "--boilerplate-only",
        action="store_true",
        help="write logs/CITATION.md and logs/CITATION.bib alone",
    )
    group.add_argument(
        "--dry-run-table",
        type=file_or_folder,
        metavar="FILE",
        help="with --dry-run: write a table (TSV) of the visits as well",
    )
    group.add_argument(
        "--config-file",
        type=file_or_folder,
        metavar="FILE",
        help="options in TOML, such as logs/run-*.toml of a former run; those of the command line "
        "win over it",
    )
    group.add_argument(
        "--stop-on-first-crash",
        action="store_true",
        help="stop all visits when one fails; without it, the others are done",
    )
    group.add_argument(
        "--clean-workdir",
        action="store_true",
        help="remove what former runs left in the work folder of these visits, and nothing else, "
        "before they are processed",
    )
    group.add_argument(
        *("--sloppy", "--testing"),
        action="store_true",
        help="for tests of an installation, never for results: two noise samples, one pass "
        "without the mirror image (--tta none), and a coarse bias field",
    )
    group.add_argument(
        *("-v", "--verbose"),
        action="count",
        default=0,
        help="tell more; twice for everything",
    )
    group.add_argument("--debug", action="store_true", help="the same as -vv")
