# SPDX-License-Identifier: Apache-2.0
"""The tables and the report over all visits."""

from __future__ import annotations

import re
from html import escape
from pathlib import Path

import pandas as pd
import pytest

from benchmarks.cohort import simulate
from bids_lesion_xai.bids.derivatives import DERIVATIVES
from bids_lesion_xai.bids.store import Store
from bids_lesion_xai.bids.visit import Visit
from bids_lesion_xai.errors import DataError
from bids_lesion_xai.group.claims import CHANGE, claims, question_of
from bids_lesion_xai.group.collect import Collection, collect, read_table, write_table
from bids_lesion_xai.reports import group, group_charts
from bids_lesion_xai.reports.citation import ways
from bids_lesion_xai.reports.group import write_group
from bids_lesion_xai.reports.methods import cited, numbered
from tests.outputs import (
    TWO_SESSIONS,
    VISITS,
    WITHOUT_LESION,
    Html,
    compare_with_reference,
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
        "group_claims.tsv",
        "group_report.html",
    ]
    assert (tmp_path / "group_lesions.json").is_file()
    assert (tmp_path / "group_participants.json").is_file()


@pytest.mark.parametrize("name", ["lesions", "participants"])
def test_the_tables_on_disk_are_what_was_collected(store: Store, name: str) -> None:
    expected = getattr(collect(store), name).replace({"session_id": {"n/a": None}})
    if name == "lesions":
        expected = expected.astype({"match": float})
    found = read_table(store.path(f"group_{name}"))
    pd.testing.assert_frame_equal(found, expected, check_exact=True)


def test_the_sidecars_name_their_sources(store: Store) -> None:
    sources = store.facts("group_lesions")["Sources"]
    assert len(sources) == 2 * len(VISITS)
    for source in (*sources, *store.facts("group_participants")["Sources"]):
        assert (store.root / source.removeprefix("bids::")).is_file()


def test_the_sources_are_the_tables_that_each_visit_has(tmp_path: Path) -> None:
    store = publish_outputs(tmp_path)
    compared, plain, studied = VISITS
    compare_with_reference(store, compared, ["TP", "FP", "FN"])
    columns = list(DERIVATIVES["experiment_numbers"].columns)
    numbers = pd.DataFrame([{"index": 1, "name": "L001"}], columns=columns)
    write_table(numbers, store.path("experiment_numbers", studied))
    write_group(store)
    read = {
        compared: ["region_table", "saliency_table"],
        plain: ["lesion_table", "saliency_table"],
        studied: ["lesion_table", "saliency_table", "experiment_numbers"],
    }
    lesions = [store.uri(key, visit) for visit, keys in read.items() for key in keys]
    assert store.facts("group_lesions")["Sources"] == lesions
    assert store.facts("group_claims")["Sources"] == lesions
    images = ("brain_mask", "preproc_flair")
    visits = [
        store.uri(key, visit) for visit, keys in read.items() for key in (*keys[:2], *images)
    ]
    assert store.facts("group_participants")["Sources"] == visits


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
    of_lesions = [link for link in report.links if ".html#" in link]
    assert of_lesions == [f"{TWO_SESSIONS[0].name}.html#L00{i}" for i in (1, 2, 3)]


def test_nothing_is_loaded_from_elsewhere(report: Html) -> None:
    # Of lesions and saliency, and of participants and sessions.
    assert len(report.alternatives) == 4 + 2
    assert set(report.uses) <= set(report.ids)
    assert all(source.startswith("data:image/") for source in report.sources)
    assert not re.search(r"url\((?!#)|@import|<link|<iframe", report.text)


def test_what_was_done_and_what_to_cite_are_told(store: Store, report: Html) -> None:
    for text, visits in ways(store).items():
        assert escape(numbered(text, cited([text])), quote=False)[:200] in report.text
        assert len(visits) >= 1
    assert 'class="references"' in report.text
    assert "Spagnolo" in report.text.partition('class="references"')[2]


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


def test_the_claims_on_disk_stand_in_the_report(store: Store, report: Html) -> None:
    rows = raw_rows(store.path("group_claims"))
    facts = store.facts("group_claims")
    assert set(rows[0]) <= set(facts)
    # The share, inside and five shells of two images, and three reaches of them.
    assert len(rows) == 1 + 2 * 6 + 2 * 3
    for row in rows:
        assert row["statement"].startswith("Cannot be told")
        assert f"<li>{escape(row['statement'])}</li>" in report.text


def test_lesions_that_are_followed_have_numbers_and_those_that_are_not_a_reason(
    tmp_path: Path,
) -> None:
    visits = [TWO_SESSIONS[0], VISITS[2]]
    store = publish_outputs(tmp_path, visits)
    reason = "sub-02_ses-01: T1w & more"
    write_group(store, None, {visits[0]: {1: 3, 2: 2, 3: 1}}, [reason])
    numbers = [row["match"] for row in raw_rows(store.path("group_lesions"))]
    assert numbers == ["3", "2", "1", "n/a"]
    text = store.path("group_report").read_text(encoding="utf-8")
    assert f"<p>Lesions of this person are not followed: {escape(reason)}</p>" in text


def test_somebody_whose_lesions_have_all_vanished_is_left_out_of_changes_and_counted(
    tmp_path: Path,
) -> None:
    first, last = TWO_SESSIONS
    store = publish_outputs(tmp_path, TWO_SESSIONS)
    write_group(store, None, {first: {1: 1, 2: 2, 3: 3}, last: {}})
    own = [row for row in raw_rows(store.path("group_claims")) if row["question"] == CHANGE]
    assert len(own) == 4
    for row in own:
        assert "1 participant with several sessions left out: no lesion" in row["statement"]


def test_sessions_are_drawn_in_the_order_of_their_numbers() -> None:
    loads = {"ses-M0": 1, "ses-M12": 3, "ses-M6": 2}
    visits = pd.DataFrame({"session_id": loads.keys(), "n_lesions": loads.values()})
    svg = group_charts.draw_over_time(visits.assign(participant_id="sub-1"), "n_lesions", "number")
    assert re.findall(r">(ses-\w+)<", svg) == ["ses-M0", "ses-M6", "ses-M12"]


@pytest.fixture
def cohort(monkeypatch: pytest.MonkeyPatch) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Make the group level see a simulated cohort; return its lesions and a covariate."""
    lesions = simulate(9, 1).assign(location="unknown")
    lesions["name"] = [f"L{number:03d}" for number in range(len(lesions))]
    columns = [name for name in DERIVATIVES["group_participants"].columns if name in lesions]
    visits = lesions.groupby(["participant_id", "session_id"])[columns[2:]].mean().reset_index()
    visits = visits.assign(n_lesions=3, lesion_volume_mm3=9.0, median_lesion_volume_mm3=3.0)
    visits = visits.assign(brain_volume_mm3=1e6, registration_similarity=0.6)
    names = zip(visits["participant_id"], visits["session_id"], strict=True)
    labels = tuple(Visit(who[4:], when[4:]) for who, when in names)
    collection = Collection(lesions, visits, {}, labels, (), (), "logit", True)
    monkeypatch.setattr(group, "collect", lambda *_: collection)
    people = visits["participant_id"].unique()
    return lesions, pd.DataFrame({"age": range(len(people))}, people, dtype=float)


def test_a_cohort_has_a_chart_for_every_question(
    cohort: tuple[pd.DataFrame, pd.DataFrame], tmp_path: Path
) -> None:
    store = Store(tmp_path)
    store.write_text("dataset_description.json", "{}")
    write_group(store, cohort[1])
    report = Html(store.path("group_report").read_text(encoding="utf-8"))
    rows = read_table(store.path("group_claims"))
    assert question_of("age") in set(rows["question"])
    charts = 4 + 2 + 2
    assert len(report.alternatives) == charts + rows["question"].nunique()
    assert all(f"<h3>{question}</h3>" in report.text for question in rows["question"])
    assert store.path("group_report").stat().st_size < 1e6


def test_a_forest_chart_names_every_contrast(
    cohort: tuple[pd.DataFrame, pd.DataFrame],
) -> None:
    lesions = cohort[0].assign(margin_50_zero_mm=cohort[0]["flair_distance_50_mm"] + 1)
    rows = claims(lesions)
    for _, own in rows.groupby("question"):
        svg = group_charts.draw_forest(own)
        assert all(f">{contrast}<" in svg for contrast in own["contrast"])
        assert svg.count("<use ") >= len(own)


def test_a_dollar_in_a_name_is_a_dollar(cohort: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    rows = claims(cohort[0])
    own = rows[rows["question"] == rows["question"].iloc[0]].assign(contrast="low_$ – mid^% $")
    assert ">low_$ – mid^% $<" in group_charts.draw_forest(own)


@pytest.mark.parametrize("outcomes", [["TP", None], [None], ["TP", "FP"]])
def test_lesions_without_a_reference_are_drawn_beside_the_others(
    cohort: tuple[pd.DataFrame, pd.DataFrame], outcomes: list[str | None]
) -> None:
    lesions = cohort[0].iloc[:20].assign(outcome=outcomes * (20 // len(outcomes)))
    for draw in (group_charts.draw_volumes, group_charts.draw_peaks):
        svg = draw(lesions)
        named = [name for name in ("TP", "FP", "no reference") if f">{name}<" in svg]
        expected = [name or "no reference" for name in outcomes]
        assert named == (expected if outcomes != [None] else [])
    assert group_charts.draw_peaks(lesions).count("<use ") >= len(lesions)
