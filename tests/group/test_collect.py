# SPDX-License-Identifier: Apache-2.0
"""Collecting the tables of all visits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bids_lesion_xai.bids.derivatives import DERIVATIVES
from bids_lesion_xai.bids.store import Store
from bids_lesion_xai.errors import DataError
from bids_lesion_xai.group.collect import collect, read_table, visit_ids, write_table
from tests.outputs import ONE_SAMPLE, VISITS, WITHOUT_LESION, publish_outputs


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return publish_outputs(tmp_path_factory.mktemp("outputs"))


def test_columns_are_those_of_the_table_of_outputs(store: Store) -> None:
    lesions, participants = collect(store)
    assert list(lesions) == list(DERIVATIVES["group_lesions"].columns)
    assert list(participants) == list(DERIVATIVES["group_participants"].columns)


@pytest.mark.parametrize("key", ["lesion_table", "saliency_table"])
def test_lesions_are_the_tables_of_the_visits_one_below_the_other(store: Store, key: str) -> None:
    tables = [read_table(store.path(key, visit)).assign(**visit_ids(visit)) for visit in VISITS]
    expected = pd.concat([table for table in tables if len(table)], ignore_index=True)
    lesions, _ = collect(store)
    pd.testing.assert_frame_equal(lesions[list(expected)], expected, check_exact=True)


def test_there_is_one_row_a_visit_in_order(store: Store) -> None:
    _, participants = collect(store)
    found = participants[["participant_id", "session_id"]].to_dict("records")
    assert found == [visit_ids(visit) for visit in sorted(VISITS)]


def test_a_visit_without_lesions_has_zero_lesions_and_missing_means(store: Store) -> None:
    _, participants = collect(store)
    ids = visit_ids(WITHOUT_LESION)
    row = participants.set_index(["participant_id", "session_id"]).loc[tuple(ids.values())]
    assert row["n_lesions"] == 0
    assert row["lesion_volume_mm3"] == 0
    assert row[["mean_probability", "flair_share", "t1w_peak"]].isna().all()
    assert row["brain_volume_mm3"] > 0
    assert row["registration_similarity"] == 0.625


def test_missing_standard_errors_stay_missing(store: Store) -> None:
    lesions, _ = collect(store)
    of_one = lesions["participant_id"] == f"sub-{ONE_SAMPLE.participant}"
    missing = lesions["flair_peak_se"].isna()
    assert (missing == of_one).all()


def test_order_of_processing_does_not_matter(store: Store, tmp_path: Path) -> None:
    backwards = publish_outputs(tmp_path, reversed(VISITS))
    for one, other in zip(collect(store), collect(backwards), strict=True):
        pd.testing.assert_frame_equal(one, other, check_exact=True)


def test_a_folder_of_visits_without_lesions_has_an_empty_table(tmp_path: Path) -> None:
    lesions, participants = collect(publish_outputs(tmp_path, [WITHOUT_LESION]))
    assert lesions.empty
    assert list(lesions) == list(DERIVATIVES["group_lesions"].columns)
    assert participants["n_lesions"].tolist() == [0]


def test_a_visit_that_is_not_complete_does_not_count(tmp_path: Path) -> None:
    store = publish_outputs(tmp_path)
    store.path("saliency_table", ONE_SAMPLE).unlink()
    _, participants = collect(store)
    assert len(participants) == len(VISITS) - 1


def test_a_folder_without_complete_visit_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no complete visit"):
        collect(Store(tmp_path))


def test_tables_of_different_lesions_are_an_error(tmp_path: Path) -> None:
    store = publish_outputs(tmp_path, [ONE_SAMPLE])
    path = store.path("saliency_table", ONE_SAMPLE)
    write_table(read_table(path).assign(index=9), path)
    with pytest.raises(DataError, match=r"sub-02_ses-01.*same lesions"):
        collect(store)


def test_a_table_survives_writing_and_reading_exactly(tmp_path: Path) -> None:
    table = pd.DataFrame({"index": [1, 2], "name": ["L001", "NA"], "x": [0.1 + 0.2, np.nan]})
    path = write_table(table, tmp_path / "table.tsv")
    pd.testing.assert_frame_equal(read_table(path), table, check_exact=True)
    assert path.read_text(encoding="utf-8").endswith("2\tNA\tn/a\n")
