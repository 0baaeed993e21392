# SPDX-License-Identifier: Apache-2.0
"""Files of other derivative datasets that belong to visits: masks and tissue maps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from stat import S_ISDIR

from bids_lesion_xai.bids.content import absence
from bids_lesion_xai.bids.images import (
    NIFTI,
    Listing,
    NamedFile,
    list_participant,
    participants_in,
    take_apart,
)
from bids_lesion_xai.bids.inheritance import read_object
from bids_lesion_xai.bids.visit import Visit
from bids_lesion_xai.errors import DataError, NotFoundError
from bids_lesion_xai.imaging.nifti import read_grid

LESION_LABELS = ("lesion", "L")
_SHOWN = 3
# The spaces of the images of a visit; the preferred ones first.
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
class Missing:
    """Why a visit has no file in another dataset.

    Parameters
    ----------
    what : str
        What is not there, and where.
    refused : tuple of str
        Files of the visit that cannot be taken, each with the reason.
    elsewhere : tuple of str
        Files of other sessions and spaces.
    closed : tuple of str
        Folders of the visit that cannot be looked into, each with the reason.
    """

    what: str
    refused: tuple[str, ...] = ()
    elsewhere: tuple[str, ...] = ()
    closed: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Return all of it in one sentence without its full stop."""
        parts = [self.what]
        if self.refused:
            parts.append(f"not usable: {', '.join(self.refused)}")
        elif self.elsewhere:
            parts.append(f"of another session or space: {', '.join(self.elsewhere)}")
        parts += [f"{place} cannot be looked into" for place in self.closed]
        return "; ".join(parts)


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

    def names_like(self, files: Iterable[NamedFile]) -> tuple[str, ...]:
        """Return the first names of files that are of this kind but for session and space."""
        own = (file.name for file in files if replace(self, only_t1w=False).fits(file))
        return tuple(islice(own, _SHOWN))

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
) -> tuple[dict[Visit, Companion], dict[Visit, Missing]]:
    """Return the file of each visit that has one in a derivative dataset, or why it has none.

    It is of the very session of the visit, of no run or acquisition that none of its images is
    of, and in the space of one of them by its name, or else on the grid of one. Of several, those
    in such a space by their names are preferred, then those whose name is most like that of an
    image, then those in T1w space, then the plainer name, and the first.

    Parameters
    ----------
    source : Source
    images : mapping
        FLAIR and T1w of each visit, in the raw dataset.
    kind : Kind

    Raises
    ------
    NotFoundError
        There is no such folder.
    """
    try:
        problem = "" if S_ISDIR(source.root.stat().st_mode) else "is not a folder"
    except OSError as error:
        problem = f"cannot be looked into ({error.strerror})"
    if problem:
        message = f"{source} {problem}; name the root folder of a BIDS derivative dataset."
        raise NotFoundError(message)
    listings = {
        label: list_participant(source.root, label)
        for label in dict.fromkeys(visit.participant for visit in images)
    }
    found, missing = {}, {}
    for visit, paths in images.items():
        one = _choose(visit, paths, listings[visit.participant], source, kind)
        if isinstance(one, Companion):
            found[visit] = one
        else:
            missing[visit] = one
    return found, missing


def _choose(
    visit: Visit, images: Sequence[Path], listing: Listing, source: Source, kind: Kind
) -> Companion | Missing:
    """Return the file of a visit; see `find_companions`."""
    own = images[1:] if kind.only_t1w else images
    entities = [_entities(path) for path in own]
    files = [
        file
        for file in listing.images
        if Visit(file.entities.get("sub", ""), file.entities.get("ses", "")) == visit
        and kind.fits(file)
    ]
    usable, refused = [], []
    for file in sorted(files, key=partial(_preference, images=entities)):
        absent = "; ".join(absence(file.path, source.root) or ())
        problem = _contradiction(file, entities) or absent or _displacement(file, own)
        if problem:
            refused.append(f"{file.name} ({problem})")
        else:
            usable.append(file)
    if usable:
        first, *others = usable
        uri = f"bids:{source.link}:{first.path.relative_to(source.root).as_posix()}"
        return Companion(
            first.path, uri, _space(first), (*(file.name for file in others), *refused)
        )
    what = f"no {kind} of {visit.name} in {source}"
    folders = [Path(f"sub-{visit.participant}"), visit.folder]
    places = {str(place) for folder in folders for place in (folder, folder / "anat")}
    closed = tuple(f"{place} ({why})" for place, why in listing.closed.items() if place in places)
    return Missing(what, tuple(refused), kind.names_like(listing.images), closed)


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


def _displacement(file: NamedFile, images: Sequence[Path]) -> str:
    """Return what says that a file lies elsewhere than some images, or nothing."""
    if _space(file) in _RANK:
        return ""
    try:
        grid = read_grid(file.path)
        if any(grid.same_voxels(read_grid(image)) for image in images):
            return ""
    except DataError as error:
        return str(error)
    return f"in space {_space(file)}, and on the grid of no image of the visit"


def _preference(
    file: NamedFile, images: Sequence[Mapping[str, str]]
) -> tuple[bool, int, int, int, str]:
    """Return what is smaller for a file that is taken before others."""
    own, space = file.entities, _space(file)
    distance = min(sum(own.get(key) != image.get(key) for key in _TELL_APART) for image in images)
    return space not in _RANK, distance, _RANK.get(space, 0), len(own), file.name


def require_any(
    found: Mapping[Visit, Companion],
    missing: Mapping[Visit, Missing],
    source: Source,
    *kinds: Kind,
    of_anybody: bool = False,
) -> None:
    """Check that a dataset that was named is of any use.

    Parameters
    ----------
    found, missing : mapping
        See `find_companions`.
    source : Source
    kinds : Kind
    of_anybody : bool
        Whether files of people who are not looked at will do, as in jobs of one participant each.

    Raises
    ------
    DataError
        No visit has a file in it.
    """
    if not found and not (of_anybody and _has_any(source.root, kinds)):
        what = " or ".join(map(str, kinds))
        message = f"{source}: no {what} belongs to any of the visits."
        for why in list(missing.values())[:1]:
            message += f" E.g. there is {why}."
        raise DataError(message)


def _has_any(root: Path, kinds: Sequence[Kind]) -> bool:
    """Tell whether anybody has a file of some kinds in a dataset."""
    try:
        labels = participants_in(root)
    except OSError:
        return False
    listings = (list_participant(root, label).images for label in labels)
    return any(kind.names_like(images) for images in listings for kind in kinds)


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
