# SPDX-License-Identifier: Apache-2.0
"""Metadata of images from their sidecars, as BIDS lets them inherit."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bids_lesion_xai.bids.images import NamedFile

# What the choice of images depends on; the rest of a sidecar is not kept.
FIELDS = ("MRAcquisitionType", "ContrastBolusIngredient", "EchoTime")


class Metadata:
    """Reads `FIELDS` from sidecars, each once.

    Parameters
    ----------
    shared : iterable of NamedFile
        The sidecars at the root of the dataset.
    """

    def __init__(self, shared: Iterable[NamedFile]) -> None:
        self._shared = tuple(shared)
        self._read: dict[Path, dict[str, Any] | str] = {}

    def of(self, image: NamedFile, sidecars: Iterable[NamedFile]) -> dict[str, Any]:
        """Return the metadata of an image.

        A sidecar applies to the images of its suffix, in its folder and below, that have all its
        entities. One that is nearer to the image, or names more entities, overrides.

        Parameters
        ----------
        image : NamedFile
        sidecars : iterable of NamedFile
            Those of the participant.
        """
        merged: dict[str, Any] = {}
        for sidecar in self._applying(image, sidecars):
            content = self._content(sidecar.path)
            if isinstance(content, dict):
                merged |= content
        return merged

    def problems(self, image: NamedFile, sidecars: Iterable[NamedFile]) -> list[str]:
        """Return what is wrong with the sidecars of an image."""
        found = [(s.path.name, self._content(s.path)) for s in self._applying(image, sidecars)]
        return [f"{name} {content}" for name, content in found if isinstance(content, str)]

    def _applying(self, image: NamedFile, sidecars: Iterable[NamedFile]) -> list[NamedFile]:
        """Return the sidecars that apply to an image, the nearest last."""
        applying = [
            sidecar
            for sidecar in (*self._shared, *sidecars)
            if sidecar.suffix == image.suffix
            and sidecar.path.parent in image.path.parents
            and sidecar.entities.items() <= image.entities.items()
        ]
        return sorted(applying, key=lambda sidecar: (len(sidecar.path.parts), len(sidecar.pairs)))

    def _content(self, path: Path) -> dict[str, Any] | str:
        if path not in self._read:
            content = read_object(path)
            if isinstance(content, dict):
                content = {field: content[field] for field in FIELDS if field in content}
            self._read[path] = content
        return self._read[path]


def read_object(path: Path) -> dict[str, Any] | str:
    """Return the JSON object of a file, or what is wrong with it."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        return f"is no valid JSON: line {error.lineno}, column {error.colno}: {error.msg}"
    except UnicodeDecodeError as error:
        return f"is no text in UTF-8: byte {error.start}"
    except (RecursionError, ValueError):
        return "is no valid JSON: it is nested too deeply, or a number has too many digits"
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    return content if isinstance(content, dict) else "holds no JSON object"
