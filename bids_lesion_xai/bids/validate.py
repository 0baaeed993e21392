# SPDX-License-Identifier: Apache-2.0
"""Asking the BIDS validator about a dataset."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from bids_lesion_xai.errors import UnavailableError


def validate(dataset: Path, cache: Path, participants: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Return the issues that bids-validator-deno finds, each with `code` and `severity`.

    Parameters
    ----------
    dataset : Path
    cache : Path
        A folder that may be written to.
    participants : list of str, optional
        Labels of those that are looked at, with the files at the root of the dataset but for the
        list of all; everybody is if it is empty.

    Raises
    ------
    UnavailableError
        The validator is not installed or did not answer.
    """
    beside = shutil.which("bids-validator-deno", path=str(Path(sys.executable).parent))
    program = beside or shutil.which("bids-validator-deno")
    if program is None:
        message = "bids-validator-deno is not installed; use --skip-bids-validation."
        raise UnavailableError(message)
    if participants:
        with TemporaryDirectory(dir=cache) as folder:
            _link(dataset, participants, Path(folder))
            return _ask(program, Path(folder), cache)
    return _ask(program, dataset, cache)


def _link(dataset: Path, participants: Sequence[str], view: Path) -> None:
    """Fill a folder with links to files of some participants; linked folders are left out."""
    for path in dataset.iterdir():
        if path.is_file() and path.stem != "participants":
            (view / path.name).symlink_to(path)
    for label in participants:
        for folder, _, names in os.walk(dataset / f"sub-{label}"):
            place = view / Path(folder).relative_to(dataset)
            place.mkdir(exist_ok=True)
            for name in names:
                (place / name).symlink_to(Path(folder, name))


def _ask(program: str, dataset: Path, cache: Path) -> list[dict[str, Any]]:
    environment = os.environ | {"DENO_DIR": str(cache), "DENO_NO_UPDATE_CHECK": "1"}
    command = [program, "--json", str(dataset)]
    try:
        answer = subprocess.run(
            command, capture_output=True, text=True, env=environment, check=False
        )
    except OSError as error:
        message = f"{program} cannot be run ({error.strerror}); use --skip-bids-validation."
        raise UnavailableError(message) from error
    try:
        issues: list[dict[str, Any]] = json.loads(answer.stdout)["issues"]["issues"]
    except (ValueError, KeyError, TypeError) as error:
        message = (
            f"the BIDS validator did not answer ({answer.stderr.strip()[-200:]}); use "
            "--skip-bids-validation."
        )
        raise UnavailableError(message) from error
    return issues
