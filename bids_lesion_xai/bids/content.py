# SPDX-License-Identifier: Apache-2.0
"""Whether the content of an image is really here, and how to get it."""

from __future__ import annotations

import gzip
import shlex
import zlib
from pathlib import Path
from typing import IO

# In the target of a link, and at the start of an unlocked file.
_ANNEX_OBJECTS = "/annex/objects/"
_LFS_POINTER = b"version https://git-lfs"
_ELSEWHERE = "its content is not here"
_THERE = "in the folder of the dataset"
_CHUNK = 1 << 20


def absence(path: Path, bids_dir: Path) -> tuple[str, str] | None:
    """Return why the content of a file cannot be used and what to do, or None if it can.

    Parameters
    ----------
    path : Path
        A file of the dataset.
    bids_dir : Path
    """
    name = shlex.quote(path.relative_to(bids_dir).as_posix())
    try:
        if path.is_symlink() and not path.exists():
            return _dangling(path.readlink(), name)
        if not path.is_file():
            return "not a file", "put the image in its place"
        if path.stat().st_size == 0:
            return "empty file", "copy it anew"
        with path.open("rb") as file:
            return _pointer(file.read(len(_LFS_POINTER)), name)
    except OSError as error:
        return f"it cannot be read: {error.strerror}", "change its rights, or copy it anew"


def _dangling(target: Path, name: str) -> tuple[str, str]:
    """Return what a link means whose target is not there."""
    if _ANNEX_OBJECTS in target.as_posix():
        return _ELSEWHERE, f"{_THERE}: datalad get {name}"
    # This is written to the output, which names no folder of the machine.
    reason = f"a link to {target.name}, which is not there"
    return reason, "mend the link, or make its target (see ls -l) visible, e.g. bind its folder"


def _pointer(start: bytes, name: str) -> tuple[str, str] | None:
    """Return what a file means that stands for a content elsewhere; None if it is one itself."""
    if start.startswith(_ANNEX_OBJECTS.encode()):
        return _ELSEWHERE, f"{_THERE}: datalad get {name}"
    if start.startswith(_LFS_POINTER):
        return _ELSEWHERE, f"{_THERE}: git lfs pull --include {name}"
    return None


def is_same(one: Path, other: Path) -> bool:
    """Tell whether two files hold the same, compressed or not."""
    try:
        with _open(one) as left, _open(other) as right:
            while chunk := left.read(_CHUNK):
                if chunk != right.read(len(chunk)):
                    return False
            return not right.read(1)
    except (OSError, EOFError, zlib.error):
        return False


def _open(path: Path) -> IO[bytes]:
    return gzip.open(path) if path.name.endswith(".gz") else path.open("rb")  # type: ignore[return-value]
