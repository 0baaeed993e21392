# SPDX-License-Identifier: Apache-2.0
"""Which sidecars an image inherits from, and what becomes of those that cannot be read."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import nibabel as nb
import numpy as np
import pytest

from bids_lesion_xai.bids.dataset import VisitInputs, find_visits
from bids_lesion_xai.bids.images import NamedFile, list_participant, sidecars_beside
from bids_lesion_xai.bids.inheritance import FIELDS, Metadata, read_object

ANAT = "sub-01/ses-1/anat"
NAME = "sub-01_ses-1_acq-3D_run-01_FLAIR"
# From the farthest to the nearest.
LEVELS = (
    "FLAIR.json",
    "sub-01/sub-01_FLAIR.json",
    "sub-01/ses-1/sub-01_ses-1_FLAIR.json",
    f"{ANAT}/sub-01_ses-1_FLAIR.json",
    f"{ANAT}/sub-01_ses-1_acq-3D_FLAIR.json",
    f"{ANAT}/{NAME}.json",
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "bids"


def put(root: Path, sidecars: Mapping[str, Any]) -> None:
    """Write sidecars at their places, contents that are no bytes as JSON."""
    for place, content in sidecars.items():
        path = root / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())


def add_image(root: Path, name: str = NAME) -> None:
    visit = [pair for pair in name.split("_") if pair.startswith(("sub-", "ses-"))]
    path = root.joinpath(*visit, "anat", f"{name}.nii.gz")
    path.parent.mkdir(parents=True, exist_ok=True)
    nb.save(nb.Nifti1Image(np.zeros((2, 2, 2), np.int16), np.eye(4)), path)


def image_in(root: Path, name: str = NAME) -> tuple[NamedFile, tuple[NamedFile, ...]]:
    """Return an image with the sidecars of its participant."""
    listing = list_participant(root, "01")
    (image,) = (one for one in listing.images if one.name == f"{name}.nii.gz")
    return image, listing.sidecars


def inherited(root: Path, name: str = NAME) -> dict[str, Any]:
    return Metadata(sidecars_beside(root)).of(*image_in(root, name))


def problems(root: Path) -> list[str]:
    return Metadata(sidecars_beside(root)).problems(*image_in(root))


def the_only_visit(root: Path) -> VisitInputs:
    ((inputs,), skipped) = find_visits(root, (), ())
    assert skipped == []
    return inputs


# Which sidecars apply


@pytest.mark.parametrize(
    "place",
    [
        *LEVELS,
        "acq-3D_FLAIR.json",
        "run-1_FLAIR.json",
        "run-01_acq-3D_FLAIR.json",
        "sub-01_FLAIR.json",
        "ses-1_FLAIR.json",
        f"{NAME}.json",
        "sub-01/FLAIR.json",
        "sub-01/acq-3D_FLAIR.json",
        "sub-01/ses-1/FLAIR.json",
        f"{ANAT}/FLAIR.json",
        f"{ANAT}/sub-01_ses-1_run-1_FLAIR.json",
    ],
)
def test_a_sidecar_above_an_image_that_has_no_other_entities_applies(
    root: Path, place: str
) -> None:
    add_image(root)
    assert inherited(root) == {}
    put(root, {place: {"EchoTime": 0.1}})
    assert inherited(root) == {"EchoTime": 0.1}


@pytest.mark.parametrize(
    "place",
    [
        *("T1w.json", "flair.json", "FLAIR.json.bak", "FLAIR.txt", "FLAIR", "._FLAIR.json"),
        *("acq-2D_FLAIR.json", "acq-3d_FLAIR.json", "acq-3DFLAIR.json", "rec-3D_FLAIR.json"),
        *("run-2_FLAIR.json", "run-10_FLAIR.json", "acq-3D_run-1_rec-a_FLAIR.json"),
        *("sub-02_FLAIR.json", "sub-1_FLAIR.json", "ses-2_FLAIR.json", "ses-01_FLAIR.json"),
        *("sub_FLAIR.json", "acq_FLAIR.json", "task-rest_bold.json", "dataset_description.json"),
        "anat/FLAIR.json",
        "derivatives/FLAIR.json",
        "sub-02/FLAIR.json",
        "sub-01/anat/FLAIR.json",
        "sub-01/ses/FLAIR.json",
        "sub-01/ses-2/FLAIR.json",
        "sub-01/ses-2/anat/sub-01_ses-1_FLAIR.json",
        "sub-01/ses-1/func/sub-01_ses-1_FLAIR.json",
        f"{ANAT}/old/{NAME}.json",
        f"{ANAT}/.{NAME}.json",
        f"{ANAT}/sub-01_ses-1_T1w.json",
        f"{ANAT}/sub-01_ses-1_run-2_FLAIR.json",
        f"{ANAT}/{NAME.replace('FLAIR', 'desc-a_FLAIR')}.json",
    ],
)
def test_a_sidecar_of_other_images_does_not_apply_and_its_faults_do_not_matter(
    root: Path, place: str
) -> None:
    add_image(root)
    put(root, {place: {"EchoTime": 0.1}})
    assert inherited(root) == {}
    put(root, {place: b"{"})
    assert problems(root) == []


@pytest.mark.parametrize("sidecar", ["run-1", "run-01", "run-001"])
@pytest.mark.parametrize("image", ["run-1", "run-01", "run-001"])
def test_runs_are_numbers(root: Path, sidecar: str, image: str) -> None:
    name = f"sub-01_{image}_FLAIR"
    add_image(root, name)
    put(
        root,
        {
            f"sub-01/anat/sub-01_{sidecar}_FLAIR.json": {"EchoTime": 0.1},
            "sub-01/anat/sub-01_run-2_FLAIR.json": {"EchoTime": 0.2},
            "sub-01/anat/sub-01_run-10_FLAIR.json": {"EchoTime": 0.3},
        },
    )
    assert inherited(root, name) == {"EchoTime": 0.1}


@pytest.mark.parametrize(("sidecar", "image"), [("1", "01"), ("01", "1")])
@pytest.mark.parametrize("key", ["acq", "ses"])
def test_other_labels_are_not_numbers(root: Path, key: str, sidecar: str, image: str) -> None:
    name = f"sub-01_{key}-{image}_FLAIR"
    add_image(root, name)
    put(root, {f"{key}-{sidecar}_FLAIR.json": {"EchoTime": 0.1}})
    assert inherited(root, name) == {}


@pytest.mark.parametrize("extension", [".nii", ".nii.gz"])
def test_an_image_has_the_same_sidecar_whether_compressed_or_not(
    root: Path, extension: str
) -> None:
    add_image(root)
    image, _ = image_in(root)
    image.path.rename(image.path.with_name(f"{NAME}{extension}"))
    put(root, {f"{ANAT}/{NAME}.json": {"EchoTime": 0.1}})
    listing = list_participant(root, "01")
    assert Metadata(()).of(listing.images[0], listing.sidecars) == {"EchoTime": 0.1}


# Which of several counts


@pytest.mark.parametrize("n_levels", range(1, len(LEVELS) + 1))
@pytest.mark.parametrize("step", [1, -1], ids=["downwards", "upwards"])
def test_the_nearest_sidecar_that_says_something_wins(
    root: Path, n_levels: int, step: int
) -> None:
    add_image(root)
    for number, place in list(enumerate(LEVELS[:n_levels]))[::step]:
        put(root, {place: {"EchoTime": number}})
    put(root, {place: {"MRAcquisitionType": "3D"} for place in LEVELS[n_levels:]})
    assert inherited(root)["EchoTime"] == n_levels - 1


def test_what_a_nearer_sidecar_does_not_say_is_inherited(root: Path) -> None:
    add_image(root)
    put(
        root,
        {
            LEVELS[0]: {"EchoTime": 1, "MRAcquisitionType": "2D", "ContrastBolusIngredient": "A"},
            LEVELS[1]: {"MRAcquisitionType": "3D"},
            LEVELS[-1]: {"EchoTime": 2},
        },
    )
    assert inherited(root) == {
        "ContrastBolusIngredient": "A",
        "MRAcquisitionType": "3D",
        "EchoTime": 2,
    }


@pytest.mark.parametrize(
    ("loser", "winner"),
    [
        ("FLAIR.json", "acq-3D_FLAIR.json"),
        ("acq-3D_FLAIR.json", "acq-3D_run-1_FLAIR.json"),
        ("run-1_FLAIR.json", "acq-3D_run-1_FLAIR.json"),
        ("acq-3D_run-1_FLAIR.json", "sub-01/FLAIR.json"),
        (f"{NAME}.json", "sub-01/sub-01_FLAIR.json"),
        ("sub-01/sub-01_ses-1_acq-3D_FLAIR.json", "sub-01/ses-1/FLAIR.json"),
        (f"sub-01/ses-1/{NAME}.json", f"{ANAT}/FLAIR.json"),
        (f"{ANAT}/sub-01_ses-1_FLAIR.json", f"{ANAT}/sub-01_ses-1_run-1_FLAIR.json"),
    ],
)
def test_the_folder_counts_first_and_then_the_number_of_entities(
    root: Path, loser: str, winner: str
) -> None:
    add_image(root)
    put(root, {winner: {"EchoTime": 1}, loser: {"EchoTime": 2, "MRAcquisitionType": "3D"}})
    assert inherited(root) == {"EchoTime": 1, "MRAcquisitionType": "3D"}


def test_images_of_one_folder_inherit_each_its_own(root: Path) -> None:
    names = [f"sub-01_acq-{label}_FLAIR" for label in "abc"]
    for name in names:
        add_image(root, name)
    put(
        root,
        {
            "FLAIR.json": {"EchoTime": 0},
            "acq-b_FLAIR.json": {"EchoTime": 1},
            "sub-01/anat/sub-01_acq-c_FLAIR.json": {"EchoTime": 2},
        },
    )
    metadata = Metadata(sidecars_beside(root))
    found = [metadata.of(*image_in(root, name))["EchoTime"] for name in names]
    assert found == [0, 1, 2]


# What they hold


def test_what_does_not_matter_is_not_kept_however_much_it_is(root: Path) -> None:
    add_image(root)
    known = {field: [1, {"a": None}] for field in FIELDS}
    put(root, {LEVELS[0]: known | {f"Field{n}": "x" * 1000 for n in range(5000)}})
    assert inherited(root) == known
    assert problems(root) == []


def test_a_sidecar_is_read_once_whoever_asks(root: Path) -> None:
    add_image(root)
    put(root, {place: {"EchoTime": number} for number, place in enumerate(LEVELS[:3])})
    metadata = Metadata(sidecars_beside(root))
    assert metadata.of(*image_in(root)) == {"EchoTime": 2}
    put(root, dict.fromkeys(LEVELS[:3], b"{"))
    assert metadata.of(*image_in(root)) == {"EchoTime": 2}
    assert metadata.problems(*image_in(root)) == []
    assert len(problems(root)) == 3


BROKEN = [
    (b"", "is no valid JSON: line 1, column 1: Expecting value"),
    (b'{"EchoTime": 0.1', "is no valid JSON: line 1, column 17: "),
    (b'{\n"EchoTime": 0.1,,}', "is no valid JSON: line 2, column 17: "),
    (b"<html>404</html>", "is no valid JSON: line 1, column 1: "),
    (b"/annex/objects/MD5E-s9--0.json\n", "is no valid JSON: line 1, column 1: "),
    (b'{"EchoTime": 0.1} {}', "is no valid JSON: line 1, column 19: Extra data"),
    (b'{"Name": "M\xfcller"}', "is no text in UTF-8: byte 11"),
    ('{"EchoTime": 0.1}'.encode("utf-16"), "is no text in UTF-8: byte 0"),
    (b"[" * 100_000, "is no valid JSON: it is nested too deeply, or a number has too many digits"),
    (b'{"EchoTime": %s}' % (b"1" * 5000), "is no valid JSON: it is nested too deeply, or a num"),
    *((text, "holds no JSON object") for text in (b"[]", b"null", b"3", b'"3D"', b'[{"a": 1}]')),
]


@pytest.mark.parametrize(("content", "words"), BROKEN)
@pytest.mark.parametrize("place", [LEVELS[0], LEVELS[-1]])
def test_a_broken_sidecar_is_named_with_what_is_wrong_and_counts_as_none(
    root: Path, place: str, content: bytes, words: str
) -> None:
    add_image(root)
    put(root, {LEVELS[2]: {"EchoTime": 0.1}, place: content})
    assert inherited(root) == {"EchoTime": 0.1}
    (problem,) = problems(root)
    assert problem.startswith(f"{Path(place).name} {words}")


def test_all_that_are_broken_are_told_the_nearest_last(root: Path) -> None:
    add_image(root)
    put(root, {LEVELS[5]: b"[]", LEVELS[0]: b"{", LEVELS[4]: {"EchoTime": 1}, LEVELS[2]: b""})
    assert [problem.partition(" ")[0] for problem in problems(root)] == [
        Path(LEVELS[number]).name for number in (0, 2, 5)
    ]
    assert inherited(root) == {"EchoTime": 1}


def dangle(path: Path) -> None:
    path.symlink_to("../.git/annex/objects/MD5E-s9.json")


def circle(path: Path) -> None:
    path.symlink_to(path.name)


def close(path: Path) -> None:
    path.write_text("{}")
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("nothing is closed to root")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (dangle, "cannot be read: No such file or directory"),
        (circle, "cannot be read: Too many levels of symbolic links"),
        (close, "cannot be read: Permission denied"),
    ],
)
@pytest.mark.parametrize("place", [LEVELS[0], LEVELS[-1]])
def test_a_sidecar_that_cannot_be_read_is_named_with_the_reason(
    root: Path, place: str, spoil: Callable[[Path], None], words: str
) -> None:
    add_image(root)
    put(root, {LEVELS[2]: {"EchoTime": 0.1}})
    spoil(root / place)
    assert inherited(root) == {"EchoTime": 0.1}
    assert problems(root) == [f"{Path(place).name} {words}"]


def test_a_folder_that_is_called_like_a_sidecar_does_no_harm(root: Path) -> None:
    add_image(root)
    put(root, {LEVELS[2]: {"EchoTime": 0.1}})
    for place in (LEVELS[0], LEVELS[-1]):
        (root / place).mkdir()
    assert inherited(root) == {"EchoTime": 0.1}


@pytest.mark.parametrize(
    "content",
    [{}, {"EchoTime": None}, {"EchoTime": [0.1], "Müller": "×"}, {"a": {"b": [1, 2.5, True]}}],
)
@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf", b"\n "])
def test_an_object_is_read_as_it_stands(
    tmp_path: Path, content: dict[str, Any], start: bytes
) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(start + json.dumps(content, ensure_ascii=False).encode())
    assert read_object(path) == content


# What it decides


@pytest.mark.parametrize(
    ("sidecars", "expected"),
    [
        ({"acq-b_FLAIR.json": "3D"}, "b"),
        ({"FLAIR.json": "3D", "sub-01/anat/sub-01_acq-a_FLAIR.json": "2D"}, "b"),
        ({"acq-a_FLAIR.json": "2D", "sub-01/sub-01_FLAIR.json": "3D"}, "a"),
        ({"FLAIR.json": "2D", "sub-01/sub-01_acq-b_FLAIR.json": "3D"}, "b"),
        ({"T1w.json": "3D", "acq-b_T1w.json": "3D"}, "a"),
        ({"FLAIR.json": "2D", "sub-01/anat/sub-01_acq-b_FLAIR.json": 3}, "b"),
    ],
)
def test_images_are_preferred_by_what_they_inherit(
    root: Path, sidecars: dict[str, str], expected: str
) -> None:
    for name in ("sub-01_acq-a_FLAIR", "sub-01_acq-b_FLAIR", "sub-01_T1w"):
        add_image(root, name)
    put(root, {place: {"MRAcquisitionType": kind} for place, kind in sidecars.items()})
    assert the_only_visit(root).flair.name == f"sub-01_acq-{expected}_FLAIR.nii.gz"


def test_an_agent_that_a_sidecar_above_names_is_avoided_and_else_told(root: Path) -> None:
    for name in ("sub-01_run-1_T1w", "sub-01_run-1_FLAIR"):
        add_image(root, name)
    put(root, {"run-1_T1w.json": {"ContrastBolusIngredient": "gadolinium"}})
    inputs = the_only_visit(root)
    assert inputs.notes == ("sub-01_run-1_T1w.nii.gz: its sidecar names a contrast agent",)
    add_image(root, "sub-01_run-2_T1w")
    inputs = the_only_visit(root)
    assert (inputs.t1w.name, inputs.notes) == ("sub-01_run-2_T1w.nii.gz", ())


def test_a_broken_sidecar_is_told_of_every_visit_whose_taken_image_it_is_of(root: Path) -> None:
    for visit in ("sub-01", "sub-02"):
        for name in ("FLAIR", "T1w", "acq-a_T1w"):
            add_image(root, f"{visit}_{name}")
    put(root, {"FLAIR.json": b"{", "sub-02/anat/sub-02_acq-a_T1w.json": b"{", "T2w.json": b"{"})
    put(root, {"acq-a_T1w.json": {"MRAcquisitionType": "2D"}})
    visits, _ = find_visits(root, (), ())
    assert [inputs.t1w.name for inputs in visits] == ["sub-01_T1w.nii.gz", "sub-02_T1w.nii.gz"]
    told = [[note.partition(":")[0] for note in inputs.notes] for inputs in visits]
    assert told == [["FLAIR.json is no valid JSON"]] * 2
