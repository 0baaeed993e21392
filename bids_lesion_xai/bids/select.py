# SPDX-License-Identifier: Apache-2.0
"""The rules by which FLAIR and T1w of a visit are chosen, and reasons for what is not."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

from bids_lesion_xai.bids.content import absence, is_same
from bids_lesion_xai.bids.filters import ENTITIES, SUFFIXES, Filters, ImageFilter
from bids_lesion_xai.bids.images import LABEL, NIFTI, Listing, NamedFile
from bids_lesion_xai.bids.inheritance import Metadata
from bids_lesion_xai.bids.visit import Visit
from bids_lesion_xai.imaging import nifti

# Labels that say "after contrast agent" without the entity ce-; not "before", nor the
# correction of gradient distortions (gdc).
_POST_CONTRAST = re.compile(r"(?<!pre)(post(?!erior)|gad|gd(?!c))", re.IGNORECASE)
_DERIVED = {"desc", "space", "res", "den", "label", "hemi", "from", "to", "seg"}
# In seconds: that of T1w is a few milliseconds, that of FLAIR, which shows T2, 0.08 or more.
_T2_ECHO_TIME_S = 0.05
_FLATNESS = {"3D": 0, "2D": 2}


@dataclass(frozen=True)
class Rejection:
    """An image that was not taken.

    Parameters
    ----------
    path : Path
    reason : str
    advice : str
        What the user can do if it should have been taken; empty where it is as it should be.
    by_filter : bool
        Whether the filter file removed it.
    """

    path: Path
    reason: str
    advice: str = ""
    by_filter: bool = False

    def __str__(self) -> str:
        """Return the name of the file, and the reason."""
        advice = f"; {self.advice}" if self.advice else ""
        return f"{self.path.name} ({self.reason}{advice})"


@dataclass(frozen=True)
class Candidate:
    """An image that can be taken, with what it is preferred for.

    Parameters
    ----------
    file : NamedFile
    preference : tuple of int
        Smaller for one that the filter names earlier.
    metadata : dict
        Of its sidecars.
    sampling : Sampling or None
        None if the image cannot be used by its header.
    notes : tuple of str
        What the user should know if it is taken.
    """

    file: NamedFile
    preference: tuple[int, ...]
    metadata: dict[str, Any]
    sampling: nifti.Sampling | None
    notes: tuple[str, ...]

    @cached_property
    def flatness(self) -> int:
        """0 for a 3D acquisition, 1 if that is not told, 2 for 2D."""
        return _FLATNESS.get(str(self.metadata.get("MRAcquisitionType")), 1)

    @cached_property
    def has_agent(self) -> bool:
        """Whether the sidecar names a contrast agent."""
        return str(self.metadata.get("ContrastBolusIngredient", "")).upper() == "GADOLINIUM"

    @property
    def run(self) -> str | None:
        """The run, without leading zeros."""
        return self.file.entities.get("run")

    @cached_property
    def oddity(self) -> tuple[int, ...]:
        """0 for an image without entities of single echoes, flip angles and the like."""
        entities = self.file.entities
        unknown = sum(key not in ENTITIES for key in entities)
        numbers = (entities.get(key, "0") for key in ("echo", "flip"))
        return (
            unknown,
            *(int(number) if number.isdigit() else 0 for number in numbers),
            int(entities.get("mt") == "on"),
        )

    @property
    def slice_mm(self) -> float:
        """The longest edge of a voxel."""
        return max(self.sampling.voxel_mm) if self.sampling else float("inf")

    @property
    def voxel_mm3(self) -> float:
        """The volume of a voxel."""
        x, y, z = self.sampling.voxel_mm if self.sampling else (float("inf"),) * 3
        return round(x * y * z, 3)

    @property
    def order(self) -> tuple[int, str]:
        """What decides if nothing else does: the run, and the name."""
        run = self.run or "0"
        return int(run) if run.isdigit() else 0, self.file.name


@dataclass
class Choice:
    """What was found for one visit.

    Parameters
    ----------
    flair, t1w : Candidate or None
    rejected : dict
        By ``flair`` and ``t1w``, the images that were not taken.
    """

    flair: Candidate | None = None
    t1w: Candidate | None = None
    rejected: dict[str, list[Rejection]] = field(default_factory=lambda: {"flair": [], "t1w": []})


class Selector:
    """Chooses the images of visits.

    Parameters
    ----------
    bids_dir : Path
    filters : Filters
    metadata : Metadata
    """

    def __init__(self, bids_dir: Path, filters: Filters, metadata: Metadata) -> None:
        self._root = bids_dir
        self._filters = {"flair": filters.flair, "t1w": filters.t1w}
        self._metadata = metadata

    def choose(self, visit: Visit, listing: Listing) -> Choice:
        """Choose FLAIR and T1w of a visit from the files of its participant."""
        choice = Choice()
        usable = {}
        for kind, wanted in self._filters.items():
            fit = []
            for image in _concerning(visit, listing.images, wanted, self._root):
                judged = self._judge(visit, image, wanted, listing.sidecars)
                if isinstance(judged, Rejection):
                    choice.rejected[kind].append(judged)
                else:
                    fit.append(judged)
            usable[kind] = list(_without_twins(fit, choice.rejected[kind]))
        pairs = list(product(usable["flair"], usable["t1w"]))
        if pairs:
            best = min(pairs, key=_values)
            choice.flair, choice.t1w = best
            for position, kind in enumerate(usable):
                for one in usable[kind]:
                    if one is not best[position]:
                        rival = min((p for p in pairs if p[position] is one), key=_values)
                        reason = _why(best, rival, best[position].file.name)
                        choice.rejected[kind].append(Rejection(one.file.path, reason))
        else:
            choice.flair = next(iter(usable["flair"]), None)
            choice.t1w = next(iter(usable["t1w"]), None)
        return choice

    def _judge(
        self, visit: Visit, image: NamedFile, wanted: ImageFilter, sidecars: Sequence[NamedFile]
    ) -> Rejection | Candidate:
        """Return why an image is never taken for a visit, or what it is compared by."""
        rejection = self._rejection(visit, image, wanted)
        if rejection:
            return rejection
        candidate = self._candidate(image, wanted, sidecars)
        if candidate.sampling and candidate.sampling.n_volumes != 1:
            reason = f"4D with {candidate.sampling.n_volumes} volumes, one is expected"
            return Rejection(image.path, reason, "keep one volume in the file")
        return candidate

    def _rejection(self, visit: Visit, image: NamedFile, wanted: ImageFilter) -> Rejection | None:
        """Return why an image is never taken for a visit by its name and place, or None."""
        misnomer = _misnomer(visit, image, self._root) or _misspelt(image, wanted)
        if misnomer:
            return Rejection(image.path, *misnomer)
        if image.suffix not in wanted.suffixes and "suffix" not in wanted.wanted:
            reason = f"suffix {image.suffix}: taken only if --bids-filter-file asks for it"
            return Rejection(image.path, reason)
        removed = wanted.removes(image)
        if removed:
            return Rejection(image.path, removed, by_filter=True)
        against = next((reason for reason, asked in _against(image, wanted) if not asked), None)
        if against:
            return Rejection(image.path, against)
        problem = absence(image.path, self._root)
        return Rejection(image.path, *problem) if problem else None

    def _candidate(
        self, image: NamedFile, wanted: ImageFilter, sidecars: Sequence[NamedFile]
    ) -> Candidate:
        """Return an image that is not rejected, with what it is compared by."""
        sampling = nifti.read_sampling(image.path)
        notes = [
            f"{image.name}: {reason}, taken because the filter asks for it"
            for reason, _ in _against(image, wanted)
        ]
        if image.suffix != SUFFIXES[wanted.kind][0]:
            notes.append(
                f"{image.name} is taken as {SUFFIXES[wanted.kind][0]}, as the filter asks"
            )
        if sampling is None or sampling.n_volumes == 1:
            problem = nifti.header_problem(image.path)
            if problem:
                sampling = None
                notes.append(problem)
        notes += self._metadata.problems(image, sidecars)
        metadata = self._metadata.of(image, sidecars)
        candidate = Candidate(image, wanted.preference(image), metadata, sampling, ())
        if candidate.has_agent and "ce" not in image.entities:
            notes.append(f"{image.name}: its sidecar names a contrast agent")
        notes += _echo_time_note(image, wanted.kind, metadata.get("EchoTime"))
        return Candidate(image, candidate.preference, metadata, sampling, tuple(notes))


def _echo_time_note(image: NamedFile, kind: str, echo_time_s: Any) -> Iterator[str]:
    """Yield a note if an image cannot have the contrast that it is named after."""
    is_number = isinstance(echo_time_s, int | float)
    # Longer ones are in milliseconds, against BIDS.
    if is_number and 0 < echo_time_s < 1 and (echo_time_s > _T2_ECHO_TIME_S) != (kind == "flair"):
        longer, name = ("shorter", "FLAIR") if kind == "flair" else ("longer", "T1w")
        yield (
            f"{image.name}: its echo time by its sidecar, {echo_time_s:g} s, is {longer} than "
            f"that of any {name}. Are FLAIR and T1w mixed up?"
        )


def _concerning(
    visit: Visit, images: Sequence[NamedFile], wanted: ImageFilter, root: Path
) -> Iterator[NamedFile]:
    """Return the images of a kind that lie in the folder of a visit, or whose name says so."""
    folder = root / visit.folder
    lower = {suffix.lower() for suffix in (*SUFFIXES[wanted.kind], *wanted.suffixes)}
    for image in images:
        if image.suffix.lower() not in lower:
            continue
        is_t2w = image.suffix == "T2w" and "suffix" not in wanted.wanted
        if is_t2w and "flair" not in image.entities.get("acq", "").lower():
            continue
        if _visit_of(image) == visit or image.path.parent == folder / "anat":
            yield image


def _visit_of(image: NamedFile) -> Visit:
    return Visit(image.entities.get("sub", ""), image.entities.get("ses", ""))


def _misnomer(visit: Visit, image: NamedFile, root: Path) -> tuple[str, str] | None:
    """Return what is wrong with the name or the place of an image."""
    if _visit_of(image) != visit:
        return f"its name is not of {visit.name}", "rename or move it"
    if image.path.parent != root / visit.folder / "anat":
        place = image.path.parent.relative_to(root).as_posix()
        return f"not in the folder that its name asks for, but in {place}", "move or remove it"
    keys = [key for key, _ in image.pairs]
    odd = [f"{key}-{value}" for key, value in image.pairs if not LABEL.fullmatch(value)]
    if odd:
        return f"{odd[0]} in its name is no entity of BIDS", "rename it"
    if len(set(keys)) < len(keys):
        return "its name has an entity twice", "rename it"
    return None


def _misspelt(image: NamedFile, wanted: ImageFilter) -> tuple[str, str] | None:
    """Return what is wrong with upper and lower case of an image's suffix and extension."""
    known = {suffix.lower(): suffix for suffix in (*SUFFIXES[wanted.kind], *wanted.suffixes)}
    right = known[image.suffix.lower()]
    if image.suffix != right:
        return f"suffix {image.suffix} where BIDS has {right}", "rename it"
    if image.extension not in NIFTI:
        return f"extension {image.extension} where BIDS has lower case", "rename it"
    return None


def _against(image: NamedFile, wanted: ImageFilter) -> Iterator[tuple[str, bool]]:
    """Return what speaks against an image, and whether the filter asks for it all the same."""
    entities = image.entities
    acquisition = entities.get("acq", "")
    asks_agent = wanted.asks_for("ce")
    if "ce" in entities:
        yield "contrast agent", asks_agent
    elif _POST_CONTRAST.search(acquisition):
        yield "contrast agent by its acq", asks_agent or wanted.names("acq", acquisition)
    part = entities.get("part", "mag")
    if part != "mag":
        yield "not a magnitude image", wanted.names("part", part)
    if "inv" in entities and image.suffix != "UNIT1":
        asks = wanted.asks_for("inv") or wanted.names("suffix", "MP2RAGE")
        yield "not a magnitude image of one contrast but an inversion", asks
    for key in sorted(_DERIVED & set(entities)):
        yield "derived image", wanted.asks_for(key)
    if "chunk" in entities:
        yield "a part of the field of view", wanted.asks_for("chunk")


def _without_twins(
    candidates: Sequence[Candidate], rejected: list[Rejection]
) -> Iterator[Candidate]:
    """Leave out images whose names mean the same, such as .nii beside .nii.gz, run-1 and run-01.

    Of files with the same content the first is kept; if contents differ, none is.
    """
    twins = defaultdict(list)
    for candidate in candidates:
        twins[(frozenset(candidate.file.entities.items()), candidate.file.suffix)].append(
            candidate
        )
    for same in twins.values():
        same.sort(key=lambda one: (NIFTI.index(one.file.extension), one.file.name))
        kept, *others = same
        copies = [is_same(kept.file.path, other.file.path) for other in others]
        if all(copies):
            yield kept
            rejected += [
                Rejection(other.file.path, f"the same image as {kept.file.name}")
                for other in others
            ]
            continue
        names = [one.file.name for one in same]
        for one in same:
            others_named = " and ".join(name for name in names if name != one.file.name)
            reason = f"{others_named} is another image under the same BIDS name"
            rejected.append(Rejection(one.file.path, reason, "remove or rename one"))


def _criteria(flair: Candidate, t1w: Candidate) -> tuple[tuple[Any, str], ...]:
    """Return what pairs are compared by, the most important first: the smaller is preferred."""
    both = (flair, t1w)
    return (
        (tuple(one.preference for one in both), "it stands earlier in the filter"),
        (sum(one.sampling is None for one in both), "its header is in order"),
        (sum(one.has_agent for one in both), "no contrast agent in its sidecar"),
        (flair.run != t1w.run, "FLAIR and T1w of one run"),
        (tuple(one.oddity for one in both), "a plainer name"),
        (tuple(one.flatness for one in both), "3D before unknown before 2D"),
        (tuple(one.slice_mm for one in both), "thinner slices"),
        (tuple(one.voxel_mm3 for one in both), "smaller voxels"),
        (tuple(one.order for one in both), "its name comes first"),
    )


def _values(pair: tuple[Candidate, Candidate]) -> tuple[Any, ...]:
    return tuple(value for value, _ in _criteria(*pair))


def _why(
    best: tuple[Candidate, Candidate], rival: tuple[Candidate, Candidate], preferred: str
) -> str:
    """Return why the best pair was preferred to another."""
    for (value, reason), (other, _) in zip(_criteria(*best), _criteria(*rival), strict=True):
        if value != other:
            return f"{preferred} was preferred: {reason}"
    message = f"{best} and {rival} are one"
    raise ValueError(message)
