# SPDX-License-Identifier: Apache-2.0
"""Finding images in BIDS datasets."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from bids import BIDSLayout, BIDSLayoutIndexer
from bids.layout import BIDSFile, Query

from bids_lesion_xai.bids.companions import LESION_LABELS, Companion
from bids_lesion_xai.bids.database import Database
from bids_lesion_xai.bids.filters import Filters
from bids_lesion_xai.bids.images import (
    LABEL,
    Listing,
    list_participant,
    participants_in,
    sidecars_beside,
)
from bids_lesion_xai.bids.inheritance import Metadata
from bids_lesion_xai.bids.select import Rejection, Selector
from bids_lesion_xai.bids.visit import Visit
from bids_lesion_xai.conventions import session_order
from bids_lesion_xai.errors import DataError, NotFoundError

_NIFTI = [".nii", ".nii.gz"]
_OTHER_FOLDERS = re.compile(r"^/(derivatives|sourcedata|code|stimuli|models|phenotype)(/|$)")
_HIDDEN = re.compile(r"/\.")
# Entities as the name of the file states them: pybids' own patterns also match the folders above,
# those above the dataset (/scratch/sub-02/bids) among them.
_KEYS = {
    "subject": "sub",
    "session": "ses",
    "acquisition": "acq",
    "ceagent": "ce",
    "inv": "inv",
    "part": "part",
    "space": "space",
    "label": "label",
    "desc": "desc",
}
_NAMES = {
    "name": "names",
    "entities": [
        *({"name": name, "pattern": f"[_/]{key}-([^_./]+)[^/]*$"} for name, key in _KEYS.items()),
        {"name": "run", "pattern": "[_/]run-([0-9]+)[^/]*$", "dtype": "int"},
        {"name": "suffix", "pattern": "[_/]([^_./]+)[.][^/]*$"},
        {"name": "extension", "pattern": "[^./]([.][^/]+)$"},
    ],
}
_IMAGES = {"flair": "FLAIR", "t1w": "T1w"}
_SHOWN_LABELS = 20
_SHOWN_PEOPLE = 3


@dataclass(frozen=True)
class VisitInputs:
    """The images chosen for one visit.

    Parameters
    ----------
    visit : Visit
    flair, t1w : Path
        Native images.
    bids_dir : Path
        The dataset they belong to.
    rejected : tuple of Rejection
        Other images of the visit, each with the reason why it was not taken.
    reference, tissues, brain, lesions : Companion or None
        What other datasets have of it, where that was asked for and is there: true lesions, a
        tissue map, and a brain mask and lesions that are taken as they are.
    notes : tuple of str
        What the user should know about the images that are taken.
    """

    visit: Visit
    flair: Path
    t1w: Path
    bids_dir: Path
    rejected: tuple[Rejection, ...]
    reference: Companion | None = None
    tissues: Companion | None = None
    brain: Companion | None = None
    lesions: Companion | None = None
    notes: tuple[str, ...] = ()

    @property
    def companions(self) -> dict[str, Companion]:
        """What other datasets have of the visit, by the names of the fields."""
        names = ("reference", "tissues", "brain", "lesions")
        found = {name: getattr(self, name) for name in names}
        return {name: one for name, one in found.items() if one}

    def uri(self, path: Path) -> str:
        """Return the BIDS URI of a raw image."""
        return f"bids:raw:{path.relative_to(self.bids_dir).as_posix()}"


@dataclass(frozen=True)
class SkippedVisit:
    """A visit that cannot be processed, and why.

    Parameters
    ----------
    visit : Visit
    reason : str
    rejected : tuple of Rejection
        Images in the place of those that are missing.
    by_filter : bool
        Whether the filter file left nothing of what was there.
    """

    visit: Visit
    reason: str
    rejected: tuple[Rejection, ...] = ()
    by_filter: bool = False


def find_visits(
    bids_dir: Path,
    participants: Sequence[str],
    sessions: Sequence[str],
    filters: Filters | None = None,
    database: Database | None = None,
) -> tuple[list[VisitInputs], list[SkippedVisit]]:
    """Find FLAIR and T1w of every visit.

    Only the folders of the participants asked for are looked into. `bids_lesion_xai.bids.select`
    has the rules.

    Parameters
    ----------
    bids_dir : Path
    participants, sessions : sequence of str
        Labels to look at; empty means all.
    filters : Filters, optional
    database : Database, optional
        An index that knows the files already.

    Returns
    -------
    visits : list of VisitInputs
    skipped : list of SkippedVisit
        Visits without a usable FLAIR or T1w.

    Raises
    ------
    NotFoundError
        A participant or session that was named is not in the dataset.
    DataError
        The folder has no participant.
    """
    bids_dir, filters = bids_dir.resolve(), filters or Filters()
    known = _known_participants(bids_dir)
    _require_known("--participant-label", "sub", participants, known)
    _require_known("--bids-filter-file: subject", "sub", filters.labels("sub"), known)
    listings = {
        label: database.listing(label) if database else list_participant(bids_dir, label)
        for label in dict.fromkeys(participants or known)
        if filters.allows("sub", label)
    }
    labels = {one for listing in listings.values() for one in listing.sessions} - {""}
    there = sorted(labels, key=session_order)
    where = _place(list(listings), known)
    _require_known("--session-label", "ses", sessions, there, where)
    _require_known("--bids-filter-file: session", "ses", filters.labels("ses"), there, where)
    selector = Selector(bids_dir, filters, Metadata(sidecars_beside(bids_dir)))
    visits: list[VisitInputs] = []
    skipped: list[SkippedVisit] = []
    for label, listing in listings.items():
        for session in listing.sessions:
            visit = Visit(label, session)
            if (sessions and session not in sessions) or not filters.allows("ses", session):
                continue
            found = _inputs(visit, listing, selector, filters, bids_dir)
            if isinstance(found, VisitInputs):
                visits.append(found)
            else:
                skipped.append(found)
    looked_at = {one.visit.participant for some in (visits, skipped) for one in some}
    named = dict.fromkeys(participants)
    absent = [_without_session(label, sessions) for label in named if label not in looked_at]
    return visits, [*absent, *skipped]


def _place(participants: Sequence[str], known: Sequence[str]) -> str:
    """Return the words for the part of the dataset that is looked at."""
    if len(participants) == len(known):
        return "the dataset"
    if len(participants) > _SHOWN_PEOPLE:
        return "the folders of the participants asked for"
    return " or ".join(f"sub-{label}" for label in participants)


def _without_session(participant: str, sessions: Sequence[str]) -> SkippedVisit:
    """Return what is told of a participant who has none of the sessions that are asked for."""
    if sessions:
        reason = f"sub-{participant}: has no session {' or '.join(sessions)}."
        return SkippedVisit(Visit(participant, sessions[0]), reason)
    reason = f"sub-{participant}: has no session that --bids-filter-file asks for."
    return SkippedVisit(Visit(participant), reason, by_filter=True)


def _index(root: Path, *ignore: re.Pattern[str]) -> BIDSLayout:
    """Index the images of a dataset without reading any JSON file."""
    indexer = BIDSLayoutIndexer(
        validate=False, index_metadata=False, ignore=[_OTHER_FOLDERS, _HIDDEN, *ignore]
    )
    return BIDSLayout(root, validate=False, indexer=indexer, config=[_NAMES])


def _known_participants(bids_dir: Path) -> list[str]:
    """Return the labels of all participants.

    Raises
    ------
    DataError
        There is none, or the folder cannot be looked into.
    """
    try:
        known = participants_in(bids_dir)
    except OSError as error:
        message = f"{bids_dir} cannot be looked into: {error.strerror}."
        raise DataError(message) from error
    if not known:
        message = f"{bids_dir} has no folder sub-*; a BIDS dataset is expected."
        inside = [path for path in sorted(bids_dir.glob("*/")) if any(path.glob("sub-*/"))]
        if inside:
            message += f" There is one in {' and in '.join(map(str, inside[:3]))}."
        elif bids_dir.name.startswith("sub-"):
            message += f" Is {bids_dir.parent} meant, with --participant-label {bids_dir.name}?"
        raise DataError(message)
    return known


def _require_known(
    flag: str,
    prefix: str,
    labels: Sequence[str],
    known: Sequence[str],
    where: str = "the dataset",
) -> None:
    there = set(known)
    missing = [label for label in labels if label not in there]
    if missing:
        near = [match for label in missing for match in _near(label, known)]
        shown = ", ".join(f"{prefix}-{label}" for label in known[:_SHOWN_LABELS])
        message = (
            f"{flag} {' '.join(missing)}: not in {where}, "
            f"{f'only {shown}' if shown else 'which has none'}"
            f"{' and more' if len(known) > _SHOWN_LABELS else ''}."
            + (f" Did you mean {' or '.join(f'{prefix}-{one}' for one in near)}?" if near else "")
        )
        raise NotFoundError(message)


def _near(label: str, known: Sequence[str]) -> list[str]:
    """Return the known labels that differ in zeros and case alone, or else the most similar."""
    bare = label.lstrip("0").lower()
    same = [one for one in known if one.lstrip("0").lower() == bare] if bare else []
    return same[:3] or get_close_matches(label, known, n=1, cutoff=0.75)


def _inputs(
    visit: Visit, listing: Listing, selector: Selector, filters: Filters, bids_dir: Path
) -> VisitInputs | SkippedVisit:
    """Return the images of a visit, or why it has none."""
    odd = [label for label in visit.entities.values() if not LABEL.fullmatch(label)]
    if odd:
        reason = (
            f"{visit.name}: {' and '.join(odd)} is no BIDS label (letters, digits, +). Rename the "
            "folder and what is in it."
        )
        return SkippedVisit(visit, reason)
    choice = selector.choose(visit, listing)
    rejected = {kind: tuple(some) for kind, some in choice.rejected.items()}
    if choice.flair and choice.t1w:
        return VisitInputs(
            visit,
            choice.flair.file.path,
            choice.t1w.file.path,
            bids_dir,
            rejected["flair"] + rejected["t1w"],
            notes=(*choice.flair.notes, *choice.t1w.notes),
        )
    missing = {
        kind: _IMAGES[kind]
        for kind, found in (("flair", choice.flair), ("t1w", choice.t1w))
        if not found
    }
    others = tuple(one for kind in missing for one in rejected[kind])
    parts = [f"{visit.name}: no usable {' and no usable '.join(missing.values())} found"]
    parts += [f"not usable: {', '.join(map(str, others))}"] if others else []
    removed = {kind for kind in missing if any(one.by_filter for one in rejected[kind])}
    for kind in sorted(removed):
        parts.append(f"--bids-filter-file asks {kind} for {getattr(filters, kind)}")
    parts += [f"{place} ({why}) cannot be looked into" for place, why in listing.closed.items()]
    for kind, name in missing.items():
        elsewhere = _elsewhere(name, visit, listing)
        if elsewhere:
            parts.append(
                f"{' and '.join(elsewhere)} has {name}, but images of two sessions are never put "
                "together"
            )
        elif not rejected[kind] and not listing.closed:
            expected = visit.folder / "anat" / f"{visit.name}_{name}.nii.gz"
            parts.append(f"expected is e.g. {expected.as_posix()}")
    return SkippedVisit(visit, "; ".join(parts) + ".", others, bool(removed))


def _elsewhere(suffix: str, visit: Visit, listing: Listing) -> list[str]:
    """Return the other visits of a participant that have an image with this suffix."""
    there = {
        Visit(image.entities.get("sub", ""), image.entities.get("ses", ""))
        for image in listing.images
        if image.suffix == suffix and not {"ce", "desc", "space"} & set(image.entities)
    }
    return [
        other.name if other.session else f"{other.name} outside of sessions"
        for other in sorted(there - {visit})
        if other.participant == visit.participant
    ]


@dataclass(frozen=True)
class LabelledFiles:
    """The files of one labelled scan in a derivative dataset.

    Parameters
    ----------
    person : str
        ``DATASET/sub-LABEL``, where DATASET is the name of the dataset's folder.
    session : str
        Label without ``ses-``, or empty.
    mask : Path
    flair, t1w : Path or None
        Skull-stripped images on the grid of the mask, where the dataset has them.
    """

    person: str
    session: str
    mask: Path
    flair: Path | None
    t1w: Path | None

    @property
    def visit(self) -> str:
        """Person and session, for messages."""
        return f"{self.person} {self.session}".rstrip()


def find_labelled(dataset: Path) -> list[LabelledFiles]:
    """Return every lesion mask of a derivative dataset, with FLAIR and T1w on its grid.

    Masks are called ``label-lesion_mask`` or ``label-L_mask``; images have the same ``space`` and
    ``desc-brain`` or ``desc-preproc``. Of several, that with the fewest entities which the mask
    does not have, or has in another way, is taken, and ``desc-brain`` before ``desc-preproc``;
    images of another run never.

    Raises
    ------
    DataError
        Several images fit one mask equally well.
    """
    layout = _index(dataset)
    found = []
    for mask in layout.get(suffix="mask", label=list(LESION_LABELS), extension=_NIFTI):
        entities = mask.get_entities()
        if "subject" not in entities:
            continue
        same = {key: entities.get(key) or Query.NONE for key in ("subject", "session", "space")}
        flair, t1w = (
            _of_mask(
                mask,
                layout.get(suffix=suffix, desc=["brain", "preproc"], extension=_NIFTI, **same),
            )
            for suffix in ("FLAIR", "T1w")
        )
        person = f"{dataset.resolve().name}/sub-{entities['subject']}"
        found.append(
            LabelledFiles(person, entities.get("session") or "", Path(mask.path), flair, t1w)
        )
    return found


def _of_mask(mask: BIDSFile, images: list[BIDSFile]) -> Path | None:
    """Return the image that a lesion mask was drawn on, as the names tell, if there is one."""
    own = _said(mask)
    distances = {
        Path(image.path): (len(own.items() ^ said.items()), "_desc-brain_" not in image.filename)
        for image in images
        if (said := _said(image)).get("run", own.get("run")) == own.get("run", said.get("run"))
    }
    closest = [path for path, one in distances.items() if one == min(distances.values())]
    if len(closest) > 1:
        names = " and ".join(path.name for path in closest)
        message = (
            f"{mask.path}: {names} fit it equally well, one image is expected. Give the mask the "
            "entities of its image, or move the others away."
        )
        raise DataError(message)
    return closest[0] if closest else None


def _said(file: BIDSFile) -> dict[str, str]:
    """Return what a name says of an image, but for what was made of it or drawn on it."""
    pairs = re.findall(r"([a-z]+)-([a-zA-Z0-9]+)", file.filename)
    return {key: value.lstrip("0") for key, value in pairs if key not in ("desc", "label")}
