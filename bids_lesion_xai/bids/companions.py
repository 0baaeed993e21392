# SPDX-License-Identifier: Apache-2.0
"""Files of other derivative datasets that belong to visits: masks and tissue maps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from bids_lesion_xai.bids.content import absence
from bids_lesion_xai.bids.images import NIFTI, NamedFile, list_participant, take_apart
from bids_lesion_xai.bids.inheritance import read_object
from bids_lesion_xai.bids.visit import Visit
from bids_lesion_xai.errors import DataError, NotFoundError

LESION_LABELS = ("lesion", "L")
_SHOWN = 3
# The spaces that masks are taken in; the preferred ones first.
_RANK = {"": 0, "T1w": 0, "orig": 0, "FLAIR": 1}
# What masks of other images of the same session have otherwise.
_TELL_APART = ("acq", "run")
# Folders of what is not anatomy: their masks and maps are called alike, but have other voxels.
_OTHER_DATATYPES = (
    *("beh", "dwi", "eeg", "fmap", "func", "ieeg", "meg", "micr", "motion", "mrs", "nirs"),
    *("perf", "pet"),
)


@dataclass(frozen=True)
class Companion:
    """A file of another dataset that belongs to a visit.

    Parameters
    ----------
    path : Path
    uri : str
        BIDS URI, by the name of the dataset in ``DatasetLinks``.
    space : str
        Its entity ``space``, empty if it has none.
    others : tuple of str
        Files that fit as well, and were not taken; with the reason, if they cannot be.
    """

    path: Path
    uri: str
    space: str
    others: tuple[str, ...]


@dataclass(frozen=True)
class Kind:
    """What files of one kind are called.

    Parameters
    ----------
    suffix, entity : str
    values : tuple of str
        Values of `entity`, one of which they have.
    only_t1w : bool
        Whether they must be in the space of T1w.
    """

    suffix: str
    entity: str
    values: tuple[str, ...]
    only_t1w: bool = False

    def fits(self, file: NamedFile) -> bool:
        """Tell whether a file is of this kind."""
        entities = file.entities
        in_place = not self.only_t1w or _RANK.get(entities.get("space", "")) == 0
        return (
            file.path.parent.name not in _OTHER_DATATYPES
            and file.suffix == self.suffix
            and file.extension in NIFTI
            and entities.get(self.entity) in self.values
            and in_place
        )

    def names_like(self, files: Iterable[NamedFile]) -> list[str]:
        """Return the first names of files that are of this kind but for session and space."""
        own = [file.name for file in files if replace(self, only_t1w=False).fits(file)]
        return own[:_SHOWN]

    def __str__(self) -> str:
        """Return what the files are called."""
        return " or ".join(f"{self.entity}-{value}_{self.suffix}" for value in self.values)


LESION_MASK = Kind("mask", "label", LESION_LABELS)
BRAIN_MASK = Kind("mask", "desc", ("brain",), only_t1w=True)
TISSUE_MAP = Kind("dseg", "desc", ("aseg", "aparcaseg"), only_t1w=True)


@dataclass(frozen=True)
class Source:
    """A derivative dataset that the command line names.

    Parameters
    ----------
    flag : str
        The option.
    root : Path
    link : str
        Name of the dataset in BIDS URIs.
    """

    flag: str
    root: Path
    link: str

    def __str__(self) -> str:
        """Return what the user gave."""
        return f"{self.flag} {self.root}"


def find_companions(
    source: Source, images: Mapping[Visit, tuple[Path, Path]], kind: Kind
) -> tuple[dict[Visit, Companion], dict[Visit, str]]:
    """Return the file of each visit that has one in a derivative dataset, or why it has none.

    It is of the very session of the visit, and of no run or acquisition that none of its images
    is of. Of several, those are preferred whose name is most like that of an image, then those in
    T1w space, then those in FLAIR space, then the first name.

    Parameters
    ----------
    source : Source
    images : mapping
        FLAIR and T1w of each visit, as they are called in the raw dataset.
    kind : Kind

    Raises
    ------
    NotFoundError
        There is no such folder.
    """
    if not source.root.is_dir():
        message = f"{source}: there is no such folder."
        raise NotFoundError(message)
    listings = {
        label: list_participant(source.root, label)
        for label in dict.fromkeys(visit.participant for visit in images)
    }
    found, missing = {}, {}
    for visit, paths in images.items():
        flair, t1w = (_entities(path) for path in paths)
        own = [t1w] if kind.only_t1w else [flair, t1w]
        files = [
            file
            for file in listings[visit.participant].images
            if Visit(file.entities.get("sub", ""), file.entities.get("ses", "")) == visit
            and kind.fits(file)
        ]
        files.sort(key=partial(_preference, images=own))
        problems = {
            file: _contradiction(file, own) or "; ".join(absence(file.path, source.root) or ())
            for file in files
        }
        usable = [file for file, problem in problems.items() if not problem]
        unusable = [f"{file.name} ({problem})" for file, problem in problems.items() if problem]
        if usable:
            first, *others = usable
            uri = f"bids:{source.link}:{first.path.relative_to(source.root).as_posix()}"
            names = (*(file.name for file in others), *unusable)
            found[visit] = Companion(first.path, uri, _space(first), names)
        else:
            missing[visit] = f"no {kind} of {visit.name} in {source}"
            if unusable:
                missing[visit] += f"; not usable: {', '.join(unusable)}"
            elif kind.names_like(listings[visit.participant].images):
                like = ", ".join(kind.names_like(listings[visit.participant].images))
                missing[visit] += f"; of another session or space: {like}"
    return found, missing


def _contradiction(file: NamedFile, images: Sequence[Mapping[str, str]]) -> str:
    """Return what says that a file is of none of some images, or nothing."""
    own = file.entities
    against = [
        [
            f"{key}-{own[key]}"
            for key in _TELL_APART
            if key in own and image.get(key, own[key]) != own[key]
        ]
        for image in images
    ]
    return f"of another image by its {' and '.join(against[0])}" if all(against) else ""


def _preference(file: NamedFile, images: Sequence[Mapping[str, str]]) -> tuple[int, int, str]:
    """Return what is smaller for a file that is taken before others."""
    own = file.entities
    distance = min(sum(own.get(key) != image.get(key) for key in _TELL_APART) for image in images)
    return distance, _RANK.get(_space(file), len(_RANK)), file.name


def require_any(
    found: Mapping[Visit, Companion], missing: Mapping[Visit, str], source: Source, *kinds: Kind
) -> None:
    """Check that a dataset that was named is of any use.

    Parameters
    ----------
    found, missing : mapping
        See `find_companions`.
    source : Source
    kinds : Kind

    Raises
    ------
    DataError
        No visit has a file in it.
    """
    if not found:
        what = " or ".join(map(str, kinds))
        message = f"{source}: no {what} belongs to any of the visits."
        for why in list(missing.values())[:1]:
            message += f" E.g. there is {why}."
        raise DataError(message)


def _entities(path: Path) -> Mapping[str, str]:
    file = take_apart(path)
    return file.entities if file else {}


def _space(file: NamedFile) -> str:
    return file.entities.get("space", "")


def is_manual(path: Path) -> bool | None:
    """Tell whether an image was drawn by hand, by its sidecar; None if that does not say."""
    name = path.name.removesuffix(".gz").removesuffix(".nii")
    content = read_object(path.with_name(f"{name}.json"))
    manual = content.get("Manual") if isinstance(content, dict) else None
    return manual if isinstance(manual, bool) else None
