# SPDX-License-Identifier: Apache-2.0
"""Columns of `participants.tsv`."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from bids_lesion_xai.bids.covariates import MOST_LEVELS, read_covariates
from bids_lesion_xai.errors import DataError, LesionXaiError, NotFoundError

TEXT = "participant_id\tage\tsex\tsite\nsub-01\t30\tF\t1\nsub-02\tn/a\tM\t2\n03\t41.5\tn/a\t1\n"


def dataset(folder: Path, text: str = TEXT) -> Path:
    (folder / "participants.tsv").write_text(text, encoding="utf-8")
    return folder


def test_numbers_are_numbers_and_all_else_is_text(tmp_path: Path) -> None:
    table = read_covariates(dataset(tmp_path), ["age", "sex", "site"])
    assert list(table.index) == ["sub-01", "sub-02", "sub-03"]
    assert [pd.api.types.is_numeric_dtype(table[name]) for name in table] == [True, False, True]
    assert table["age"].dropna().tolist() == [30, 41.5]
    assert table["sex"].dropna().tolist() == ["F", "M"]


def test_numbers_that_are_codes_of_levels_are_levels(tmp_path: Path) -> None:
    described = {"site": {"Levels": {"1": "Lyon", "2": "Basel"}}, "age": {"Units": "year"}}
    (tmp_path / "participants.json").write_text(json.dumps(described), encoding="utf-8")
    table = read_covariates(dataset(tmp_path), ["age", "site"])
    assert pd.api.types.is_numeric_dtype(table["age"])
    assert table["site"].tolist() == ["1", "2", "1"]


@pytest.mark.parametrize("text", ["", "[]", "{", '{"site": 3}'])
def test_a_description_that_says_nothing_does_not_matter(tmp_path: Path, text: str) -> None:
    (tmp_path / "participants.json").write_text(text, encoding="utf-8")
    assert read_covariates(dataset(tmp_path), ["site"])["site"].tolist() == [1, 2, 1]


def test_a_byte_order_mark_does_not_matter(tmp_path: Path) -> None:
    assert list(read_covariates(dataset(tmp_path, f"\ufeff{TEXT}"), ["sex"])) == ["sex"]
    described = json.dumps({"site": {"Levels": {"1": "Lyon", "2": "Basel"}}})
    (tmp_path / "participants.json").write_text(described, encoding="utf-8-sig")
    assert read_covariates(tmp_path, ["site"])["site"].tolist() == ["1", "2", "1"]


def test_a_quote_is_a_letter_and_a_tab_at_the_end_no_value(tmp_path: Path) -> None:
    rows = ['01\tF\t"ill', "02\tM\tn/a", '03\tF\ta "b"']
    text = "\n".join(["participant_id\tsex\tnote", *(f"{row}\t" for row in rows), ""])
    table = read_covariates(dataset(tmp_path, text), ["sex", "note"])
    assert table["sex"].to_dict() == {"sub-01": "F", "sub-02": "M", "sub-03": "F"}
    assert table["note"].dropna().tolist() == ['"ill', 'a "b"']


MANY = "".join(f"{number:02d}\tL{number}\n" for number in range(MOST_LEVELS + 1))


@pytest.mark.parametrize(
    ("text", "columns", "kind", "words"),
    [
        (TEXT, ["age", "height"], NotFoundError, "no column height, but age, sex, site"),
        ("participant_id\nsub-01\n", ["age"], NotFoundError, "no column age, but none"),
        ("", ["age"], DataError, "cannot be read as a table"),
        ("name\tage\na\t3\n", ["age"], DataError, "lacks a participant_id"),
        ("participant_id\tage\nn/a\t3\n", ["age"], DataError, "lacks a participant_id"),
        ("participant_id\tage\n01\t3\nsub-01\t4\n", ["age"], DataError, "more than one row of"),
        ("participant_id\tage\n01\t3\n02\t3\n", ["age"], DataError, "one value only"),
        ("participant_id\tage\n01\tn/a\n", ["age"], DataError, "no value"),
        ("participant_id\tage\n01\t-inf\n02\t3\n", ["age"], DataError, "infinite"),
        (f"participant_id\tx\n{MANY}", ["x"], DataError, f"{MOST_LEVELS + 1} levels"),
    ],
)
def test_a_table_that_cannot_be_used_is_an_error_that_says_why(
    tmp_path: Path, text: str, columns: list[str], kind: type[LesionXaiError], words: str
) -> None:
    with pytest.raises(kind, match=words) as caught:
        read_covariates(dataset(tmp_path, text), columns)
    assert str(caught.value).startswith("--group-by: ")


def test_a_dataset_without_the_table_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"participants\.tsv does not exist"):
        read_covariates(tmp_path, ["age"])
