# SPDX-License-Identifier: Apache-2.0
"""Running as a user that the machine does not know."""

from __future__ import annotations

import getpass
import os
from pathlib import Path


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
