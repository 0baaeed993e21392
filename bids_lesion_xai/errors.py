# SPDX-License-Identifier: Apache-2.0
"""The errors a user can meet, each with the exit code of the process that it ends.

The codes follow ``sysexits.h``, as other BIDS Apps do. Code 0 means that every visit is done, 1
that some visits failed while the others are done.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

SOME_VISITS_FAILED = 1
INPUT_OUTPUT_ERROR = 74
# Every visit that failed did so for want of memory, though it had all there is for itself alone.
OUT_OF_MEMORY = 75
# By SIGINT, as shells tell it.
INTERRUPTED = 130
# What is said where memory does not suffice: by Python, torch (CPU and GPU), ITK, and where the
# system killed a worker.
_STARVED = re.compile(
    r"MemoryError|OutOfMemoryError|CUDA out of memory|can't allocate memory|not enough memory"
    r"|bad_alloc|Failed to allocate memory|Cannot allocate memory"
    r"|process pool was terminated abruptly"
)


class LesionXaiError(Exception):
    """Base of all errors with a message meant for the user."""

    exit_code = SOME_VISITS_FAILED


class UsageError(LesionXaiError):
    """The command line asks for something that is not possible."""

    exit_code = 2


class DataError(LesionXaiError):
    """An input image or dataset cannot be used."""

    exit_code = 65


class NotFoundError(LesionXaiError):
    """A folder, participant or session that was named does not exist."""

    exit_code = 66


class UnavailableError(LesionXaiError):
    """A model or a device cannot be used."""

    exit_code = 69


class OutputError(LesionXaiError):
    """The output or work folder cannot be written."""

    exit_code = 73


def is_starved(text: str) -> bool:
    """Tell whether what was said of an error, its name included, is for want of memory."""
    return _STARVED.search(text) is not None


@contextmanager
def naming(visit: str) -> Iterator[None]:
    """Put the name of a visit in front of the message of a DataError."""
    try:
        yield
    except DataError as error:
        message = f"{visit}: {error}"
        raise DataError(message) from error
