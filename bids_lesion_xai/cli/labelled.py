# SPDX-License-Identifier: Apache-2.0
"""What the commands on labelled datasets have in common."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from bids_lesion_xai.cli.user import name_the_user
from bids_lesion_xai.errors import INPUT_OUTPUT_ERROR, LesionXaiError, NotFoundError


def add_datasets(parser: argparse.ArgumentParser, more: str = "") -> None:
    """Add the labelled datasets, with `more` at the end of their help."""
    parser.add_argument(
        "datasets",
        nargs="+",
        type=Path,
        metavar="DATASET",
        help="BIDS derivative dataset with skull-stripped FLAIR and T1w (desc-brain or "
        f"desc-preproc) and lesion masks (label-lesion or label-L) on one 1 mm grid{more}",
    )


def require_datasets(datasets: Sequence[Path]) -> None:
    """Do nothing if every dataset is a folder.

    Raises
    ------
    NotFoundError
        One is not.
    """
    for dataset in datasets:
        if not dataset.is_dir():
            message = f"{dataset} is not a folder; a BIDS derivative dataset is expected."
            raise NotFoundError(message)


def run_command(
    parser: argparse.ArgumentParser,
    run: Callable[[argparse.Namespace], None],
    argv: list[str] | None,
) -> int:
    """Parse `argv`, run, tell progress and errors on standard error, return the exit code."""
    options = parser.parse_args(argv)
    name_the_user()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("bidsschematools").setLevel(logging.WARNING)
    try:
        run(options)
    except LesionXaiError as error:
        sys.stderr.write(f"{parser.prog}: {error}\n")
        return error.exit_code
    except OSError as error:
        sys.stderr.write(f"{parser.prog}: {error}\n")
        return INPUT_OUTPUT_ERROR
    return 0
