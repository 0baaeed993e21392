# SPDX-License-Identifier: Apache-2.0
"""Contents of the JSON files."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bids_lesion_xai import __version__
from bids_lesion_xai.bids.content import absence
from bids_lesion_xai.bids.derivatives import MANUAL, SALIENCY_UNITS, Derivative
from bids_lesion_xai.bids.inheritance import read_object
from bids_lesion_xai.errors import OutputError

BIDS_VERSION = "1.10.0"
SOFTWARE = "bids_lesion_xai"
_DESCRIPTION = "dataset_description.json"
CODE_URL = "https://github.com/bids-lesion-xai/bids_lesion_xai"


def sidecar(row: Derivative, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the sidecar of a file of kind `row`.

    Parameters
    ----------
    row : Derivative
    facts : mapping
        A value for each of the row's `facts`, no more and no less.
    """
    if set(facts) != set(row.facts):
        message = (
            f"sidecar of {row.key}: missing {sorted(set(row.facts) - set(facts))}, "
            f"not declared {sorted(set(facts) - set(row.facts))}"
        )
        raise ValueError(message)
    stated = {SALIENCY_UNITS: facts.get("Units", SALIENCY_UNITS)}
    columns = {
        name: {"Description": column.description}
        | ({"Units": stated.get(column.units, column.units)} if column.units else {})
        | ({"Format": column.kind} if column.kind else {})
        | ({"Levels": dict(column.levels)} if column.levels else {})
        for name, column in row.columns.items()
    }
    units = {"Units": stated.get(row.units, row.units)} if row.units else {}
    ordered = {key: facts[key] for key in row.facts if (key, facts[key]) != (MANUAL, None)}
    return {"Description": row.description, **units, **ordered, **columns}


def dataset_description(
    bids_dir: Path, output_dir: Path, others: Mapping[str, Path] | None = None
) -> dict[str, Any]:
    """Return `dataset_description.json` of the output folder.

    Parameters
    ----------
    bids_dir, output_dir : Path
        Absolute. The raw dataset is linked by its DOI or, without one, by its path relative to
        the output.
    others : mapping of str to Path, optional
        More datasets, by their names in BIDS URIs. Links of earlier runs are kept.
    """
    raw = read_description(bids_dir)
    doi = raw.get("DatasetDOI")
    link = str(doi) if doi else _relative(bids_dir, output_dir)
    earlier = read_description(output_dir).get("DatasetLinks")
    links = dict(earlier) if isinstance(earlier, dict) else {}
    links |= {name: _relative(path, output_dir) for name, path in (others or {}).items()}
    source = {"URL": link} | ({"DOI": doi} if doi else {})
    inherited = {key: raw[key] for key in ("License",) if raw.get(key)}
    return {
        "Name": f"bids_lesion_xai of {raw.get('Name') or 'a BIDS dataset'}",
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "derivative",
        **inherited,
        "Authors": _authors(raw),
        "GeneratedBy": _generators(output_dir),
        "SourceDatasets": [source],
        "DatasetLinks": {**links, "raw": link},
        "HowToAcknowledge": "Cite the works listed in logs/CITATION.md.",
    }


def require_own(output_dir: Path) -> None:
    """Check that an output folder is new, or an earlier one of this software.

    In the dataset of another software, some of its files have names that are written here.

    Raises
    ------
    OutputError
        Its description is of something else, or cannot be read.
    """
    path = output_dir / _DESCRIPTION
    if not os.path.lexists(path):
        return
    content = read_object(path)
    if isinstance(content, str):
        problem = "; ".join(absence(path, output_dir) or (content, "mend it"))
        message = (
            f"OUTPUT_DIR {output_dir}: whose dataset it is cannot be told by its {path.name} "
            f"({problem}). If the folder is of {SOFTWARE}, this file can also be removed."
        )
        raise OutputError(message)
    entries = content.get("GeneratedBy")
    listed = entries if isinstance(entries, list) else []
    names = [one.get("Name") for one in listed if isinstance(one, dict)]
    if SOFTWARE not in names:
        whose = f"made by {', '.join(map(str, names))}" if names else "not made by this software"
        message = (
            f"OUTPUT_DIR {output_dir} is a dataset that was {whose}, by its {path.name}. Name a "
            f"folder of its own, such as derivatives/{SOFTWARE} of the raw dataset."
        )
        raise OutputError(message)


def generator() -> dict[str, Any]:
    """Return what stands in ``GeneratedBy`` for this software, and the container it runs in."""
    container = {
        key: value
        for key, value in (
            ("Type", _container_type()),
            ("Tag", os.environ.get("LESION_XAI_CONTAINER_TAG")),
            ("URI", os.environ.get("LESION_XAI_CONTAINER_URI")),
        )
        if value
    }
    return {
        "Name": SOFTWARE,
        "Version": __version__,
        "Description": "lesion segmentation and explanation of single lesions",
        "CodeURL": CODE_URL,
        **({"Container": container} if container else {}),
    }


def _container_type() -> str | None:
    """Return what runs this process: the image was made for docker, others run it as well."""
    if {"APPTAINER_CONTAINER", "SINGULARITY_CONTAINER"} & set(os.environ):
        return "apptainer"
    if Path("/run/.containerenv").exists():
        return "podman"
    return os.environ.get("LESION_XAI_CONTAINER")


def _generators(output_dir: Path) -> list[dict[str, Any]]:
    """Return this software, and its other versions and containers of earlier runs."""
    own = generator()
    earlier = read_description(output_dir).get("GeneratedBy")
    known = earlier if isinstance(earlier, list) else []
    return [own, *(one for one in known if one != own)]


def _relative(dataset: Path, output_dir: Path) -> str:
    """Return the way to a dataset from the output folder.

    Of a dataset that is not beside it, the name of its folder alone is told: the way would name
    other folders of this machine, such as those of its users.
    """
    shared = Path(os.path.commonpath([dataset, output_dir]))
    if shared in (dataset, dataset.parent, output_dir, output_dir.parent):
        return Path(os.path.relpath(dataset, output_dir)).as_posix()
    return f"../{dataset.name}"


def _authors(raw: Mapping[str, Any]) -> list[str]:
    """Return the authors of the raw dataset, where it states them.

    The BIDS validator warns of fewer than two; the makers of the software fill the list up then.
    """
    authors = raw.get("Authors")
    stated = [str(name) for name in authors] if isinstance(authors, list) else []
    if len(stated) >= 2:
        return stated
    return [*(stated or ["Authors of the source dataset"]), "The bids_lesion_xai developers"]


def to_json(content: Mapping[str, Any]) -> str:
    """Return `content` as JSON text; the same text for the same content."""
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def read_description(dataset: Path) -> dict[str, Any]:
    """Return the content of `dataset_description.json`; empty where there is none to read."""
    content = read_object(dataset / _DESCRIPTION)
    return content if isinstance(content, dict) else {}
