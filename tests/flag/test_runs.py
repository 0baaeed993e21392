# SPDX-License-Identifier: Apache-2.0
"""Lesions of several output folders."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bids_lesion_xai.errors import DataError, NotFoundError
from bids_lesion_xai.flag.runs import differences, read_lesions, read_settings
from tests.flag.cohorts import simulate, write_run
from tests.outputs import publish_outputs


def test_people_of_two_datasets_are_not_the_same(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / name / "out", simulate(2, 8), "../bids") for name in "ab"]
    for name in "ab":
        (tmp_path / name / "bids").mkdir()
    people = set(read_lesions(folders)["person"])
    assert people == {"a/out/sub-01", "a/out/sub-02", "b/out/sub-01", "b/out/sub-02"}


@pytest.mark.parametrize("source", ["../bids", "doi:10.18112/openneuro.ds000001"])
def test_people_of_one_dataset_in_two_folders_are_the_same(tmp_path: Path, source: str) -> None:
    (tmp_path / "bids").mkdir()
    table = simulate(2, 8)
    second = table.assign(session_id="ses-2")
    folders = [
        write_run(tmp_path / "one", table, source),
        write_run(tmp_path / "two", second, source),
    ]
    lesions = read_lesions(folders)
    assert set(lesions["person"]) == {"one/sub-01", "one/sub-02"}
    assert len(lesions) == 2 * len(table)


def test_folders_whose_dataset_is_out_of_sight_are_of_different_people(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / name, simulate(1, 8), "../bids") for name in ("one", "two")]
    assert set(read_lesions(folders)["person"]) == {"one/sub-01", "two/sub-01"}


def test_a_folder_that_is_named_twice_counts_once(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "out", simulate(1, 8))
    assert len(read_lesions([folder, folder])) == len(read_lesions([folder]))


def test_a_visit_in_two_folders_is_refused(tmp_path: Path) -> None:
    source = "doi:10.18112/openneuro.ds000001"
    folders = [write_run(tmp_path / name, simulate(1, 8), source) for name in ("one", "two")]
    with pytest.raises(DataError, match="listed twice: one/sub-01 n/a"):
        read_lesions(folders)


def test_a_visit_with_reference_in_one_folder_and_without_in_another_is_refused(
    tmp_path: Path,
) -> None:
    source, table = "doi:10.18112/openneuro.ds000001", simulate(1, 8)
    one = write_run(tmp_path / "one", table, source)
    two = write_run(tmp_path / "two", table.drop(columns="outcome"), source)
    with pytest.raises(DataError, match="listed twice"):
        read_lesions([one, two])


def test_missed_lesions_need_no_names(tmp_path: Path) -> None:
    table = simulate(2, 8)
    table.loc[table["outcome"] == "FN", ["index", "name"]] = np.nan
    lesions = read_lesions([write_run(tmp_path / "out", table)])
    assert (lesions["outcome"] == "FN").sum() == 4


def test_missing_folders_and_tables_are_told_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="none is not a folder"):
        read_lesions([tmp_path / "none"])
    with pytest.raises(DataError, match=r"group_lesions\.tsv is not there\. Run the group level"):
        read_lesions([tmp_path])


def test_damaged_tables_are_told_with_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "group_lesions.tsv"
    path.write_text('a\tb\n"1\t2\n3\n')
    with pytest.raises(DataError, match=r"group_lesions\.tsv (is damaged|lacks).* Run the group"):
        read_lesions([tmp_path])
    path.write_text("participant_id\tvolume_mm3\nsub-01\t3\n")
    with pytest.raises(DataError, match="lacks the columns session_id, index, name"):
        read_lesions([tmp_path])
    no_lesion = write_run(tmp_path / "out", simulate(1, 8).head(0))
    with pytest.raises(DataError, match="No lesion"):
        read_lesions([no_lesion])


def test_an_unknown_outcome_is_told(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "out", simulate(1, 8).assign(outcome="maybe"))
    with pytest.raises(DataError, match=r"outcomes \['maybe'\]; TP, FP, FN, TN or n/a"):
        read_lesions([folder])


def test_settings_that_one_side_does_not_know_are_no_difference() -> None:
    assert differences({"A": ["1"], "B": ["1", "2"]}, {"B": ["1", "2"]}) == []
    assert differences({"A": ["1"], "B": ["1", "2"]}, {"B": ["1"]}) == ["B: 1, 2; here 1"]


def test_settings_are_those_of_the_visits_of_all_folders(tmp_path: Path) -> None:
    for name in ("one", "two"):
        publish_outputs(tmp_path / name)
    settings = read_settings([tmp_path / "one", tmp_path / "two"])
    assert settings == read_settings([tmp_path / "one"])
    assert len(settings["Model"]) == 1
    assert "phantom_unet" in settings["Model"][0]
    assert len(settings["NumberOfSamples"]) == 2
    assert read_settings([write_run(tmp_path / "no visits", simulate(1, 8))]) == {}
