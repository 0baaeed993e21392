# SPDX-License-Identifier: Apache-2.0
"""How a run ends: its exit code, and one message instead of a traceback."""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import nibabel as nb
import numpy as np
import pytest

from bids_lesion_xai.bids.dataset import VisitInputs
from bids_lesion_xai.bids.store import Store
from bids_lesion_xai.bids.visit import Visit
from bids_lesion_xai.cli import participant, run
from bids_lesion_xai.cli.user import WORK_FOLDER
from bids_lesion_xai.config import RunConfig
from bids_lesion_xai.interfaces import follow
from bids_lesion_xai.workflows.execute import Failure
from tests.bundles import write_small_bundle
from tests.outputs import publish_outputs, raw_rows

ROOT = Path(__file__).parents[2]
CACHES = ("MPLCONFIGDIR", "XDG_CACHE_HOME", "TORCH_HOME", "NIPYPE_CONFIG_DIR")
LEVELS = ("participant", "group", "participant group")
APP_LOG = logging.getLogger("bids_lesion_xai")
Run = Callable[..., int]


@pytest.fixture(autouse=True)
def process_as_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Undo what a run does to its own process."""
    for variable in CACHES:
        monkeypatch.setenv(variable, str(tmp_path / "cache"))
    handler, level = signal.getsignal(signal.SIGTERM), APP_LOG.level
    yield
    signal.signal(signal.SIGTERM, handler)
    APP_LOG.setLevel(level)


@pytest.fixture
def bids(tmp_path: Path) -> Path:
    """Return a dataset in which sub-02_ses-2 and sub-03 lack an image."""
    root = tmp_path / "bids"
    image = nb.Nifti1Image(np.zeros((4, 4, 4), np.int16), np.eye(4))
    names = {
        "sub-01/ses-1": ("FLAIR", "T1w", "ce-gad_T1w"),
        "sub-02/ses-1": ("FLAIR", "T1w"),
        "sub-02/ses-2": ("FLAIR",),
        "sub-03/ses-1": ("T1w",),
    }
    root.mkdir()
    (root / "dataset_description.json").write_text('{"Name": "test", "BIDSVersion": "1.10.0"}')
    for folder, suffixes in names.items():
        anat = root / folder / "anat"
        anat.mkdir(parents=True)
        for suffix in suffixes:
            nb.save(image, anat / f"{folder.replace('/', '_')}_{suffix}.nii.gz")
    return root


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def start(bids: Path, out: Path, tmp_path: Path) -> Run:
    """Return the app, on the dataset and the output folder unless others are named."""

    def main(
        level: str = "participant",
        *options: str | Path,
        input_dir: Path = bids,
        output_dir: Path = out,
        work_dir: Path = tmp_path / "work",
    ) -> int:
        folders = (input_dir, output_dir, *level.split(), "--work-dir", work_dir)
        argv = (*folders, "--skip-bids-validation", *options)
        return run.main([str(argument) for argument in argv])

    return main


@pytest.fixture
def processed(monkeypatch: pytest.MonkeyPatch) -> list[Visit]:
    """Return the visits that get as far as the pipeline; all of them succeed."""
    visits: list[Visit] = []

    def run_visits(inputs: Sequence[VisitInputs], *_: Any) -> list[Failure]:
        visits.extend(one.visit for one in inputs)
        return []

    monkeypatch.setattr(participant, "run_visits", run_visits)
    return visits


def told(caplog: pytest.LogCaptureFixture, level: int = logging.ERROR) -> list[str]:
    """Return the messages of a level; each is one line and shows no traceback."""
    records = [record for record in caplog.records if record.levelno == level]
    messages = [record.getMessage() for record in records]
    assert not any(record.exc_info for record in caplog.records)
    assert not any("\n" in message for message in messages)
    return messages


def run_log(out: Path) -> dict[str, Any]:
    (path,) = out.glob("logs/run-*.json")
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


# Nothing to work on


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("kind", ["nothing", "a file", "a broken link"])
def test_a_missing_input_folder_ends_with_66(
    kind: str, level: str, start: Run, out: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "input"
    if kind == "a file":
        path.write_text("sub-01")
    elif kind == "a broken link":
        path.symlink_to("not-there")
    assert start(level, input_dir=path) == 66
    (message,) = told(caplog)
    assert str(path.resolve()) in message
    assert ("is not a folder" if kind == "a file" else "does not exist") in message
    assert not out.exists()


def test_the_process_itself_ends_with_66_and_one_line(tmp_path: Path) -> None:
    answer = subprocess.run(
        [sys.executable, ROOT / "run.py", "input", "out", "participant", "-w", "work"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    (line,) = (answer.stdout + answer.stderr).splitlines()
    assert answer.returncode == 66
    assert str(tmp_path / "input") in line


def test_a_dataset_without_participants_ends_with_65(
    start: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "empty").mkdir()
    assert start(input_dir=tmp_path / "empty") == 65
    assert [str(tmp_path / "empty") in message for message in told(caplog)] == [True]


def test_no_usable_visit_ends_with_65_and_says_why(
    start: Run, bids: Path, out: Path, processed: list[Visit], caplog: pytest.LogCaptureFixture
) -> None:
    assert start("participant group", "--participant-label", "03") == 65
    assert [str(bids) in message for message in told(caplog)] == [True]
    (warning,) = told(caplog, logging.WARNING)
    assert warning.startswith("skipped sub-03_ses-1: no usable FLAIR found; expected is ")
    assert processed == []
    assert list(out.iterdir()) == []


@pytest.mark.parametrize(
    ("option", "label", "known"),
    [("--participant-label", "04", "sub-03"), ("--session-label", "3", "ses-2")],
)
def test_an_unknown_label_ends_with_66(
    option: str, label: str, known: str, start: Run, caplog: pytest.LogCaptureFixture
) -> None:
    assert start("participant", option, label) == 66
    (message,) = told(caplog)
    assert f"{option} {label}" in message
    assert known in message


@pytest.mark.parametrize("level", ["group", "group participant"])
def test_the_group_level_on_an_empty_output_folder_ends_with_65(
    level: str, start: Run, processed: list[Visit], caplog: pytest.LogCaptureFixture
) -> None:
    assert start(level) == 65
    assert "participant level first" in told(caplog)[-1]
    assert (processed == []) is (level == "group")


# Nowhere to write, nothing to compute with


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("folder", ["output_dir", "work_dir"])
@pytest.mark.parametrize("below", ["", "sub/folder"])
def test_a_folder_that_cannot_be_made_ends_with_73(
    level: str,
    folder: str,
    below: str,
    start: Run,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    path = tmp_path / "file"
    path.write_text("in the way")
    assert start(level, **{folder: path / below}) == 73
    assert [str(path) in message for message in told(caplog)] == [True]


@pytest.mark.parametrize("level", ["group", "participant group"])
def test_a_covariate_that_is_not_there_ends_with_66_before_anything_runs(
    level: str, start: Run, processed: list[Visit], caplog: pytest.LogCaptureFixture
) -> None:
    assert start(level, "--group-by", "sex") == 66
    assert processed == []
    assert ["participants.tsv does not exist" in message for message in told(caplog)] == [True]


def test_a_folder_without_the_right_to_write_ends_with_73(
    start: Run, out: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    assert start() == 73
    assert [str(out) in message for message in told(caplog)] == [True]


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("option", [(), ("--dry-run",)], ids=["run", "plan"])
def test_the_dataset_of_another_app_is_left_as_it_is_and_ends_with_73(
    level: str,
    option: Sequence[str],
    start: Run,
    out: Path,
    processed: list[Visit],
    caplog: pytest.LogCaptureFixture,
) -> None:
    out.mkdir()
    text = '{"Name": "x", "DatasetType": "derivative", "GeneratedBy": [{"Name": "fMRIPrep"}]}'
    (out / "dataset_description.json").write_text(text)
    assert start(level, *option) == 73
    assert ["made by fMRIPrep" in message for message in told(caplog)] == [True]
    assert processed == []
    assert [path.read_text() for path in out.iterdir()] == [text]


def test_a_work_folder_that_somebody_else_makes_meanwhile_is_refused(
    start: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processed: list[Visit]
) -> None:
    work_dir = tmp_path / WORK_FOLDER
    make = Path.mkdir

    def too_late(folder: Path, *args: Any, **options: Any) -> None:
        if folder == work_dir:
            make(folder, exist_ok=True)
            folder.chmod(0o777)
        make(folder, *args, **options)

    monkeypatch.setattr(Path, "mkdir", too_late)
    assert start(work_dir=work_dir) == 73
    assert processed == []


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o700, 0o755])
def test_the_default_work_folder_is_the_users_alone(
    mode: int,
    start: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(run, "_run_level", lambda *_: 0)
    work_dir = tmp_path / WORK_FOLDER
    assert start(work_dir=work_dir) == 0
    assert work_dir.stat().st_mode & 0o777 == 0o700
    work_dir.chmod(mode)
    code = 73 if mode & 0o022 else 0
    assert start(work_dir=work_dir) == code
    assert ["not yours alone" in message for message in told(caplog)] == [True] * bool(code)


@pytest.mark.parametrize("kind", ["nothing", "an empty folder", "a file"])
def test_a_missing_model_ends_with_69(
    kind: str, start: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "model"
    if kind == "a file":
        path.write_text("weights")
    elif kind == "an empty folder":
        path.mkdir()
    assert start("participant group", "--model", path) == 69
    assert [str(path) in message for message in told(caplog)] == [True]


@pytest.mark.parametrize("option", [(), ("--dry-run",)])
def test_a_network_of_other_weights_ends_with_69_before_any_visit(
    option: Sequence[str],
    start: Run,
    processed: list[Visit],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    folder = write_small_bundle(tmp_path / "model")
    path = folder / "configs" / "inference.json"
    inference = json.loads(path.read_text())
    inference["network_def"]["channels"] = [3, 5]
    path.write_text(json.dumps(inference))
    assert start("participant", "--model", folder, *option) == 69
    assert ["do not fit its network" in message for message in told(caplog)] == [True]
    assert processed == []


def test_a_missing_device_ends_with_69(start: Run, caplog: pytest.LogCaptureFixture) -> None:
    assert start("participant", "--device", "cuda:99") == 69
    assert ["--device cuda:99" in message for message in told(caplog)] == [True]


# Some visits


def test_skipped_visits_that_nobody_named_do_not_matter(
    start: Run, out: Path, processed: list[Visit], caplog: pytest.LogCaptureFixture
) -> None:
    assert start() == 0
    assert processed == [Visit("01", "1"), Visit("02", "1")]
    assert told(caplog) == []
    assert len(told(caplog, logging.WARNING)) == 2
    log = run_log(out)
    reason = (
        "sub-02_ses-2: no usable T1w found; sub-02_ses-1 has T1w, but images of two sessions are "
        "never put together."
    )
    assert log["Skipped"] == [
        {"Visit": "sub-02_ses-2", "Reason": reason},
        {
            "Visit": "sub-03_ses-1",
            "Reason": "sub-03_ses-1: no usable FLAIR found; expected is e.g. "
            "sub-03/ses-1/anat/sub-03_ses-1_FLAIR.nii.gz.",
        },
    ]
    assert log["Visits"] == [
        {
            "Visit": "sub-01_ses-1",
            "FLAIR": "bids:raw:sub-01/ses-1/anat/sub-01_ses-1_FLAIR.nii.gz",
            "T1w": "bids:raw:sub-01/ses-1/anat/sub-01_ses-1_T1w.nii.gz",
            "NotTaken": ["sub-01_ses-1_ce-gad_T1w.nii.gz (contrast agent)"],
            "Notes": [],
            "Processed": ["there is no complete result yet"],
            "Status": "done",
            "Reason": "",
            "WallSeconds": None,
        },
        {
            "Visit": "sub-02_ses-1",
            "FLAIR": "bids:raw:sub-02/ses-1/anat/sub-02_ses-1_FLAIR.nii.gz",
            "T1w": "bids:raw:sub-02/ses-1/anat/sub-02_ses-1_T1w.nii.gz",
            "NotTaken": [],
            "Notes": [],
            "Processed": ["there is no complete result yet"],
            "Status": "done",
            "Reason": "",
            "WallSeconds": None,
        },
    ]


@pytest.mark.parametrize(
    ("options", "skipped"),
    [
        ("--session-label 1", ["sub-03_ses-1"]),
        ("--session-label 1 2", ["sub-02_ses-2", "sub-03_ses-1"]),
        ("--participant-label sub-01 02 --session-label ses-1 ses-2", ["sub-02_ses-2"]),
        ("--participant-label 01 03", ["sub-03_ses-1"]),
        ("--participant-label 01 02", []),
        ("--participant-label 01 02 --session-label 1", []),
    ],
)
def test_a_skipped_visit_that_was_named_ends_with_1(
    options: str,
    skipped: list[str],
    start: Run,
    processed: list[Visit],
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert start("participant", *options.split()) == (1 if skipped else 0)
    assert Visit("01", "1") in processed
    messages = told(caplog)
    assert len(messages) == len(skipped)
    assert all(name in message for name, message in zip(skipped, messages, strict=True))


def test_a_visit_that_fails_ends_with_1_and_leaves_its_crash_log(
    start: Run,
    out: Path,
    processed: list[Visit],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    failure = Failure(Visit("01", "1"), "images do not overlap", "Node: the whole story")
    monkeypatch.setattr(participant, "run_visits", lambda *_: [failure])
    assert start() == 1
    assert "sub-01_ses-1: images do not overlap" in told(caplog)[0]
    (crash,) = out.glob("logs/*crash*")
    assert "sub-01_ses-1" in crash.name
    assert crash.read_text(encoding="utf-8") == "Node: the whole story"
    states = [(one["Visit"], one["Status"], one["Reason"]) for one in run_log(out)["Visits"]]
    assert states == [
        ("sub-01_ses-1", "failed", "images do not overlap"),
        ("sub-02_ses-1", "done", ""),
    ]


def test_what_came_of_the_visits_is_told_even_if_the_disk_is_too_full_for_logs(
    start: Run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    failure = Failure(Visit("01", "1"), "no space is left", "")
    full = OSError(errno.ENOSPC, "No space left on device", "logs")

    def refuse(*_: Any, **__: Any) -> int:
        raise full

    def fill(*_: Any) -> list[Failure]:
        monkeypatch.setattr(Path, "write_text", refuse)
        return [failure]

    monkeypatch.setattr(participant, "run_visits", fill)
    assert start() == 73
    messages = told(caplog)
    assert any("sub-01_ses-1: no space is left" in message for message in messages)
    assert "No space left on device" in messages[-1]


def test_logs_name_no_folder_of_the_machine(
    start: Run, bids: Path, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = bids / "sub-01/ses-1/anat/sub-01_ses-1_T1w.nii.gz"
    places = [tmp_path / "work" / "x_wf", image, out, ROOT / "run.py", Path.home() / "scans"]
    places.append(Path(sys.prefix) / "lib" / "numpy.py")
    crash = "".join(f'  File "{place}", line 3\n' for place in places)
    failure = Failure(Visit("01", "1"), f"{image} is not readable", crash)
    monkeypatch.setattr(participant, "run_visits", lambda *_: [failure])
    assert start() == 1
    (kept,) = out.glob("logs/*crash.txt")
    text = kept.read_text(encoding="utf-8")
    assert text.count("<") == len(places)
    assert '"<BIDS_DIR>/sub-01/ses-1/anat/sub-01_ses-1_T1w.nii.gz"' in text
    (log,) = out.glob("logs/run-*.json")
    text += log.read_text(encoding="utf-8")
    assert "<BIDS_DIR>/sub-01" in text
    for folder in (tmp_path, ROOT, Path(sys.prefix), Path.home()):
        assert f"{folder}/" not in text


@pytest.mark.parametrize(
    ("options", "problems", "code"),
    [((), ["why"], 0), (("--follow-lesions",), [], 0), (("--follow-lesions",), ["why"], 1)],
)
def test_lesions_are_followed_if_asked_for_and_who_cannot_be_is_told(
    options: tuple[str, ...],
    problems: list[str],
    code: int,
    start: Run,
    out: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    visits = publish_outputs(out).visits()

    def follow_lesions(_: Store, given: list[Visit]) -> tuple[dict[Visit, Any], list[str]]:
        assert given == visits
        return {visits[0]: {1: 7, 2: 8, 3: 9}}, problems

    monkeypatch.setattr(follow, "follow_lesions", follow_lesions)
    assert start("group", *options) == code
    reasons = ["lesions of this person are not followed: why"] if code else []
    assert told(caplog) == reasons
    numbers = [row["match"] for row in raw_rows(out / "group_lesions.tsv")]
    assert numbers == (["7", "8", "9", "n/a"] if options else ["n/a"] * 4)


@pytest.mark.parametrize("codes", [(0, 0), (1, 0), (0, 1)])
def test_the_group_level_runs_last_and_the_worse_exit_code_stays(
    codes: tuple[int, int], start: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[str] = []

    def run_level(level: str, _: RunConfig) -> int:
        ran.append(level)
        return dict(zip(("participant", "group"), codes, strict=True))[level]

    monkeypatch.setattr(run, "_run_level", run_level)
    assert start("group participant") == max(codes)
    assert ran == ["participant", "group"]


@pytest.mark.parametrize("method", ["smoothgrad", "smoothgrad-squared"])
def test_the_readme_of_the_output_names_the_files_of_the_method(
    method: str, start: Run, out: Path, processed: list[Visit]
) -> None:
    assert start("participant", "--method", method) == 0
    assert processed
    readme = (out / "README.md").read_text(encoding="utf-8")
    named = set(re.findall(r"desc-(\w+?)(?:FLAIR|T1w)?_saliency", readme))
    assert named == {method.replace("-", "")}


@pytest.mark.parametrize(("engine", "fits"), [("window", False), ("whole", True), ("auto", True)])
def test_an_engine_that_does_not_fit_the_model_is_refused_before_anything_runs(
    engine: str,
    fits: bool,
    start: Run,
    out: Path,
    processed: list[Visit],
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert start("participant", "--engine", engine) == (0 if fits else 2)
    assert bool(processed) == fits == bool([*out.glob("logs/*")])
    messages = told(caplog)
    assert len(messages) == (not fits)
    assert all("--engine window" in message for message in messages)


def test_the_dataset_files_of_the_output_are_written(
    start: Run, bids: Path, out: Path, processed: list[Visit]
) -> None:
    (bids / "dataset_description.json").write_text('{"Name": "phantoms", "License": "CC0"}')
    before = sorted(bids.rglob("*"))
    assert start() == 0
    description = json.loads((out / "dataset_description.json").read_text(encoding="utf-8"))
    assert "phantoms" in description["Name"]
    assert description["License"] == "CC0"
    for name in ("README.md", ".bidsignore", "logs/CITATION.md", "logs/CITATION.bib"):
        assert (out / name).stat().st_size > 0
    readme = (out / "README.md").read_text(encoding="utf-8")
    assert "VERSION" not in readme
    assert "group_lesions.tsv" in readme
    assert sorted(bids.rglob("*")) == before


# Around the run


def test_an_interrupt_ends_with_130(
    start: Run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def interrupt(_: str, __: RunConfig) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "_run_level", interrupt)
    assert start() == 130
    assert len(told(caplog)) == 1


def test_a_full_disk_ends_with_74_and_one_line(
    start: Run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fill(_: str, __: RunConfig) -> int:
        raise OSError(errno.ENOSPC, "No space left on device", "work/x")

    monkeypatch.setattr(run, "_run_level", fill)
    assert start() == 74
    (message,) = told(caplog)
    assert "No space left on device" in message
    assert "work/x" in message


def test_being_terminated_ends_with_143(start: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "_run_level", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with pytest.raises(SystemExit) as caught:
        start()
    assert caught.value.code == 143


def test_caches_lie_in_the_work_folder_whatever_the_environment_says(
    start: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(CACHES[0])
    monkeypatch.setattr(run, "_run_level", lambda *_: 0)
    assert start() == 0
    assert {os.environ[name] for name in CACHES} == {str(tmp_path / "work" / "cache")}


def test_a_plan_writes_nothing_into_the_home_folder(bids: Path, out: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    command = [sys.executable, ROOT / "run.py", bids, out, "participant", "--dry-run"]
    environment = {**os.environ, "HOME": str(home), "PYTHONPATH": os.pathsep.join(sys.path)}
    for variable in CACHES:
        environment.pop(variable)
    answer = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert "in all: 2 visits to process" in answer.stdout
    assert list(home.iterdir()) == []


@pytest.mark.parametrize("kind", ["missing", "broken", "no links"])
def test_a_validator_that_does_not_run_stops_nothing(
    kind: str,
    bids: Path,
    out: Path,
    tmp_path: Path,
    processed: list[Visit],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    program = tmp_path / "validator"
    program.write_bytes(b"\x7fELF of another machine")
    program.chmod(0o755)
    answer = str(program) if kind == "broken" else None
    monkeypatch.setattr(shutil, "which", lambda *_, **__: answer)
    options = ["participant", "--work-dir", tmp_path / "work"]
    if kind == "no links":

        def refuse(*_: Any) -> None:
            raise PermissionError(1, "Operation not permitted")

        monkeypatch.setattr(shutil, "which", lambda *_, **__: str(program))
        monkeypatch.setattr(Path, "symlink_to", refuse)
        options += ["--participant-label", "01", "02"]
    assert run.main([str(option) for option in (bids, out, *options)]) == 0
    assert any("not validated" in message for message in told(caplog, logging.WARNING))
    assert len(processed) == 2


def test_what_the_validator_finds_is_told_and_stops_nothing(
    bids: Path,
    out: Path,
    tmp_path: Path,
    processed: list[Visit],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    issues = [{"code": "EMPTY_FILE", "severity": "error", "location": "/sub-01/x.nii.gz"}] * 30
    issues += [{"code": "NO_AUTHORS", "severity": "warning"}]
    monkeypatch.setattr(participant, "validate", lambda *_: issues)
    options = (bids, out, "participant", "--work-dir", tmp_path / "work")
    assert run.main([str(option) for option in options]) == 0
    messages = told(caplog, logging.WARNING)
    assert 0 < sum("EMPTY_FILE in /sub-01/x.nii.gz" in message for message in messages) < 30
    assert not any("NO_AUTHORS" in message for message in messages)


def test_a_name_that_is_no_utf8_stands_escaped_in_log_and_plan(
    start: Run,
    bids: Path,
    out: Path,
    processed: list[Visit],
    capsys: pytest.CaptureFixture[str],
) -> None:
    odd = os.fsencode(bids / "sub-01" / "ses-1" / "anat") + b"/sub-01_ses-1_acq-f\xe4_FLAIR.nii.gz"
    try:
        shutil.copy(next(bids.glob("sub-01/ses-1/anat/*_FLAIR.nii.gz")), odd)
    except OSError:
        pytest.skip("this file system knows UTF-8 alone")
    assert start("participant", "--dry-run") == 0
    assert "acq-f\\udce4" in capsys.readouterr().out
    assert start() == 0
    assert processed
    (path,) = out.glob("logs/run-*.json")
    assert "acq-f\\udce4" in path.read_text(encoding="utf-8")
