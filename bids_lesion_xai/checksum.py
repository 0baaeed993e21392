# SPDX-License-Identifier: Apache-2.0
"""Checksums of files."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

_CHUNK_BYTES = 2**20


def sha256(path: Path) -> str:
    """Return the SHA-256 checksum of a file, as hexadecimal digits.

    A process reads a file once, unless it was touched since.
    """
    status = path.stat()
    return _sha256(path, status.st_size, status.st_ctime_ns, status.st_ino)


@cache
def _sha256(path: Path, *_: int) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
