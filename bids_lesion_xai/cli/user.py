# SPDX-License-Identifier: Apache-2.0
"""Running as a user that the machine does not know."""

from __future__ import annotations

import getpass
import os
import stat
from pathlib import Path

from bids_lesion_xai.errors import OutputError

# Of a user who names none, in the folder of temporary files.
WORK_FOLDER = f"bids_lesion_xai_work_{os.getuid()}"


def complete_user() -> None:
    """Give the user a name and a home folder, where the machine has none.

    monai asks for the name, and pybids looks for its settings in the home folder, when they are
    imported.
    """
    try:
        getpass.getuser()
    except (KeyError, OSError):
        os.environ["LOGNAME"] = f"uid{os.getuid()}"
    try:
        home = Path.home()
    except RuntimeError:
        home = None
    if home is None or not os.access(home, os.R_OK | os.X_OK):
        # As docker has it; nobody else can have put settings there.
        os.environ["HOME"] = "/"


def require_private(folder: Path) -> None:
    """Check that nobody else can have put files into a folder: results are unpickled from it.

    Raises
    ------
    OutputError
        It is another user's, or others may write to it.
    """
    status = folder.stat()
    if status.st_uid != os.getuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        message = (
            f"{folder} is not yours alone, and its content could be of somebody else. Remove it, "
            "or name a --work-dir."
        )
        raise OutputError(message)
