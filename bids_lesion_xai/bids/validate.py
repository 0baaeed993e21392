# SPDX-License-Identifier: Apache-2.0
"""Asking the BIDS validator about a dataset."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from bids_lesion_xai.errors import UnavailableError


def validate(dataset: Path, cache: Path) -> list[dict[str, Any]]:
    """Return the issues that bids-validator-deno finds, each with `code` and `severity`.

    Parameters
    ----------
    dataset : Path
    cache : Path
        A folder that the validator may write to.

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
