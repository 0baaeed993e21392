# SPDX-License-Identifier: Apache-2.0
"""BIDS file names: entities to a name and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

# Order in which entities stand in a file name: BIDS 1.10, schema/rules/entities.yaml, and for
# transforms (from, to, mode) the draft that fMRIPrep follows.
ENTITY_ORDER = ("sub", "ses", "acq", "run", "from", "to", "mode", "space", "label", "desc")


class Name(NamedTuple):
    """A BIDS file name taken apart: entities, suffix and extension (with its dot)."""

    entities: dict[str, str]
    suffix: str
    extension: str


def format_name(entities: Mapping[str, str], suffix: str, extension: str) -> str:
    """Return the file name of `entities`, put in BIDS order.

    >>> format_name({"desc": "brain", "sub": "01"}, "mask", ".nii.gz")
    'sub-01_desc-brain_mask.nii.gz'
    """
    unknown = set(entities) - set(ENTITY_ORDER)
    if unknown:
        message = f"unknown BIDS entities {sorted(unknown)}; known are {list(ENTITY_ORDER)}"
        raise ValueError(message)
    pairs = [f"{key}-{entities[key]}" for key in ENTITY_ORDER if key in entities]
    return "_".join([*pairs, suffix]) + extension


def parse_name(name: str) -> Name:
    """Take a file name apart; the inverse of `format_name`.

    >>> parse_name("sub-01_desc-brain_mask.nii.gz")
    Name(entities={'sub': '01', 'desc': 'brain'}, suffix='mask', extension='.nii.gz')
    """
    stem, dot, extension = name.partition(".")
    *pairs, suffix = stem.split("_")
    entities = dict(pair.split("-", 1) for pair in pairs)
    return Name(entities, suffix, dot + extension)
