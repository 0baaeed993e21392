# SPDX-License-Identifier: Apache-2.0
"""How a visit came about, and whether its outputs still are what a run would make."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bids_lesion_xai.bids.sidecar import to_json
from bids_lesion_xai.bids.store import LAST_KEY, Store
from bids_lesion_xai.bids.visit import Visit
from bids_lesion_xai.checksum import sha256

NOT_COMPLETE = "there is no complete result yet"
# Distributions that numbers depend on.
_LIBRARIES = (
    *("antspyx", "deepbet", "monai", "nibabel", "nipype", "numpy", "pandas", "scipy"),
    *("scikit-learn", "torch"),
)
_SHOWN_DIGITS = 8
_SHOWN_DAMAGES = 3


def libraries() -> dict[str, str]:
    """Return the versions of Python and of the libraries that numbers depend on."""
    return {"python": platform.python_version(), **{name: version(name) for name in _LIBRARIES}}


def read(store: Store, visit: Visit) -> dict[str, Any] | None:
    """Return how a visit came about; None if it is not complete or nobody can tell."""
    try:
        content = json.loads(store.path(LAST_KEY, visit).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def complete(store: Store, visit: Visit, facts: Mapping[str, Any]) -> None:
    """Write how a visit came about, with what its outputs are; it is complete then."""
    written = _written(store, store.outputs(visit))
    place = store.path(LAST_KEY, visit).relative_to(store.root)
    store.write_text(place, to_json({**facts, "Outputs": written}))


def renew(store: Store, visit: Visit, paths: Iterable[Path]) -> None:
    """Take down that outputs of a complete visit were written anew; all else stays as it is."""
    content = read(store, visit)
    if content is None:
        return
    content["Outputs"] = {**_mapping(content, "Outputs"), **_written(store, paths)}
    store.write_text(store.path(LAST_KEY, visit).relative_to(store.root), to_json(content))


def _written(store: Store, paths: Iterable[Path]) -> dict[str, dict[str, Any]]:
    return {
        path.relative_to(store.root).as_posix(): {
            "Bytes": path.stat().st_size,
            "SHA256": sha256(path),
        }
        for path in paths
    }


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return what a run would take otherwise than the run before, each in words.

    Parameters
    ----------
    before, now : mapping
        With ``Version`` of the software, ``Inputs`` (``URI`` and ``SHA256`` of each), ``Model``
        (``Name``, ``Version`` and ``Files``) and ``Options``.
    """
    found = []
    if before.get("Version") != now["Version"]:
        found.append(f"bids_lesion_xai {before.get('Version')} -> {now['Version']}")
    found += _input_changes(_mapping(before, "Inputs"), now["Inputs"])
    found += _model_changes(_mapping(before, "Model"), now["Model"])
    options = _mapping(before, "Options")
    for name in sorted({*options, *now["Options"]}):
        old, new = (_shown(one, name) for one in (options, now["Options"]))
        if old != new:
            found.append(f"{name}: {old} -> {new}")
    return found


def _mapping(content: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = content.get(key)
    return value if isinstance(value, Mapping) else {}


def _shown(options: Mapping[str, Any], name: str) -> str:
    return json.dumps(options[name], ensure_ascii=False) if name in options else "unknown"


def _input_changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterable[str]:
    for name in (*now, *(name for name in before if name not in now)):
        old, new = _mapping(before, name), _mapping(now, name)
        if not new:
            yield f"{name}: {old.get('URI')} is not given any more"
        elif not old:
            yield f"{name}: {new['URI']} was not given before"
        elif old.get("URI") != new["URI"]:
            yield f"{name}: {old.get('URI')} -> {new['URI']}"
        elif old.get("SHA256") != new["SHA256"]:
            yield f"{name} {new['URI']} has another content ({_digits(old)} -> {_digits(new)})"


def _digits(entry: Mapping[str, Any]) -> str:
    return str(entry.get("SHA256"))[:_SHOWN_DIGITS]


def _model_changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterable[str]:
    old, new = (f"{one.get('Name')} {one.get('Version')}" for one in (before, now))
    if old != new:
        yield f"model {old} -> {new}"
        return
    files = _mapping(before, "Files")
    for name, digest in now["Files"].items():
        if files.get(name) != digest:
            shown = " -> ".join(str(one)[:_SHOWN_DIGITS] for one in (files.get(name), digest))
            yield f"model {new}: {name} has another content ({shown})"


def damages(store: Store, content: Mapping[str, Any]) -> list[str]:
    """Return which outputs of a visit are not as they were written, each in words."""
    written = _mapping(content, "Outputs")
    if not written:
        return ["it is not known what was written"]
    found = [words for name in written if (words := _damage(store, name, _mapping(written, name)))]
    more = len(found) - _SHOWN_DAMAGES
    return found[:_SHOWN_DAMAGES] + ([f"{more} more outputs"] if more > 0 else [])


def _damage(store: Store, name: str, entry: Mapping[str, Any]) -> str:
    path = store.root / name
    size, digest = (entry.get(key) for key in ("Bytes", "SHA256"))
    try:
        if path.stat().st_size != size:
            return f"output {name} has {path.stat().st_size} bytes instead of {size}"
        if sha256(path) != digest:
            return f"output {name} was changed"
    except FileNotFoundError:
        return f"output {name} is missing"
    except OSError as error:
        return f"output {name} cannot be read ({error.strerror})"
    return ""
