# SPDX-License-Identifier: Apache-2.0
"""Workers that are killed, and nodes that cannot begin, hold up nobody else."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from nipype import config
from nipype.pipeline.engine import Node, Workflow
from nipype.pipeline.engine.utils import load_resultfile

from bids_lesion_xai.workflows.names import workflow_name
from bids_lesion_xai.workflows.workers import WorkersPlugin
from tests.nodes import Step

# Generous: the machine may be busy with something else.
MOST_SECONDS = 200


@pytest.fixture(autouse=True)
def crash_dir(tmp_path: Path) -> Path:
    execution = {
        "crashdump_dir": str(tmp_path / "crash"),
        "crashfile_format": "txt",
        "stop_on_first_crash": "false",
        "poll_sleep_duration": "0.1",
    }
    config.update_config({"execution": execution})
    return tmp_path / "crash"


def step(name: str, end: str | None = "done") -> Node:
    """Return a node that comes to `end`; None leaves the mandatory input out."""
    node = Node(Step(), name=name)
    if end is not None:
        node.inputs.end = end
    return node


def run(
    folder: Path,
    *chains: list[Node],
    n_procs: int = 2,
    memory_gb: float = 4,
    fresh: bool = False,
) -> dict[str, int]:
    """Run independent chains of nodes; return the process of each node that was done."""
    workflow = Workflow(name="chains_wf", base_dir=str(folder))
    for chain in chains:
        workflow.add_nodes(chain)
        for first, second in pairwise(chain):
            workflow.connect(first, "process", second, "before")
    try:
        workflow.run(plugin=WorkersPlugin(n_procs, memory_gb, {}, fresh=fresh))
    except RuntimeError:
        assert list((folder / "crash").iterdir())
    found = {}
    for path in (folder / "chains_wf").glob("*/result_*.pklz"):
        outputs = load_resultfile(str(path)).outputs
        if outputs is not None:
            found[path.parent.name] = outputs.process
    return found


def test_a_killed_worker_takes_only_its_own_node_with_it(tmp_path: Path, crash_dir: Path) -> None:
    found = run(
        tmp_path,
        [step("killed", "killed"), step("after_killed")],
        [step("busy", "late"), step("after_busy")],
        [step("later")],
    )
    assert set(found) == {"busy", "after_busy", "later"}
    (crash,) = crash_dir.iterdir()
    assert crash.read_text().startswith("Node: chains_wf.killed\n")


@pytest.mark.parametrize("fresh", [True, False])
def test_a_worker_does_one_step_alone_if_that_is_asked_for(fresh: bool, tmp_path: Path) -> None:
    found = run(tmp_path, [step("first"), step("second"), step("third")], fresh=fresh)
    assert len(set(found.values())) == (3 if fresh else 1)


@pytest.mark.parametrize(
    ("end", "words"),
    [
        ("value", "ValueError: no such luck"),
        ("exit", "SystemExit: 3"),
        ("two words", "TwoWordsError: two words"),
        (None, "ValueError: Step requires a value for input 'end'"),
    ],
)
def test_how_a_node_ends_is_told_and_others_go_on(
    tmp_path: Path, crash_dir: Path, end: str | None, words: str
) -> None:
    found = run(
        tmp_path, [step("bad", end), step("after_bad")], [step("good"), step("after_good")]
    )
    assert set(found) == {"good", "after_good"}
    (crash,) = crash_dir.iterdir()
    assert crash.read_text().startswith("Node: chains_wf.bad\n")
    assert crash.read_text().count(words) == 1


def test_a_node_that_cannot_be_sent_is_told_and_others_go_on(
    tmp_path: Path, crash_dir: Path
) -> None:
    bound_here = step("bound_here")
    bound_here.note = lambda: None
    found = run(tmp_path, [bound_here, step("after_bound")], [step("good"), step("after_good")])
    assert set(found) == {"good", "after_good"}
    (crash,) = crash_dir.iterdir()
    assert "pickle" in crash.read_text()


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, SystemExit])
def test_an_interrupted_run_leaves_no_worker(
    tmp_path: Path, interruption: type[BaseException]
) -> None:
    def interrupt(*_: Any) -> None:
        raise interruption

    signal.signal(signal.SIGALRM, interrupt)
    # Again after a minute: one that meets a destructor, in which exceptions are ignored, is lost.
    signal.setitimer(signal.ITIMER_REAL, 3, 60)
    try:
        with pytest.raises(interruption):
            run(tmp_path, [step("first", "never")], [step("second", "never")])
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    deadline = time.monotonic() + MOST_SECONDS
    while multiprocessing.active_children():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_there_are_no_more_workers_than_asked_for_and_nothing_runs_here(tmp_path: Path) -> None:
    found = run(tmp_path, *([step(f"step{i}"), step(f"next{i}")] for i in range(4)))
    assert len(found) == 8
    assert len(set(found.values())) <= 2
    assert os.getpid() not in found.values()


@pytest.mark.parametrize(("memory_gb", "at_once"), [(5, 2), (3, 1), (1, 1)])
def test_nodes_that_do_not_fit_in_memory_together_run_one_after_the_other(
    tmp_path: Path, memory_gb: float, at_once: int
) -> None:
    chains = [[step(f"step{i}", "late")] for i in range(3)]
    for (node,) in chains:
        node._mem_gb = 2
    found = run(tmp_path, *chains, n_procs=3, memory_gb=memory_gb)
    assert len(found) == 3
    assert len(set(found.values())) == at_once


def test_the_visit_that_was_begun_first_is_done_first(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    workflow = Workflow(name="run_wf", base_dir=str(tmp_path))
    for label, end in (("02", "done"), ("01", "late"), ("03", "done")):
        visit = Workflow(name=workflow_name(f"sub-{label}"))
        visit.connect(step("alone", end), "process", wide := step("with_all_cores"), "before")
        visit.connect(wide, "process", step("last"), "before")
        wide._n_procs = 2
        workflow.add_nodes([visit])
    with caplog.at_level("INFO", "bids_lesion_xai.workflows.workers"):
        names = {workflow_name(visit): visit for visit in ("sub-01", "sub-02", "sub-03")}
        workflow.run(plugin=WorkersPlugin(2, 4, names))
    told = [one for one in caplog.records if one.name == "bids_lesion_xai.workflows.workers"]
    begun = [record.getMessage().partition(" (")[0] for record in told]
    # sub-02 takes all cores only after sub-01 let one go; sub-03 could have taken it before.
    steps = ("alone", "with all cores", "last")
    assert begun == [
        *("sub-02: alone", "sub-01: alone", "sub-02: with all cores", "sub-02: last"),
        *(f"sub-01: {step}" for step in steps[1:]),
        *(f"sub-03: {step}" for step in steps),
    ]


ENDLESS = """
import multiprocessing, sys, threading, time
from nipype.pipeline.engine import Node, Workflow
from bids_lesion_xai.workflows.workers import WorkersPlugin
from tests.nodes import Step

def tell():
    while not multiprocessing.active_children():
        time.sleep(0.1)
    print(multiprocessing.active_children()[0].pid, flush=True)

threading.Thread(target=tell, daemon=True).start()
workflow = Workflow(name="run_wf", base_dir=sys.argv[1])
workflow.add_nodes([Node(Step(end="never"), name="endless")])
workflow.run(plugin=WorkersPlugin(1, 1, {}))
"""


def test_a_worker_ends_with_a_main_process_that_was_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", ENDLESS, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as main:
        assert main.stdout is not None
        line = next(line for line in main.stdout if line.strip().isdigit())
        time.sleep(4)  # until the worker has imported what it needs
        main.kill()
    worker = Path("/proc", line.strip())
    deadline = time.monotonic() + MOST_SECONDS
    while worker.exists() and "zombie" not in (worker / "status").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.2)
