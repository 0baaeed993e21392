# SPDX-License-Identifier: Apache-2.0
"""What is wrong with a dataset as a whole is told, and stops nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from bids_lesion_xai.bids.condition import dataset_problems

DESCRIPTION = '{"Name": "Phantoms", "BIDSVersion": "1.10.0"}'


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a dataset of two participants with nothing wrong."""
    root = tmp_path / "bids"
    add(root, "01", "02")
    (root / "dataset_description.json").write_text(DESCRIPTION)
    return root


def add(root: Path, *participants: str) -> None:
    for label in participants:
        (root / f"sub-{label}" / "anat").mkdir(parents=True)


def test_a_dataset_in_order_has_no_problem(root: Path) -> None:
    (root / "participants.tsv").write_text("participant_id\tage\nsub-01\t31\nsub-02\t32\n")
    (root / "README.md").write_text("Phantoms.")
    (root / "sub-01" / "anat" / "sub-01_T1w.nii.gz").write_text("an image in its place")
    assert dataset_problems(root) == []
    assert dataset_problems(root, ["01"]) == []


# The description


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "is no valid JSON: line 1, column 1: Expecting value"),
        (b'{\n"Name": x}', "is no valid JSON: line 2, column 9: Expecting value"),
        (b'{"Name": "M\xfcller"}', "is no text in UTF-8: byte 11"),
        (b"[]", "holds no JSON object"),
        (b"3", "holds no JSON object"),
        (b"[" * 100_000, "is no valid JSON: it is nested too deeply, or a number has too many"),
        (
            b'{"DatasetType": "derivative"}',
            "says DatasetType derivative: a raw dataset is expected, and processed images are not",
        ),
    ],
    ids=["empty", "no value", "Latin 1", "list", "number", "nested", "derivative"],
)
def test_what_is_wrong_with_the_description_is_told(
    content: bytes, problem: str, root: Path
) -> None:
    (root / "dataset_description.json").write_bytes(content)
    (told,) = dataset_problems(root)
    assert told.startswith(f"dataset_description.json {problem}")


@pytest.mark.parametrize(
    "content", [b"{}", b'{"DatasetType": "raw"}', b"\xef\xbb\xbf" + DESCRIPTION.encode()]
)
def test_a_description_that_says_little_is_in_order(content: bytes, root: Path) -> None:
    (root / "dataset_description.json").write_bytes(content)
    assert dataset_problems(root) == []


def test_a_description_that_is_not_there_is_told_with_what_bids_asks_for(root: Path) -> None:
    (root / "dataset_description.json").unlink()
    assert dataset_problems(root) == [
        "dataset_description.json is missing: BIDS asks for it, with Name and BIDSVersion"
    ]


def test_a_description_that_cannot_be_read_is_told(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, **_: str) -> str:
        # What anybody but root is told of a file without rights.
        if path.suffix == ".json":
            raise PermissionError(13, "Permission denied", str(path))
        raise FileNotFoundError(2, "No such file or directory", str(path))

    monkeypatch.setattr(Path, "read_text", refuse)
    assert dataset_problems(root) == ["dataset_description.json cannot be read: Permission denied"]


# The table of participants


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ("participant_id\nsub-01\nsub-03\n", "sub-03"),
        ("participant_id\tage\nsub-03\t31\nsub-02\t32", "sub-03"),
        ("participant_id\nsub-04\nsub-03\nsub-04\n", "sub-03, sub-04"),
        ("participant_id\n03\n01\n", "sub-03"),
        ("participant_id\r\nsub-01\r\nsub-03\r\n\r\n", "sub-03"),
        ("\ufeffparticipant_id\nsub-03\n", "sub-03"),
        ("participant_id\n sub-03 \tx\n   \nsub-01  \n", "sub-03"),
        ("participant_id\nsub-1\nsub-010\n", "sub-010, sub-1"),
        ("participant_id\nsub-note\n", "sub-note"),
    ],
)
def test_who_is_listed_without_a_folder_is_told(table: str, told: str, root: Path) -> None:
    (root / "sub-note").write_text("a file")
    (root / "participants.tsv").write_bytes(table.encode())
    assert dataset_problems(root) == [f"participants.tsv lists {told} without a folder"]


@pytest.mark.parametrize(
    "table",
    [
        *(b"", b"\n", b"participant_id", b"participant_id\n\n", b"participant_id\nsub-01\n"),
        *(b"age\tparticipant_id\n31\tsub-03\n", b"participant\nsub-03\n", b"sub-03\n"),
        b"participant_id\nsub-03\xfc\n",
    ],
)
def test_a_table_that_lists_nobody_else_or_is_no_table_is_no_problem(
    table: bytes, root: Path
) -> None:
    (root / "participants.tsv").write_bytes(table)
    assert dataset_problems(root) == []


@pytest.mark.parametrize("kind", ["folder", "link"])
def test_a_table_that_cannot_be_read_is_no_problem(kind: str, root: Path) -> None:
    table = root / "participants.tsv"
    if kind == "folder":
        table.mkdir()
    else:
        table.symlink_to(".git/annex/objects/x")
    assert dataset_problems(root) == []


def test_who_is_listed_does_not_matter_where_participants_are_named(root: Path) -> None:
    (root / "participants.tsv").write_text("participant_id\nsub-03\n")
    assert dataset_problems(root, ["01"]) == []
    assert len(dataset_problems(root)) == 1


# Labels


@pytest.mark.parametrize(
    ("participants", "told"),
    [
        ([], ["sub-A and sub-a", "sub-PX1 and sub-Px1 and sub-px1"]),
        (["a"], ["sub-A and sub-a"]),
        (["A", "a"], ["sub-A and sub-a"]),
        (["01", "Px1"], ["sub-PX1 and sub-Px1 and sub-px1"]),
        (["01", "b"], []),
    ],
)
def test_participants_that_differ_by_case_alone_are_told_if_one_of_them_matters(
    participants: Sequence[str], told: Sequence[str], root: Path
) -> None:
    add(root, "A", "a", "b", "Px1", "px1", "PX1")
    assert dataset_problems(root, participants) == [
        f"{names} differ by case alone: their outputs are one where the file system ignores case"
        for names in told
    ]


# Images at the root


@pytest.mark.parametrize("name", ["sub-01_T1w.nii.gz", "T1w.nii", "sub-01_FLAIR.NII.GZ"])
@pytest.mark.parametrize("participants", [(), ("01",)])
def test_images_at_the_root_are_told(name: str, participants: Sequence[str], root: Path) -> None:
    for other in (name, "sub-01_T1w.json", "nii", "sub-01_T1w.nii.gz.bak"):
        (root / other).write_text("")
    assert dataset_problems(root, participants) == [
        f"{name}: images at the root of the dataset are not taken"
    ]


@pytest.mark.parametrize(
    ("count", "told"),
    [
        (1, "0"),
        (5, "0, 1, 2, 3, 4"),
        (6, "0, 1, 2, 3, 4 and 1 more"),
        (9, "0, 1, 2, 3, 4 and 4 more"),
    ],
)
def test_of_many_names_the_first_five_are_told(count: int, told: str, root: Path) -> None:
    labels = [f"sub-9{number}" for number in reversed(range(count))]
    (root / "participants.tsv").write_text("\n".join(["participant_id", *labels]))
    for label in labels:
        (root / f"{label}.nii").write_text("")
    names = [name.partition(" and ")[0].split(", ") for name in (told, told)]
    rest = told[len(", ".join(names[0])) :]
    assert dataset_problems(root) == [
        f"participants.tsv lists {', '.join(f'sub-9{n}' for n in names[0])}{rest} "
        "without a folder",
        f"{', '.join(f'sub-9{n}.nii' for n in names[1])}{rest}: images at the root of the dataset "
        "are not taken",
    ]


def test_all_problems_are_told(root: Path) -> None:
    add(root, "a", "A")
    (root / "dataset_description.json").unlink()
    (root / "participants.tsv").write_text("participant_id\nsub-03\n")
    (root / "T1w.nii").write_text("")
    starts = [
        "dataset_description.json is",
        "participants.tsv lists",
        "sub-A and sub-a",
        "T1w.nii:",
    ]
    told = dataset_problems(root)
    assert [one.startswith(start) for one, start in zip(told, starts, strict=True)] == [True] * 4
