# SPDX-License-Identifier: Apache-2.0
"""What a user should know about a dataset as a whole before it is used."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from bids_lesion_xai.bids.images import participants_in
from bids_lesion_xai.bids.inheritance import read_object

_SHOWN = 5
_MISPLACED = (".nii", ".nii.gz")


def dataset_problems(bids_dir: Path, participants: Sequence[str] = ()) -> list[str]:
    """Return what is wrong with a dataset and stops nothing.

    Parameters
    ----------
    bids_dir : Path
    participants : sequence of str
        Labels that matter; empty means all.
    """
    known = participants_in(bids_dir)
    chosen = list(participants) or known
    return [
        *_description(bids_dir / "dataset_description.json"),
        *_without_folder(bids_dir / "participants.tsv", known, participants),
        *_differ_by_case(known, chosen),
        *_misplaced(bids_dir),
    ]


def _description(path: Path) -> list[str]:
    if not path.is_file():
        return ["dataset_description.json is missing: BIDS asks for it, with Name and BIDSVersion"]
    content = read_object(path)
    if isinstance(content, str):
        return [f"dataset_description.json {content}"]
    if content.get("DatasetType") == "derivative":
        return [
            "dataset_description.json says DatasetType derivative: a raw dataset is expected, "
            "and processed images are not taken"
        ]
    return []


def _without_folder(table: Path, known: Sequence[str], chosen: Sequence[str]) -> list[str]:
    """Return who is listed in `participants.tsv` and has no folder."""
    try:
        lines = table.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError):
        return []
    if chosen or not lines or lines[0].split("\t")[0] != "participant_id":
        return []
    listed = [line.split("\t")[0].strip() for line in lines[1:]]
    absent = sorted({name.removeprefix("sub-") for name in listed if name} - set(known))
    return (
        [f"participants.tsv lists {_some([f'sub-{label}' for label in absent])} without a folder"]
        if absent
        else []
    )


def _differ_by_case(known: Sequence[str], chosen: Sequence[str]) -> list[str]:
    """Return participants whose outputs overwrite each other where case does not count."""
    alike = defaultdict(list)
    for label in known:
        alike[label.lower()].append(label)
    return [
        f"{' and '.join(f'sub-{label}' for label in labels)} differ by case alone: their "
        "outputs are one where the file system ignores case"
        for labels in alike.values()
        if len(labels) > 1 and set(labels) & set(chosen)
    ]


def _misplaced(bids_dir: Path) -> list[str]:
    """Return images at the root of a dataset, which belong to nobody there."""
    with os.scandir(bids_dir) as entries:
        images = sorted(e.name for e in entries if e.name.lower().endswith(_MISPLACED))
    return [f"{_some(images)}: images at the root of the dataset are not taken"] if images else []


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
