# SPDX-License-Identifier: Apache-2.0
"""The files of a participant by their BIDS names, listed without touching the neighbours."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from bids_lesion_xai.conventions import session_order

NIFTI = (".nii.gz", ".nii")
# Entities whose value is a number: run-1 and run-01 are the same run.
NUMBERED = frozenset({"run", "echo", "flip", "inv", "chunk"})
LABEL = re.compile(r"[0-9A-Za-z+]+")
# What folders of participants are called, and those below that are looked into.
_FOLDER = re.compile(r"(sub|ses)-[^_.]+|anat")
# Folders that are one recording of another modality.
_RECORDINGS = (".ds", ".zarr", ".mefd")


@dataclass(frozen=True)
class NamedFile:
    """A file taken apart by its BIDS name.

    Parameters
    ----------
    path : Path
    pairs : tuple of (str, str)
        Entities as they stand in the name, by their short keys, e.g. ``("acq", "3D")``.
    suffix, extension : str
        The extension with its dot, as it is written.
    """

    path: Path
    pairs: tuple[tuple[str, str], ...]
    suffix: str
    extension: str

    @cached_property
    def entities(self) -> Mapping[str, str]:
        """The entities, numbers without leading zeros."""
        return {key: normal(key, value) for key, value in self.pairs}

    @property
    def name(self) -> str:
        """The file's name."""
        return self.path.name


@dataclass(frozen=True)
class Listing:
    """What lies in the folder of a participant.

    Parameters
    ----------
    sessions : tuple of str
        Labels; an empty one stands for images outside of sessions.
    images, sidecars : tuple of NamedFile
        NIfTI and JSON files, in the order of their paths.
    closed : mapping of str to str
        Folders that cannot be looked into, relative to the dataset, each with the reason.
    """

    sessions: tuple[str, ...]
    images: tuple[NamedFile, ...]
    sidecars: tuple[NamedFile, ...]
    closed: Mapping[str, str] = field(default_factory=dict)


def normal(key: str, value: str) -> str:
    """Return the value of an entity, a number without leading zeros.

    >>> normal("run", "01"), normal("acq", "01")
    ('1', '01')
    """
    is_number = key in NUMBERED and value.isascii() and value.isdigit()
    return value.lstrip("0") or "0" if is_number else value


def take_apart(path: Path) -> NamedFile | None:
    """Return a NIfTI or JSON file by the parts of its name, None for any other file.

    >>> take_apart(Path("sub-01_acq-3D_T1w.nii.gz")).pairs
    (('sub', '01'), ('acq', '3D'))
    """
    lower = path.name.lower()
    length = next((len(end) for end in (*NIFTI, ".json") if lower.endswith(end)), 0)
    if not length:
        return None
    *pairs, suffix = path.name[:-length].split("_")
    entities = tuple((key, value) for key, _, value in (pair.partition("-") for pair in pairs))
    return NamedFile(path, entities, suffix, path.name[-length:])


def participants_in(bids_dir: Path) -> list[str]:
    """Return the labels of the folders ``sub-*`` of a dataset, in order."""
    with os.scandir(bids_dir) as entries:
        return sorted(
            entry.name[4:] for entry in entries if entry.name.startswith("sub-") and _is_dir(entry)
        )


def sidecars_beside(bids_dir: Path) -> tuple[NamedFile, ...]:
    """Return the JSON files at the root of a dataset, which its images inherit from."""
    with os.scandir(bids_dir) as entries:
        paths = [Path(entry.path) for entry in entries if entry.name.lower().endswith(".json")]
    return tuple(filter(None, map(take_apart, sorted(paths))))


def list_participant(bids_dir: Path, label: str) -> Listing:
    """Return what lies in the folder of a participant.

    Links to folders are followed; hidden folders are not looked into.
    """
    paths: list[str] = []
    closed: dict[str, str] = {}
    folder = str(bids_dir / f"sub-{label}")
    _walk(folder, {os.path.realpath(folder)}, paths, closed)
    listing = sort_files(bids_dir, label, map(Path, paths))
    places = {os.path.relpath(place, bids_dir): why for place, why in closed.items() if why}
    return Listing(listing.sessions, listing.images, listing.sidecars, places)


def sort_files(bids_dir: Path, label: str, paths: Iterable[Path]) -> Listing:
    """Return the listing of a participant whose files are known."""
    files = [file for file in map(take_apart, sorted(paths)) if file]
    images = tuple(file for file in files if file.extension.lower() in NIFTI)
    sidecars = tuple(file for file in files if file.extension == ".json")
    return Listing(_sessions(bids_dir / f"sub-{label}"), images, sidecars)


def _sessions(folder: Path) -> tuple[str, ...]:
    """Return the sessions of a participant's folder; an empty label for images outside of any."""
    sessions, has_images = set(), False
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith("ses-") and _is_dir(entry):
                    sessions.add(entry.name[4:])
                elif entry.name == "anat" and _is_dir(entry):
                    has_images = _has_content(entry.path)
    except OSError:
        return ("",)
    outside = {""} if has_images or not sessions else set()
    return tuple(sorted(sessions | outside, key=session_order))


def _has_content(folder: str) -> bool:
    try:
        with os.scandir(folder) as entries:
            return any(True for _ in entries)
    except OSError:
        return True


def _walk(folder: str, seen: set[str], paths: list[str], closed: dict[str, str]) -> None:
    """Add the files below `folder` to `paths`; each linked folder is entered once."""
    try:
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda entry: entry.name)
    except OSError as error:
        closed[folder] = _why_closed(Path(folder), error)
        return
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if not _is_dir(entry) or entry.name.lower().endswith(NIFTI):
            # A folder that is called like an image is told of, as any image that cannot be one.
            paths.append(entry.path)
        elif not entry.name.endswith(_RECORDINGS):
            if entry.is_symlink():
                target = os.path.realpath(entry.path)
                if target in seen:
                    continue
                seen.add(target)
            _walk(entry.path, seen, paths, closed)


def _why_closed(folder: Path, error: OSError) -> str:
    """Return why a folder cannot be looked into, nothing if there is none that hides anything."""
    if not isinstance(error, FileNotFoundError):
        return error.strerror or str(error)
    if folder.is_symlink():
        return f"a link to {folder.readlink().name}, which is not there; bind its folder"
    return ""


def _is_dir(entry: os.DirEntry[str]) -> bool:
    """Tell whether an entry is a folder, or a link to one that is not there, by its name."""
    try:
        called_like_one = entry.is_symlink() and _FOLDER.fullmatch(entry.name) is not None
        return entry.is_dir() or (called_like_one and not Path(entry.path).exists())
    except OSError:
        return False
