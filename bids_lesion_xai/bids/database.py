# SPDX-License-Identifier: Apache-2.0
"""The index of a dataset that pybids keeps in a file, for ``--bids-database-dir``."""

from __future__ import annotations

import logging
import os
import re
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from bids import BIDSLayout, BIDSLayoutIndexer
from sqlalchemy.exc import SQLAlchemyError

from bids_lesion_xai.bids.images import NIFTI, Listing, list_participant, sort_files
from bids_lesion_xai.errors import DataError, OutputError, UsageError

log = logging.getLogger(__name__)

# As pybids, and so every app that takes such a folder, calls it.
FILE_NAME = "layout_index.sqlite"
_NOT_RAW = [
    re.compile(r"^/(derivatives|sourcedata|code|stimuli|models|phenotype)(/|$)"),
    re.compile(r"/\."),
]


class Database:
    """The files of a dataset from an index.

    An index is made if there is none. Before a participant is read from it, the times of the
    participant's folders are compared with that of the index: if one was changed later, or the
    index does not know the participant, the whole index is made anew. That replaces the file at
    once, so that other runs may read it meanwhile.

    Parameters
    ----------
    bids_dir : Path
    folder : Path
        Where the index is.
    wipe : bool
        Whether it is made anew in any case.
    read_only : bool
        Whether the folders are looked into, instead of making an index.

    Raises
    ------
    UsageError
        The file is no index of pybids, or that of another dataset.
    OutputError
        There is none, and it cannot be written.
    DataError
        Nor can one be made: a folder of the dataset is closed, or a name is no UTF-8.
    """

    def __init__(
        self, bids_dir: Path, folder: Path, wipe: bool = False, read_only: bool = False
    ) -> None:
        self._root = bids_dir.resolve()
        self._file = folder / FILE_NAME
        self._read_only = read_only
        self._is_fresh, self._is_usable = False, True
        if wipe or not self._is_there():
            self._renew("it is made")
        if self._is_usable:
            self._require_own()

    def listing(self, participant: str) -> Listing:
        """Return the files of a participant."""
        if self._is_usable and not self._is_fresh and (why := self._outdated(participant)):
            self._renew(why)
        known = self._paths(participant) if self._is_usable else []
        if known:
            return sort_files(self._root, participant, known)
        return list_participant(self._root, participant)

    def _is_there(self) -> bool:
        try:
            return self._file.exists()
        except OSError as error:
            message = f"--bids-database-dir {self._file.parent} cannot be read ({error.strerror})."
            raise OutputError(message) from error

    def _renew(self, why: str) -> None:
        folder = self._file.parent
        if self._root in (folder, *folder.parents):
            message = (
                f"--bids-database-dir {folder} lies inside BIDS_DIR, which is never written to, "
                f"and the index is not usable: {why}. Name another folder."
            )
            raise OutputError(message)
        if self._read_only:
            self._is_usable = False
            return
        log.info("index in %s: %s; pybids reads the names of all files", folder, why)
        self._make(folder)
        self._is_fresh = True

    def _outdated(self, participant: str) -> str:
        """Return why the index does not do for a participant, or nothing."""
        if not self._paths(participant):
            there = list_participant(self._root, participant).images
            return f"it does not know the images of sub-{participant}" if there else ""
        changed = self._changed(participant)
        return f"{changed.relative_to(self._root)} was changed since" if changed else ""

    def _changed(self, participant: str) -> Path | None:
        """Return a folder of a participant that is younger than the index."""
        made_ns = self._file.stat().st_mtime_ns
        for folder in _folders(self._root / f"sub-{participant}"):
            try:
                times = folder.stat()
                # What was copied with its times has new ones of the second kind alone.
                if max(times.st_mtime_ns, times.st_ctime_ns) >= made_ns:
                    return folder
            except OSError:
                continue
        return None

    def _paths(self, participant: str) -> list[Path]:
        """Return the images and sidecars of a participant that the index knows."""
        # "0" is the character after "/": everything in the folder, by the table's own order.
        first, last = (f"{self._root}/sub-{participant}{end}" for end in "/0")
        query = "SELECT path FROM files WHERE path >= ? AND path < ?"
        rows = self._read(query, (first, last))
        return [Path(path) for (path,) in rows if path.lower().endswith((*NIFTI, ".json"))]

    def _require_own(self) -> None:
        """Check that the index is one, and of this dataset."""
        roots = [root for (root,) in self._read("SELECT root FROM layout_info")]
        if roots != [str(self._root)]:
            others = " and ".join(roots) or "nothing"
            message = (
                f"--bids-database-dir: {self._file} is the index of {others}, not of "
                f"{self._root}. Name another folder, or let --bids-database-wipe make it anew."
            )
            raise UsageError(message)

    def _read(self, query: str, values: tuple[str, ...] = ()) -> list[tuple[str]]:
        try:
            with closing(sqlite3.connect(f"{self._file.as_uri()}?mode=ro", uri=True)) as database:
                return database.execute(query, values).fetchall()
        except sqlite3.Error as error:
            message = (
                f"--bids-database-dir: {self._file} is no index of pybids ({error}). Name another "
                "folder, or let --bids-database-wipe make it anew."
            )
            raise UsageError(message) from error
        except UnicodeEncodeError as error:
            raise DataError(_no_utf8(error)) from error

    def _make(self, folder: Path) -> None:
        """Index the dataset, and put the index in the place of the former one at once."""
        # As if it were as old as the beginning: what changes meanwhile counts as later.
        begin_ns = time.time_ns()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder, prefix=".index-") as temporary:
                indexer = BIDSLayoutIndexer(validate=False, index_metadata=False, ignore=_NOT_RAW)
                BIDSLayout(self._root, validate=False, database_path=temporary, indexer=indexer)
                new = Path(temporary) / FILE_NAME
                os.utime(new, ns=(begin_ns, begin_ns))
                new.replace(self._file)
        except UnicodeEncodeError as error:
            raise DataError(_no_utf8(error)) from error
        except SQLAlchemyError as error:
            reason = str(error).partition("\n")[0]
            message = (
                f"--bids-database-dir {folder} cannot be written ({reason}). Check the free "
                "space, or name another folder."
            )
            raise OutputError(message) from error
        except (TypeError, ValueError) as error:
            message = (
                f"--bids-database-dir: pybids makes no index of this dataset ({error}). Look for "
                "a broken layout_config.json, or leave the index out."
            )
            raise DataError(message) from error
        except OSError as error:
            place = Path(os.fsdecode(error.filename or folder))
            if self._root in (place, *place.parents):
                message = (
                    f"--bids-database-dir: pybids makes no index, for {place} cannot be looked "
                    f"into ({error.strerror}). Change its rights, or leave the index out."
                )
                raise DataError(message) from error
            message = f"--bids-database-dir {folder} cannot be written ({error.strerror})."
            raise OutputError(message) from error


def _no_utf8(error: UnicodeEncodeError) -> str:
    return (
        f"--bids-database-dir: pybids cannot index the name {error.object!r}, which is no UTF-8. "
        "Rename it, or leave the index out."
    )


def _folders(participant: Path) -> Iterator[Path]:
    """Return the folders of a participant in which images are expected, there or not."""
    yield participant
    yield participant / "anat"
    try:
        sessions = sorted(path for path in participant.iterdir() if path.name.startswith("ses-"))
    except OSError:
        return
    for session in sessions:
        yield session
        yield session / "anat"
