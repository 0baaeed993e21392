# SPDX-License-Identifier: Apache-2.0
"""What one process has taken in a folder, no other gets, until that one ends."""

from __future__ import annotations

import errno
import fcntl
import subprocess
import sys
from pathlib import Path

import pytest

from bids_lesion_xai.bids.lock import FILE_NAME, FolderLock

ROOT = Path(__file__).parents[2]
# Takes names as it reads them, and answers whether it got them.
OTHER = """
import sys
from pathlib import Path
from bids_lesion_xai.bids.lock import FolderLock

with FolderLock(Path(sys.argv[1])) as lock:
    print("ready", flush=True)
    for line in sys.stdin:
        print(lock.take(line.strip()), flush=True)
"""


class Other:
    """Another process in the folder."""

    def __init__(self, folder: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", OTHER, str(folder)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._answer() == "ready"

    def takes(self, name: str) -> bool:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{name}\n")
        self.process.stdin.flush()
        return self._answer() == "True"

    def _answer(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()

    def leave(self) -> None:
        self.process.communicate()


def was_alone(lock: FolderLock) -> bool:
    called: list[bool] = []
    lock.if_alone(lambda: called.append(True))
    return bool(called)


def test_what_is_taken_is_refused_to_others_until_it_is_released(tmp_path: Path) -> None:
    with FolderLock(tmp_path) as lock:
        other = Other(tmp_path)
        assert lock.take("sub-01")
        assert not other.takes("sub-01")
        assert other.takes("sub-010")
        assert not lock.take("sub-010")
        lock.release("sub-01")
        assert other.takes("sub-01")
        with lock.hold("files"):
            assert not other.takes("files")
        assert other.takes("files")
        other.leave()


def test_a_process_that_is_killed_holds_nothing_and_is_not_there(tmp_path: Path) -> None:
    with FolderLock(tmp_path) as lock:
        assert was_alone(lock)
        other = Other(tmp_path)
        assert other.takes("sub-01")
        assert not was_alone(lock)
        other.kill()
        assert lock.take("sub-01")
        assert was_alone(lock)


def test_the_last_one_to_leave_removes_the_file(tmp_path: Path) -> None:
    with FolderLock(tmp_path):
        other = Other(tmp_path)
    assert (tmp_path / FILE_NAME).exists()
    assert other.takes("sub-01")
    other.leave()
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_a_killed_run_left_is_taken_over_even_if_git_annex_keeps_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, folder = tmp_path / "object", tmp_path / "out"
    kept.touch(0o444)
    folder.mkdir()
    (folder / FILE_NAME).symlink_to(kept)
    opened = []
    real_open = FolderLock._open.__globals__["os"].open

    def refuse(path: Path, flags: int, *_: int) -> int:
        opened.append(path)
        if path.is_symlink():  # what anybody but root is told
            raise PermissionError(errno.EACCES, "Permission denied")
        return int(real_open(path, flags))

    monkeypatch.setattr("os.open", refuse)
    with FolderLock(folder) as lock:
        assert lock.take("sub-01")
    assert len(opened) == 2
    assert kept.stat().st_mode & 0o777 == 0o444


def test_a_file_system_without_locks_gets_a_warning_and_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", refuse)
    with FolderLock(tmp_path) as lock:
        assert lock.take("sub-01")
        # Nobody can tell whether others are there.
        assert not was_alone(lock)
    assert [str(tmp_path) in record.getMessage() for record in caplog.records] == [True]
