# SPDX-License-Identifier: Apache-2.0
"""What comes back from the BIDS validator, and what happens without it."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from bids_lesion_xai.bids.validate import validate
from bids_lesion_xai.errors import UnavailableError

PROGRAM = "bids-validator-deno"
ONE_ISSUE = """echo '{"issues": {"issues": [{"code": "%s", "severity": "error"}]}}'"""


@pytest.fixture
def path_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the only folder on PATH; nothing is installed beside the interpreter."""
    folder = tmp_path / "bin"
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "venv" / "python"))
    return folder


def install(folder: Path, script: str) -> None:
    folder.mkdir()
    (folder / PROGRAM).write_text(f"#!/bin/sh\n{script}\n")
    (folder / PROGRAM).chmod(0o755)


def test_the_issues_of_a_dataset_are_returned(tmp_path: Path) -> None:
    if not (Path(sys.executable).with_name(PROGRAM).exists() or shutil.which(PROGRAM)):
        pytest.skip(f"{PROGRAM} is not installed")
    dataset = tmp_path / "bids"
    dataset.mkdir()
    issues = validate(dataset, tmp_path / "cache")
    found = {issue["code"]: issue["severity"] for issue in issues}
    assert found["MISSING_DATASET_DESCRIPTION"] == "error"
    assert list(dataset.iterdir()) == []
    assert any((tmp_path / "cache").iterdir())
    (dataset / "dataset_description.json").write_text('{"Name": "x", "BIDSVersion": "1.10.0"}')
    issues = validate(dataset, tmp_path / "cache")
    assert issues
    assert all(issue["severity"] != "error" for issue in issues)


def test_of_some_participants_nobody_else_is_looked_at(path_folder: Path, tmp_path: Path) -> None:
    dataset, seen = tmp_path / "bids", tmp_path / "seen"
    for label in ("01", "02", "03"):
        (dataset / f"sub-{label}" / "anat").mkdir(parents=True)
        (dataset / f"sub-{label}" / "anat" / f"sub-{label}_T1w.nii.gz").write_text(label)
    (dataset / "sub-01" / "loop").symlink_to("..")
    for name in ("dataset_description.json", "participants.tsv", "T1w.json"):
        (dataset / name).write_text("{}")
    find = 'cd "$2"; for file in $(find . -name "*.*" ! -type d | sort); do echo $file; '
    install(path_folder, f"PATH=/usr/bin:/bin; {find}done > {seen}\n{ONE_ISSUE % 'X'}")
    (tmp_path / "cache").mkdir()
    assert validate(dataset, tmp_path / "cache", ["03", "01"]) == [
        {"code": "X", "severity": "error"}
    ]
    assert seen.read_text().split() == [
        "./T1w.json",
        "./dataset_description.json",
        "./sub-01/anat/sub-01_T1w.nii.gz",
        "./sub-03/anat/sub-03_T1w.nii.gz",
    ]
    assert list((tmp_path / "cache").iterdir()) == []


def test_without_the_program_the_message_names_it_and_the_option(
    path_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(UnavailableError, match=f"{PROGRAM}.*--skip-bids-validation"):
        validate(tmp_path, tmp_path / "cache")


def test_the_program_beside_the_interpreter_comes_before_the_one_on_path(
    path_folder: Path, tmp_path: Path
) -> None:
    install(path_folder, ONE_ISSUE % "ON_PATH")
    assert validate(tmp_path, tmp_path)[0]["code"] == "ON_PATH"
    install(tmp_path / "venv", ONE_ISSUE % "BESIDE")
    assert validate(tmp_path, tmp_path) == [{"code": "BESIDE", "severity": "error"}]


def test_issues_come_back_though_the_program_ends_with_an_error(
    path_folder: Path, tmp_path: Path
) -> None:
    install(path_folder, f"{ONE_ISSUE % 'FOUND'}; exit 16")
    assert validate(tmp_path, tmp_path)[0]["code"] == "FOUND"


@pytest.mark.parametrize("answer", ["", "oops", "null", "[]", "{}", '{"issues": []}'])
def test_any_other_answer_is_no_answer(answer: str, path_folder: Path, tmp_path: Path) -> None:
    install(path_folder, f"echo '{answer}'; echo out of memory >&2")
    with pytest.raises(UnavailableError, match=r"out of memory.*--skip-bids-validation"):
        validate(tmp_path, tmp_path)


def test_the_program_gets_the_dataset_and_the_cache(path_folder: Path, tmp_path: Path) -> None:
    install(path_folder, f'echo "$*|$DENO_DIR" > {tmp_path}/seen; {ONE_ISSUE % "X"}')
    validate(tmp_path / "a b", tmp_path / "cache")
    assert (tmp_path / "seen").read_text() == f"--json {tmp_path}/a b|{tmp_path}/cache\n"
