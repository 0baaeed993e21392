# SPDX-License-Identifier: Apache-2.0
"""Running as a user that the machine does not know."""

from __future__ import annotations

import getpass
import os


def name_the_user() -> None:
    """Give a user id without a name one: monai asks for the user's name when it is imported."""
    try:
        getpass.getuser()
    except (KeyError, OSError):
        os.environ["LOGNAME"] = f"uid{os.getuid()}"
