# SPDX-License-Identifier: Apache-2.0
"""A user id without a name, as containers have them, can import everything."""

from __future__ import annotations

import getpass
import os

import pytest

from bids_lesion_xai.cli.user import name_the_user

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
    name_the_user()
    assert getpass.getuser() == f"uid{os.getuid()}"


def test_a_user_with_a_name_keeps_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USER", "ada")
    name_the_user()
    assert getpass.getuser() == "ada"
    assert os.environ["LOGNAME"] == ""
