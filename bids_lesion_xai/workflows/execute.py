# SPDX-License-Identifier: Apache-2.0
"""Running the graphs of all visits, each on its own account."""

from __future__ import annotations

import logging
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from traceback import format_exc
from typing import TYPE_CHECKING

from bids_lesion_xai.bids.dataset import VisitInputs
from bids_lesion_xai.bids.store import Store
from bids_lesion_xai.bids.visit import Visit
from bids_lesion_xai.config import LEAST_EXPLAIN_MEMORY_GB, SCHEDULERS, RunConfig
from bids_lesion_xai.errors import is_starved
from bids_lesion_xai.models.bundle import Bundle
from bids_lesion_xai.workflows.names import RUN_NAME, work_folder, workflow_name, workflow_of
from bids_lesion_xai.workflows.usage import add_usages

if TYPE_CHECKING:
    from nipype.pipeline.engine import Workflow

log = logging.getLogger(__name__)

# What every step takes at least by nipype's account is more than that.
_NEXT_TO_NONE_GB = 0.1
_STOPPED = "not finished, because another visit failed (--stop-on-first-crash)"
_NO_RESULT = "stopped without a message; out of memory is a common reason"
# nipype's words for a job of which the scheduler knows nothing any more.
_LOST_JOB = re.compile(r"Job id \((\d+)\) finished or terminated, but results file does not exist")
_NEXT_TO_NO_BYTES = 2**20
_FULL_DISK = "No space left on device"
_NO_SPACE = "no space is left for the work folder or the output folder; see --work-dir"
_STALE = " (the results of an earlier run stay)"
_CLEAN = " (if what a former run left in the work folder is damaged, --clean-workdir helps)"
# What a traceback says of an exception of this package, up to an empty line, or of any other.
_OWN_ERROR = re.compile(
    r"^\s*bids_lesion_xai\.errors\.\w+: (.+?)\s*(?:\n\s*\n|\Z)", re.MULTILINE | re.DOTALL
)
_ANY_ERROR = re.compile(r"^\s*([\w.]*(?:Error|Exception|Interrupt)\w*(?:: .+)?)$", re.MULTILINE)


@dataclass(frozen=True)
class Failure:
    """Why a visit failed.

    Parameters
    ----------
    visit : Visit
    reason : str
    log : str
        What nipype wrote about the crash, or empty.
    out_of_memory : bool
        Whether it was for want of memory.
    damaged_work : bool
        Whether it may be for what a former run left of it in the work folder.
    own : bool
        Whether a step of the visit failed; otherwise the run of all visits ended before.
    """

    visit: Visit
    reason: str
    log: str
    out_of_memory: bool = False
    damaged_work: bool = False
    own: bool = True


def run_visits(
    visits: Sequence[VisitInputs], config: RunConfig, bundle: Bundle, seconds: dict[str, float]
) -> list[Failure]:
    """Process every visit, and return the failures; the others are in the output folder.

    Visits that may have failed for what a former run left in the work folder are processed once
    more from the start; those for which memory did not suffice, one step at a time, and, where it
    was the memory of a GPU, on the CPU. A scheduler runs every visit once.

    Parameters
    ----------
    visits : list of VisitInputs
    config : RunConfig
        With ``device`` resolved, unless a scheduler runs the visits.
    bundle : Bundle
        Read from ``config.model``.
    seconds : dict
        Filled with the time that each visit took, by its name; not where a scheduler runs them.
    """
    store = Store(config.output_dir)
    if config.clean_work_dir or config.force:
        _clean(visits, config)
    if config.write_graph:
        _write_graph(store, visits, config, bundle)
    failures = _run_once(visits, config, bundle, seconds)
    if config.plugin.name in SCHEDULERS:
        return failures
    if not config.stop_on_first_crash:
        failures = _run_from_the_start(failures, visits, config, bundle, seconds)
    starved = {failure.visit for failure in failures if failure.out_of_memory}
    if not starved or _is_least(config):
        return failures
    least = replace(config, device="cpu", low_memory=True, memory_gb=LEAST_EXPLAIN_MEMORY_GB)
    log.warning(
        "memory did not suffice for %s; once more, one step at a time%s",
        _named(starved),
        "" if config.device == "cpu" else ", on the CPU",
    )
    again = [one for one in visits if one.visit in starved]
    kept = [failure for failure in failures if failure.visit not in starved]
    return kept + _run_once(again, least, bundle, seconds)


def _run_from_the_start(
    failures: list[Failure],
    visits: Sequence[VisitInputs],
    config: RunConfig,
    bundle: Bundle,
    seconds: dict[str, float],
) -> list[Failure]:
    """Repeat visits whose former work may be damaged, without it, and those that it stopped."""
    cleaned: set[Visit] = set()
    while damaged := {one.visit for one in failures if one.damaged_work} - cleaned:
        log.warning(
            "%s: failed, maybe for what a former run left in the work folder; once more, from the "
            "start",
            _named(damaged),
        )
        _clean([one for one in visits if one.visit in damaged], config)
        cleaned |= damaged
        again = damaged | {failure.visit for failure in failures if not failure.own}
        failures = [failure for failure in failures if failure.visit not in again]
        some = [one for one in visits if one.visit in again]
        failures += _run_once(some, config, bundle, seconds)
    return failures


def _named(visits: Iterable[Visit]) -> str:
    return ", ".join(sorted(visit.name for visit in visits))


def _is_least(config: RunConfig) -> bool:
    return config.low_memory and config.device == "cpu"


def _clean(visits: Sequence[VisitInputs], config: RunConfig) -> None:
    """Remove what former runs left of these visits in the work folder."""
    for inputs in visits:
        folder = _work_on(inputs.visit, config)
        if folder.is_dir():
            log.info("%s: removed what former runs left in %s", inputs.visit.name, folder)
            shutil.rmtree(folder)


def _work_on(visit: Visit, config: RunConfig) -> Path:
    """Return where the results of the steps of a visit lie."""
    return work_folder(config) / RUN_NAME / workflow_name(visit.name)


def _write_graph(
    store: Store, visits: Sequence[VisitInputs], config: RunConfig, bundle: Bundle
) -> None:
    """Draw the graph of the first visit whose files can be read; all visits have the same."""
    from bids_lesion_xai.workflows.graph import draw

    readable = (graph for one in visits for graph in _graphs([one], config, bundle, {}))
    for graph in islice(readable, 1):
        with tempfile.TemporaryDirectory(dir=config.work_dir) as folder:
            drawn = draw(graph, Path(folder))
            place = f"logs/{config.run}_graph{drawn.suffix}"
            log.info("wrote %s", store.write_text(place, drawn.read_text(encoding="utf-8")))


def _run_once(
    visits: Sequence[VisitInputs], config: RunConfig, bundle: Bundle, seconds: dict[str, float]
) -> list[Failure]:
    crash_dir = config.work_dir / f"crash-{uuid.uuid4().hex}"
    crash_dir.mkdir(parents=True)
    _configure_nipype(config, crash_dir)
    store = Store(config.output_dir)
    before = {inputs.visit: store.completed_ns(inputs.visit) for inputs in visits}
    names = {workflow_name(inputs.visit.name): inputs.visit.name for inputs in visits}
    resumed = {visit for visit in before if _work_on(visit, config).is_dir()}
    problem = ""
    lost: dict[Visit, str] = {}
    try:
        _run_graph(visits, config, bundle, names, seconds, lost)
    except Exception:
        # Either a node failed, and left its own crash file, or nothing could run at all.
        problem = format_exc()
        log.debug("nipype: %s", problem)
    crashes = _read_crashes(crash_dir, names)
    shutil.rmtree(crash_dir, ignore_errors=True)
    doubtful = {
        visit
        for visit in resumed
        if (
            _may_be_damage(*crashes[visit.name], _work_on(visit, config))
            if visit.name in crashes
            # nipype itself reads what a step has left, and stops all visits if that fails.
            else str(_work_on(visit, config)) in problem
        )
    }
    crashes |= {visit.name: (_reason(text), text) for visit, text in lost.items()}
    silent = (_NO_RESULT, "") if crashes else (_reason(problem), problem)
    if crashes and config.stop_on_first_crash:
        silent = (_STOPPED, "")
    failures = []
    for visit, completed_before in before.items():
        completed = store.completed_ns(visit)
        if visit.name in crashes or completed in (None, completed_before):
            reason, text = crashes.get(visit.name, silent)
            if reason == _NO_RESULT and _is_full(config.work_dir, config.output_dir):
                # There was no space for the crash log either.
                reason = _NO_SPACE
            if completed is not None and completed == completed_before:
                reason += _STALE
            if visit in doubtful and config.plugin.name in SCHEDULERS:
                reason += _CLEAN
            marks = (is_starved(text), visit in doubtful, visit.name in crashes)
            failures.append(Failure(visit, reason, text, *marks))
    return failures


def _is_full(*folders: Path) -> bool:
    """Tell whether the disk of one of the folders is full."""
    return min(shutil.disk_usage(folder).free for folder in folders) < _NEXT_TO_NO_BYTES


def _run_graph(
    visits: Sequence[VisitInputs],
    config: RunConfig,
    bundle: Bundle,
    names: Mapping[str, str],
    seconds: dict[str, float],
    lost: dict[Visit, str],
) -> None:
    if config.plugin.name in SCHEDULERS:
        from bids_lesion_xai.workflows.jobs import init_jobs_wf, scheduler

        init_jobs_wf(visits, config).run(plugin=scheduler(config, names))
        return
    from bids_lesion_xai.workflows.participant import init_run_wf
    from bids_lesion_xai.workflows.workers import WorkersPlugin

    graphs = _graphs(visits, config, bundle, lost)
    if not graphs:
        return
    # With next to no memory, every step runs alone.
    memory_gb = _NEXT_TO_NONE_GB if config.low_memory else config.total_memory_gb
    workers = WorkersPlugin(config.n_procs, memory_gb, names, fresh=config.low_memory)
    workers.seconds = seconds
    try:
        init_run_wf(graphs, config).run(plugin=workers)
    finally:
        if config.resource_monitor:
            place = f"logs/{config.run}_resources.tsv"
            log.info("wrote %s", add_usages(config.output_dir / place, workers.usages))


def _graphs(
    visits: Sequence[VisitInputs], config: RunConfig, bundle: Bundle, lost: dict[Visit, str]
) -> list[Workflow]:
    """Return the graph of each visit, and the traceback if its files cannot be read any more."""
    from bids_lesion_xai.workflows.participant import init_visit_wf

    graphs = []
    for inputs in visits:
        try:
            graphs.append(init_visit_wf(inputs, config, bundle))
        except OSError:
            lost[inputs.visit] = format_exc()
    return graphs


def _configure_nipype(config: RunConfig, crash_dir: Path) -> None:
    # nipype asks a server for its newest version at import, unless told not to.
    os.environ["NO_ET"] = "1"
    from nipype import config as nipype_config
    from nipype import logging as nipype_logging

    nipype_config.update_config(
        {
            "execution": {
                "crashdump_dir": str(crash_dir),
                "crashfile_format": "txt",
                "stop_on_first_crash": str(config.stop_on_first_crash).lower(),
                "remove_unnecessary_outputs": "false",
                "hash_method": "content",
                "check_version": "false",
                # Files of all runs in one place, which nobody reads.
                "create_report": "false",
                "poll_sleep_duration": "0.5",
            },
            "logging": {
                "log_to_file": "false",
                # Its errors are tracebacks, which are in the crash files too.
                "workflow_level": "INFO" if config.verbosity else "CRITICAL",
                "interface_level": "DEBUG" if config.verbosity > 1 else "INFO",
                "utils_level": "WARNING",
            },
        }
    )
    nipype_logging.update_logging(nipype_config)
    # Its messages go on to the app's own handler; nipype's would say them a second time.
    logging.getLogger("nipype").handlers.clear()


def _read_crashes(crash_dir: Path, names: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Return reason and log of the first crash of each visit, by the name of the visit."""
    crashes: dict[str, tuple[str, str]] = {}
    for path in sorted(crash_dir.glob("crash*.txt")):
        text = path.read_text(encoding="utf-8", errors="replace")
        # The first line is: Node: RUN_wf.sub_01_ses_02_wf.NODE
        visit = names.get(workflow_of(text.partition("\n")[0]), "")
        crashes.setdefault(visit, (_reason(text).removeprefix(f"{visit}: "), text))
    return crashes


def _may_be_damage(reason: str, text: str, folder: Path) -> bool:
    """Tell whether a crash may be for a file in the work folder that is not as it was written.

    Errors of this package speak of such a file by its name; others may have any cause but a lack
    of memory or space.
    """
    if _OWN_ERROR.search(text):
        return any(path.name in reason for path in folder.rglob("*.*") if path.is_file())
    return not is_starved(text) and _FULL_DISK not in text


def _reason(text: str) -> str:
    """Return, on one line, what the last error in a traceback says."""
    lost = _LOST_JOB.search(text)
    if lost:
        return (
            f"its job {lost[1]} ended without a result: it was cancelled, or took too much time "
            "or memory; what it wrote is in the folder jobs of the work folder"
        )
    if _FULL_DISK in text:
        return _NO_SPACE
    own, others = _OWN_ERROR.findall(text), _ANY_ERROR.findall(text)
    return " ".join((own or others or [_NO_RESULT])[-1].split())
