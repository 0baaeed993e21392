# SPDX-License-Identifier: Apache-2.0
"""What differs is told, and nothing else is."""

from __future__ import annotations

import copy
import json
import os
from pathlib import Path
from typing import Any

import pytest

from bids_lesion_xai.bids import provenance
from bids_lesion_xai.bids.store import LAST_KEY, Store
from bids_lesion_xai.bids.visit import Visit

VISIT = Visit("01", "02")
FACTS: dict[str, Any] = {
    "Version": "0.1.0",
    "Inputs": {
        "FLAIR": {"URI": "bids:raw:sub-01/a_FLAIR.nii.gz", "SHA256": "1" * 64},
        "T1w": {"URI": "bids:raw:sub-01/a_T1w.nii.gz", "SHA256": "2" * 64},
    },
    "Model": {"Name": "small", "Version": "1.0", "Files": {"weights": "3" * 64}},
    "Options": {"--n-samples": 50, "--tta": "none", "--experiments": ["channel"]},
}


def changed(*keys: str, to: Any) -> dict[str, Any]:
    facts = copy.deepcopy(FACTS)
    part = facts
    for key in keys[:-1]:
        part = part[key]
    part[keys[-1]] = to
    return facts


def test_nothing_is_told_of_what_is_the_same() -> None:
    before = {**FACTS, "Device": "cuda", "Libraries": {"numpy": "1"}, "Outputs": {}}
    assert provenance.changes(before, copy.deepcopy(FACTS)) == []


@pytest.mark.parametrize(
    ("now", "words"),
    [
        (changed("Version", to="0.2.0"), "bids_lesion_xai 0.1.0 -> 0.2.0"),
        (
            changed("Inputs", "FLAIR", "SHA256", to="9" * 64),
            "FLAIR bids:raw:sub-01/a_FLAIR.nii.gz has another content (11111111 -> 99999999)",
        ),
        (
            changed("Inputs", "T1w", "URI", to="bids:raw:sub-01/b_T1w.nii.gz"),
            "T1w: bids:raw:sub-01/a_T1w.nii.gz -> bids:raw:sub-01/b_T1w.nii.gz",
        ),
        (
            changed("Inputs", "reference", to={"URI": "bids:masks:m", "SHA256": "4" * 64}),
            "reference: bids:masks:m was not given before",
        ),
        (changed("Model", "Version", to="1.1"), "model small 1.0 -> small 1.1"),
        (
            changed("Model", "Files", "weights", to="8" * 64),
            "model small 1.0: weights has another content (33333333 -> 88888888)",
        ),
        (changed("Options", "--n-samples", to=8), "--n-samples: 50 -> 8"),
        (changed("Options", "--tta", to="flip"), '--tta: "none" -> "flip"'),
        (changed("Options", "--new", to=True), "--new: unknown -> true"),
        (changed("Options", "--experiments", to=[]), '--experiments: ["channel"] -> []'),
    ],
)
def test_one_change_is_told_in_one_sentence(now: dict[str, Any], words: str) -> None:
    assert provenance.changes(FACTS, now) == [words]
    assert len(provenance.changes(now, FACTS)) == 1


def test_an_input_that_is_not_given_any_more_is_a_change() -> None:
    now = copy.deepcopy(FACTS)
    del now["Inputs"]["T1w"]
    (words,) = provenance.changes(FACTS, now)
    assert words == "T1w: bids:raw:sub-01/a_T1w.nii.gz is not given any more"


@pytest.mark.parametrize("before", [{}, {"Inputs": 3, "Model": None, "Options": []}])
def test_what_is_not_known_counts_as_changed(before: dict[str, Any]) -> None:
    n_options = len(FACTS["Options"])
    assert len(provenance.changes(before, FACTS)) == 1 + 2 + 1 + n_options


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "out")
    for key in ("lesion_mask", "lesion_table"):
        store.write_text(store.path(key, VISIT).relative_to(store.root), f"all of {key}")
    store.write_text(f"{VISIT.name}.html", "report")
    provenance.complete(store, VISIT, FACTS)
    return store


def test_outputs_that_are_as_they_were_written_are_not_damaged(store: Store) -> None:
    assert store.visits() == [VISIT]
    entry = provenance.read(store, VISIT)
    assert entry is not None
    assert len(entry["Outputs"]) == 3
    assert provenance.damages(store, entry) == []
    assert provenance.changes(entry, FACTS) == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "is missing"),
        ("", "has 0 bytes instead of 18"),
        ("all of lesion_masX", "was changed"),
    ],
)
def test_an_output_that_is_not_as_it_was_written_is_told(
    store: Store, text: str | None, words: str
) -> None:
    entry = provenance.read(store, VISIT)
    assert entry is not None
    path = store.path("lesion_mask", VISIT)
    name = path.relative_to(store.root).as_posix()
    times = path.stat()
    path.unlink()
    if text is not None:
        path.write_text(text)
        # Not even with the time of before.

        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert provenance.damages(store, entry) == [f"output {name} {words}"]


@pytest.mark.parametrize("text", ["", "{", "[]", "3"])
def test_a_damaged_account_is_none(store: Store, text: str) -> None:
    store.path(LAST_KEY, VISIT).write_text(text)
    assert provenance.read(store, VISIT) is None


def test_an_account_without_outputs_vouches_for_nothing(store: Store) -> None:
    entry = json.loads(store.path(LAST_KEY, VISIT).read_text())
    assert provenance.damages(store, {**entry, "Outputs": {}}) != []
    name = f"{VISIT.name}.html"
    for odd in (3, None, {}, {"Bytes": "6"}):
        assert provenance.damages(store, {"Outputs": {name: odd}}) != []
