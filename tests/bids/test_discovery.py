# SPDX-License-Identifier: Apache-2.0
"""Which images are found for whom, on small synthetic datasets."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path

import nibabel as nb
import numpy as np
import pytest

from bids_lesion_xai.bids.dataset import (
    SkippedVisit,
    VisitInputs,
    find_labelled,
    find_visits,
)
from bids_lesion_xai.bids.filters import read_filters
from bids_lesion_xai.bids.visit import Visit
from bids_lesion_xai.errors import DataError, NotFoundError

Zooms = tuple[float, float, float]
Result = tuple[list[VisitInputs], list[SkippedVisit]]
ONE_MM: Zooms = (1, 1, 1)
TWO_MM: Zooms = (2, 2, 2)
BOTH = ("sub-01_FLAIR", "sub-01_T1w")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "bids"


def place(root: Path, name: str) -> Path:
    """Return where the image called `name` belongs, in a folder that is there."""
    visit = [pair for pair in name.split("_") if pair.startswith(("sub-", "ses-"))]
    path = root.joinpath(*visit, "anat", f"{name}.nii.gz")
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def add(root: Path, name: str, zooms: Zooms = ONE_MM, kind: str | None = None) -> Path:
    path = place(root, name)
    image = nb.Nifti1Image(np.zeros((4, 4, 4), np.int16), np.diag([*zooms, 1]))
    nb.save(image, path)
    if kind is not None:
        sidecar = path.with_name(f"{name}.json")
        sidecar.write_text(json.dumps({"MRAcquisitionType": kind}), encoding="utf-8")
    return path


def add_all(root: Path, *names: str) -> Path:
    for name in names:
        add(root, name)
    return root


def found(
    root: Path, participants: Sequence[str] = (), sessions: Sequence[str] = ()
) -> list[tuple[str, str]]:
    """Return the names of FLAIR and T1w of every visit that is taken."""
    visits, _ = find_visits(root, participants, sessions)
    return [(stem(inputs.flair), stem(inputs.t1w)) for inputs in visits]


def stem(path: Path) -> str:
    return path.name.partition(".")[0]


def skipped(root: Path) -> dict[str, str]:
    """Return the reason why each visit is skipped."""
    return {skip.visit.name: skip.reason for skip in find_visits(root, (), ())[1]}


def pair(visit: str) -> tuple[str, str]:
    return f"{visit}_FLAIR", f"{visit}_T1w"


# Who and when


def test_there_is_one_visit_per_participant_and_session(root: Path) -> None:
    names = ["sub-01_ses-1", "sub-01_ses-2", "sub-02_ses-1"]
    add_all(root, *(name for visit in names for name in pair(visit)))
    visits, skips = find_visits(root, (), ())
    assert [inputs.visit for inputs in visits] == [
        Visit("01", "1"),
        Visit("01", "2"),
        Visit("02", "1"),
    ]
    assert found(root) == [pair(visit) for visit in names]
    assert skips == []


def test_images_are_absolute_and_have_uris_in_the_dataset(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_all(root, *pair("sub-01_ses-1"))
    monkeypatch.chdir(root.parent)
    (inputs,), _ = find_visits(Path(root.name), (), ())
    assert inputs.flair == place(root.resolve(), "sub-01_ses-1_FLAIR")
    assert inputs.uri(inputs.flair) == "bids:raw:sub-01/ses-1/anat/sub-01_ses-1_FLAIR.nii.gz"
    assert inputs.rejected == ()


def test_a_participant_without_session_stands_among_those_with(root: Path) -> None:
    visits = ["sub-01_ses-1", "sub-02", "sub-03_ses-1"]
    add_all(root, *(name for visit in visits for name in pair(visit)))
    assert found(root) == [pair(visit) for visit in visits]


def test_images_beside_session_folders_are_a_visit_of_their_own(root: Path) -> None:
    add_all(root, *pair("sub-01"), *pair("sub-01_ses-1"))
    visits, _ = find_visits(root, (), ())
    assert [inputs.visit for inputs in visits] == [Visit("01"), Visit("01", "1")]
    assert [inputs.flair.parent.parent.name for inputs in visits] == ["sub-01", "ses-1"]
    assert [inputs.rejected for inputs in visits] == [(), ()]


def test_images_of_different_sessions_are_never_put_together(root: Path) -> None:
    add_all(root, "sub-01_ses-1_FLAIR", "sub-01_ses-2_T1w", "sub-01_FLAIR")
    assert found(root) == []
    assert set(skipped(root)) == {"sub-01", "sub-01_ses-1", "sub-01_ses-2"}


@pytest.mark.parametrize(
    ("visit", "stray"),
    [
        ("sub-01", "sub-02_FLAIR"),
        ("sub-01", "sub-010_FLAIR"),
        ("sub-a", "sub-A_FLAIR"),
        ("sub-01_ses-1", "sub-01_ses-2_FLAIR"),
        ("sub-01_ses-1", "sub-01_FLAIR"),
        ("sub-01", "sub-01_ses-1_FLAIR"),
    ],
)
def test_an_image_in_the_folder_of_another_visit_is_never_taken(
    root: Path, visit: str, stray: str
) -> None:
    t1w = add(root, f"{visit}_T1w")
    add(root.parent / "elsewhere", stray).rename(t1w.with_name(f"{stray}.nii.gz"))
    assert found(root) == []
    assert "no usable FLAIR" in skipped(root)[visit]


@pytest.mark.parametrize("folder", ["sub-01", "sub-01/anat/old", "sub-01/derivatives"])
def test_only_images_in_anat_are_taken(root: Path, folder: str) -> None:
    t1w = add(root, "sub-01_T1w")
    (root / folder).mkdir(exist_ok=True)
    add(root, "sub-01_FLAIR").rename(root / folder / "sub-01_FLAIR.nii.gz")
    assert found(root) == []
    assert "sub-01_FLAIR.nii.gz (not in the folder" in skipped(root)["sub-01"]
    add(root, "sub-01_FLAIR", TWO_MM)
    (inputs,), _ = find_visits(root, (), ())
    assert inputs.flair.parent == t1w.parent.resolve()


@pytest.mark.parametrize("content", [(), ("sub-01_T1w.nii.gz",)])
def test_a_folder_in_the_place_of_an_image_is_told(root: Path, content: Sequence[str]) -> None:
    add(root, "sub-01_T1w")
    folder = place(root, "sub-01_FLAIR")
    folder.mkdir()
    for name in content:
        (folder / name).write_text("")
    assert "sub-01_FLAIR.nii.gz (not a file; put the image" in skipped(root)["sub-01"]


@pytest.mark.parametrize(
    ("echo_times_s", "told"),
    [
        ((0.09, 0.003), ()),
        ((0.4, None), ()),
        ((None, 0.02), ()),
        ((0, True), ()),
        ((90, 3), ()),
        (("0.003", [0.1]), ()),
        ((0.003, 0.09), ("sub-01_FLAIR", "sub-01_T1w")),
        ((0.012, 0.003), ("sub-01_FLAIR",)),
        ((0.1, 0.1), ("sub-01_T1w",)),
    ],
)
def test_an_echo_time_of_another_contrast_is_told(
    root: Path, echo_times_s: tuple[object, object], told: tuple[str, ...]
) -> None:
    add_all(root, *BOTH)
    for name, echo_time_s in zip(BOTH, echo_times_s, strict=True):
        content = {} if echo_time_s is None else {"EchoTime": echo_time_s}
        place(root, name).with_name(f"{name}.json").write_text(json.dumps(content))
    ((inputs,), _) = find_visits(root, (), ())
    assert [note.partition(".")[0] for note in inputs.notes] == list(told)
    assert all("mixed up" in note for note in inputs.notes)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (np.zeros((4, 4, 4), np.complex64), "has voxels of type complex64"),
        (np.zeros((4, 4), np.int16), "has shape (4, 4)"),
    ],
    ids=["complex", "flat"],
)
def test_an_image_that_is_of_no_use_by_its_header_is_told_and_gives_way_to_another(
    root: Path, values: np.ndarray, words: str
) -> None:
    add_all(root, "sub-01_run-1_T1w")
    broken = place(root, "sub-01_run-1_FLAIR")
    nb.save(nb.Nifti1Image(values, np.eye(4)), broken)
    ((inputs,), _) = find_visits(root, (), ())
    assert inputs.flair == broken
    assert [note for note in inputs.notes if f"{broken.name} {words}" in note]
    add(root, "sub-01_run-2_FLAIR")
    ((inputs,), _) = find_visits(root, (), ())
    assert (stem(inputs.flair), inputs.notes) == ("sub-01_run-2_FLAIR", ())
    assert "its header is in order" in str(inputs.rejected[0])


def test_other_folders_of_the_dataset_are_ignored(root: Path) -> None:
    for name in pair("sub-01"):
        add(root, name, TWO_MM)
    for folder in ("derivatives/app", "derivatives/sub-01", "sourcedata", "code", ".git"):
        add_all(root / folder, "sub-01_acq-a_FLAIR", "sub-01_acq-a_T1w", *pair("sub-02"))
    visits, skips = find_visits(root, (), ())
    assert [inputs.visit for inputs in visits] == [Visit("01")]
    assert (visits[0].rejected, skips) == ((), [])


@pytest.mark.parametrize(
    "above",
    ["sub-02", "sub-01/ses-1", "acq-post_part-phase/run-2", "derivatives", ".cache", "a[b]"],
)
def test_the_folders_above_the_dataset_do_not_matter(tmp_path: Path, above: str) -> None:
    root = tmp_path / above / "bids"
    add_all(root, *pair("sub-01"), *pair("sub-02_ses-1"))
    assert found(root) == [pair("sub-01"), pair("sub-02_ses-1")]


def test_links_to_folders_and_files_are_followed(root: Path, tmp_path: Path) -> None:
    add_all(root, *pair("sub-01"), *pair("sub-02"))
    store = tmp_path / "store"
    (root / "sub-01").rename(store)
    (root / "sub-01").symlink_to(store)
    image = place(root, "sub-02_T1w")
    image.rename(store / "object")
    image.symlink_to(store / "object")
    (tmp_path / "link").symlink_to(root)
    assert found(tmp_path / "link") == [pair("sub-01"), pair("sub-02")]
    (inputs, _), _ = find_visits(tmp_path / "link", (), ())
    assert inputs.uri(inputs.t1w) == "bids:raw:sub-01/anat/sub-01_T1w.nii.gz"


# What is never taken

UNUSABLE = [
    ("ce-gad", "contrast agent"),
    ("acq-post", "contrast agent"),
    ("acq-3DPostGd", "contrast agent"),
    ("part-phase", "not a magnitude"),
    ("part-real", "not a magnitude"),
    ("inv-1", "not a magnitude"),
    ("desc-denoised", "derived"),
    ("space-MNI", "derived"),
]


SUFFIXES = ("FLAIR", "T1w")


@pytest.fixture(scope="module")
def with_unusable(tmp_path_factory: pytest.TempPathFactory) -> Result:
    """Return what is found where the only, or the finest, image of a suffix is unusable."""
    root = tmp_path_factory.mktemp("unusable")
    for (entity, _), suffix in product(UNUSABLE, SUFFIXES):
        for alone in (True, False):
            person = f"sub-{label(entity, suffix, alone)}"
            add(root, f"{person}_{entity}_{suffix}")
            for present in SUFFIXES:
                if present != suffix or not alone:
                    add(root, f"{person}_{present}", TWO_MM)
    return find_visits(root, (), ())


def label(entity: str, suffix: str, alone: bool) -> str:
    return f"{entity.replace('-', '')}{suffix}{'alone' if alone else ''}"


@pytest.mark.parametrize(("entity", "reason"), UNUSABLE)
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_contrast_agent_parts_and_derived_images_are_never_taken(
    with_unusable: Result, entity: str, reason: str, suffix: str
) -> None:
    visits, skips = with_unusable
    alone, other = label(entity, suffix, True), label(entity, suffix, False)
    (message,) = (skip.reason for skip in skips if skip.visit.participant == alone)
    assert f"no usable {suffix} found" in message
    assert f"sub-{alone}_{entity}_{suffix}.nii.gz ({reason}" in message
    (inputs,) = (inputs for inputs in visits if inputs.visit.participant == other)
    assert (stem(inputs.flair), stem(inputs.t1w)) == pair(f"sub-{other}")
    (line,) = inputs.rejected
    assert str(line).startswith(f"sub-{other}_{entity}_{suffix}.nii.gz ({reason}")


@pytest.mark.parametrize(
    ("link", "visit"),
    [("sub-02", "sub-02"), ("sub-01/ses-2", "sub-01_ses-2"), ("sub-03/anat", "sub-03")],
)
def test_a_link_to_a_folder_that_is_not_there_is_told(root: Path, link: str, visit: str) -> None:
    add_all(root, *pair("sub-01_ses-1"))
    (root / link).parent.mkdir(exist_ok=True)
    (root / link).symlink_to("/data/jane/folder")
    assert found(root) == [pair("sub-01_ses-1")]
    assert f"{link} (a link to folder, which is not there" in skipped(root)[visit]
    assert "jane" not in skipped(root)[visit]
    assert find_visits(root, [visit.partition("_")[0][4:]], ())[1]


def test_a_named_participant_without_a_session_that_the_filter_asks_for_is_told(
    root: Path, tmp_path: Path
) -> None:
    add_all(root, *pair("sub-01_ses-1"), *pair("sub-02_ses-2"))
    (tmp_path / "filter.json").write_text('{"flair": {"session": "2"}}')
    filters = read_filters(tmp_path / "filter.json")
    visits, skips = find_visits(root, ("01", "02"), (), filters)
    assert [one.visit.name for one in visits] == ["sub-02_ses-2"]
    (skip,) = skips
    assert skip.by_filter
    assert skip.reason == "sub-01: has no session that --bids-filter-file asks for."


def test_other_links_that_lead_nowhere_do_not_matter(root: Path) -> None:
    add_all(root, *pair("sub-01"))
    for name in ("dwi", "sub-01_scans.tsv", "sub-01_acq-x_FLAIR.json"):
        (root / "sub-01" / name).symlink_to("/data/jane/there")
    assert found(root) == [pair("sub-01")]
    assert skipped(root) == {}


@pytest.mark.parametrize("target", ["/data/jane/scan.nii.gz", "../../../../jane/scan.nii.gz"])
def test_where_a_broken_link_leads_names_no_folder_of_the_machine(root: Path, target: str) -> None:
    add(root, "sub-01_T1w")
    place(root, "sub-01_FLAIR").symlink_to(target)
    message = skipped(root)["sub-01"]
    assert "a link to scan.nii.gz, which is not there" in message
    assert "jane" not in message


def test_the_magnitude_part_is_taken(root: Path) -> None:
    add_all(root, "sub-01_part-mag_FLAIR", "sub-01_part-phase_FLAIR", "sub-01_T1w")
    assert found(root) == [("sub-01_part-mag_FLAIR", "sub-01_T1w")]


def dangle(path: Path) -> None:
    path.symlink_to("../../.git/annex/objects/1/MD5E-s1.nii.gz")


def truncate(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize(("spoil", "reason"), [(dangle, "datalad get"), (truncate, "empty file")])
def test_files_without_content_are_rejected_by_name(
    root: Path, spoil: Callable[[Path], None], reason: str
) -> None:
    add(root, "sub-01_FLAIR")
    spoil(place(root, "sub-01_acq-a_T1w"))
    message = skipped(root)["sub-01"]
    assert message.startswith("sub-01: no usable T1w found")
    assert "sub-01_acq-a_T1w.nii.gz (" in message
    assert reason in message
    add(root, "sub-01_T1w", TWO_MM)
    (inputs,), _ = find_visits(root, (), ())
    assert stem(inputs.t1w) == "sub-01_T1w"
    assert [reason in str(line) for line in inputs.rejected] == [True]


@pytest.mark.parametrize(
    ("present", "missing", "not_missing"),
    [
        ("FLAIR", ["T1w"], ["FLAIR"]),
        ("T1w", ["FLAIR"], ["T1w"]),
        ("T2w", ["FLAIR", "T1w"], []),
    ],
)
def test_a_visit_that_lacks_an_image_is_skipped_with_its_name_and_what_is_missing(
    root: Path, present: str, missing: list[str], not_missing: list[str]
) -> None:
    add_all(root, *pair("sub-01_ses-1"), f"sub-01_ses-2_{present}")
    assert found(root) == [pair("sub-01_ses-1")]
    ((visit, reason),) = skipped(root).items()
    assert visit == "sub-01_ses-2"
    assert reason.startswith("sub-01_ses-2: ")
    assert all(f"no usable {suffix}" in reason for suffix in missing)
    assert not any(suffix in reason for suffix in not_missing)


@pytest.mark.parametrize("folder", ["sub-02", "sub-02/ses-1", "sub-02/ses-1/anat"])
def test_an_empty_folder_is_a_visit_that_is_skipped(root: Path, folder: str) -> None:
    add_all(root, *BOTH)
    (root / folder).mkdir(parents=True)
    assert list(skipped(root)) == ["sub-02" if folder == "sub-02" else "sub-02_ses-1"]


# Which one of several

CHOICES: dict[str, tuple[list[tuple[str, Zooms, str | None]], tuple[str, str]]] = {
    "the pair of one run before 3D and small voxels": (
        [("run-1_FLAIR", ONE_MM, "3D"),
         ("run-2_FLAIR", TWO_MM, "2D"), ("run-2_T1w", TWO_MM, "2D")],
        ("run-2_FLAIR", "run-2_T1w"),
    ),
    "the pair without run is a pair of one run": (
        [("run-1_FLAIR", ONE_MM, "3D"), ("FLAIR", TWO_MM, "2D"), ("T1w", ONE_MM, "3D")],
        ("FLAIR", "T1w"),
    ),
    "runs are numbers": (
        [("run-02_FLAIR", TWO_MM, None),
         ("run-1_FLAIR", ONE_MM, None), ("run-2_T1w", ONE_MM, None)],
        ("run-02_FLAIR", "run-2_T1w"),
    ),
    "3D before small voxels": (
        [("acq-a_FLAIR", ONE_MM, "2D"), ("acq-b_FLAIR", TWO_MM, "3D"), ("T1w", ONE_MM, None)],
        ("acq-b_FLAIR", "T1w"),
    ),
    "3D before unknown": (
        [("FLAIR", ONE_MM, None), ("acq-a_T1w", ONE_MM, None), ("acq-b_T1w", TWO_MM, "3D")],
        ("FLAIR", "acq-b_T1w"),
    ),
    "unknown before 2D": (
        [("FLAIR", ONE_MM, None), ("acq-a_T1w", ONE_MM, "2D"), ("acq-b_T1w", TWO_MM, None)],
        ("FLAIR", "acq-b_T1w"),
    ),
    "thin slices before small voxels": (
        [("acq-a_FLAIR", (0.5, 0.5, 3), None), ("acq-b_FLAIR", ONE_MM, None),
         ("acq-a_T1w", TWO_MM, None), ("acq-b_T1w", ONE_MM, None)],
        ("acq-b_FLAIR", "acq-b_T1w"),
    ),
    "small voxels of slices as thin": (
        [("acq-a_FLAIR", ONE_MM, None), ("acq-b_FLAIR", (0.5, 0.5, 1), None),
         ("T1w", ONE_MM, None)],
        ("acq-b_FLAIR", "T1w"),
    ),
    "runs count as numbers": (
        [(f"run-{run}_{suffix}", ONE_MM, None) for run in (10, 2) for suffix in SUFFIXES],
        ("run-2_FLAIR", "run-2_T1w"),
    ),
    "whole images before single echoes": (
        [("echo-1_T1w", ONE_MM, None), ("echo-2_T1w", ONE_MM, None), ("rec-rms_T1w", TWO_MM, None),
         ("FLAIR", ONE_MM, None)],
        ("FLAIR", "rec-rms_T1w"),
    ),
    "the first echo": (
        [("echo-2_T1w", ONE_MM, None), ("echo-1_T1w", ONE_MM, None), ("FLAIR", ONE_MM, None)],
        ("FLAIR", "echo-1_T1w"),
    ),
    "no magnetisation transfer": (
        [("mt-on_T1w", ONE_MM, None), ("mt-off_T1w", ONE_MM, None), ("FLAIR", ONE_MM, None)],
        ("FLAIR", "mt-off_T1w"),
    ),
    "entities of BIDS before others": (
        [("foo-1_T1w", ONE_MM, "3D"), ("T1w", TWO_MM, None), ("FLAIR", ONE_MM, None)],
        ("FLAIR", "T1w"),
    ),
    "the first name": (
        [("acq-b_FLAIR", ONE_MM, None), ("acq-a_FLAIR", ONE_MM, None),
         ("rec-b_T1w", ONE_MM, "3D"), ("rec-a_T1w", ONE_MM, "3D")],
        ("acq-a_FLAIR", "rec-a_T1w"),
    ),
}  # fmt: skip


STEPS = {"forwards": 1, "backwards": -1}


@pytest.fixture(scope="module")
def choices(tmp_path_factory: pytest.TempPathFactory) -> dict[Visit, VisitInputs]:
    """Return what is chosen of the candidates of each law, written in order and backwards."""
    root = tmp_path_factory.mktemp("choices")
    for (number, (candidates, _)), order in product(enumerate(CHOICES.values()), STEPS):
        for name, zooms, kind in candidates[:: STEPS[order]]:
            add(root, f"sub-{number}_ses-{order}_{name}", zooms, kind)
    return {inputs.visit: inputs for inputs in find_visits(root, (), ())[0]}


@pytest.mark.parametrize("law", CHOICES)
@pytest.mark.parametrize("order", STEPS)
def test_of_several_candidates_whatever_their_order_the_choice_is(
    choices: dict[Visit, VisitInputs], law: str, order: str
) -> None:
    candidates, expected = CHOICES[law]
    visit = Visit(str(list(CHOICES).index(law)), order)
    inputs = choices[visit]
    assert (stem(inputs.flair), stem(inputs.t1w)) == tuple(f"{visit.name}_{n}" for n in expected)
    left = {f"{visit.name}_{name}.nii.gz" for name, _, _ in candidates if name not in expected}
    assert {rejection.path.name for rejection in inputs.rejected} == left
    assert all("was preferred: " in rejection.reason for rejection in inputs.rejected)


def test_a_broken_sidecar_counts_as_none(root: Path) -> None:
    contents = [b"{", b"[]", b"\xff\xfe", b"3", b'{"MRAcquisitionType": ["3D"]}']
    contents += [b'{"EchoTime": %s}' % (b"1" * 5000), b"[" * 100_000]
    for number, content in enumerate(contents):
        add_all(root, *pair(f"sub-{number}"))
        name = f"sub-{number}_acq-a_FLAIR"
        add(root, name, TWO_MM).with_name(f"{name}.json").write_bytes(content)
    assert found(root) == [pair(f"sub-{number}") for number in range(len(contents))]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:40])


def replace(path: Path) -> None:
    path.write_text("<html>404 not found</html>")


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[12:30] = b"\xff" * 18
    path.write_bytes(content)


def test_an_unreadable_image_is_the_last_choice_and_stops_nothing(root: Path) -> None:
    for number, spoil in enumerate((cut, replace, flip)):
        one, several = f"sub-{number}_ses-1", f"sub-{number}_ses-2"
        add(root, f"{one}_FLAIR")
        spoil(add(root, f"{one}_T1w"))
        add_all(root, *pair(several))
        spoil(add(root, f"{several}_acq-a_T1w"))
    assert found(root) == [pair(f"sub-{n}_ses-{session}") for n in range(3) for session in (1, 2)]


# Selection by label


@pytest.mark.parametrize("label", ["1", "10", "100", "1+"])
def test_a_participant_whose_label_starts_like_others_is_taken_alone(
    root: Path, label: str
) -> None:
    add_all(root, *pair("sub-1"), *pair("sub-10"), *pair("sub-100_ses-1"), *pair("sub-1+"))
    visits, skips = find_visits(root, (label,), ())
    assert [inputs.visit.participant for inputs in visits] == [label]
    assert skips == []


@pytest.mark.parametrize("label", ["1", "10", "01"])
def test_a_session_whose_label_starts_like_others_is_taken_alone(root: Path, label: str) -> None:
    add_all(root, *(name for other in ("1", "10", "01") for name in pair(f"sub-01_ses-{other}")))
    assert found(root, (), (label,)) == [pair(f"sub-01_ses-{label}")]


def test_sessions_are_selected_among_the_skipped_too(root: Path) -> None:
    add_all(root, *pair("sub-01_ses-1"), "sub-01_ses-2_T1w", "sub-02_ses-1_T1w")
    _, skips = find_visits(root, (), ("1",))
    assert [skip.visit for skip in skips] == [Visit("02", "1")]


def test_a_label_that_is_named_twice_is_taken_once(root: Path) -> None:
    add_all(root, *pair("sub-01_ses-1"))
    assert found(root, ("01", "01"), ("1", "1")) == [pair("sub-01_ses-1")]


@pytest.mark.parametrize("label", ["02", "0", "011", "sub-01", "AB", ""])
def test_an_unknown_participant_is_named_with_those_that_exist(root: Path, label: str) -> None:
    add_all(root, *BOTH, *pair("sub-ab"))
    with pytest.raises(NotFoundError) as caught:
        find_visits(root, ("01", label), ())
    assert f"--participant-label {label}: " in str(caught.value)
    assert "not in the dataset, only sub-01, sub-ab." in str(caught.value)


@pytest.mark.parametrize("label", ["2", "ses-1", "A", ""])
def test_an_unknown_session_is_named_with_those_that_exist(root: Path, label: str) -> None:
    add_all(root, *pair("sub-01_ses-1"), *pair("sub-01_ses-a"), *pair("sub-02"))
    with pytest.raises(NotFoundError) as caught:
        find_visits(root, (), ("1", label))
    assert f"--session-label {label}: " in str(caught.value)
    assert "not in the dataset, only ses-1, ses-a." in str(caught.value)


def test_a_session_that_only_others_have_is_unknown(root: Path) -> None:
    add_all(root, *pair("sub-01_ses-1"), *pair("sub-02_ses-2"), *pair("sub-03"))
    with pytest.raises(NotFoundError, match=r"ses.* 2: not in sub-01, only ses-1\."):
        find_visits(root, ("01",), ("2",))
    with pytest.raises(NotFoundError, match=r"ses.* 2: not in sub-03, which has none\."):
        find_visits(root, ("03",), ("2",))


def test_a_named_participant_without_any_named_session_is_skipped_aloud(root: Path) -> None:
    add_all(root, *pair("sub-01_ses-1"), *pair("sub-02_ses-1"), *pair("sub-02_ses-2"))
    visits, skips = find_visits(root, ("01", "02"), ("2",))
    assert [inputs.visit for inputs in visits] == [Visit("02", "2")]
    assert [(skip.visit, skip.reason) for skip in skips] == [
        (Visit("01", "2"), "sub-01: has no session 2.")
    ]


@pytest.mark.parametrize("label", ["a-b", "a.b", "ä"])
def test_a_label_that_bids_does_not_know_is_skipped_aloud(root: Path, label: str) -> None:
    add_all(root, *pair("sub-a"), *pair(f"sub-{label}"), *pair("sub-a+b"))
    visits, skips = find_visits(root, (), ())
    assert [inputs.visit for inputs in visits] == [Visit("a"), Visit("a+b")]
    (skip,) = skips
    assert skip.visit == Visit(label)
    assert f"{label} is no BIDS label" in skip.reason


def test_a_long_list_of_participants_is_cut(root: Path) -> None:
    for number in range(30):
        (root / f"sub-{number:02}").mkdir(parents=True)
    with pytest.raises(NotFoundError, match=r"sub-19 and more\.") as caught:
        find_visits(root, ("x",), ())
    assert "sub-20" not in str(caught.value)


# Odd datasets


def test_a_folder_without_participants_is_no_dataset(root: Path) -> None:
    root.mkdir()
    (root / "sub-01").write_text("a file")
    (root / "01").mkdir()
    with pytest.raises(DataError, match=r"no folder sub-\*"):
        find_visits(root, (), ())
    add_all(root, *pair("sub-02"))
    with pytest.raises(DataError, match="bids meant, with --participant-label sub-02"):
        find_visits(root / "sub-02", (), ())


@pytest.mark.parametrize(
    "description", [None, b"", b"{", b"[]", b'{"Name": "M\xfcller", "BIDSVersion": "1.10.0"}']
)
def test_odd_files_do_not_matter(root: Path, description: bytes | None) -> None:
    add_all(root, *BOTH)
    odd = {
        "participants.json": b"{",
        "participants.tsv": b"\x00\xff",
        "FLAIR.json": b"{",
        "sub-01/anat/sub-01_T1w.json": b"{",
        "sub-01/anat/FLAIR.nii.gz": b"",
        "sub-01/anat/sub-01_mask_FLAIR.txt": b"",
        "sub-02": b"a file",
        ".bidsignore": b"sub-01/\n",
    }
    for name, content in odd.items():
        (root / name).write_bytes(content)
    if description is not None:
        (root / "dataset_description.json").write_bytes(description)
    assert (found(root), skipped(root)) == ([BOTH], {})


# Labelled scans


def touch(root: Path, *names: str) -> None:
    for name in names:
        place(root, name).touch()


def test_labelled_scans_are_masks_with_images_of_the_same_visit_and_space(tmp_path: Path) -> None:
    root = tmp_path / "sub-09" / "train"
    touch(
        root,
        "sub-01_space-MNI_label-lesion_mask",
        "sub-01_space-MNI_desc-brain_FLAIR",
        "sub-01_space-MNI_desc-brain_T1w",
        "sub-01_desc-preproc_T1w",
        "sub-02_ses-1_label-L_mask",
        "sub-02_ses-1_desc-preproc_FLAIR",
        "sub-02_ses-1_space-MNI_desc-preproc_T1w",
        "sub-02_ses-2_desc-preproc_T1w",
        "sub-03_space-MNI_label-lesion_mask",
        "sub-03_space-MNI_FLAIR",
        "sub-04_desc-brain_mask",
        "sub-04_label-GM_mask",
        "sub-04_desc-brain_T1w",
    )
    (root / "space-MNI_label-L_mask.nii.gz").touch()
    found = [
        (
            entry.person,
            entry.session,
            *(path and stem(path) for path in (entry.mask, entry.flair, entry.t1w)),
        )
        for entry in find_labelled(root)
    ]
    one, two = "sub-01_space-MNI", "sub-02_ses-1"
    assert sorted(found) == [
        (
            *("train/sub-01", "", f"{one}_label-lesion_mask"),
            *(f"{one}_desc-brain_FLAIR", f"{one}_desc-brain_T1w"),
        ),
        ("train/sub-02", "1", f"{two}_label-L_mask", f"{two}_desc-preproc_FLAIR", None),
        ("train/sub-03", "", "sub-03_space-MNI_label-lesion_mask", None, None),
    ]


def test_of_several_images_that_of_the_run_and_acquisition_of_a_mask_is_taken(
    tmp_path: Path,
) -> None:
    one, two = "sub-01_acq-3d_run-2", "sub-01_acq-3d"
    touch(
        tmp_path,
        f"{one}_label-lesion_mask",
        *(f"{one}_desc-{desc}_FLAIR" for desc in ("preproc", "brain")),
        *("sub-01_acq-2d_run-2_desc-brain_FLAIR", "sub-01_acq-3d_run-1_desc-brain_FLAIR"),
        *(f"{two}_desc-brain_T1w", "sub-01_acq-2d_desc-brain_T1w"),
    )
    (entry,) = find_labelled(tmp_path)
    assert entry.flair is not None
    assert entry.t1w is not None
    assert (stem(entry.flair), stem(entry.t1w)) == (
        f"{one}_desc-brain_FLAIR",
        f"{two}_desc-brain_T1w",
    )


@pytest.mark.parametrize(
    ("mask", "images", "expected"),
    [
        ("run-2", ["run-1"], None),
        ("run-2", ["run-1", "run-02"], "run-02"),
        ("acq-3d_run-2", ["acq-3d", "acq-2d_run-2"], "acq-3d"),
        ("acq-3d_run-2", ["acq-3d_run-1", "acq-2d_run-2"], "acq-2d_run-2"),
        ("res-1", ["res-1", "res-2"], "res-1"),
        ("acq-3d", ["acq-3d", "acq-3d_ce-gadolinium"], "acq-3d"),
        ("run-1", ["acq-3d"], "acq-3d"),
    ],
)
def test_the_image_of_a_mask_says_least_that_the_mask_does_not(
    tmp_path: Path, mask: str, images: list[str], expected: str | None
) -> None:
    touch(
        tmp_path,
        f"sub-01_{mask}_label-L_mask",
        *(f"sub-01_{image}_desc-brain_T1w" for image in images),
    )
    (entry,) = find_labelled(tmp_path)
    found = entry.t1w and stem(entry.t1w)
    assert found == (expected and f"sub-01_{expected}_desc-brain_T1w")


def test_several_images_that_fit_a_mask_as_well_are_named(tmp_path: Path) -> None:
    touch(tmp_path, "sub-01_label-L_mask", *(f"sub-01_acq-{n}_desc-brain_T1w" for n in "ab"))
    with pytest.raises(DataError, match=r"sub-01_label-L_mask.*acq-a.*acq-b.*equally well"):
        find_labelled(tmp_path)


def test_a_dataset_without_masks_has_no_labelled_scans(root: Path) -> None:
    add_all(root, *BOTH)
    assert find_labelled(root) == []
