# SPDX-License-Identifier: Apache-2.0
"""Outputs get to their place in one piece, and only where they belong."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from bids_lesion_xai.bids.derivatives import DERIVATIVES, LESION_LEVELS, Level
from bids_lesion_xai.bids.provenance import complete
from bids_lesion_xai.bids.store import LAST_KEY, Store
from bids_lesion_xai.bids.visit import Visit
from bids_lesion_xai.errors import OutputError

VISIT = Visit("01", "02")
OTHERS = (Visit("01", "03"), Visit("010", "02"), Visit("02"), Visit("01", "020"))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "out")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.write_bytes(b"voxels")
    return path


def facts_of(key: str) -> dict[str, Any]:
    return dict.fromkeys(DERIVATIVES[key].facts, "fact")


def publish_all(store: Store, source: Path, visit: Visit) -> None:
    for key, row in DERIVATIVES.items():
        if row.level is not Level.GROUP:
            lesion = "L001" if row.level in LESION_LEVELS else None
            store.publish(key, source, facts_of(key), visit=visit, lesion=lesion)


def files(store: Store) -> set[Path]:
    return {path.relative_to(store.root) for path in store.root.rglob("*") if path.is_file()}


def test_a_file_is_published_with_its_sidecar(store: Store, source: Path) -> None:
    facts = facts_of("lesion_probability") | {"Model": {"Name": "small"}}
    path = store.publish("lesion_probability", source, facts, visit=VISIT)
    assert path == store.path("lesion_probability", VISIT)
    assert path.read_bytes() == b"voxels"
    assert store.facts("lesion_probability", VISIT)["Model"] == {"Name": "small"}
    assert {one.name.partition(".")[2] for one in files(store)} == {"nii.gz", "json"}


def test_outputs_without_facts_have_no_sidecar(store: Store, source: Path) -> None:
    store.publish("lesion_saliency_flair", source, visit=VISIT, lesion="L001")
    assert len(files(store)) == 1


def test_publishing_again_replaces(store: Store, source: Path) -> None:
    store.publish("lesion_table", source, visit=VISIT)
    source.write_bytes(b"other")
    assert store.publish("lesion_table", source, visit=VISIT).read_bytes() == b"other"
    assert len(files(store)) == 1


@pytest.mark.parametrize("before", [None, b"before"])
def test_a_write_that_fails_leaves_the_target_as_it_was(
    store: Store, source: Path, before: bytes | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = store.path("lesion_table", VISIT)
    if before is not None:
        target.parent.mkdir(parents=True)
        target.write_bytes(before)

    def half(_: Path, partial: Path) -> None:
        partial.write_bytes(b"vox")
        assert target.exists() == (before is not None)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", half)
    with pytest.raises(OutputError, match="No space left on device"):
        store.publish("lesion_table", source, visit=VISIT)
    assert [path.read_bytes() for path in target.parent.iterdir()] == [before] * target.exists()
    assert target.exists() == (before is not None)


def test_a_folder_that_cannot_be_made_is_named(store: Store, source: Path) -> None:
    store.root.write_text("a file where the folder should be")
    with pytest.raises(OutputError, match="cannot be written"):
        store.publish("lesion_table", source, visit=VISIT)


@pytest.mark.parametrize(
    ("key", "change", "words"),
    [
        ("lesion_mask", {"Threshold": None}, r"missing \['Threshold'\]"),
        ("lesion_mask", {"Colour": "red"}, r"not declared \['Colour'\]"),
        ("lesion_table", {"Sources": []}, r"not declared \['Sources'\]"),
    ],
)
def test_a_sidecar_with_missing_or_undeclared_facts_is_refused(
    store: Store, source: Path, key: str, change: dict[str, Any], words: str
) -> None:
    facts = facts_of(key) | change
    facts = {name: value for name, value in facts.items() if value is not None}
    with pytest.raises(ValueError, match=words):
        store.publish(key, source, facts, visit=VISIT)
    assert not store.root.exists()


def test_facts_are_needed_where_they_are_declared(store: Store, source: Path) -> None:
    with pytest.raises(ValueError, match="missing"):
        store.publish("lesion_mask", source, visit=VISIT)


@pytest.mark.parametrize("other", OTHERS, ids=lambda visit: visit.name)
def test_clearing_removes_all_of_a_visit_and_nothing_else(
    store: Store, source: Path, other: Visit
) -> None:
    publish_all(store, source, other)
    store.write_text("group_lesions.tsv", "")
    expected = files(store)
    publish_all(store, source, VISIT)
    assert files(store) > expected
    store.clear(VISIT)
    assert files(store) == expected


def test_clearing_leaves_what_others_put_beside(store: Store, source: Path) -> None:
    publish_all(store, source, VISIT)
    anat = store.root / VISIT.folder / "anat"
    foreign = [
        anat / f"{VISIT.name}_hemi-L_white.surf.gii",
        anat / f"{VISIT.name}_space-T1w_label-L_desc-manual_mask.nii.gz",
        store.path("overview_figure", VISIT).with_name(f"{VISIT.name}_desc-summary_T1w.html"),
        store.root / f"{VISIT.name}.html.bak",
        store.root / f"{VISIT.name}.json",
        anat / f"{VISIT.name}_space-T1w_desc-mine_saliency.tsv",
        anat / f"{VISIT.name}_space-T1w_label-L1_desc-smoothgradT1w_saliency.nii.gz",
        anat / f"{VISIT.name}_space-T1w_label-L001old_desc-smoothgradT1w_saliency.nii.gz",
        store.path("overview_figure", VISIT).with_name(
            f"{VISIT.name}_label-summary_desc-smoothgrad_saliency.svg"
        ),
    ]
    for path in foreign:
        path.write_text("")
    assert not set(foreign) & set(store.outputs(VISIT))
    store.clear(VISIT)
    assert files(store) == {path.relative_to(store.root) for path in foreign}


@pytest.mark.parametrize("visit", [Visit("LESION"), Visit("01", "LESION"), Visit("L001")])
def test_labels_that_look_like_names_of_lesions_are_labels(
    store: Store, source: Path, visit: Visit
) -> None:
    others = [Visit("L002"), Visit("01", "L001"), Visit("LESION", "01")]
    for other in others:
        publish_all(store, source, other)
    expected = files(store)
    publish_all(store, source, visit)
    assert {path.relative_to(store.root) for path in store.outputs(visit)} | {
        store.path(LAST_KEY, visit).relative_to(store.root)
    } == files(store) - expected
    store.clear(visit)
    assert files(store) == expected


def test_a_folder_in_the_place_of_the_mark_completes_nothing(store: Store, source: Path) -> None:
    store.path(LAST_KEY, VISIT).mkdir(parents=True)
    assert store.completed_ns(VISIT) is None
    store.clear(VISIT)
    assert store.visits() == []
    with pytest.raises(OutputError, match="cannot be written"):
        store.publish(LAST_KEY, source, visit=VISIT)


def test_folders_called_like_outputs_are_left_alone(store: Store) -> None:
    listed = store.path("lesion_mask", VISIT)
    folders = [listed, store.path("report", VISIT), store.path("lesion_figure", VISIT, "L001")]
    for folder in folders:
        folder.mkdir(parents=True)
    mark = {"Outputs": {listed.relative_to(store.root).as_posix(): {}}}
    store.write_text(store.path(LAST_KEY, VISIT).relative_to(store.root), json.dumps(mark))
    assert store.outputs(VISIT) == []
    store.clear(VISIT)
    assert store.visits() == []
    assert all(folder.is_dir() for folder in folders)


def test_a_lesion_beyond_the_thousandth_is_removed_with_its_visit(store: Store) -> None:
    path = store.path("lesion_figure", VISIT, "L1000")
    path.parent.mkdir(parents=True)
    path.write_text("")
    store.clear(VISIT)
    assert not path.exists()


def test_a_table_of_another_method_does_not_hide_that_of_a_visit(
    store: Store, source: Path
) -> None:
    publish_all(Store(store.root, "vargrad"), source, VISIT)
    own = store.path("saliency_table", VISIT)
    complete(store, VISIT, {})
    for method in ("aaa", "mine", "gradient", "smoothgrad"):
        own.with_name(own.name.replace("vargrad", method)).write_text("")
    assert store.path("saliency_table", VISIT) == own
    store.path(LAST_KEY, VISIT).unlink()
    assert store.path("saliency_table", VISIT) != own


def test_clearing_removes_what_another_version_wrote_under_another_name(store: Store) -> None:
    former = store.path(LAST_KEY, VISIT).with_name(f"{VISIT.name}_desc-former_mask.nii.gz")
    elsewhere = [
        store.path(LAST_KEY, OTHERS[0]),
        former.with_name("notes.txt"),
        store.root.parent / f"{VISIT.name}.html",
    ]
    for path in (former, *elsewhere):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    names = [f"../{elsewhere[2].name}", *(one.relative_to(store.root) for one in elsewhere[:2])]
    listed = [former.relative_to(store.root), *names]
    mark = {"Outputs": {str(name): {} for name in listed}}
    store.write_text(store.path(LAST_KEY, VISIT).relative_to(store.root), json.dumps(mark))
    store.clear(VISIT)
    assert not former.exists()
    assert all(path.exists() for path in elsewhere)


@pytest.mark.parametrize("mark", ["", "[]", "{}", '{"Outputs": 1}', '{"Outputs": [1]}'])
def test_clearing_a_visit_with_an_odd_mark_removes_it_all_the_same(
    store: Store, source: Path, mark: str
) -> None:
    publish_all(store, source, VISIT)
    store.write_text(store.path(LAST_KEY, VISIT).relative_to(store.root), mark)
    store.clear(VISIT)
    assert files(store) == set()


def test_clearing_a_visit_that_is_not_there_does_nothing(store: Store, source: Path) -> None:
    store.clear(VISIT)
    publish_all(store, source, VISIT)
    store.clear(VISIT)
    store.clear(VISIT)
    assert files(store) == set()


@pytest.mark.parametrize(
    ("written", "cleared"), [("smoothgrad", "smoothgrad"), ("vargrad", "gradient")]
)
def test_clearing_removes_the_mark_of_completeness_first(
    store: Store, source: Path, monkeypatch: pytest.MonkeyPatch, written: str, cleared: str
) -> None:
    publish_all(Store(store.root, written), source, VISIT)
    mark = store.path(LAST_KEY, VISIT)
    removed = []
    unlink = Path.unlink

    def record(path: Path, missing_ok: bool = False) -> None:
        removed.append(path)
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", record)
    Store(store.root, cleared).clear(VISIT)
    assert removed[0] == mark


def test_only_complete_visits_are_listed_in_order(store: Store, source: Path) -> None:
    assert store.visits() == []
    for visit in reversed((VISIT, *OTHERS)):
        publish_all(store, source, visit)
    assert store.visits() == sorted((VISIT, *OTHERS))
    store.path(LAST_KEY, OTHERS[0]).unlink()
    store.clear(OTHERS[1])
    assert store.visits() == sorted({VISIT, *OTHERS} - {*OTHERS[:2]})


def test_a_visit_is_not_complete_while_its_last_file_is_being_written(
    store: Store, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = shutil.copyfile
    seen = []

    def look(source: Path, partial: Path) -> None:
        copy(source, partial)
        seen.append(store.visits())

    monkeypatch.setattr(shutil, "copyfile", look)
    store.publish(LAST_KEY, source, facts_of(LAST_KEY), visit=VISIT)
    assert (seen, store.visits()) == ([[]], [VISIT])


def test_uris_name_files_of_this_dataset(store: Store) -> None:
    relative = store.path("lesion_mask", VISIT).relative_to(store.root)
    assert store.uri("lesion_mask", VISIT) == f"bids::{relative.as_posix()}"


def test_texts_are_written_as_utf_8(store: Store) -> None:
    path = store.write_text("logs/CITATION.md", "Müller × 2\n")
    assert path.read_bytes().decode("utf-8") == "Müller × 2\n"
    assert json.loads(store.write_text("a.json", '{"a": 1}').read_text()) == {"a": 1}


@pytest.mark.parametrize("visit", [VISIT, Visit("01")], ids=lambda visit: visit.name)
def test_a_reader_finds_the_method_of_each_visit_by_itself(
    store: Store, source: Path, visit: Visit
) -> None:
    writers = {visit: "vargrad", OTHERS[0]: "smoothgrad", OTHERS[2]: "integratedgradients"}
    for one, method in writers.items():
        publish_all(Store(store.root, method), source, one)
    assert store.visits() == sorted(writers)
    for one, method in writers.items():
        writer = Store(store.root, method)
        for key, row in DERIVATIVES.items():
            if row.level is not Level.GROUP:
                lesion = "L001" if row.level in LESION_LEVELS else None
                assert store.path(key, one, lesion) == writer.path(key, one, lesion)
                assert store.path(key, one, lesion).is_file()
        assert f"desc-{method}_" in store.path("saliency_table", one).name
        assert store.uri("saliency_flair", one) == writer.uri("saliency_flair", one)
        assert set(store.facts("saliency_flair", one)) >= set(DERIVATIVES["saliency_flair"].facts)


def test_a_visit_without_files_has_names_of_the_default_method(store: Store) -> None:
    for key in ("saliency_table", "saliency_t1w"):
        assert store.path(key, VISIT) == store.root / DERIVATIVES[key].path(VISIT)


@pytest.mark.parametrize(("first", "second"), [("vargrad", "smoothgrad"), ("gradient", "vargrad")])
def test_another_method_leaves_no_file_of_the_one_before(
    store: Store, source: Path, tmp_path: Path, first: str, second: str
) -> None:
    publish_all(Store(store.root, first), source, VISIT)
    again = Store(store.root, second)
    again.clear(VISIT)
    assert files(store) == set()
    assert store.visits() == []
    publish_all(again, source, VISIT)
    alone = Store(tmp_path / "alone", second)
    publish_all(alone, source, VISIT)
    assert files(store) == files(alone)
    assert store.visits() == [VISIT]


def leave_partial_files(store: Store, visit: Visit) -> list[Path]:
    """Leave what a killed run was writing, in every folder."""
    places = [
        "dataset_description.json",
        "logs/run-1.json",
        *(DERIVATIVES[key].path(visit) for key in ("report", "overview_figure", "lesion_mask")),
    ]
    paths = [store.root / place for place in places]
    partial = [path.with_name(f".{path.name}.0123.partial") for path in paths]
    for path in partial:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("hal")
    return partial


@pytest.mark.parametrize("visit", [VISIT, Visit("01")], ids=lambda visit: visit.name)
def test_the_first_to_enter_removes_what_killed_runs_were_writing(
    store: Store, source: Path, visit: Visit
) -> None:
    publish_all(store, source, visit)
    expected = files(store)
    partial = leave_partial_files(store, visit)
    with store.shared() as lock:
        assert files(store) - {lock._path.relative_to(store.root)} == expected
    leave_partial_files(store, visit)
    store.clear(visit)
    # Of other visits and of the dataset, others may be writing.
    assert [path for path in partial if path.exists()] == partial[:2]


def test_a_link_to_an_object_of_git_annex_is_replaced_and_the_object_stays(
    store: Store, source: Path, tmp_path: Path
) -> None:
    kept = tmp_path / "object"
    kept.write_text("old")
    kept.chmod(0o444)
    for target in (store.path("lesion_table", VISIT), store.root / "README.md"):
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(kept)
    store.publish("lesion_table", source, visit=VISIT)
    store.write_text("README.md", "new")
    assert kept.read_text() == "old"
    assert not store.path("lesion_table", VISIT).is_symlink()
    assert (store.root / "README.md").read_text() == "new"


def test_a_text_that_is_there_already_is_not_written_again(store: Store, tmp_path: Path) -> None:
    kept = tmp_path / "object"
    kept.write_text("the same")
    store.root.mkdir()
    (store.root / "README.md").symlink_to(kept)
    store.write_text("README.md", "the same")
    assert (store.root / "README.md").is_symlink()
