# SPDX-License-Identifier: Apache-2.0
"""The output folder: where each output lies, and how it gets there in one piece."""

from __future__ import annotations

import json
import os
import re
import shutil
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from bids_lesion_xai.bids.derivatives import (
    DEFAULT_METHOD,
    DERIVATIVES,
    LESION_LEVELS,
    MANUAL,
    METHOD,
    METHOD_LABELS,
    Derivative,
    Level,
)
from bids_lesion_xai.bids.lock import FolderLock
from bids_lesion_xai.bids.sidecar import sidecar, to_json
from bids_lesion_xai.bids.visit import Visit
from bids_lesion_xai.errors import DataError, OutputError

# Written last and removed first, so where it is, the visit is complete.
LAST_KEY = "provenance"
# Its name tells the method of explanation.
_METHOD_KEY = "saliency_table"
# Stands for the name of a lesion, which has three digits or more; no label holds it.
_LESION = "\0"
_LESION_NAME = r"L\d{3,}"
# End of the names of files that are being written.
_PARTIAL = ".partial"


class Store:
    """An output folder.

    Parameters
    ----------
    root : Path
    method : str, optional
        Of explanation, as it stands in the names of files to be written. Without it, a visit has
        that of its files.
    """

    def __init__(self, root: Path, method: str = "") -> None:
        self.root = root
        self._method = method

    def path(self, key: str, visit: Visit | None = None, lesion: str | None = None) -> Path:
        """Return where the output called `key` lies; see `Derivative.path`."""
        return self.root / self._relative(key, visit, lesion)

    def uri(self, key: str, visit: Visit) -> str:
        """Return the BIDS URI of an output in its own dataset."""
        return f"bids::{self._relative(key, visit).as_posix()}"

    def _relative(self, key: str, visit: Visit | None, lesion: str | None = None) -> Path:
        row = DERIVATIVES[key]
        # The method is looked for only where it stands in the name.
        if visit is None or not _tells_method(row):
            return row.path(visit, lesion)
        return row.path(visit, lesion, self._method or self._method_of(visit))

    def _method_of(self, visit: Visit) -> str:
        """Return the method of the files of a visit; the default one if there are none."""
        row = DERIVATIVES[_METHOD_KEY]
        paths = {method: self.root / row.path(visit, method=method) for method in METHOD_LABELS}
        # A link counts, see `completed_ns`.
        there = [method for method, path in paths.items() if os.path.lexists(path)]
        if len(there) > 1:
            # Somebody has put a table of another method beside.
            listed = self._listed(visit)
            there = [method for method in there if paths[method] in listed] or there
        return there[0] if there else DEFAULT_METHOD

    def completed_ns(self, visit: Visit) -> int | None:
        """Return the time at which a visit was completed; None if it is not complete.

        A link counts, whatever it leads to: a version control system may have moved the content.
        """
        path = self.path(LAST_KEY, visit)
        try:
            return path.lstat().st_mtime_ns if _may_be_output(path) else None
        except OSError:
            return None

    def facts(self, key: str, visit: Visit | None = None) -> dict[str, Any]:
        """Return the content of the sidecar of the output called `key`.

        Raises
        ------
        DataError
            There is none, it is no JSON object, or lacks a fact.
        """
        path = _sidecar_path(self.path(key, visit))
        try:
            content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            missing = [name for name in DERIVATIVES[key].facts if name not in {*content, MANUAL}]
        except (OSError, ValueError, TypeError) as error:
            message = f"{path.name} cannot be read ({error}). Process this visit again."
            raise DataError(message) from error
        if missing:
            message = f"{path.name} lacks {missing}. Process this visit again."
            raise DataError(message)
        return content

    def publish(
        self,
        key: str,
        source: Path,
        facts: Mapping[str, Any] | None = None,
        *,
        visit: Visit | None = None,
        lesion: str | None = None,
    ) -> Path:
        """Copy the file `source` to its place, with a sidecar, and return the place.

        Parameters
        ----------
        key : str
        source : Path
        facts : mapping
            For the sidecar; none for an output without own sidecar.
        visit : Visit
        lesion : str

        Raises
        ------
        OutputError
            The place cannot be written.
        """
        target = self.path(key, visit, lesion)
        row = DERIVATIVES[key]
        if row.facts or facts:
            text = to_json(sidecar(row, facts or {}))
            self.write_text(_sidecar_path(target).relative_to(self.root), text)
        self._replace(target, lambda partial: shutil.copyfile(source, partial))
        return target

    def write_text(self, relative: Path | str, text: str) -> Path:
        """Write a text file at `relative` in one piece, and return its path."""
        target = self.root / relative
        with suppress(OSError, ValueError):
            # Several runs write the same, and a version control system need not be bothered.
            if target.read_text(encoding="utf-8") == text:
                return target
        # Names of files need not be UTF-8; what is not stands there escaped.
        self._replace(
            target,
            lambda partial: partial.write_text(text, encoding="utf-8", errors="backslashreplace"),
        )
        return target

    def _replace(self, target: Path, write: Callable[[Path], object]) -> None:
        partial = target.with_name(f".{target.name}.{uuid.uuid4().hex}{_PARTIAL}")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            write(partial)
            partial.replace(target)
        except OSError as error:
            message = (
                f"{target} cannot be written ({error.strerror}). Check folder and free space."
            )
            raise OutputError(message) from error
        finally:
            with suppress(OSError):
                partial.unlink(missing_ok=True)

    def clear(self, visit: Visit) -> None:
        """Remove all outputs of a visit, the mark of completeness first.

        Files of other names that somebody put beside them stay.
        """
        listed, last = self._listed(visit), self.path(LAST_KEY, visit)
        if _may_be_output(last):
            last.unlink(missing_ok=True)
        partial = self._of_visit(visit, before=r"\.", after=rf"\..*{re.escape(_PARTIAL)}")
        for path in (*listed, *self.outputs(visit), *partial):
            path.unlink(missing_ok=True)

    def outputs(self, visit: Visit) -> list[Path]:
        """Return all files of a visit, but for the mark of completeness, in order."""
        return sorted({*self._of_visit(visit)} - {self.path(LAST_KEY, visit)})

    def _of_visit(self, visit: Visit, before: str = "", after: str = "") -> Iterator[Path]:
        """Yield the files of a visit by their names, between two regular expressions."""
        names: dict[Path, set[str]] = defaultdict(set)
        for row in DERIVATIVES.values():
            if row.level is not Level.GROUP:
                for method in METHOD_LABELS if _tells_method(row) else ("",):
                    path = row.path(visit, _LESION if row.level in LESION_LEVELS else None, method)
                    names[self.root / path.parent].add(path.name)
                    if row.facts:
                        names[self.root / path.parent].add(_sidecar_path(path).name)
        for folder, own in names.items():
            any_of = "|".join(
                _LESION_NAME.join(map(re.escape, name.split(_LESION))) for name in own
            )
            pattern = re.compile(f"{before}({any_of}){after}")
            for path in folder.glob("*"):
                if pattern.fullmatch(path.name) and _may_be_output(path):
                    yield path

    def _listed(self, visit: Visit) -> list[Path]:
        """Return what the mark of completeness lists, though other versions wrote other names."""
        try:
            content = json.loads(self.path(LAST_KEY, visit).read_text(encoding="utf-8"))
            paths = [self.root / name for name in content["Outputs"]]
        except (OSError, ValueError, TypeError, KeyError):
            return []
        folders = {self.path(key, visit).parent for key in (LAST_KEY, "overview_figure", "report")}
        return [
            path
            for path in paths
            if path.parent in folders and path.name.startswith(visit.name) and _may_be_output(path)
        ]

    @contextmanager
    def shared(self) -> Iterator[FolderLock]:
        """Enter the folder as one of several processes that may write to it.

        The first of them removes what killed runs were writing.
        """
        with FolderLock(self.root) as lock:
            lock.if_alone(self._sweep)
            yield lock

    def _sweep(self) -> None:
        for folder in (".", "logs", "sub-*/figures", "sub-*/anat", "sub-*/ses-*/anat"):
            for path in self.root.glob(f"{folder}/.*{_PARTIAL}"):
                path.unlink(missing_ok=True)

    def visits(self) -> list[Visit]:
        """Return the visits that are complete, in order."""
        labels = [
            *((path.name, "") for path in self.root.glob("sub-*")),
            *((path.parent.name, path.name) for path in self.root.glob("sub-*/ses-*")),
        ]
        visits = (
            Visit(participant.removeprefix("sub-"), session.removeprefix("ses-"))
            for participant, session in labels
        )
        found = [visit for visit in visits if self.completed_ns(visit) is not None]
        return sorted(found)


def _tells_method(row: Derivative) -> bool:
    return any(METHOD in value for value in row.entities.values())


def _may_be_output(path: Path) -> bool:
    """Tell whether a path is not that of a folder; links count, see `Store.completed_ns`."""
    return path.is_symlink() or not path.is_dir()


def _sidecar_path(path: Path) -> Path:
    return path.with_name(path.name.partition(".")[0] + ".json")
