# SPDX-License-Identifier: Apache-2.0
"""A user id without a name, as containers have them, can import everything."""

from __future__ import annotations

import getpass
import os
from pathlib import Path

import pytest

from bids_lesion_xai.cli.user import complete_user

VARIABLES = ("LOGNAME", "USER", "LNAME", "USERNAME")


@pytest.fixture(autouse=True)
def _nameless(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in VARIABLES:
        monkeypatch.setenv(variable, "")


def test_a_user_without_a_name_gets_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(uid: int) -> None:
        message = f"getpwuid(): uid not found: {uid}"
        raise KeyError(message)

    monkeypatch.setattr("pwd.getpwuid", unknown)
    complete_user()
    assert getpass.getuser() == f"uid{os.getuid()}"


def test_a_user_with_a_name_keeps_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USER", "ada")
    complete_user()
    assert getpass.getuser() == "ada"
    assert os.environ["LOGNAME"] == ""


def test_a_user_without_a_home_folder_gets_that_of_docker(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def unknown(uid: int) -> None:
        message = f"getpwuid(): uid not found: {uid}"
        raise KeyError(message)

    monkeypatch.setattr("pwd.getpwuid", unknown)
    monkeypatch.delenv("HOME")
    complete_user()
    assert os.environ["HOME"] == "/"
    monkeypatch.setenv("HOME", str(tmp_path / "gone"))
    complete_user()
    assert os.environ["HOME"] == "/"


def test_a_home_folder_that_can_be_read_stays(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    complete_user()
    assert os.environ["HOME"] == str(tmp_path)
