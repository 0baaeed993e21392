# SPDX-License-Identifier: Apache-2.0
"""Options: what is written, beside what always is."""

from __future__ import annotations

import argparse

from bids_lesion_xai.cli.arguments import add_choice

SPACES = ("T1w", "FLAIR")
SALIENCY_OUTPUTS = {
    "maps": "of each lesion, a map for each image",
    "summary": "the maps of all lesions together and the tables alone, a tenth of the files",
}
REPORT_VIEWERS = {
    "on": "NiiVue within the page, some megabytes",
    "off": "figures alone",
}


def add_outputs(parser: argparse.ArgumentParser) -> None:
    """Add what chooses what is written."""
    group = parser.add_argument_group("what to write")
    group.add_argument(
        "--output-spaces",
        nargs="+",
        type=space,
        default=list(SPACES),
        metavar="SPACE",
        help="T1w is where everything is computed and written; FLAIR adds the lesion mask on the "
        "native grid of FLAIR. No image is warped to a template",
    )
    add_choice(group, "--saliency-output", SALIENCY_OUTPUTS, "which maps are kept: ", "maps")
    add_choice(
        group, "--report-viewer", REPORT_VIEWERS, "interactive viewer in reports of visits: ", "on"
    )
    group.add_argument(
        "--write-graph",
        action="store_true",
        help="draw the steps of a visit into logs/; needs the program dot of graphviz, without "
        "which they are written as text",
    )
    group.add_argument(
        *("--resource-monitor", "--profile"),
        action="store_true",
        help="write time, cores and largest memory of every step to logs/run-*_resources.tsv",
    )
    group.add_argument(
        "--md-only-boilerplate",
        action="store_true",
        help="accepted, without effect: the methods are written as Markdown and BibTeX anyway",
    )


def space(text: str) -> str:
    """Return `text` if it names a space that images are written in; for argparse."""
    if text not in SPACES:
        message = (
            f"{text}: {' or '.join(SPACES)} is expected; no image is warped to a template, or "
            "resampled to another resolution"
        )
        raise argparse.ArgumentTypeError(message)
    return text
