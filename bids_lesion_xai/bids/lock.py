# SPDX-License-Identifier: Apache-2.0
"""Processes that share a folder, perhaps on several machines, keep out of each other's way."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType

log = logging.getLogger(__name__)

FILE_NAME = ".bids_lesion_xai.lock"
# The byte that every process shares while it works in the folder.
_PRESENCE = 0
_IN_USE = (errno.EAGAIN, errno.EACCES)
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


class FolderLock:
    """What this process works on in a folder, by name.

    All locks are bytes of one file. The system drops them when the process ends, however that
    comes about, so none is ever stale; unlike `flock`, they hold on NFS as well. The last process
    to leave the folder removes the file. A process must not enter a folder twice at a time.

    Parameters
    ----------
    folder : Path
        It exists.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE_NAME
        self._file = -1
        self._works = True

    def __enter__(self) -> FolderLock:
        while True:
            self._file = self._open()
            self._lock(_PRESENCE, fcntl.LOCK_SH)
            # The last process before may have removed the file since it was opened.
            with suppress(FileNotFoundError):
                if os.path.samestat(self._path.stat(), os.fstat(self._file)):
                    return self
            os.close(self._file)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._works and self._lock(_PRESENCE, fcntl.LOCK_EX | fcntl.LOCK_NB):
            self._path.unlink(missing_ok=True)
        os.close(self._file)

    def if_alone(self, action: Callable[[], None]) -> None:
        """Call `action` if no other process is in the folder; none can enter meanwhile."""
        if self._works and self._lock(_PRESENCE, fcntl.LOCK_EX | fcntl.LOCK_NB):
            action()
            self._lock(_PRESENCE, fcntl.LOCK_SH)

    def take(self, name: str) -> bool:
        """Take what is called `name`; False if another process has it."""
        return self._lock(_place(name), fcntl.LOCK_EX | fcntl.LOCK_NB)

    def release(self, name: str) -> None:
        """Give back what is called `name`."""
        self._lock(_place(name), fcntl.LOCK_UN)

    @contextmanager
    def hold(self, name: str) -> Iterator[None]:
        """Wait until no other process has what is called `name`, and take it for a while."""
        self._lock(_place(name), fcntl.LOCK_EX)
        try:
            yield
        finally:
            self.release(name)

    def _open(self) -> int:
        try:
            file = os.open(self._path, os.O_RDWR | os.O_CREAT)
        except PermissionError:
            # One that a killed run left and git-annex keeps: a link to what cannot be written.
            if not self._path.is_symlink():
                raise
            self._path.unlink(missing_ok=True)
            return self._open()
        # Other users may write to the folder as well.
        with suppress(PermissionError):
            os.fchmod(file, 0o666)
        return file

    def _lock(self, place: int, how: int) -> bool:
        if not self._works:
            return True
        try:
            fcntl.lockf(self._file, how, 1, place)
        except OSError as error:
            if error.errno in _IN_USE:
                return False
            if error.errno not in _NO_LOCKS:
                raise
            self._works = False
            log.warning(
                "%s has no file locks (%s): let no two runs process the same visit at a time",
                self._path.parent,
                error.strerror,
            )
        return True


def _place(name: str) -> int:
    """Return the byte that stands for a name; two names share one in 2^55 only by chance."""
    return 1 + int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") % 2**55
