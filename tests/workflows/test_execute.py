# SPDX-License-Identifier: Apache-2.0
"""A visit that fails is named with its reason, and the others are done."""

from __future__ import annotations

import multiprocessing
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from traceback import format_exc
from types import SimpleNamespace
from typing import Any

import nibabel as nb
import numpy as np
import pytest
from nipype.interfaces.base import CommandLine
from nipype.pipeline.engine import Node, Workflow
from nipype.pipeline.plugins.tools import report_crash

from bids_lesion_xai.bids.dataset import VisitInputs
from bids_lesion_xai.bids.store import LAST_KEY, Store
from bids_lesion_xai.bids.visit import Visit
from bids_lesion_xai.cli.parser import parse
from bids_lesion_xai.config import RunConfig
from bids_lesion_xai.models.bundle import Bundle, read_bundle
from bids_lesion_xai.workflows import participant
from bids_lesion_xai.workflows.execute import Failure, _read_crashes, run_visits
from bids_lesion_xai.workflows.graph import draw
from bids_lesion_xai.workflows.names import RUN_NAME, work_folder, workflow_name
from bids_lesion_xai.workflows.participant import init_visit_wf
from tests.bundles import write_small_bundle
from tests.nodes import Step
from tests.rawdata import BALLS, write_raw

GOOD, TRUNCATED, CONSTANT = Visit("01", "02"), Visit("02", "01"), Visit("my+sub")
NAMES = {
    workflow_name(visit.name): visit.name
    for visit in (GOOD, TRUNCATED, CONSTANT, Visit("ses", "sub"))
}
NAMED = (TRUNCATED, GOOD, CONSTANT)
NO_MESSAGE = "stopped without a message; out of memory is a common reason"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_bundle(tmp_path_factory.mktemp("execute") / "model")


def config_of(folder: Path, model: Path, n_procs: int) -> RunConfig:
    for name in ("out", "work"):
        (folder / name).mkdir(exist_ok=True)
    options = {"--model": model, "-w": folder / "work", "--nprocs": n_procs, "--n-samples": 1}
    options |= {"--device": "cpu", "--skull-strip": "skip"}
    arguments = [folder / "raw", folder / "out", "participant", *sum(options.items(), ())]
    return parse([str(argument) for argument in arguments])


@pytest.mark.ants
@pytest.mark.slow
@pytest.mark.parametrize("n_procs", [1, 2])
def test_visits_that_fail_are_named_with_one_line_and_the_others_are_done(
    tmp_path: Path, model: Path, n_procs: int
) -> None:
    visits = write_raw(tmp_path / "raw", dict.fromkeys((TRUNCATED, CONSTANT, GOOD), BALLS))
    truncated, constant = visits[0].t1w, visits[1].flair
    truncated.write_bytes(truncated.read_bytes()[:50_000])
    flat = nb.load(constant)
    nb.save(nb.Nifti1Image(np.full(flat.shape, 7, np.int16), flat.affine), constant)

    failures = run_visits(visits, config_of(tmp_path, model, n_procs), read_bundle(model), {})

    found = {failure.visit: failure for failure in failures}
    assert set(found) == {TRUNCATED, CONSTANT}
    assert found[TRUNCATED].reason.startswith(f"{truncated.name} cannot be read as a NIfTI image")
    assert found[CONSTANT].reason.startswith(f"{constant.name}: The image is constant (7)")
    for visit, failure in found.items():
        assert "\n" not in failure.reason
        assert not any(word in failure.reason for word in ("Traceback", "Error", visit.name + ":"))
        assert f".{workflow_name(visit.name)}.preprocess_wf." in failure.log.partition("\n")[0]
        assert "Traceback (most recent call last)" in failure.log
    assert not list((tmp_path / "work").glob("crash-*"))
    store = Store(tmp_path / "out")
    assert store.visits() == [GOOD]
    assert not any(visit.name in str(path) for visit in found for path in store.root.rglob("*"))


def _small_wf(
    ends: dict[Visit, str | None], store: Store
) -> Callable[[VisitInputs, RunConfig, Bundle], Workflow]:
    """Return what builds a graph of two steps for a visit; the second writes the mark."""

    def init(inputs: VisitInputs, *_: Any) -> Workflow:
        if ends[inputs.visit] == "lost":
            raise FileNotFoundError(2, "No such file or directory", "sub-01_T1w.nii.gz")
        first = Node(Step(), name="first")
        if ends[inputs.visit] is not None:
            first.inputs.end = ends[inputs.visit]
        mark = str(store.path(LAST_KEY, inputs.visit))
        last = Node(Step(end="done", mark=mark), name="last")
        workflow = Workflow(name=workflow_name(inputs.visit.name))
        workflow.connect(first, "process", last, "before")
        return workflow

    return init


def _run_small(
    folder: Path,
    model: Path,
    monkeypatch: pytest.MonkeyPatch,
    ends: dict[Visit, str | None],
    n_procs: int,
    **changes: Any,
) -> dict[Visit, Failure]:
    store = Store(folder / "out")
    monkeypatch.setattr(participant, "init_visit_wf", _small_wf(ends, store))
    inputs = [VisitInputs(visit, folder, folder, folder, ()) for visit in ends]
    config = replace(config_of(folder, model, n_procs), **changes)
    found = run_visits(inputs, config, read_bundle(model), {})
    return {failure.visit: failure for failure in found}


def test_a_killed_worker_fails_its_visit_and_the_others_are_done(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends = {TRUNCATED: "killed", GOOD: "late", CONSTANT: "done"}
    (failure,) = _run_small(tmp_path, model, monkeypatch, ends, 2).values()
    assert (failure.visit, failure.reason) == (TRUNCATED, NO_MESSAGE)
    assert "terminated abruptly" in failure.log
    assert Store(tmp_path / "out").visits() == [GOOD, CONSTANT]


def test_a_visit_that_lacked_memory_is_tried_again_by_itself_on_the_cpu(
    tmp_path: Path,
    model: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    tried: list[tuple[Visit, str, bool]] = []
    store = Store(tmp_path / "out")
    build = _small_wf({TRUNCATED: "memory", GOOD: "done", CONSTANT: "data"}, store)
    better = _small_wf({TRUNCATED: "done"}, store)

    def init(inputs: VisitInputs, config: RunConfig, bundle: Bundle) -> Workflow:
        tried.append((inputs.visit, config.device, config.low_memory))
        return (better if config.low_memory else build)(inputs, config, bundle)

    monkeypatch.setattr(participant, "init_visit_wf", init)
    inputs = [VisitInputs(visit, tmp_path, tmp_path, tmp_path, ()) for visit in NAMED]
    config = replace(config_of(tmp_path, model, 2), device="cuda:0")
    (failure,) = run_visits(inputs, config, read_bundle(model), {})
    assert (failure.visit, failure.out_of_memory) == (CONSTANT, False)
    first = [(visit, "cuda:0", False) for visit in NAMED]
    assert tried == [*first, (TRUNCATED, "cpu", True)]
    assert TRUNCATED.name in caplog.text
    assert set(store.visits()) == {GOOD, TRUNCATED}


@pytest.mark.parametrize("others", [(), (GOOD, CONSTANT)])
def test_a_visit_whose_file_has_gone_fails_alone(
    others: Sequence[Visit], tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends: dict[Visit, str | None] = {TRUNCATED: "lost", **dict.fromkeys(others, "done")}
    (failure,) = _run_small(tmp_path, model, monkeypatch, ends, 1, write_graph=True).values()
    assert failure.visit == TRUNCATED
    assert "No such file or directory: 'sub-01_T1w.nii.gz'" in failure.reason
    assert Store(tmp_path / "out").visits() == sorted(others)
    # The graph is that of a visit that can be read.
    assert len(list((tmp_path / "out" / "logs").glob("*_graph.*"))) == bool(others)


@pytest.mark.parametrize("end", ["memory", "gpu memory"])
def test_a_visit_for_which_memory_never_suffices_says_so(
    end: str, tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (failure,) = _run_small(tmp_path, model, monkeypatch, {GOOD: end}, 1).values()
    assert failure.out_of_memory


def test_a_crash_stops_the_others_if_that_is_asked_for(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends: dict[Visit, str | None] = {GOOD: "never", TRUNCATED: "value", CONSTANT: "never"}
    found = _run_small(tmp_path, model, monkeypatch, ends, 2, stop_on_first_crash=True)
    assert found[TRUNCATED].reason == "ValueError: no such luck"
    stopped = "not finished, because another visit failed (--stop-on-first-crash)"
    assert {found[visit].reason for visit in (GOOD, CONSTANT)} == {stopped}
    assert not multiprocessing.active_children()


@pytest.mark.parametrize(
    ("end", "left", "n_tries"),
    [
        ("value", "step/anything.nii.gz", 2),
        ("data", "step/anything.nii.gz", 1),
        ("data", "step/use.", 2),
        ("memory", "step/anything.nii.gz", 2),
        ("value", None, 1),
    ],
    ids=["foreign error", "own error", "own error of a file there", "memory", "nothing was left"],
)
def test_a_visit_that_may_have_failed_for_damaged_work_is_processed_from_the_start(
    end: str,
    left: str | None,
    n_tries: int,
    tmp_path: Path,
    model: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store, config = Store(tmp_path / "out"), config_of(tmp_path, model, 1)
    folder = work_folder(config) / RUN_NAME / workflow_name(GOOD.name)
    if left:
        (folder / left).parent.mkdir(parents=True)
        (folder / left).touch()
    found = []

    def init(inputs: VisitInputs, *rest: Any) -> Workflow:
        found.append(bool(left) and (folder / str(left)).exists())
        return _small_wf({inputs.visit: "done" if len(found) > 1 else end}, store)(inputs, *rest)

    monkeypatch.setattr(participant, "init_visit_wf", init)
    inputs = VisitInputs(GOOD, tmp_path, tmp_path, tmp_path, ())
    failures = run_visits([inputs], config, read_bundle(model), {})
    assert len(found) == n_tries
    assert bool(failures) is (n_tries == 1)
    # What lacked memory goes on with what is there.
    assert found[1:] == [end == "memory"][: n_tries - 1]


@pytest.mark.ants
@pytest.mark.slow
@pytest.mark.parametrize("damage", [lambda path: os.truncate(path, 5000), Path.unlink])
def test_a_damaged_work_folder_costs_time_alone(
    damage: Callable[[Path], None], tmp_path: Path, model: Path
) -> None:
    former, other = write_raw(tmp_path / "raw", dict.fromkeys((GOOD, CONSTANT), BALLS))
    config = config_of(tmp_path, model, 1)
    assert run_visits([former], config, read_bundle(model), {}) == []
    store = Store(config.output_dir)
    mask = store.path("lesion_mask", GOOD)
    before = mask.read_bytes()
    store.clear(GOOD)
    for path in work_folder(config).rglob("conformed.nii.gz"):
        damage(path)
    assert run_visits([former, other], config, read_bundle(model), {}) == []
    assert mask.read_bytes() == before
    assert store.visits() == [GOOD, CONSTANT]


@pytest.mark.parametrize("option", ["clean_work_dir", "force"])
def test_former_work_on_these_visits_alone_is_removed(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    config = config_of(tmp_path, model, 1)
    own, other = (
        work_folder(config) / RUN_NAME / workflow_name(visit.name) / "step" / "left"
        for visit in (GOOD, CONSTANT)
    )
    beside = tmp_path / "work" / "of somebody else"
    for path in (own, other, beside):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert _run_small(tmp_path, model, monkeypatch, {GOOD: "done"}, 1, **{option: True}) == {}
    assert [path.exists() for path in (own, other, beside)] == [False, True, True]


def test_what_every_step_took_is_written(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends: dict[Visit, str | None] = {GOOD: "done", TRUNCATED: "value"}
    _run_small(tmp_path, model, monkeypatch, ends, 1, resource_monitor=True, run="run-x")
    table = (tmp_path / "out" / "logs" / "run-x_resources.tsv").read_text(encoding="utf-8")
    header, *rows = (line.split("\t") for line in table.splitlines())
    assert header[:3] == ["visit", "step", "seconds"]
    assert sorted(row[:2] for row in rows) == [
        [GOOD.name, "first"],
        [GOOD.name, "last"],
        [TRUNCATED.name, "first"],
    ]


def test_the_graph_of_a_visit_is_drawn_or_written(tmp_path: Path, model: Path) -> None:
    for name in ("FLAIR", "T1w"):
        (tmp_path / name).touch()
    inputs = VisitInputs(GOOD, tmp_path / "FLAIR", tmp_path / "T1w", tmp_path, ())
    workflow = init_visit_wf(inputs, config_of(tmp_path, model, 1), read_bundle(model))
    graph = draw(workflow, tmp_path / "graph")
    text = graph.read_text(encoding="utf-8")
    assert graph.suffix == (".svg" if shutil.which("dot") else ".dot")
    assert all(step in text for step in ("register_flair", "segment", "explain", "publish"))
    assert str(tmp_path) not in text


def test_a_disk_that_is_too_full_for_crash_logs_is_the_reason(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = SimpleNamespace(total=2**30, used=2**30, free=4096)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    (failure,) = _run_small(tmp_path, model, monkeypatch, {GOOD: "killed"}, 1).values()
    assert failure.reason.startswith("no space is left")


@pytest.mark.parametrize("n_procs", [1, 2])
def test_reasons_are_those_of_the_errors(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch, n_procs: int
) -> None:
    ends = {Visit("01"): "data", CONSTANT: None, TRUNCATED: "value", GOOD: "done"}
    failures = _run_small(tmp_path, model, monkeypatch, ends, n_procs)
    assert {visit: failure.reason for visit, failure in failures.items()} == {
        Visit("01"): "the image is of no use. Take another.",
        TRUNCATED: "ValueError: no such luck",
        CONSTANT: "ValueError: Step requires a value for input 'end'. For a list of required "
        "inputs, see Step.help()",
    }
    assert Store(tmp_path / "out").visits() == [GOOD]


def test_outputs_of_an_earlier_run_do_not_make_a_visit_done(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends: dict[Visit, str | None] = {GOOD: "done", CONSTANT: "done"}
    assert _run_small(tmp_path, model, monkeypatch, ends, 1) == {}

    def no_graph(*_: Any) -> Workflow:
        message = "nothing\ncan run"
        raise OSError(message)

    monkeypatch.setattr(participant, "init_run_wf", no_graph)
    inputs = [VisitInputs(visit, tmp_path, tmp_path, tmp_path, ()) for visit in ends]
    failures = run_visits(inputs, config_of(tmp_path, model, 1), read_bundle(model), {})
    assert [failure.visit for failure in failures] == list(ends)
    (reason,) = {failure.reason for failure in failures}
    assert reason == "OSError: nothing (the results of an earlier run stay)"
    assert all("no_graph" in failure.log for failure in failures)


def _crash(folder: Path, visit: Visit, error: Exception, step: str = "step") -> str:
    """Let nipype write a crash file for an error of a visit, and return its text."""
    node = Node(CommandLine("true"), name=step)
    node.base_dir = str(folder)
    node._hierarchy = f"bids_lesion_xai_wf.{workflow_name(visit.name)}.preprocess_wf"
    node.config = {"execution": {"crashdump_dir": str(folder), "crashfile_format": "txt"}}
    try:
        raise error
    except type(error):
        lines = format_exc().splitlines(keepends=True)
    return Path(report_crash(node, lines)).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (MemoryError(), "MemoryError"),
        (np.exceptions.AxisError("no axis"), "numpy.exceptions.AxisError: no axis"),
        (KeyError("sigma"), "KeyError: 'sigma'"),
        (
            OSError(28, "No space left on device"),
            "no space is left for the work folder or the output folder; see --work-dir",
        ),
    ],
)
@pytest.mark.parametrize("visit", [GOOD, TRUNCATED, CONSTANT, Visit("ses", "sub")])
def test_a_crash_is_read_with_its_visit(
    tmp_path: Path, visit: Visit, error: Exception, reason: str
) -> None:
    text = _crash(tmp_path, visit, error)
    assert _read_crashes(tmp_path, NAMES) == {visit.name: (reason, text)}


def test_of_two_crashes_of_a_visit_the_first_counts(tmp_path: Path) -> None:
    first = _crash(tmp_path, GOOD, ValueError("first"), "aaa")
    _crash(tmp_path, GOOD, ValueError("second"), "bbb")
    assert _read_crashes(tmp_path, NAMES) == {GOOD.name: ("ValueError: first", first)}


@pytest.mark.parametrize("text", ["", "\n", "Node: x", "nothing.that looks\nlike a crash"])
def test_a_crash_file_without_a_traceback_is_no_crash_of_the_reader(
    tmp_path: Path, text: str
) -> None:
    crash = _crash(tmp_path, GOOD, ValueError("told"))
    (tmp_path / "crash-0.txt").write_text(text)
    found = _read_crashes(tmp_path, NAMES)
    assert found[GOOD.name] == ("ValueError: told", crash)
    assert {reason for visit, (reason, _) in found.items() if visit != GOOD.name} <= {NO_MESSAGE}


def test_a_crash_file_that_ends_after_its_first_line_has_a_visit_and_no_message(
    tmp_path: Path,
) -> None:
    line = f"Node: bids_lesion_xai_wf.{workflow_name(GOOD.name)}.explain\n"
    (tmp_path / "crash-0.txt").write_text(line)
    assert _read_crashes(tmp_path, NAMES) == {GOOD.name: (NO_MESSAGE, line)}
