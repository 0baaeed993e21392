# SPDX-License-Identifier: Apache-2.0
"""Visits as jobs of a cluster: one job runs the whole graph of one visit, on one node."""

from __future__ import annotations

import getpass
import logging
import os
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from traceback import format_exception
from typing import Any
from uuid import uuid4

from nipype import config as nipype_config
from nipype.interfaces.base import BaseInterface, BaseInterfaceInputSpec, traits
from nipype.pipeline import plugins
from nipype.pipeline.engine import Node, Workflow

from bids_lesion_xai.bids.dataset import VisitInputs
from bids_lesion_xai.config import RunConfig
from bids_lesion_xai.errors import OutputError, UnavailableError
from bids_lesion_xai.models.bundle import read_bundle
from bids_lesion_xai.models.network import choose_device
from bids_lesion_xai.workflows.names import workflow_name
from bids_lesion_xai.workflows.participant import init_run_wf, init_visit_wf
from bids_lesion_xai.workflows.resume import IN_USE, Claims

log = logging.getLogger(__name__)

# How often the scheduler is asked, and how long a shared file system may take to show a result.
_SECONDS_BETWEEN_POLLS = 5
_SECONDS_UNTIL_FILES_ARE_SEEN = 20


class _ProcessVisitInput(BaseInterfaceInputSpec):
    inputs = traits.Instance(VisitInputs, mandatory=True, desc="images of the visit")
    config = traits.Instance(RunConfig, mandatory=True, desc="options of the run")


class ProcessVisit(BaseInterface):
    """Run the graph of one visit in this process.

    The device is chosen here: there may be another than where the job was submitted.
    """

    input_spec = _ProcessVisitInput

    def _run_interface(self, runtime: Any) -> Any:
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
        given = self.inputs.config
        config = replace(given, device=str(choose_device(given.device)))
        inputs = self.inputs.inputs
        # One step after another, so that the first that fails ends the job.
        nipype_config.set("execution", "stop_on_first_crash", "true")
        with Claims.enter(config) as claims:
            if not claims.take(inputs.visit):
                message = f"{inputs.visit.name}: {IN_USE}"
                raise OutputError(message)
            graph = init_visit_wf(inputs, config, read_bundle(config.model))
            init_run_wf([graph], config).run(plugin="Linear")
        return runtime


def init_jobs_wf(visits: Sequence[VisitInputs], config: RunConfig) -> Workflow:
    """Build a graph of one node, and so one job, for every visit.

    Parameters
    ----------
    visits : list of VisitInputs
    config : RunConfig
        Its work folder is one that every node of the cluster sees.
    """
    # A folder that no run before has used: nipype takes an old result for that of a lost job.
    workflow = Workflow(name=f"jobs_{uuid4().hex}", base_dir=str(config.work_dir / "jobs"))
    for inputs in visits:
        process = ProcessVisit(inputs=inputs, config=config)
        workflow.add_nodes([Node(process, name=workflow_name(inputs.visit.name))])
    workflow.config["execution"] = {
        "poll_sleep_duration": str(_SECONDS_BETWEEN_POLLS),
        "job_finished_timeout": str(_SECONDS_UNTIL_FILES_ARE_SEEN),
    }
    return workflow


class _Jobs(plugins.base.DistributedPluginBase):
    """What nipype's plugins of schedulers lack: they tell what they do, and lose no visit."""

    def __init__(self, names: Mapping[str, str], plugin_args: dict[str, Any]) -> None:
        super().__init__(plugin_args=plugin_args)
        self._names = names
        self._refused: dict[int, list[str]] = {}

    def run(self, graph: Any, config: Any, updatehash: bool = False) -> None:
        try:
            super().run(graph, config, updatehash)
        except (KeyboardInterrupt, SystemExit, RuntimeError):
            # The last is nipype's, at the first crash if that is asked for, else at the end.
            if self._pending:
                jobs = ", ".join(map(str, self._pending))
                log.error("jobs that were submitted go on: %s", jobs)
            raise

    def _submit_job(self, node: Node, updatehash: bool = False) -> Any:
        try:
            job = super()._submit_job(node, updatehash)
        except Exception as error:
            # nipype would end here, and forget the jobs that it has submitted.
            message = f"no job was taken: {error}"
            job = -1 - len(self._refused)
            self._refused[job] = format_exception(UnavailableError(message))
        else:
            log.info("%s: job %s", self._names[node.name], job)
        return job

    def _get_result(self, taskid: int) -> Any:
        if taskid in self._refused:
            return {"result": None, "traceback": self._refused[taskid]}
        result = super()._get_result(taskid)
        if result and isinstance(result["traceback"], str):
            # Of a lost job it is text, to which nipype cannot add the lines that it wants to.
            result["traceback"] = result["traceback"].splitlines(keepends=True)
        return result

    def _clear_task(self, taskid: int) -> None:
        if taskid not in self._refused:
            super()._clear_task(taskid)

    def _task_finished_cb(self, jobid: int, cached: bool = False) -> None:
        log.info("%s: done", self._names[self.procs[jobid].name])
        super()._task_finished_cb(jobid, cached)


class _SlurmJobs(_Jobs, plugins.SLURMPlugin):
    """SLURM, asked in its own words: nipype takes no notice of a command of it that fails."""

    def _submit_batchtask(self, scriptfile: str, node: Node) -> int:
        output = str(Path(scriptfile).with_name("slurm-%j.out"))
        given = shlex.split(self._sbatch_args)
        name = self._names[node.name]
        words = _ask("sbatch", "--parsable", "-o", output, "-J", name, *given, scriptfile)
        job = int(words.partition(";")[0])
        self._pending[job] = node.output_dir()
        return job

    def _is_pending(self, taskid: int) -> bool:
        try:
            return bool(_ask("squeue", "--noheader", "-j", str(taskid)).strip())
        except UnavailableError as error:
            if "Invalid job id" in str(error):
                return False
            # A busy controller does not answer; the job may well run.
            log.warning("job %d: %s", taskid, error)
            return True


def _ask(program: str, *arguments: str) -> str:
    """Return what a program answers.

    Raises
    ------
    UnavailableError
        It cannot be run, or it failed.
    """
    path = shutil.which(program)
    if path is None:
        message = f"{program} is not installed here."
        raise UnavailableError(message)
    ended = subprocess.run([path, *arguments], capture_output=True, text=True, check=False)
    if ended.returncode:
        message = f"{program} failed: {' '.join(ended.stderr.split())}"
        raise UnavailableError(message)
    return ended.stdout


def scheduler(config: RunConfig, names: Mapping[str, str]) -> plugins.base.DistributedPluginBase:
    """Return nipype's plugin for the scheduler of `config`.

    Parameters
    ----------
    config : RunConfig
    names : dict of str
        Names of the visits, by those of their nodes.
    """
    kind, args = config.plugin.name, dict(config.plugin.args)
    if kind == "SLURM":
        args["sbatch_args"] = _sbatch_args(config, args.get("sbatch_args") or "")
        return _SlurmJobs(names, args)
    # nipype names jobs after this variable.
    os.environ.setdefault("LOGNAME", getpass.getuser())
    return type(f"{kind}Jobs", (_Jobs, getattr(plugins, f"{kind}Plugin")), {})(names, args)


def _sbatch_args(config: RunConfig, given: str) -> str:
    """Return the user's options of sbatch, after cores and memory unless they name these."""
    words = shlex.split(given)
    own = []
    if not any(word.startswith(("-c", "--cpus-per-task")) for word in words):
        own.append(f"--cpus-per-task={config.n_procs}")
    if not any(word.startswith("--mem") for word in words):
        own.append(f"--mem={round(1000 * config.total_memory_gb)}M")
    return " ".join([*own, given]).strip()
