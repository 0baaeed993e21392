# SPDX-License-Identifier: Apache-2.0
"""What the commands on labelled datasets have in common."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryFile

from bids_lesion_xai.cli.arguments import file_or_folder
from bids_lesion_xai.cli.user import complete_user
from bids_lesion_xai.errors import (
    INPUT_OUTPUT_ERROR,
    INTERRUPTED,
    OUT_OF_MEMORY,
    LesionXaiError,
    NotFoundError,
    OutputError,
    UsageError,
    is_starved,
)


def add_datasets(parser: argparse.ArgumentParser, more: str = "") -> None:
    """Add the labelled datasets, with `more` at the end of their help."""
    parser.add_argument(
        "datasets",
        nargs="+",
        type=file_or_folder,
        metavar="DATASET",
        help="BIDS derivative dataset with skull-stripped FLAIR and T1w (desc-brain or "
        f"desc-preproc) and lesion masks (label-lesion or label-L) on one 1 mm grid{more}",
    )


def require_datasets(datasets: Sequence[Path]) -> None:
    """Do nothing if every dataset is a folder with a name of its own.

    Raises
    ------
    NotFoundError
        One is not.
    UsageError
        Two have one name, by which people are told apart.
    """
    for dataset in datasets:
        if not dataset.is_dir():
            message = f"{dataset} is not a folder; a BIDS derivative dataset is expected."
            raise NotFoundError(message)
    names = [dataset.resolve().name for dataset in datasets]
    for name in names:
        if names.count(name) > 1:
            message = (
                f"{name}: two datasets have this name, and people of one label would be taken for "
                "one person. Name each dataset once, and rename folders that differ."
            )
            raise UsageError(message)


def make_output(folder: Path) -> None:
    """Make a folder, with those it lies in, and try to write into it.

    Raises
    ------
    OutputError
        It cannot be made or written.
    UsageError
        It is a dataset.
    """
    if (folder / "dataset_description.json").exists():
        message = f"--output {folder} is a dataset. Name another folder."
        raise UsageError(message)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        message = f"--output {folder} cannot be written ({error.strerror}). Name another folder."
        raise OutputError(message) from error


def run_command(
    parser: argparse.ArgumentParser,
    run: Callable[[argparse.Namespace], None],
    argv: list[str] | None,
) -> int:
    """Parse `argv`, run, tell progress and errors on standard error, return the exit code."""
    options = parser.parse_args(argv)
    complete_user()
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
    except (MemoryError, RuntimeError) as error:
        # torch raises RuntimeError, or one of its own that is such.
        if not is_starved(f"{type(error).__name__}: {error}"):
            raise
        sys.stderr.write(f"{parser.prog}: memory does not suffice\n")
        return OUT_OF_MEMORY
    except KeyboardInterrupt:
        sys.stderr.write(f"{parser.prog}: interrupted\n")
        return INTERRUPTED
    return 0
