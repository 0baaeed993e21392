# SPDX-License-Identifier: Apache-2.0
"""The table of outputs is consistent in itself."""

from __future__ import annotations

import ast
from fnmatch import fnmatch
from pathlib import Path

import pytest

from bids_lesion_xai.bids import derivatives
from bids_lesion_xai.bids.derivatives import (
    DERIVATIVES,
    LESION_LEVELS,
    METHOD,
    METHOD_LABELS,
    Derivative,
    Level,
    bidsignore,
    method_label,
)
from bids_lesion_xai.bids.naming import parse_name
from bids_lesion_xai.bids.visit import Visit
from bids_lesion_xai.conventions import CHANNELS, EXPERIMENTS, INPUT_METHODS
from bids_lesion_xai.explain.catalogue import METHODS

# Suffixes of files that depend on the method of explanation.
OF_METHOD = ("saliency", "profile")
VISITS = (Visit("01"), Visit("02", "A"))
KEYS = tuple(DERIVATIVES)


def paths(row: Derivative) -> list[Path]:
    """Return some paths of `row`, and those of its sidecars."""
    if row.level is Level.GROUP:
        files = [row.path()]
    else:
        lesions = ["L001", "L012"] if row.level in (Level.LESION, Level.FIGURE) else [None]
        files = [row.path(visit, lesion) for visit in VISITS for lesion in lesions]
    sidecars = [path.with_name(path.name.partition(".")[0] + ".json") for path in files]
    return files + (sidecars if row.facts else [])


def ignored(path: Path) -> bool:
    """Tell whether `.bidsignore` covers a path or a folder above it (gitignore rules)."""
    return any(
        fnmatch(path.parts[0], pattern[1:])
        if pattern.startswith("/")
        else any(fnmatch(part, pattern) for part in path.parts)
        for pattern in bidsignore().splitlines()
    )


def test_no_two_rows_have_the_same_key() -> None:
    # A dict keeps only the last of two; so the calls in the source are counted.
    tree = ast.parse(Path(derivatives.__file__).read_text(encoding="utf-8"))
    calls = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "Derivative"
    ]
    keys = [ast.unparse(call.args[0]) for call in calls]
    of_each = {"{channel}": len(CHANNELS), "{name}": len(EXPERIMENTS)}
    counts = [next((n for part, n in of_each.items() if part in key), 1) for key in keys]
    assert len(DERIVATIVES) == sum(counts)
    assert all(row.key == key for key, row in DERIVATIVES.items())


def test_no_two_files_have_the_same_path() -> None:
    every = [path for row in DERIVATIVES.values() for path in paths(row)]
    assert len(every) == len(set(every))


@pytest.mark.parametrize("key", KEYS)
def test_bidsignore_covers_what_is_not_standard_and_nothing_else(key: str) -> None:
    row = DERIVATIVES[key]
    assert [ignored(path) for path in paths(row)] == [not row.standard] * len(paths(row))


@pytest.mark.parametrize(
    "name", ["dataset_description.json", "README.md", "sub-01/anat/sub-01_desc-preproc_T1w.json"]
)
def test_bidsignore_leaves_other_files_to_the_validator(name: str) -> None:
    assert not ignored(Path(name))


def test_logs_are_ignored() -> None:
    assert ignored(Path("logs/run-1.json"))


@pytest.mark.parametrize("key", KEYS)
def test_names_say_whose_they_are_and_can_be_parsed(key: str) -> None:
    row = DERIVATIVES[key]
    if row.level is Level.GROUP:
        assert row.path().parent == Path()
        return
    for visit in VISITS:
        path = row.path(visit, "L003" if row.level is Level.LESION else None)
        if row.level is Level.REPORT:
            assert path == Path(f"{visit.name}.html")
            continue
        entities, suffix, extension = parse_name(path.name)
        label = {"label": "L003"} if row.level is Level.LESION else {}
        own = {key: value.replace(METHOD, "smoothgrad") for key, value in row.entities.items()}
        assert entities == {**visit.entities, **own, **label}
        assert (suffix, extension) == (row.suffix, row.extension)
        assert path.parts[0] == f"sub-{visit.participant}"


@pytest.mark.parametrize("key", KEYS)
def test_every_row_is_described(key: str) -> None:
    row = DERIVATIVES[key]
    assert row.description
    assert not row.description.endswith(".")
    for name, column in row.columns.items():
        assert column.description, name
    assert bool(row.columns) >= (row.extension == ".tsv")


@pytest.mark.parametrize("key", KEYS)
def test_images_in_a_space_say_its_reference_and_masks_their_type(key: str) -> None:
    row = DERIVATIVES[key]
    if row.facts and row.extension == ".nii.gz":
        assert ("SpatialReference" in row.facts) >= ("space" in row.entities)
    if row.suffix == "mask":
        assert {"Type", "Sources"} <= set(row.facts)
    assert len(row.facts) == len(set(row.facts))


@pytest.mark.parametrize("method", INPUT_METHODS)
def test_files_of_saliency_are_named_after_their_method_and_no_others(method: str) -> None:
    label = method_label(method)
    for row in DERIVATIVES.values():
        if row.level in (Level.GROUP, Level.REPORT):
            continue
        lesion = "L003" if row.level in LESION_LEVELS else None
        path = row.path(VISITS[1], lesion, label)
        entities, suffix, _ = parse_name(path.name)
        assert entities.get("desc", "").startswith(label) == (suffix in OF_METHOD)
        assert (path == row.path(VISITS[1], lesion)) == (
            suffix not in OF_METHOD or method == "smoothgrad"
        )
        assert ignored(path) == (not row.standard)


def test_the_methods_that_files_are_named_after_are_those_of_the_catalogue() -> None:
    assert tuple(method for method in METHODS if method != "gradcam++") == INPUT_METHODS


def test_no_two_methods_have_the_same_file() -> None:
    labels = METHOD_LABELS
    for row in DERIVATIVES.values():
        if row.suffix == "saliency" and row.level is Level.VISIT:
            assert len({row.path(VISITS[0], method=label) for label in labels}) == len(labels)
