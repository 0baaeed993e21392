# SPDX-License-Identifier: Apache-2.0
"""Finding images in BIDS datasets: the only place that uses pybids."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from bids import BIDSLayout, BIDSLayoutIndexer
from bids.layout import BIDSFile, Query

from bids_lesion_xai.bids.visit import Visit
from bids_lesion_xai.errors import DataError, NotFoundError
from bids_lesion_xai.imaging import nifti

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
_LESION_LABELS = ["lesion", "L"]
_LABEL = re.compile(r"[0-9A-Za-z+]+")
# Labels that say "after contrast agent" without the entity ce-.
_POST_CONTRAST = re.compile(r"post|gad|gd", re.IGNORECASE)


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
    rejected : tuple of str
        Other images of the visit, each with the reason why it was not taken.
    reference, tissues : Companion or None
        Its lesion mask and its tissue map, where these were asked for and are there.
    """

    visit: Visit
    flair: Path
    t1w: Path
    bids_dir: Path
    rejected: tuple[str, ...]
    reference: Companion | None = None
    tissues: Companion | None = None

    def uri(self, path: Path) -> str:
        """Return the BIDS URI of a raw image."""
        return f"bids:raw:{path.relative_to(self.bids_dir).as_posix()}"


@dataclass(frozen=True)
class SkippedVisit:
    """A visit that cannot be processed, and why."""

    visit: Visit
    reason: str


def find_visits(
    bids_dir: Path, participants: Sequence[str], sessions: Sequence[str]
) -> tuple[list[VisitInputs], list[SkippedVisit]]:
    """Find FLAIR and T1w of every visit.

    Of several candidates, the pair of one run is preferred, then 3D acquisitions, then the
    smallest voxels, then the first name. Images with contrast agent, of another part than the
    magnitude, derived images and empty files are never taken.

    Parameters
    ----------
    bids_dir : Path
    participants, sessions : sequence of str
        Labels to look at; empty means all.

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
    bids_dir = bids_dir.resolve()
    known = sorted(path.name[4:] for path in bids_dir.glob("sub-*") if path.is_dir())
    if not known:
        message = f"{bids_dir} has no folder sub-*; a BIDS dataset is expected."
        raise DataError(message)
    _require_known("participant", "sub", participants, known)
    chosen = list(dict.fromkeys(participants)) or known
    labels = "|".join(map(re.escape, chosen))
    layout = _index(bids_dir, re.compile(rf"^/sub-(?!({labels})(/|_|$))"))
    found = [visit for label in chosen for visit in _visits_of(layout, label)]
    _require_known("session", "ses", sessions, sorted({visit.session for visit in found} - {""}))
    visits, skipped = [], []
    for label in participants:
        if sessions and not {Visit(label, session) for session in sessions} & set(found):
            reason = f"sub-{label}: has no session {' or '.join(sessions)}."
            skipped.append(SkippedVisit(Visit(label, sessions[0]), reason))
    for visit in found:
        if sessions and visit.session not in sessions:
            continue
        odd = [label for label in visit.entities.values() if not _LABEL.fullmatch(label)]
        if odd:
            reason = f"{visit.name}: {' and '.join(odd)} is no BIDS label (letters, digits, +)."
            skipped.append(SkippedVisit(visit, reason))
            continue
        try:
            visits.append(_choose(layout, visit, bids_dir))
        except DataError as error:
            skipped.append(SkippedVisit(visit, str(error)))
    return visits, skipped


def _index(root: Path, *ignore: re.Pattern[str]) -> BIDSLayout:
    """Index the images of a dataset without reading any JSON file."""
    indexer = BIDSLayoutIndexer(
        validate=False, index_metadata=False, ignore=[_OTHER_FOLDERS, _HIDDEN, *ignore]
    )
    return BIDSLayout(root, validate=False, indexer=indexer, config=[_NAMES])


def _require_known(what: str, prefix: str, labels: Sequence[str], known: Sequence[str]) -> None:
    missing = [label for label in labels if label not in known]
    if missing:
        message = (
            f"--{what}-label {' '.join(missing)}: not in the dataset. It has "
            f"{', '.join(f'{prefix}-{label}' for label in known[:20]) or 'none'}"
            f"{' and more' if len(known) > 20 else ''}."
        )
        raise NotFoundError(message)


def _visits_of(layout: BIDSLayout, participant: str) -> list[Visit]:
    """Return the visits of a participant that have an anatomical image or a session folder."""
    folder = Path(layout.root) / f"sub-{participant}"
    sessions = {path.name[4:] for path in folder.glob("ses-*") if path.is_dir()}
    if not sessions or any((folder / "anat").glob("*")):
        sessions.add("")
    return [Visit(participant, session) for session in sorted(sessions)]


def _choose(layout: BIDSLayout, visit: Visit, bids_dir: Path) -> VisitInputs:
    """Choose the images of a visit.

    Raises
    ------
    DataError
        There is no usable FLAIR or no usable T1w.
    """
    usable: dict[str, list[BIDSFile]] = {"FLAIR": [], "T1w": []}
    rejected: dict[str, list[str]] = {"FLAIR": [], "T1w": []}
    for suffix in usable:
        for image in layout.get(
            subject=visit.participant,
            session=visit.session or Query.NONE,
            suffix=suffix,
            extension=_NIFTI,
        ):
            reason = _unusable(image, bids_dir / visit.folder / "anat")
            if reason:
                rejected[suffix].append(f"{Path(image.path).name} ({reason})")
            else:
                usable[suffix].append(image)
    missing = [suffix for suffix, images in usable.items() if not images]
    if missing:
        others = [name for suffix in missing for name in rejected[suffix]]
        message = f"{visit.name}: no usable {' and no usable '.join(missing)} found" + (
            f"; not usable: {', '.join(others)}." if others else "."
        )
        raise DataError(message)
    flair, t1w = min(product(usable["FLAIR"], usable["T1w"]), key=lambda pair: _rank(*pair))
    left = [
        f"{Path(image.path).name} (another {suffix} was preferred)"
        for suffix, images in usable.items()
        for image in images
        if image not in (flair, t1w)
    ]
    return VisitInputs(
        visit,
        Path(flair.path),
        Path(t1w.path),
        bids_dir,
        tuple(rejected["FLAIR"] + rejected["T1w"] + left),
    )


def _unusable(image: BIDSFile, folder: Path) -> str | None:
    """Return why an image of a visit whose images lie in `folder` is never taken, or None."""
    path, entities = Path(image.path), image.get_entities()
    if path.parent != folder:
        return "not in the folder that its name asks for"
    acquisition = str(entities.get("acquisition", ""))
    if "ceagent" in entities or _POST_CONTRAST.search(acquisition):
        return "contrast agent"
    if entities.get("part", "mag") != "mag" or "inv" in entities:
        return "not a magnitude image"
    if {"desc", "space"} & set(entities):
        return "derived image"
    if not path.exists():
        return "its content is not here, get it with: datalad get"
    if path.stat().st_size == 0:
        return "empty file"
    return None


def _rank(flair: BIDSFile, t1w: BIDSFile) -> tuple[object, ...]:
    """Return a key that is smallest for the preferred pair."""
    runs_differ = flair.get_entities().get("run") != t1w.get_entities().get("run")
    return (
        runs_differ,
        *(_flatness(Path(image.path)) for image in (flair, t1w)),
        *(nifti.voxel_volume_mm3(Path(image.path)) for image in (flair, t1w)),
        Path(flair.path).name,
        Path(t1w.path).name,
    )


def _flatness(path: Path) -> int:
    """Return 0 for a 3D acquisition, 1 if the sidecar beside the image does not tell, 2 for 2D."""
    sidecar = path.with_name(path.name.partition(".")[0] + ".json")
    try:
        kind = json.loads(sidecar.read_text(encoding="utf-8")).get("MRAcquisitionType")
    except (OSError, ValueError, AttributeError):
        return 1
    return {"3D": 0, "2D": 2}.get(str(kind), 1)


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
        Names of files that fit as well, and were not taken.
    """

    path: Path
    uri: str
    space: str
    others: tuple[str, ...]


def find_reference_masks(dataset: Path, visits: Sequence[Visit]) -> dict[Visit, Companion]:
    """Return the lesion mask of each visit that has one in a derivative dataset.

    Masks are called ``label-lesion_mask`` or ``label-L_mask``. Of several, those in T1w space are
    preferred, then those in FLAIR space, then the first name.

    Raises
    ------
    DataError
        No visit has one.
    """
    return _companions(dataset, visits, "reference-masks", suffix="mask", label=_LESION_LABELS)


def find_tissue_maps(dataset: Path, visits: Sequence[Visit]) -> dict[Visit, Companion]:
    """Return the tissue map of each visit that has one in T1w space in a derivative dataset.

    They are called ``desc-aseg_dseg`` or ``desc-aparcaseg_dseg``, as fMRIPrep and sMRIPrep do.

    Raises
    ------
    DataError
        No visit has one.
    """
    found = _companions(dataset, visits, "tissue-maps", suffix="dseg", desc=["aseg", "aparcaseg"])
    return {visit: one for visit, one in found.items() if one.space in ("", "T1w")}


def _companions(
    dataset: Path, visits: Sequence[Visit], link: str, **pattern: object
) -> dict[Visit, Companion]:
    """Return a file of each visit; `link` is the flag's name, and that of the dataset in URIs."""
    if not dataset.is_dir():
        message = f"--{link} {dataset}: there is no such folder."
        raise NotFoundError(message)
    layout = _index(dataset)
    rank = {"": 0, "T1w": 0, "orig": 0, "FLAIR": 1}
    found = {}
    for visit in visits:
        images = layout.get(
            subject=visit.participant,
            session=visit.session or Query.NONE,
            extension=_NIFTI,
            **pattern,
        )
        spaces = {Path(image.path): image.get_entities().get("space", "") for image in images}
        order = sorted(spaces, key=lambda path: (rank.get(spaces[path], 2), path.name))
        if order:
            others = tuple(path.name for path in order[1:])
            uri = f"bids:{link}:{order[0].relative_to(layout.root).as_posix()}"
            found[visit] = Companion(order[0], uri, spaces[order[0]], others)
    if not found:
        what = " and ".join(f"{key} {value}" for key, value in pattern.items())
        message = f"--{link} {dataset}: no image with {what} belongs to any of the visits."
        raise DataError(message)
    return found


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


def find_labelled(dataset: Path) -> list[LabelledFiles]:
    """Return every lesion mask of a derivative dataset, with FLAIR and T1w on its grid.

    Masks are called ``label-lesion_mask`` or ``label-L_mask``; images have the same ``space`` and
    ``desc-brain`` or ``desc-preproc``.
    """
    layout = _index(dataset)
    found = []
    for mask in layout.get(suffix="mask", label=_LESION_LABELS, extension=_NIFTI):
        entities = mask.get_entities()
        same = {key: entities.get(key) or Query.NONE for key in ("subject", "session", "space")}
        flair, t1w = (
            next(
                (
                    Path(image.path)
                    for image in layout.get(
                        suffix=suffix, desc=["brain", "preproc"], extension=_NIFTI, **same
                    )
                ),
                None,
            )
            for suffix in ("FLAIR", "T1w")
        )
        person = f"{dataset.resolve().name}/sub-{entities['subject']}"
        found.append(
            LabelledFiles(person, entities.get("session") or "", Path(mask.path), flair, t1w)
        )
    return found
