# SPDX-License-Identifier: Apache-2.0
"""Which images may be taken as FLAIR and as T1w, by ``--bids-filter-file``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from bids_lesion_xai.bids.images import LABEL, NIFTI, NamedFile, normal
from bids_lesion_xai.errors import UsageError

# Any value, but one: in the file, and in `ImageFilter.wanted`.
PRESENT = "*"
# Short key of an entity: the names a filter may call it by, that of messages first.
ENTITIES: dict[str, tuple[str, ...]] = {
    "sub": ("subject", "sub", "participant"),
    "ses": ("session", "ses"),
    "acq": ("acquisition", "acq"),
    "ce": ("ceagent", "ce"),
    "rec": ("reconstruction", "rec"),
    "run": ("run",),
    "echo": ("echo",),
    "flip": ("flip",),
    "inv": ("inversion", "inv"),
    "mt": ("mtransfer", "mt"),
    "part": ("part",),
    "chunk": ("chunk",),
    "space": ("space",),
    "desc": ("description", "desc"),
}
_FILE_PARTS = ("suffix", "extension", "datatype")
_BY_NAME = {name: key for key, names in ENTITIES.items() for name in names}
_KNOWN = (*(names[0] for names in ENTITIES.values()), *_FILE_PARTS)
# What may be taken in the place of each image; the first is what is taken if no filter says.
SUFFIXES = {"flair": ("FLAIR", "T2w"), "t1w": ("T1w", "UNIT1", "MP2RAGE")}
_NEVER = {"part": ("phase", "imag")}


@dataclass(frozen=True)
class ImageFilter:
    """What the filter file asks of one kind of image.

    Parameters
    ----------
    kind : str
        ``flair`` or ``t1w``.
    wanted : mapping
        By the short key of an entity, or ``suffix`` and ``extension``, the values that an image
        may have, the preferred one first. None stands for an absent entity, `PRESENT` for any.
    """

    kind: str
    wanted: Mapping[str, tuple[str | None, ...]] = field(default_factory=dict)

    @property
    def suffixes(self) -> tuple[str, ...]:
        """The suffixes that images may have."""
        suffixes = self.wanted.get("suffix", SUFFIXES[self.kind][:1])
        return tuple(suffix for suffix in suffixes if suffix is not None)

    def asks_for(self, key: str) -> bool:
        """Tell whether images are asked for that have the entity `key`."""
        return any(value is not None for value in self.wanted.get(key, ()))

    def names(self, key: str, value: str | None) -> bool:
        """Tell whether a value is asked for by its name."""
        return value is not None and value in self.wanted.get(key, ())

    def removes(self, image: NamedFile) -> str | None:
        """Return why an image is not what is asked for, or None if it is."""
        for key, values in self.wanted.items():
            value = _value(image, key)
            if not any(_fits(value, wanted) for wanted in values):
                has = f"has {_name(key)} {value}" if value else f"has no {_name(key)}"
                return f"{has}, the filter asks for {_listed(values)}"
        return None

    def preference(self, image: NamedFile) -> tuple[int, ...]:
        """Return a key that is smaller for an image whose values stand earlier in the filter."""
        return tuple(
            next((i for i, wanted in enumerate(values) if _fits(_value(image, key), wanted)), 0)
            for key, values in self.wanted.items()
        )

    def __str__(self) -> str:
        """Say what is asked for."""
        return " and ".join(f"{_name(key)} {_listed(v)}" for key, v in self.wanted.items())


@dataclass(frozen=True)
class Filters:
    """What the filter file asks for; nothing if there is none."""

    flair: ImageFilter = field(default_factory=lambda: ImageFilter("flair"))
    t1w: ImageFilter = field(default_factory=lambda: ImageFilter("t1w"))

    def labels(self, key: str) -> tuple[str, ...]:
        """Return the labels of ``sub`` or ``ses`` that are named."""
        values = (*self.flair.wanted.get(key, ()), *self.t1w.wanted.get(key, ()))
        return tuple(dict.fromkeys(v for v in values if v is not None and v != PRESENT))

    def allows(self, key: str, label: str) -> bool:
        """Tell whether visits with this ``sub`` or ``ses`` are asked for; it may be empty."""
        return all(
            any(_fits(label or None, wanted) for wanted in image.wanted[key])
            for image in (self.flair, self.t1w)
            if key in image.wanted
        )

    def require_no_conflict(self, participants: Sequence[str], sessions: Sequence[str]) -> None:
        """Check the filters against each other and against the labels of the command line.

        Raises
        ------
        UsageError
            Participants or sessions are named that exclude each other.
        """
        flags = {
            "sub": ("--participant-label", participants),
            "ses": ("--session-label", sessions),
        }
        for key, (flag, labels) in flags.items():
            asked = {
                image.kind: image.wanted[key]
                for image in (self.flair, self.t1w)
                if key in image.wanted
            }
            if len(asked) == 2 and set(asked["flair"]) != set(asked["t1w"]):
                message = (
                    f"flair asks for {_name(key)} {_listed(asked['flair'])}, t1w for "
                    f"{_listed(asked['t1w'])}; both images are of one {_name(key)}."
                )
                raise UsageError(message)
            for kind, values in asked.items():
                if labels and set(values) not in ({PRESENT}, set(labels)):
                    message = (
                        f"{kind} asks for {_name(key)} {_listed(values)}, {flag} for "
                        f"{' '.join(labels)}. Name them in one place only."
                    )
                    raise UsageError(message)


def read_filters(path: Path) -> Filters:
    """Return the filters that a file states.

    Raises
    ------
    UsageError
        The file is not there or not what is expected; the message says where.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        return _filters(json.loads(text, object_pairs_hook=_distinct))
    except UsageError as error:
        message = f"{path}: {error}"
        raise UsageError(message) from error
    except json.JSONDecodeError as error:
        message = f"{path}: line {error.lineno}, column {error.colno}: {error.msg}."
        raise UsageError(message) from error
    except (ValueError, RecursionError) as error:
        message = f"{path} is no JSON in UTF-8: {error}."
        raise UsageError(message) from error
    except OSError as error:
        message = f"{path} cannot be read: {error.strerror}."
        raise UsageError(message) from error


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        stands = "stands" if len(twice) == 1 else "stand"
        message = f"{' and '.join(map(repr, twice))} {stands} there twice; which one counts?"
        raise UsageError(message)
    return dict(pairs)


def _filters(content: Any) -> Filters:
    if not isinstance(content, dict):
        message = f"an object with the keys {' and '.join(SUFFIXES)} is expected."
        raise UsageError(message)
    for kind, entities in content.items():
        if kind not in SUFFIXES:
            message = f"unknown key {kind!r}{_near(kind, SUFFIXES)}; known are {_all(SUFFIXES)}."
            raise UsageError(message)
        if not isinstance(entities, dict):
            message = f"{kind}: an object of entities and values is expected."
            raise UsageError(message)
    return Filters(*(_image_filter(kind, content.get(kind, {})) for kind in SUFFIXES))


def _image_filter(kind: str, entities: Mapping[str, Any]) -> ImageFilter:
    wanted: dict[str, tuple[str | None, ...]] = {}
    for name, value in entities.items():
        key = name if name in _FILE_PARTS else _BY_NAME.get(name)
        if key is None:
            message = (
                f"{kind}: unknown entity {name!r}{_near(name, (*_BY_NAME, *_FILE_PARTS))}; "
                f"known are {_all(_KNOWN)}."
            )
            raise UsageError(message)
        if key in wanted:
            message = f"{kind}: {_name(key)} is named twice, by two of its names."
            raise UsageError(message)
        values = value if isinstance(value, list) else [value]
        wanted[key] = tuple(dict.fromkeys(_wanted(kind, name, key, one) for one in values))
        if not values:
            absent = "" if name in _FILE_PARTS else ", or write null for images without it"
            message = (
                f"{kind}: {name}: the list is empty, so that nothing could be chosen. Leave "
                f"{name} out{absent}."
            )
            raise UsageError(message)
    wanted.pop("datatype", None)
    return ImageFilter(kind, wanted)


def _wanted(kind: str, name: str, key: str, value: Any) -> str | None:
    """Return a value as `ImageFilter` has it.

    Raises
    ------
    UsageError
        It is none that the entity can have.
    """
    choices = {"suffix": SUFFIXES[kind], "extension": NIFTI, "datatype": ("anat",)}.get(key)
    if choices:
        if value not in choices:
            message = f"{kind}: {name} {json.dumps(value)}: one of {_all(choices)} is expected."
            raise UsageError(message)
        return str(value)
    if value is None or value == PRESENT:
        return value  # type: ignore[no-any-return]
    if isinstance(value, bool) or not isinstance(value, str | int):
        message = (
            f"{kind}: {name} {json.dumps(value)}: a label, a list of labels, null (absent) or "
            '"*" (any) is expected.'
        )
        raise UsageError(message)
    label = str(value).removeprefix(f"{key}-")
    if not LABEL.fullmatch(label):
        message = f"{kind}: {name} {value!r} is no BIDS label (letters, digits, +)."
        raise UsageError(message)
    if label in _NEVER.get(key, ()):
        message = f"{kind}: {name} {label!r}: such an image has no contrast of {kind}."
        raise UsageError(message)
    return normal(key, label)


def _near(name: str, known: Sequence[str] | Mapping[str, Any]) -> str:
    by_lower = {one.lower(): one for one in known}
    near = get_close_matches(name.lower(), by_lower, n=1)
    return f", did you mean {by_lower[near[0]]!r}" if near else ""


def _all(names: Sequence[str] | Mapping[str, Any]) -> str:
    return ", ".join(names)


def _name(key: str) -> str:
    return ENTITIES[key][0] if key in ENTITIES else key


def _value(image: NamedFile, key: str) -> str | None:
    if key in ("suffix", "extension"):
        return image.suffix if key == "suffix" else image.extension
    return image.entities.get(key)


def _fits(value: str | None, wanted: str | None) -> bool:
    return value is not None if wanted == PRESENT else value == wanted


def _listed(values: Sequence[str | None]) -> str:
    words = {None: "none", PRESENT: "any"}
    return " or ".join(words.get(value, str(value)) for value in values)
