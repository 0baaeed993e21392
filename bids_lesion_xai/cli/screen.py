# SPDX-License-Identifier: Apache-2.0
"""The standard output, which a reader may close and a full disk may cut off."""

from __future__ import annotations

import io
import logging
import os
import sys


class Screen(logging.StreamHandler):  # type: ignore[type-arg]
    """Messages on the standard output, for as long as it takes them.

    Where its reader has closed it, as ``head`` does, nobody wants more of them; where it cannot be
    written to, they go to the standard error. The run goes on.

    Attributes
    ----------
    is_cut : bool
        Whether messages went to the standard error.
    """

    def __init__(self) -> None:
        if isinstance(sys.stdout, io.TextIOWrapper):
            # Names of files need not be UTF-8.
            sys.stdout.reconfigure(errors="backslashreplace")
        super().__init__(sys.stdout)
        self.is_cut = False

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging names it
        """Do what the class says where the stream fails; of other errors, what logging does."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError) or self.is_cut:
            super().handleError(record)
            return
        _drop()
        if not isinstance(error, BrokenPipeError):
            self.is_cut = True
            self.setStream(sys.stderr)
            sys.stderr.write(f"the standard output cannot be written to ({error.strerror})\n")
            self.emit(record)


def say(line: str) -> None:
    """Write a line that is no message to the standard output, if that has a reader.

    Raises
    ------
    OSError
        It cannot be written to.
    """
    try:
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()
    except BrokenPipeError:
        _drop()


def _drop() -> None:
    """Let the standard output lead nowhere, with what it still holds."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
