# SPDX-License-Identifier: Apache-2.0
"""A dry run tells what a run would do, and does nothing."""

from __future__ import annotations

import csv
import gzip
import logging
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import nibabel as nb
import numpy as np
import pytest

from bids_lesion_xai.bids.dataset import find_visits
from bids_lesion_xai.bids.provenance import complete
from bids_lesion_xai.bids.store import LAST_KEY, Store
from bids_lesion_xai.bids.visit import Visit
from bids_lesion_xai.cli.costs import estimate, side_by_side
from bids_lesion_xai.cli.parser import parse
from bids_lesion_xai.cli.run import main
from bids_lesion_xai.config import RunConfig
from bids_lesion_xai.models.bundle import read_bundle
from bids_lesion_xai.workflows.provenance import describe_visit
from tests.bundles import write_small_bundle


@pytest.fixture(autouse=True)
def _log_as_before() -> Iterator[None]:
    yield
    logging.getLogger("bids_lesion_xai").setLevel(logging.NOTSET)


@pytest.fixture
def bids(tmp_path: Path) -> Path:
    image = nb.Nifti1Image(np.zeros((4, 4, 4), np.int16), np.eye(4))
    for name in ("01_FLAIR", "01_T1w", "01_ce-gad_T1w", "02_T1w"):
        folder = tmp_path / "bids" / f"sub-{name[:2]}" / "anat"
        folder.mkdir(parents=True, exist_ok=True)
        nb.save(image, folder / f"sub-{name}.nii.gz")
    return tmp_path / "bids"


def test_what_is_mended_in_a_header_is_told_with_the_file_or_not_at_all(
    bids: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    for path in bids.rglob("*.nii.gz"):
        header = bytearray(gzip.decompress(path.read_bytes()))
        header[80:84] = struct.pack("<f", -1)
        path.write_bytes(gzip.compress(bytes(header)))
    assert plan(bids, "--dry-run") == 0
    assert not [record for record in caplog.records if record.name.startswith("nibabel")]
    assert "pixdim" not in capfd.readouterr().err


def plan(bids: Path, *options: str) -> int:
    out = bids.parent / "out"
    levels = [option for option in options if option == "group"]
    others = [option for option in options if option != "group"]
    work = ["-w", str(bids.parent / "work")]
    return main([str(bids), str(out), "participant", *levels, *work, *others])


def test_a_plan_tells_what_is_taken_what_not_and_why_and_writes_nothing(
    bids: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(bids.parent.rglob("*"))
    assert plan(bids, "group", "--dry-run") == 0
    told = capsys.readouterr().out
    assert sorted(bids.parent.rglob("*")) == before
    first, second, total = (told.index(word) for word in ("sub-01\n", "sub-02: skipped", "in all"))
    assert first < second < total < told.index("group: ")
    of_first = told[first:second]
    assert "sub-01/anat/sub-01_FLAIR.nii.gz" in of_first
    assert "sub-01/anat/sub-01_T1w.nii.gz" in of_first
    assert "contrast agent" in of_first
    assert "FLAIR" in told[second:total]
    assert "1 visit to process, 0 unchanged, 1 skipped" in told[total:]


@pytest.mark.parametrize("wipe", [(), ("--bids-database-wipe",)], ids=["new", "wipe"])
def test_a_plan_makes_no_index(
    wipe: tuple[str, ...], bids: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(bids.parent.rglob("*"))
    index = ("--bids-database-dir", str(bids.parent / "index"))
    assert plan(bids, "--dry-run", *index, *wipe) == 0
    assert sorted(bids.parent.rglob("*")) == before
    assert "sub-01/anat/sub-01_FLAIR.nii.gz" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["out", "work"])
def test_a_plan_finds_that_a_folder_cannot_be_made(
    name: str,
    bids: Path,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (bids / "dataset_description.json").write_text('{"Name": "x", "BIDSVersion": "1.10.0"}')
    (bids.parent / name).write_text("in the way")
    assert plan(bids, "--dry-run") == 73
    assert [str(bids.parent / name) in one.getMessage() for one in caplog.records] == [True]
    assert "in all: 1 visit to process" in capsys.readouterr().out


def test_a_plan_finds_that_no_folder_can_be_made_in_one_that_is_closed(
    bids: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: path != bids.parent or mode != os.W_OK)
    assert plan(bids, "--dry-run") == 73
    assert f"out cannot be made in {bids.parent}." in caplog.records[-1].getMessage()


def test_masks_that_are_refused_are_told_and_those_of_nobody_are_not(
    bids: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    (bids / "sub-02" / "anat" / "sub-02_T1w.nii.gz").rename(
        bids / "sub-02" / "anat" / "sub-02_acq-3D_T1w.nii.gz"
    )
    shutil.copy(
        bids / "sub-01" / "anat" / "sub-01_FLAIR.nii.gz",
        bids / "sub-02" / "anat" / "sub-02_acq-3D_FLAIR.nii.gz",
    )
    masks = bids.parent / "masks"
    names = ("sub-01_desc-brain_mask", "sub-02_acq-manual_label-L_mask")
    for name in names:
        folder = masks / name[:6] / "anat"
        folder.mkdir(parents=True)
        (folder / f"{name}.nii.gz").write_text("content")
    assert plan(bids, "--dry-run", "--derivatives", f"drawn={masks}") == 0
    assert f"brain mask     {names[0]}.nii.gz" in capsys.readouterr().out
    messages = [one.getMessage() for one in caplog.records]
    (message,) = (one for one in messages if "dataset_description.json" not in one)
    assert message.startswith("the lesion mask is computed: there is no label-lesion_mask")
    assert "sub-02_acq-manual_label-L_mask.nii.gz (of another image by its acq-manual)" in message
    caplog.clear()
    others = bids.parent / "others" / "sub-02" / "anat"
    others.mkdir(parents=True)
    (others / "sub-02_label-L_mask.nii.gz").write_text("content")
    existing = ("--existing-lesion-mask", str(others.parents[1]))
    plan(bids, "--dry-run", "--derivatives", f"drawn={masks}", *existing)
    assert not any("is computed" in one.getMessage() for one in caplog.records)


@pytest.mark.parametrize("is_first", [True, False], ids=["the plan is cut", "a warning is cut"])
def test_a_reader_that_closes_the_pipe_ends_no_plan_with_an_error(
    bids: Path, is_first: bool
) -> None:
    if is_first:
        description = '{"Name": "test", "BIDSVersion": "1.10.0"}'
        (bids / "dataset_description.json").write_text(description)
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = plan_of_a_process(bids, writing)
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_plan_that_finds_no_room_for_its_words_says_so(bids: Path) -> None:
    with Path("/dev/full").open("w") as full:
        done = plan_of_a_process(bids, full.fileno())
    assert done.returncode == 74
    told = done.stderr
    assert told.startswith("the standard output cannot be written to (No space left on device)\n")
    assert "Traceback" not in told
    assert "Exception" not in told


def plan_of_a_process(bids: Path, stdout: int) -> subprocess.CompletedProcess[str]:
    words = [str(bids), str(bids.parent / "out"), "participant", "--dry-run"]
    command = [sys.executable, "-m", "bids_lesion_xai", *words]
    return subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, text=True, check=False)


def test_one_is_not_told_as_several(bids: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert plan(bids, "--dry-run", "--nprocs", "1") == 0
    assert "on 1 core, 1 visit at a time" in capsys.readouterr().out
    assert plan(bids, "--dry-run", "--nprocs", "2") == 0
    assert "on 2 cores" in capsys.readouterr().out


def test_times_of_another_model_are_told_to_be_those_of_the_shipped_one(
    bids: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert plan(bids, "--dry-run") == 0
    assert "of the shipped model" not in capsys.readouterr().out
    model = write_small_bundle(tmp_path / "model")
    assert plan(bids, "--dry-run", "--model", str(model)) == 0
    assert "of the shipped model, not of this one" in capsys.readouterr().out


def test_the_table_of_a_plan_has_a_row_a_visit(bids: Path, tmp_path: Path) -> None:
    mark = Store(tmp_path / "out").path(LAST_KEY, Visit("01"))
    mark.parent.mkdir(parents=True)
    mark.write_text("{}")
    assert plan(bids, "--dry-run-table", str(tmp_path / "plan.tsv")) == 0
    with (tmp_path / "plan.tsv").open(encoding="utf-8") as lines:
        first, second = csv.DictReader(lines, delimiter="\t")
    assert (first["participant_id"], first["session_id"], first["status"]) == (
        *("sub-01", "n/a", "process"),
    )
    assert first["flair"] == "sub-01/anat/sub-01_FLAIR.nii.gz"
    assert "contrast agent" in first["not_taken"]
    assert first["has_result"] == "yes"
    assert float(first["minutes"]) > 0
    assert (second["status"], second["flair"], second["minutes"]) == ("skip", "n/a", "n/a")
    assert "FLAIR" in second["reason"]


def test_a_plan_tells_what_has_changed_and_what_has_not(
    bids: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    store = Store(tmp_path / "out")
    store.write_text("sub-01.html", "report")
    (inputs,), _ = find_visits(bids, ("01",), ())
    options = config("--threshold", "0.4")
    facts = describe_visit(inputs, options, read_bundle(options.model))
    complete(store, inputs.visit, facts)
    assert plan(bids, "--dry-run", "--threshold", "0.4") == 0
    told = capsys.readouterr().out
    assert "nothing has changed" in told
    assert "0 visits to process, 1 unchanged" in told
    assert plan(bids, "--dry-run", "--threshold", "0.6") == 0
    told = capsys.readouterr().out
    assert "again, for     --threshold: 0.4 -> 0.6\n" in told
    assert "1 visit to process, 0 unchanged" in told


def config(*options: str) -> RunConfig:
    return parse(["bids", "out", "participant", "--nprocs", "4", "--mem", "16G", *options])


@pytest.mark.parametrize(
    ("more", "figure"),
    [
        ("--n-samples 100", "minutes"),
        ("--aggregation max", "minutes"),
        ("--experiments channel", "minutes"),
        ("--omp-nthreads 1", "minutes"),
        ("--explain-mem-gb 6", "memory_gb"),
    ],
)
def test_what_costs_more_is_told_to_cost_more(more: str, figure: str) -> None:
    less = getattr(estimate(config()), figure)
    assert getattr(estimate(config(*more.split())), figure) > less


@pytest.mark.parametrize(
    ("less", "figure"),
    [
        ("--saliency-output summary", "output_disk_gb"),
        ("--low-mem", "memory_gb"),
        ("--method gradient", "minutes"),
        ("--tta none", "minutes"),
    ],
)
def test_what_costs_less_is_told_to_cost_less(less: str, figure: str) -> None:
    more = getattr(estimate(config()), figure)
    assert getattr(estimate(config(*less.split())), figure) < more


def test_estimates_are_those_of_the_run_that_they_were_measured_on() -> None:
    words = "--n-samples 5 --experiments channel --omp-nthreads 1 --tta none"
    measured = config(*words.split())
    for n_lesions, seconds in ((10, 61), (11, 64)):
        assert 60 * estimate(measured, n_lesions).minutes == pytest.approx(seconds, rel=0.1)
    summary = replace(measured, saliency_output="summary")
    assert estimate(summary, 10).output_disk_gb == pytest.approx(0.033, rel=0.2)


def test_visits_run_side_by_side_as_far_as_cores_and_memory_go() -> None:
    one = estimate(config("--omp-nthreads", "1"))
    assert side_by_side(config("--omp-nthreads", "1"), one) == 4
    assert side_by_side(config("--omp-nthreads", "1", "--mem", "6G"), one) == 2
    assert side_by_side(config("--omp-nthreads", "1", "--mem", "1G"), one) == 1
    assert side_by_side(config("--omp-nthreads", "1", "--low-mem"), one) == 1
    assert side_by_side(config("--omp-nthreads", "4"), one) == 1
