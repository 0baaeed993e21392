# SPDX-License-Identifier: Apache-2.0
"""Collecting the tables of all visits."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from bids_lesion_xai.bids.derivatives import DERIVATIVES
from bids_lesion_xai.bids.provenance import complete
from bids_lesion_xai.bids.store import LAST_KEY, Store
from bids_lesion_xai.bids.visit import Visit
from bids_lesion_xai.errors import DataError
from bids_lesion_xai.group.collect import collect, read_table, visit_ids, write_table
from bids_lesion_xai.group.stats import summarise_lesions
from bids_lesion_xai.imaging import nifti
from tests.outputs import (
    ONE_SAMPLE,
    TWO_SESSIONS,
    VISITS,
    WITHOUT_LESION,
    compare_with_reference,
    publish_outputs,
)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return publish_outputs(tmp_path_factory.mktemp("outputs"))


def test_columns_are_those_of_the_table_of_outputs(store: Store) -> None:
    group = collect(store)
    lesions, participants = group.lesions, group.participants
    assert list(lesions) == list(DERIVATIVES["group_lesions"].columns)
    assert list(participants) == list(DERIVATIVES["group_participants"].columns)


@pytest.mark.parametrize("key", ["lesion_table", "saliency_table"])
def test_lesions_are_the_tables_of_the_visits_one_below_the_other(store: Store, key: str) -> None:
    tables = [read_table(store.path(key, visit)).assign(**visit_ids(visit)) for visit in VISITS]
    expected = pd.concat([table for table in tables if len(table)], ignore_index=True)
    lesions = collect(store).lesions
    pd.testing.assert_frame_equal(lesions[list(expected)], expected, check_exact=True)


def test_there_is_one_row_a_visit_in_order(store: Store) -> None:
    participants = collect(store).participants
    found = participants[["participant_id", "session_id"]].to_dict("records")
    assert found == [visit_ids(visit) for visit in sorted(VISITS)]


def test_a_visit_without_lesions_has_zero_lesions_and_missing_means(store: Store) -> None:
    participants = collect(store).participants
    ids = visit_ids(WITHOUT_LESION)
    row = participants.set_index(["participant_id", "session_id"]).loc[tuple(ids.values())]
    assert row["n_lesions"] == 0
    assert row["lesion_volume_mm3"] == 0
    assert row[["mean_probability", "flair_share", "t1w_peak"]].isna().all()
    mask, grid = nifti.load(store.path("brain_mask", WITHOUT_LESION), np.bool_)
    assert row["brain_volume_mm3"] == pytest.approx(mask.sum() * grid.voxel_volume_mm3)
    assert row["registration_similarity"] == 0.625


def test_missing_standard_errors_stay_missing(store: Store) -> None:
    lesions = collect(store).lesions
    of_one = lesions["participant_id"] == f"sub-{ONE_SAMPLE.participant}"
    missing = lesions["flair_peak_se"].isna()
    assert (missing == of_one).all()


def test_order_of_processing_does_not_matter(store: Store, tmp_path: Path) -> None:
    backwards = publish_outputs(tmp_path, reversed(VISITS))
    one, other = collect(store), collect(backwards)
    pd.testing.assert_frame_equal(one.lesions, other.lesions, check_exact=True)
    pd.testing.assert_frame_equal(one.participants, other.participants, check_exact=True)
    assert one.visits == other.visits == tuple(sorted(VISITS))


def test_a_folder_of_visits_without_lesions_has_an_empty_table(tmp_path: Path) -> None:
    group = collect(publish_outputs(tmp_path, [WITHOUT_LESION]))
    assert group.lesions.empty
    assert list(group.lesions) == list(DERIVATIVES["group_lesions"].columns)
    assert group.participants["n_lesions"].tolist() == [0]


def test_a_visit_that_is_not_complete_does_not_count(tmp_path: Path) -> None:
    store = publish_outputs(tmp_path)
    store.path("saliency_table", ONE_SAMPLE).unlink()
    participants = collect(store).participants
    assert len(participants) == len(VISITS) - 1


def test_a_folder_without_complete_visit_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no complete visit"):
        collect(Store(tmp_path))


def other_lesions(store: Store) -> None:
    path = store.path("saliency_table", ONE_SAMPLE)
    write_table(read_table(path).assign(index=9), path)


def no_column(store: Store) -> None:
    path = store.path("lesion_table", ONE_SAMPLE)
    write_table(read_table(path).drop(columns="volume_mm3"), path)


def no_number(store: Store) -> None:
    path = store.path("lesion_table", ONE_SAMPLE)
    write_table(read_table(path).assign(volume_mm3="large"), path)


def no_table(store: Store) -> None:
    store.path("saliency_table", ONE_SAMPLE).write_bytes(b"\x89PNG\xff\xfe")


def cut_table(store: Store) -> None:
    path = store.path("lesion_table", ONE_SAMPLE)
    path.write_text(path.read_text().rpartition("\t")[0])


def empty_table(store: Store) -> None:
    store.path("saliency_table", ONE_SAMPLE).write_bytes(b"")


def no_file(store: Store) -> None:
    store.path("lesion_table", ONE_SAMPLE).unlink()


def no_volume(store: Store) -> None:
    path = store.path("brain_mask", ONE_SAMPLE)
    path.with_name(path.name.replace(".nii.gz", ".json")).write_text("{}")


def no_sidecar(store: Store) -> None:
    path = store.path("preproc_flair", ONE_SAMPLE)
    path.with_name(path.name.replace(".nii.gz", ".json")).write_text("{")


def no_fact(store: Store) -> None:
    path = store.path("preproc_flair", ONE_SAMPLE)
    path.with_name(path.name.replace(".nii.gz", ".json")).write_text("{}")


DAMAGES = {
    other_lesions: "same lesions",
    no_column: "volume_mm3",
    no_number: "volume_mm3",
    no_table: "saliency.tsv",
    cut_table: "dseg.tsv cannot be read as a table",
    empty_table: "saliency.tsv",
    no_file: "dseg.tsv is missing",
    no_volume: "BrainVolume_mm3",
    no_sidecar: "FLAIR.json",
    no_fact: "RegistrationSimilarity",
}


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_damaged_visit_is_left_out_and_named(
    damage: Callable[[Store], None], store: Store, tmp_path: Path
) -> None:
    damaged = publish_outputs(tmp_path)
    damage(damaged)
    group = collect(damaged)
    (problem,) = group.problems
    assert problem.startswith(f"{ONE_SAMPLE.name}: ")
    assert DAMAGES[damage] in problem
    assert "\n" not in problem
    assert group.visits == tuple(visit for visit in sorted(VISITS) if visit != ONE_SAMPLE)
    whole = collect(store).participants
    others = whole[whole["participant_id"] != f"sub-{ONE_SAMPLE.participant}"]
    pd.testing.assert_frame_equal(group.participants, others.reset_index(drop=True))


def test_visits_that_were_processed_alike_have_no_differences(store: Store) -> None:
    assert not any("Aggregation" in difference for difference in collect(store).differences)


def test_settings_that_differ_are_named_with_their_values(tmp_path: Path) -> None:
    store = publish_outputs(tmp_path)
    path = store.path("saliency_table", ONE_SAMPLE).with_suffix(".json")
    facts = json.loads(path.read_text())
    other = f"not {facts['Aggregation']}"
    path.write_text(json.dumps(facts | {"Aggregation": other}))
    (found,) = (one for one in collect(store).differences if one.startswith("Aggregation: "))
    assert f'"{other}" (1 of {len(VISITS)} visits)' in found
    assert f'"{facts["Aggregation"]}" ({len(VISITS) - 1} of {len(VISITS)} visits)' in found


def test_a_folder_of_damaged_visits_is_an_error(tmp_path: Path) -> None:
    store = publish_outputs(tmp_path, [ONE_SAMPLE])
    no_column(store)
    with pytest.raises(DataError, match=rf"no complete visit.*{ONE_SAMPLE.name}.*volume_mm3"):
        collect(store)


def test_a_table_survives_writing_and_reading_exactly(tmp_path: Path) -> None:
    table = pd.DataFrame({"index": [1, 2], "name": ["L001", "NA"], "x": [0.1 + 0.2, np.nan]})
    path = write_table(table, tmp_path / "table.tsv")
    pd.testing.assert_frame_equal(read_table(path), table, check_exact=True)
    assert path.read_text(encoding="utf-8").endswith("2\tNA\tn/a\n")


def test_numbers_of_any_size_are_read_to_the_last_bit(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    bits = draw.integers(0, 2**63, 4000, np.int64).view(np.float64)
    sizes = np.exp(draw.uniform(-30, 30, 4000)) * draw.choice([-1, 1], 4000)
    table = pd.DataFrame({"bits": bits[np.isfinite(bits)][:3900], "sizes": sizes[:3900]})
    found = read_table(write_table(table, tmp_path / "table.tsv"))
    for name in table:
        assert found[name].to_numpy().tobytes() == table[name].to_numpy().tobytes()


def test_the_units_are_those_of_the_visits_or_differ(tmp_path: Path) -> None:
    first, *others = VISITS
    publish_outputs(tmp_path, [first], "vargrad", {"Units": "squares"})
    group = collect(Store(tmp_path))
    assert (group.units, group.differences) == ("squares", ())
    publish_outputs(tmp_path, others)
    group = collect(Store(tmp_path))
    assert group.visits == tuple(sorted(VISITS))
    assert group.units == "units that differ between visits"
    assert any(one.startswith('Method: "smoothgrad" (2 of 3') for one in group.differences)


def test_visits_without_a_target_error_or_baseline_do_not_differ_in_it(store: Store) -> None:
    named = {one.partition(":")[0] for one in collect(store).differences}
    assert named == {"NumberOfSamples"}


def test_a_lesion_that_is_followed_has_its_number_and_a_missed_one_has_none(
    tmp_path: Path,
) -> None:
    store = publish_outputs(tmp_path)
    compare_with_reference(store, TWO_SESSIONS[0], ["TP", "FP", "FN"])
    group = collect(store, {TWO_SESSIONS[0]: {1: 4, 2: 5, 3: 6}, WITHOUT_LESION: {}}, ["why"])
    assert group.lesions["match"].tolist() == [4, 5, pd.NA, pd.NA]
    assert group.unfollowed == ("why",)
    path = write_table(group.lesions[["name", "match"]], tmp_path / "table.tsv")
    assert path.read_text().splitlines()[1:] == ["L001\t4", "L002\t5", "L003\tn/a", "L001\tn/a"]


def test_regions_stand_in_the_table_and_only_lesions_in_the_summary(tmp_path: Path) -> None:
    visit = TWO_SESSIONS[0]
    store = publish_outputs(tmp_path / "out", [visit, WITHOUT_LESION])
    before = collect(store).lesions
    outcomes = ["TP", "FP", *["FN"] * (len(before) - 3), "TN"]
    compare_with_reference(store, visit, outcomes)
    group = collect(store)
    assert group.lesions["outcome"].tolist() == outcomes
    pd.testing.assert_frame_equal(
        group.lesions.drop(columns="outcome"), before.drop(columns="outcome"), check_exact=True
    )
    row, without = group.participants.to_dict("records")
    assert (row["n_true_positive"], row["n_false_positive"]) == (1, 1)
    assert row["n_missed"] == len(before) - 3
    expected = summarise_lesions(before[:2], {"flair_share": "flair_share"})
    assert {key: row[key] for key in expected} == expected
    assert np.isnan(without["n_missed"])


def test_nothing_found_and_nothing_to_find_is_known_to_be_right(tmp_path: Path) -> None:
    store = publish_outputs(tmp_path / "out", [WITHOUT_LESION])
    compare_with_reference(store, WITHOUT_LESION, [])
    (row,) = collect(store).participants.to_dict("records")
    assert [row[key] for key in ("n_true_positive", "n_false_positive", "n_missed")] == [0, 0, 0]


@pytest.mark.parametrize("how", ["it is removed", "another takes its place"])
def test_a_visit_that_another_run_processes_meanwhile_is_left_out_and_is_no_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    store = publish_outputs(tmp_path / "out")
    path = Store.path

    def disturbed(self: Store, key: str, visit: Visit | None = None, *more: Any) -> Path:
        if key == "saliency_table" and visit == ONE_SAMPLE:
            monkeypatch.setattr(Store, "path", path)
            if how == "it is removed":
                store.clear(visit)
            else:
                store.path(LAST_KEY, visit).unlink()
                complete(store, visit, {"Version": "another"})
        return path(self, key, visit, *more)

    monkeypatch.setattr(Store, "path", disturbed)
    found = collect(store)
    assert found.visits == TWO_SESSIONS
    assert found.problems == ()


@pytest.mark.parametrize(
    ("facts", "signed"),
    [
        ([{}, {}], True),
        ([{"Aggregation": "rms"}] * 2, False),
        ([{}, {"Method": "vargrad"}], False),
    ],
)
def test_values_have_a_sign_if_those_of_all_visits_have(
    facts: list[dict[str, str]], signed: bool, tmp_path: Path
) -> None:
    for visit, own in zip(VISITS, facts, strict=False):
        publish_outputs(tmp_path, [visit], own.get("Method", "smoothgrad"), own)
    assert collect(Store(tmp_path)).has_sign is signed
