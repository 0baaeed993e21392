# SPDX-License-Identifier: Apache-2.0
"""The tables and the report over all visits."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pytest

from bids_lesion_xai.bids.store import Store
from bids_lesion_xai.errors import DataError
from bids_lesion_xai.group.collect import collect, read_table
from bids_lesion_xai.reports.group import write_group
from tests.outputs import (
    TWO_SESSIONS,
    VISITS,
    WITHOUT_LESION,
    Html,
    publish_outputs,
    raw_rows,
    same_number,
)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = publish_outputs(tmp_path_factory.mktemp("outputs"))
    for visit in TWO_SESSIONS:
        store.write_text(f"{visit.name}.html", "a report")
    write_group(store)
    return store


@pytest.fixture(scope="module")
def report(store: Store) -> Html:
    return Html(store.path("group_report").read_text(encoding="utf-8"))


def test_the_files_written_are_the_tables_and_the_report(tmp_path: Path) -> None:
    written, group = write_group(publish_outputs(tmp_path, [TWO_SESSIONS[0]]))
    assert group.problems == group.differences == ()
    assert [path.relative_to(tmp_path).as_posix() for path in written] == [
        "group_lesions.tsv",
        "group_participants.tsv",
        "group_report.html",
    ]
    assert (tmp_path / "group_lesions.json").is_file()
    assert (tmp_path / "group_participants.json").is_file()


@pytest.mark.parametrize("name", ["lesions", "participants"])
def test_the_tables_on_disk_are_what_was_collected(store: Store, name: str) -> None:
    expected = getattr(collect(store), name).replace({"session_id": {"n/a": None}})
    found = read_table(store.path(f"group_{name}"))
    pd.testing.assert_frame_equal(found, expected, check_exact=True)


def test_the_sidecars_name_their_sources(store: Store) -> None:
    sources = store.facts("group_lesions")["Sources"]
    assert len(sources) == 2 * len(VISITS)
    for source in (*sources, *store.facts("group_participants")["Sources"]):
        assert (store.root / source.removeprefix("bids::")).is_file()


@pytest.mark.parametrize("units", ["probability", "(logit per unit of normalised intensity)^2"])
def test_tables_and_report_have_the_units_of_the_visits(tmp_path: Path, units: str) -> None:
    store = publish_outputs(tmp_path, TWO_SESSIONS, "vargrad", {"Units": units})
    write_group(store)
    for name in ("group_lesions", "group_participants"):
        facts = store.facts(name)
        assert facts["Units"] == facts["t1w_mean_inside"]["Units"] == units
        volume = {"group_lesions": "volume_mm3", "group_participants": "brain_volume_mm3"}[name]
        assert facts[volume]["Units"] == "mm3"
    text = store.path("group_report").read_text(encoding="utf-8")
    assert f"Saliency in {units}, " in text


def test_every_number_of_a_visit_equals_the_table(store: Store, report: Html) -> None:
    rows = {
        f"{row['participant_id']}_{row['session_id']}": row
        for row in raw_rows(store.path("group_participants"))
    }
    assert list(report.visits) == list(rows)
    for name, numbers in report.visits.items():
        assert {"visit", "n_lesions", "flair_share", "t1w_mean_inside"} <= set(numbers)
        for column, value in numbers.items():
            stored = rows[name].get(column, name)
            assert same_number(value, stored), (name, column)


def test_visits_link_to_their_reports_where_there_are_any(report: Html) -> None:
    links = [link for link in report.links if link.endswith(".html")]
    assert links == [f"{visit.name}.html" for visit in TWO_SESSIONS]


def test_nothing_is_loaded_from_elsewhere(report: Html) -> None:
    assert len(report.sources) == len(report.alternatives) == 4
    assert all(source.startswith("data:image/") for source in report.sources)
    assert not re.search(r"url\(|@import|<link|<iframe", report.text)


def test_anchors_have_targets(report: Html) -> None:
    assert {link[1:] for link in report.links if link.startswith("#")} <= set(report.ids)


def test_the_counts_are_told_in_words(report: Html) -> None:
    assert "4 lesions were found in 3 visits of 2 participants; 1 visit showed none" in report.text
    assert "Intervals need at least 6 participants" in report.text


def test_a_folder_without_lesions_has_a_report_without_charts(tmp_path: Path) -> None:
    store = publish_outputs(tmp_path, [WITHOUT_LESION])
    write_group(store)
    report = Html(store.path("group_report").read_text(encoding="utf-8"))
    assert "0 lesions were found in 1 visit of 1 participant" in report.text
    assert report.sources == []
    assert report.visits[WITHOUT_LESION.name]["flair_share"] == "n/a"


def test_order_of_processing_and_repetition_do_not_matter(store: Store, tmp_path: Path) -> None:
    backwards = publish_outputs(tmp_path, reversed(VISITS))
    for visit in TWO_SESSIONS:
        backwards.write_text(f"{visit.name}.html", "a report")
    for path in write_group(backwards)[0]:
        assert path.read_bytes() == (store.root / path.name).read_bytes(), path.name


def test_an_empty_folder_is_an_error_and_stays_empty(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no complete visit"):
        write_group(Store(tmp_path))
    assert list(tmp_path.iterdir()) == []
