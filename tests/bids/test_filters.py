# SPDX-License-Identifier: Apache-2.0
"""What the file of --bids-filter-file may say, and which images it lets through."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nb
import numpy as np
import pytest

from bids_lesion_xai.bids.dataset import SkippedVisit, VisitInputs, find_visits
from bids_lesion_xai.bids.filters import Filters, read_filters
from bids_lesion_xai.bids.images import NamedFile, take_apart
from bids_lesion_xai.cli.parser import parse
from bids_lesion_xai.errors import NotFoundError, UsageError

Result = tuple[list[VisitInputs], list[SkippedVisit]]
KINDS = ("flair", "t1w")
# What messages call an entity: the names that the file may call it by.
NAMES = {
    "subject": ("subject", "sub", "participant"),
    "session": ("session", "ses"),
    "acquisition": ("acquisition", "acq"),
    "ceagent": ("ceagent", "ce"),
    "reconstruction": ("reconstruction", "rec"),
    "run": ("run",),
    "echo": ("echo",),
    "flip": ("flip",),
    "inversion": ("inversion", "inv"),
    "mtransfer": ("mtransfer", "mt"),
    "part": ("part",),
    "chunk": ("chunk",),
    "space": ("space",),
    "description": ("description", "desc"),
}
KEYS = {name: min(names, key=len) for name, names in NAMES.items()}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "filter.json"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "bids"


def filters_in(path: Path, content: Any) -> Filters:
    path.write_text(json.dumps(content))
    return read_filters(path)


def refusal(path: Path) -> str:
    with pytest.raises(UsageError) as caught:
        read_filters(path)
    return str(caught.value)


def asking(kind: str, name: str, text: str) -> str:
    return f'{{"{kind}": {{"{name}": {text}}}}}'


def image(name: str) -> NamedFile:
    file = take_apart(Path(f"{name}.nii.gz"))
    assert file is not None
    return file


def add_all(root: Path, *names: str, voxel_mm: float = 1) -> None:
    """Put an image at the place of each name, compressed if the name has no extension."""
    for name in names:
        visit = [pair for pair in name.split("_") if pair.startswith(("sub-", "ses-"))]
        path = root.joinpath(*visit, "anat", name if "." in name else f"{name}.nii.gz")
        path.parent.mkdir(parents=True, exist_ok=True)
        values = np.full((2, 2, 2), len(name), np.int16)
        nb.save(nb.Nifti1Image(values, np.diag([voxel_mm] * 3 + [1])), path)


def find(root: Path, content: Any, participants: Sequence[str] = ()) -> Result:
    return find_visits(root, participants, (), filters_in(root.with_name("filter.json"), content))


def chosen(result: Result) -> list[tuple[str, str]]:
    """Return the names of FLAIR and T1w of every visit, without ``sub-`` and extension."""
    return [(stem(inputs.flair), stem(inputs.t1w)) for inputs in result[0]]


def stem(path: Path) -> str:
    return path.name.partition(".")[0].partition("_")[2]


def reasons(images: VisitInputs | SkippedVisit) -> dict[str, str]:
    return {stem(one.path): one.reason for one in images.rejected}


# What the file may say


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("called", "name"), [(called, name) for called, names in NAMES.items() for name in names]
)
def test_an_entity_may_be_called_by_each_of_its_names(
    path: Path, kind: str, called: str, name: str
) -> None:
    asked = getattr(filters_in(path, {kind: {name: "7"}}), kind)
    key = KEYS[called]
    assert asked.removes(image(f"{key}-7_T1w")) is None
    assert asked.removes(image(f"{key}-8_T1w")) == f"has {called} 8, the filter asks for 7"
    assert asked.removes(image("T1w")) == f"has no {called}, the filter asks for 7"
    assert str(asked) == f"{called} 7"
    (other,) = {"flair", "t1w"} - {kind}
    assert getattr(filters_in(path, {kind: {name: "7"}}), other) == getattr(Filters(), other)


@pytest.mark.parametrize(
    ("key", "value", "left", "removed"),
    [
        ("acq", "3D", ["acq-3D"], ["acq-3d", "acq-3D2", "acq-2D", "rec-3D", ""]),
        ("acq", "acq-3D", ["acq-3D"], ["acq-2D", ""]),
        ("acq", "a+b", ["acq-a+b"], ["acq-a", "acq-ab"]),
        ("acq", 3, ["acq-3"], ["acq-03", "acq-3D", ""]),
        ("acq", "01", ["acq-01"], ["acq-1"]),
        ("acq", ["3D", "2D"], ["acq-3D", "acq-2D"], ["acq-1D", ""]),
        ("acq", None, ["", "run-1"], ["acq-3D"]),
        ("acq", "*", ["acq-3D", "acq-2D"], ["", "run-1"]),
        ("acq", [None], [""], ["acq-3D"]),
        ("acq", [None, "3D"], ["", "acq-3D"], ["acq-2D"]),
        ("acq", ["3D", "*"], ["acq-3D", "acq-2D"], [""]),
        ("acq", [None, "*"], ["", "acq-2D"], []),
        ("acq", "null", ["acq-null"], [""]),
        *(
            (key, value, [f"{key}-1", f"{key}-01", f"{key}-001"], [f"{key}-2", f"{key}-10", ""])
            for key in ("run", "echo", "flip", "inv", "chunk")
            for value in (1, "1", "01", f"{key}-1", f"{key}-01", [1], [1, "01"])
        ),
        ("run", 0, ["run-0", "run-00"], ["run-1", ""]),
        ("run", [2, 1], ["run-1", "run-2"], ["run-3"]),
        ("run", None, ["", "acq-3D"], ["run-1"]),
        ("run", "*", ["run-1", "run-2"], ["", "acq-1"]),
        ("part", ["mag", "real", None], ["part-mag", "part-real", ""], ["part-phase"]),
    ],
)
def test_a_value_stands_for_itself_null_for_none_and_an_asterisk_for_any(
    path: Path, key: str, value: Any, left: list[str], removed: list[str]
) -> None:
    asked = filters_in(path, {"t1w": {key: value}}).t1w
    names = {one: f"sub-01_{one}_T1w".replace("__", "_") for one in (*left, *removed)}
    fates = {one: asked.removes(image(name)) is None for one, name in names.items()}
    assert fates == dict.fromkeys(left, True) | dict.fromkeys(removed, False)


@pytest.mark.parametrize("content", [{}, {"flair": {}}, {"t1w": {}}, {"t1w": {}, "flair": {}}])
def test_a_file_that_asks_for_nothing_is_as_none(path: Path, content: dict[str, Any]) -> None:
    assert filters_in(path, content) == Filters()


@pytest.mark.parametrize("value", ["anat", ["anat"]])
def test_the_datatype_may_be_named_and_is_always_anat(path: Path, value: Any) -> None:
    assert filters_in(path, {"t1w": {"datatype": value}}) == Filters()


@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf", b"\r\n\t "])
def test_a_file_that_an_editor_of_windows_wrote_is_read(path: Path, start: bytes) -> None:
    path.write_bytes(start + b'{"t1w": {"run": 1}}\r\n')
    assert str(read_filters(path).t1w) == "run 1"


@pytest.mark.parametrize(
    ("entities", "told"),
    [
        ({"acq": ["3D", None]}, "acquisition 3D or none"),
        ({"run": ["01", 1, "run-001", "*", "*"]}, "run 1 or any"),
        ({"suffix": ["T1w", "UNIT1"], "ce": None}, "suffix T1w or UNIT1 and ceagent none"),
    ],
)
def test_what_is_asked_for_is_told_once_and_in_its_order(
    path: Path, entities: dict[str, Any], told: str
) -> None:
    assert str(filters_in(path, {"t1w": entities}).t1w) == told


# What is refused


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ": line 1, column 1: Expecting value"),
        ("{'t1w': {}}", ": line 1, column 2: Expecting property name"),
        ('{"t1w": {}}\n{}', ": line 2, column 1: Extra data"),
        ('{"t1w":\n {"run": 1,}}', ": line 2, column "),
        ("[" * 100_000, " is no JSON in UTF-8: "),
        (asking("t1w", "run", "1" * 5000), " is no JSON in UTF-8: "),
        *(
            (text, ": an object with the keys flair and t1w is expected.")
            for text in ("[]", "null", "3", '"flair"', '[{"flair": {}}]')
        ),
        *(
            (f'{{"t1w": {text}}}', ": t1w: an object of entities and values is expected.")
            for text in ("[]", "null", "1", '"mprage"', '[{"run": 1}]')
        ),
        ('{"FLAIR": {}}', ": unknown key 'FLAIR', did you mean 'flair'; known are flair, t1w."),
        ('{"T1": {}}', ": unknown key 'T1', did you mean 't1w'; known are flair, t1w."),
        ('{"bold": {}}', ": unknown key 'bold'; known are flair, t1w."),
        ('{"run": 1}', ": unknown key 'run'"),
        (asking("t1w", "Run", "1"), ": t1w: unknown entity 'Run', did you mean 'run'; known"),
        (asking("flair", "sufix", "1"), ": flair: unknown entity 'sufix', did you mean 'suffix'"),
        (asking("t1w", "", "1"), ": t1w: unknown entity ''; known are"),
        (asking("t1w", "tracer", "1"), f"known are {', '.join(NAMES)}, suffix, extension, datat"),
        ('{"t1w": {"acq": 1, "acquisition": 1}}', ": t1w: acquisition is named twice, by two of"),
        ('{"t1w": {"sub": 1, "participant": 2}}', ": t1w: subject is named twice, by two of"),
        *(
            (asking("t1w", "acq", text), f": t1w: acq {text}: a label, a list of labels, null")
            for text in ("true", "false", "1.5", "1.0", "NaN", "{}", '{"a": 1}')
        ),
        (asking("t1w", "acq", '["3D", ["2D"]]'), ': t1w: acq ["2D"]: a label, a list of labels'),
        (asking("t1w", "acq", "[]"), ": t1w: acq: the list is empty, so that nothing could be"),
        *(
            (asking("flair", "acq", f'"{text}"'), f": flair: acq '{text}' is no BIDS label")
            for text in ("3D*", "3D|2D", ".*", "?", "3 D", "3_D", "Ä", "²", "**", "", "run-1")
        ),
        (asking("flair", "acq", '["3D", "2-D"]'), ": flair: acq '2-D' is no BIDS label"),
        (asking("flair", "run", "-1"), ": flair: run -1 is no BIDS label"),
        *(
            (asking("t1w", "part", text), ": t1w: part 'phase': such an image has no contrast")
            for text in ('"phase"', '"part-phase"', '["mag", "phase"]')
        ),
        (asking("flair", "part", '"imag"'), ": flair: part 'imag': such an image has no contrast"),
        (asking("flair", "suffix", '"T1w"'), 'suffix "T1w": one of FLAIR, T2w is expected.'),
        *(
            (
                asking("t1w", "suffix", text),
                f": t1w: suffix {text}: one of T1w, UNIT1, MP2RAGE is expected.",
            )
            for text in ('"T2w"', '"t1w"', "null", '"*"', "1", "{}", "true")
        ),
        (asking("t1w", "suffix", '["T1w", ["UNIT1"]]'), 'suffix ["UNIT1"]: one of T1w'),
        (asking("t1w", "extension", '".mgz"'), '".mgz": one of .nii.gz, .nii is expected.'),
        (asking("t1w", "extension", '[".nii", null]'), "extension null: one of .nii.gz, .nii is"),
        (asking("t1w", "datatype", '"func"'), 'datatype "func": one of anat is expected.'),
    ],
)
def test_what_the_file_cannot_mean_is_refused_with_the_file_and_the_place(
    path: Path, text: str, words: str
) -> None:
    path.write_text(text)
    message = refusal(path)
    assert message.startswith(str(path))
    assert words in message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"t1w": {"run": 1, "run": 2}}', "'run' stands there twice"),
        ('{"t1w": {}, "flair": {}, "t1w": {"run": 1}}', "'t1w' stands there twice"),
        ('{"t1w": {"b": 1, "a": 1, "b": 1, "a": 1, "c": 1}}', "'a' and 'b' stand there twice"),
    ],
)
def test_a_name_that_stands_twice_is_refused(path: Path, text: str, words: str) -> None:
    path.write_text(text)
    assert refusal(path).startswith(f"{path}: ")
    assert words in refusal(path)


def test_a_number_of_any_length_is_a_label(path: Path) -> None:
    path.write_text(json.dumps({"t1w": {"run": "0" * 9 + "1" * 5000}}))
    assert read_filters(path).t1w.wanted == {"run": ("1" * 5000,)}


@pytest.mark.parametrize(("name", "is_offered"), [("suffix", False), ("acq", True)])
def test_null_is_offered_for_an_empty_list_where_it_may_stand(
    name: str, is_offered: bool, path: Path
) -> None:
    path.write_text(json.dumps({"t1w": {name: []}}))
    assert ("write null" in refusal(path)) is is_offered


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_another_encoding_is_refused(path: Path, encoding: str) -> None:
    path.write_text('{"t1w": {"acq": "Ä"}}', encoding=encoding)
    assert f"{path} is no JSON in UTF-8: " in refusal(path)


def test_a_file_that_cannot_be_opened_is_named_with_the_reason(path: Path) -> None:
    assert refusal(path) == f"{path} cannot be read: No such file or directory."
    path.write_text("{}")
    path.chmod(0)
    if not os.access(path, os.R_OK):
        assert refusal(path) == f"{path} cannot be read: Permission denied."
    path.unlink()
    path.mkdir()
    assert refusal(path) == f"{path} cannot be read: Is a directory."


@pytest.mark.parametrize(
    ("content", "participants", "sessions", "words"),
    [
        (
            {"flair": {"subject": "01"}, "t1w": {"subject": "02"}},
            *((), ()),
            "flair asks for subject 01, t1w for 02; both images are of one subject.",
        ),
        (
            {"flair": {"session": ["1", "2"]}, "t1w": {"session": "1"}},
            *((), ()),
            "flair asks for session 1 or 2, t1w for 1; both images are of one session.",
        ),
        (
            {"flair": {"session": None}, "t1w": {"session": "1"}},
            *((), ()),
            "flair asks for session none, t1w for 1;",
        ),
        (
            {"t1w": {"participant": "02"}},
            *(("01",), ()),
            "t1w asks for subject 02, --participant-label for 01. Name them in one place only.",
        ),
        (
            {"flair": {"sub": ["01", "02"]}},
            *(("01", "03"), ()),
            "flair asks for subject 01 or 02, --participant-label for 01 03.",
        ),
        (
            {"flair": {"ses": "2"}},
            *(("01",), ("1",)),
            "flair asks for session 2, --session-label for 1. Name them in one place only.",
        ),
        (
            {"t1w": {"ses": None}},
            *((), ("1",)),
            "t1w asks for session none, --session-label for 1.",
        ),
    ],
)
def test_participants_and_sessions_that_exclude_each_other_are_refused(
    path: Path,
    content: dict[str, Any],
    participants: tuple[str, ...],
    sessions: tuple[str, ...],
    words: str,
) -> None:
    filters = filters_in(path, content)
    with pytest.raises(UsageError) as caught:
        filters.require_no_conflict(participants, sessions)
    assert str(caught.value).startswith(words)


@pytest.mark.parametrize(
    ("content", "participants", "sessions"),
    [
        ({}, ("01",), ("1",)),
        ({"t1w": {"acq": "a", "run": 1}}, ("01",), ("1",)),
        ({"flair": {"sub": "01", "ses": "1"}}, (), ()),
        ({"flair": {"sub": "01"}, "t1w": {"participant": "sub-01", "ses": "1"}}, (), ()),
        ({"flair": {"ses": ["1", "2"]}, "t1w": {"ses": ["2", "1"]}}, (), ("2", "1")),
        ({"flair": {"sub": ["02", "01"]}}, ("01", "02"), ("1",)),
        ({"flair": {"ses": "1"}, "t1w": {"sub": "01"}}, ("01",), ("1",)),
        ({"flair": {"sub": "*", "ses": "*"}}, ("01",), ("1",)),
    ],
)
def test_the_same_participants_and_sessions_may_be_named_twice(
    path: Path, content: dict[str, Any], participants: tuple[str, ...], sessions: tuple[str, ...]
) -> None:
    filters_in(path, content).require_no_conflict(participants, sessions)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"t2w": {}}, "unknown key 't2w'"),
        ({"t1w": {"sub": "02"}}, "t1w asks for subject 02, --participant-label for 01."),
    ],
)
def test_the_command_line_is_refused_with_its_option(
    path: Path, capsys: pytest.CaptureFixture[str], content: dict[str, Any], words: str
) -> None:
    path.write_text(json.dumps(content))
    arguments = ["bids", "out", "participant", "--participant-label", "01", "--bids-filter-file"]
    with pytest.raises(SystemExit) as caught:
        parse([*arguments, str(path)])
    assert caught.value.code == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert "error: --bids-filter-file: " in message
    assert words in message


# What it removes


def test_an_image_that_is_not_asked_for_is_not_taken_and_told_with_the_reason(root: Path) -> None:
    add_all(root, "sub-01_FLAIR", "sub-01_acq-a_T1w", "sub-01_acq-b_run-1_T1w", "sub-01_T1w")
    ((inputs,), skipped) = find(root, {"t1w": {"acq": "b", "run": [1, 2]}})
    assert skipped == []
    assert (stem(inputs.flair), stem(inputs.t1w)) == ("FLAIR", "acq-b_run-1_T1w")
    assert reasons(inputs) == {
        "T1w": "has no acquisition, the filter asks for b",
        "acq-a_T1w": "has acquisition a, the filter asks for b",
    }
    assert all(one.by_filter and not one.advice for one in inputs.rejected)
    assert inputs.notes == ()


def test_a_visit_that_the_filter_leaves_nothing_of_is_skipped_with_what_it_asks(
    root: Path,
) -> None:
    add_all(root, "sub-01_FLAIR", "sub-01_run-1_T1w", "sub-02_FLAIR", "sub-02_run-2_T1w")
    visits, (skip,) = find(root, {"t1w": {"run": 2, "acq": None}, "flair": {"ce": None}})
    assert [inputs.visit.name for inputs in visits] == ["sub-02"]
    assert skip.reason == (
        "sub-01: no usable T1w found; not usable: sub-01_run-1_T1w.nii.gz (has run 1, the filter "
        "asks for 2); --bids-filter-file asks t1w for run 2 and acquisition none."
    )
    assert skip.by_filter
    assert [one.by_filter for one in skip.rejected] == [True]


@pytest.mark.parametrize("names", [["T1w"], ["T1w", "ce-gad_FLAIR"], ["T1w", "acq-flair_T2w"]])
def test_a_visit_that_lacks_an_image_whatever_the_filter_is_not_skipped_by_it(
    root: Path, names: list[str]
) -> None:
    add_all(root, *(f"sub-01_{name}" for name in names))
    _, (skip,) = find(root, {"flair": {"acq": [None, "flair"], "run": None}})
    assert "no usable FLAIR" in skip.reason
    assert "--bids-filter-file asks flair" not in skip.reason
    assert not skip.by_filter


NEVER = {
    "ce-gad": ("contrast agent", {"ce": "gad"}, {"ceagent": ["*"]}, {"ce": [None, "gad"]}),
    "acq-post": ("contrast agent by its acq", {"acq": "post"}, {"acq": ["a", "post"]}),
    "part-real": ("not a magnitude image", {"part": "real"}, {"part": ["mag", "real"]}),
    "inv-01": ("not a magnitude image of one contrast but an inversion", {"inv": 1}, {"inv": "*"}),
    "desc-denoised": ("derived image", {"desc": "denoised"}, {"description": "*"}),
    "space-MNI": ("derived image", {"space": "MNI"}, {"space": ["*"]}),
    "chunk-2": ("a part of the field of view", {"chunk": 2}, {"chunk": "*"}),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("entity", "asked"),
    [(entity, asked) for entity, (_, *several) in NEVER.items() for asked in several],
)
def test_an_image_that_is_else_never_taken_is_taken_and_told_if_it_is_asked_for(
    root: Path, kind: str, entity: str, asked: Mapping[str, Any]
) -> None:
    suffix, other = {"flair": ("FLAIR", "T1w"), "t1w": ("T1w", "FLAIR")}[kind]
    add_all(root, f"sub-01_{entity}_{suffix}", f"sub-01_{other}")
    ((inputs,), _) = find(root, {kind: asked})
    assert stem(getattr(inputs, kind)) == f"{entity}_{suffix}"
    reason = NEVER[entity][0]
    assert inputs.notes == (
        f"sub-01_{entity}_{suffix}.nii.gz: {reason}, taken because the filter asks for it",
    )
    (_, (skip,)) = find(root, {"flair": {}})
    assert reasons(skip) == {f"{entity}_{suffix}": reason}


@pytest.mark.parametrize(
    ("entity", "asked"),
    [
        ("ce-gad", {"acq": None}),
        ("acq-post", {"acq": "*"}),
        ("acq-post", {"ce": None}),
        ("acq-3D_part-real", {"acq": "3D"}),
        ("part-phase", {"part": "*"}),
        ("inv-1", {"part": None}),
        ("desc-denoised", {"space": None}),
        ("desc-denoised_space-MNI", {"space": "MNI"}),
        ("chunk-1", {"desc": None}),
        ("res-1", {"desc": None}),
    ],
)
def test_an_image_that_is_never_taken_is_not_asked_for_by_something_else(
    root: Path, entity: str, asked: dict[str, Any]
) -> None:
    add_all(root, "sub-01_FLAIR", f"sub-01_{entity}_T1w")
    _, (skip,) = find(root, {"t1w": asked})
    (reason,) = reasons(skip).values()
    assert "the filter asks for" not in reason
    assert not skip.by_filter


# Suffix and extension


@pytest.mark.parametrize(
    ("asked", "candidates", "expected", "told"),
    [
        ({}, ["FLAIR", "T1w", "T2w", "UNIT1"], ("FLAIR", "T1w"), []),
        ({"flair": {"suffix": "T2w"}}, ["FLAIR", "T2w", "T1w"], ("T2w", "T1w"), ["T2w"]),
        ({"flair": {"suffix": ["T2w", "FLAIR"]}}, ["FLAIR", "T1w"], ("FLAIR", "T1w"), []),
        (
            {"flair": {"suffix": ["FLAIR", "T2w"]}},
            ["acq-b_FLAIR", "acq-a_T2w", "T1w"],
            ("acq-b_FLAIR", "T1w"),
            [],
        ),
        ({"t1w": {"suffix": ["UNIT1", "T1w"]}}, ["FLAIR", "UNIT1", "T1w"], ("FLAIR", "UNIT1"),
         ["UNIT1"]),
        ({"t1w": {"suffix": "T1w"}}, ["FLAIR", "UNIT1", "T1w"], ("FLAIR", "T1w"), []),
        ({"t1w": {"suffix": "UNIT1"}}, ["FLAIR", "inv-1_UNIT1"], ("FLAIR", "inv-1_UNIT1"),
         ["inv-1_UNIT1"]),
        (
            {"t1w": {"suffix": "MP2RAGE", "inv": [2, 1]}},
            ["FLAIR", "inv-1_MP2RAGE", "inv-02_MP2RAGE"],
            ("FLAIR", "inv-02_MP2RAGE"),
            ["inv-02_MP2RAGE", "inv-02_MP2RAGE"],
        ),
        (
            {"t1w": {"suffix": "MP2RAGE"}},
            ["FLAIR", "inv-1_MP2RAGE"],
            ("FLAIR", "inv-1_MP2RAGE"),
            ["inv-1_MP2RAGE", "inv-1_MP2RAGE"],
        ),
    ],
)  # fmt: skip
def test_another_suffix_is_taken_and_told_only_if_it_is_asked_for(
    root: Path,
    asked: dict[str, Any],
    candidates: list[str],
    expected: tuple[str, str],
    told: list[str],
) -> None:
    add_all(root, *(f"sub-01_{name}" for name in candidates))
    ((inputs,), _) = find(root, asked)
    assert chosen(([inputs], [])) == [expected]
    assert [note.partition(".")[0].removeprefix("sub-01_") for note in inputs.notes] == told
    kind = "FLAIR" if "flair" in asked else "T1w"
    assert not told or inputs.notes[-1].endswith(f" is taken as {kind}, as the filter asks")


def test_images_that_could_stand_in_are_told_only_where_they_may_be_meant(root: Path) -> None:
    add_all(root, *(f"sub-01_{name}" for name in ("T2w", "acq-2dFlair_T2w", "UNIT1")))
    _, (skip,) = find(root, {})
    assert reasons(skip) == {
        "acq-2dFlair_T2w": "suffix T2w: taken only if --bids-filter-file asks for it",
        "UNIT1": "suffix UNIT1: taken only if --bids-filter-file asks for it",
    }
    _, (skip,) = find(root, {"flair": {"suffix": "FLAIR"}, "t1w": {"suffix": "T1w"}})
    assert reasons(skip) == {
        "T2w": "has suffix T2w, the filter asks for FLAIR",
        "acq-2dFlair_T2w": "has suffix T2w, the filter asks for FLAIR",
        "UNIT1": "has suffix UNIT1, the filter asks for T1w",
    }


@pytest.mark.parametrize("asked", [".nii", ".nii.gz"])
def test_of_two_images_that_differ_in_extension_that_which_is_asked_for_is_taken(
    root: Path, asked: str
) -> None:
    add_all(root, "sub-01_FLAIR", "sub-01_T1w.nii", "sub-01_T1w.nii.gz")
    assert find(root, {})[0] == []
    ((inputs,), _) = find(root, {"t1w": {"extension": asked}})
    assert inputs.t1w.name == f"sub-01_T1w{asked}"
    (reason,) = reasons(inputs).values()
    assert reason.endswith(f"the filter asks for {asked}")


# Which one of several


@pytest.mark.parametrize(
    ("content", "candidates", "expected"),
    [
        ({"t1w": {"acq": ["b", "a"]}}, ["FLAIR", "acq-a_T1w", "acq-b_T1w"], "FLAIR acq-b_T1w"),
        ({"t1w": {"acq": ["a", "b"]}}, ["FLAIR", "acq-a_T1w", "acq-b_T1w"], "FLAIR acq-a_T1w"),
        ({"t1w": {"acq": ["b", "*"]}}, ["FLAIR", "acq-a_T1w", "acq-b_T1w"], "FLAIR acq-b_T1w"),
        ({"t1w": {"acq": ["b", None]}}, ["FLAIR", "T1w", "acq-b_T1w"], "FLAIR acq-b_T1w"),
        ({"t1w": {"acq": [None, "b"]}}, ["FLAIR", "T1w", "acq-b_T1w"], "FLAIR T1w"),
        ({"t1w": {"run": [2, 1]}}, ["FLAIR", "run-1_T1w", "run-02_T1w"], "FLAIR run-02_T1w"),
        (
            {"flair": {"run": [2, 1]}},
            ["run-1_FLAIR", "run-2_FLAIR", "run-1_T1w"],
            "run-2_FLAIR run-1_T1w",
        ),
        (
            {"flair": {"run": [2, 1]}, "t1w": {"run": [1, 2]}},
            [f"run-{run}_{suffix}" for run in (1, 2) for suffix in ("FLAIR", "T1w")],
            "run-2_FLAIR run-1_T1w",
        ),
        (
            {"t1w": {"acq": ["b", "a"], "run": [1, 2]}},
            ["FLAIR", "acq-a_run-1_T1w", "acq-b_run-2_T1w"],
            "FLAIR acq-b_run-2_T1w",
        ),
        (
            {"t1w": {"run": [1, 2], "acq": ["b", "a"]}},
            ["FLAIR", "acq-a_run-1_T1w", "acq-b_run-2_T1w"],
            "FLAIR acq-a_run-1_T1w",
        ),
        (
            {"t1w": {"ce": ["gad", None]}},
            ["FLAIR", "T1w", "ce-gad_T1w"],
            "FLAIR ce-gad_T1w",
        ),
        ({"t1w": {"acq": ["a", "b"]}}, ["FLAIR", "acq-b_T1w"], "FLAIR acq-b_T1w"),
    ],
)
def test_what_stands_earlier_in_the_filter_is_preferred_to_all_else(
    root: Path, content: dict[str, Any], candidates: list[str], expected: str
) -> None:
    for name in candidates:
        add_all(root, f"sub-01_{name}", voxel_mm=2 if name in expected else 1)
    ((inputs,), _) = find(root, content)
    assert f"{stem(inputs.flair)} {stem(inputs.t1w)}" == expected
    assert len(inputs.rejected) == len(candidates) - 2
    for one in inputs.rejected:
        assert one.reason.endswith(" was preferred: it stands earlier in the filter")
        assert not one.by_filter


def test_a_filter_that_prefers_none_leaves_the_choice_to_the_other_rules(root: Path) -> None:
    add_all(root, "sub-01_FLAIR", "sub-01_acq-a_T1w", "sub-01_acq-c_T1w", voxel_mm=2)
    add_all(root, "sub-01_acq-b_T1w")
    for asked in ("*", ["*", "a"], ["*", None]):
        ((inputs,), _) = find(root, {"t1w": {"acq": asked}})
        assert stem(inputs.t1w) == "acq-b_T1w"
        assert {reason.rpartition(": ")[2] for reason in reasons(inputs).values()} == {
            "thinner slices"
        }


# Who and when

VISITS = ("sub-01", "sub-01_ses-1", "sub-02_ses-1", "sub-02_ses-2", "sub-03_ses-01")


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("people") / "bids"
    for visit in VISITS:
        add_all(root, f"{visit}_FLAIR", f"{visit}_T1w")
    return root


@pytest.mark.parametrize("kinds", [("flair",), ("t1w",), KINDS], ids="+".join)
@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"subject": "01"}, VISITS[:2]),
        ({"participant": ["sub-03", "01"]}, (*VISITS[:2], VISITS[4])),
        ({"sub": "*"}, VISITS),
        ({"session": "1"}, VISITS[1:3]),
        ({"ses": ["ses-2", 1]}, VISITS[1:4]),
        ({"ses": "01"}, VISITS[4:]),
        ({"ses": None}, VISITS[:1]),
        ({"ses": "*"}, VISITS[1:]),
        ({"ses": [None, "2"]}, (VISITS[0], VISITS[3])),
        ({"sub": "02", "ses": "2"}, VISITS[3:4]),
    ],
)
def test_the_visits_that_a_filter_asks_for_are_the_only_ones(
    people: Path, kinds: tuple[str, ...], asked: dict[str, Any], expected: tuple[str, ...]
) -> None:
    visits, skipped = find(people, dict.fromkeys(kinds, asked))
    assert [inputs.visit.name for inputs in visits] == list(expected)
    assert [inputs.rejected for inputs in visits] == [()] * len(expected)
    assert skipped == []


def test_a_filter_and_the_command_line_narrow_each_other(people: Path) -> None:
    visits, _ = find(people, {"t1w": {"ses": "1"}}, participants=["02"])
    assert [inputs.visit.name for inputs in visits] == ["sub-02_ses-1"]
    visits, _ = find(people, {"t1w": {"sub": "02"}, "flair": {"ses": "2"}})
    assert [inputs.visit.name for inputs in visits] == ["sub-02_ses-2"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"sub": "1"}, "subject 1: not in the dataset, only sub-01, sub-02, sub-03. Did you "
         "mean sub-01?"),
        ({"sub": ["01", "04", "05"]}, "subject 04 05: not in the dataset, only sub-01"),
        ({"ses": [None, "3"]}, "session 3: not in the dataset, only ses-01, ses-1, ses-2."),
        ({"sub": "01", "ses": "3"}, "session 3: not in sub-01, only ses-1."),
    ],
)  # fmt: skip
def test_a_participant_or_session_that_is_not_there_is_named_with_those_that_are(
    people: Path, kind: str, asked: dict[str, Any], words: str
) -> None:
    with pytest.raises(NotFoundError) as caught:
        find(people, {kind: asked})
    assert str(caught.value).startswith(f"--bids-filter-file: {words}")
