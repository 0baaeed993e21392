# SPDX-License-Identifier: Apache-2.0
"""Running nodes side by side, in workers that may die."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import replace
from traceback import format_exception
from typing import Any

from nipype import config as nipype_config
from nipype import logging as nipype_logging
from nipype.pipeline.engine import Node
from nipype.pipeline.plugins import MultiProcPlugin

from bids_lesion_xai.workflows.names import workflow_of
from bids_lesion_xai.workflows.usage import Meter, Usage

log = logging.getLogger(__name__)

Lines = list[str]
# The traceback of a node that failed, and what the node took.
Ended = tuple[Lines | None, Usage]


class WorkersPlugin(MultiProcPlugin):  # type: ignore[misc]
    """nipype's scheduler, where a worker that dies takes nothing but its own node with it.

    nipype's own plugins wait forever for a node whose worker was killed (out of memory), and for
    one that raised before it began (an input is missing). Here every worker is a pool of its own,
    so that it is known which node it ran, and what came of a node is told as text.

    A visit that was begun first is done first: while one of its nodes waits for cores or memory,
    no node of a later visit is begun that would take them.

    Workers are spawned, not forked: a fork of a process that has asked for CUDA devices or has
    run torch in several threads cannot use either.

    Parameters
    ----------
    n_procs : int
        Cores that nodes may use at one time.
    memory_gb : float
        Memory that nodes may use at one time. A node that is expected to take more runs alone.
    names : mapping of str to str
        Names of the graphs of the visits to those of the visits, for messages.
    fresh : bool
        Whether every node gets a worker of its own, which takes seconds: one that has done much
        keeps hundreds of MB.
    """

    def __init__(
        self, n_procs: int, memory_gb: float, names: Mapping[str, str], *, fresh: bool = False
    ) -> None:
        super().__init__({"n_procs": n_procs, "memory_gb": memory_gb, "raise_insufficient": False})
        self._names = names
        self._fresh = fresh
        self._idle: list[ProcessPoolExecutor] = []
        self._nodes: dict[int, Node] = {}
        self._began: dict[str, float] = {}
        # Of the steps that came to an end, in that order.
        self.usages: list[Usage] = []
        # From the first step of a visit to the end of its last, by name of the visit.
        self.seconds: dict[str, float] = {}

    def run(self, graph: Any, config: Any, updatehash: bool = False) -> None:
        """Run every node of `graph`; when interrupted, wait for none of them."""
        try:
            super().run(graph, config, updatehash)
        except BaseException:
            # Interrupted, or stopped by the first failure; after the last step there are none.
            for process in multiprocessing.active_children():
                process.kill()
                process.join()
            raise

    def _sort_jobs(self, jobids: Iterable[int], scheduler: str | None = None) -> list[int]:
        """Return the jobs that may begin now, those of the visits that came first in front."""
        graphs = [workflow_of(node.fullname) for node in self.procs]
        place = {name: index for index, name in enumerate(dict.fromkeys(graphs))}
        free_gb, free_procs, _ = self._check_resources(self.pending_tasks)
        chosen = []
        for job in sorted(jobids, key=lambda job: (place[graphs[job]], job)):
            free_gb -= min(self.procs[job].mem_gb, self.memory_gb)
            free_procs -= min(self.procs[job].n_procs, self.processors)
            if free_gb < 0 or free_procs < 0:
                break
            chosen.append(job)
        return chosen

    def _submit_job(self, node: Node, updatehash: bool = False) -> int:
        step, total = int(self.proc_done.sum()), len(self.proc_done)
        what = node.name.replace("_", " ")
        visit = self._names.get(workflow_of(node.fullname), "")
        log.info("%s: %s (step %d of %d)", visit, what, step, total)
        self._began.setdefault(visit, time.monotonic())
        self._taskid += 1
        self._nodes[self._taskid] = node
        self._task_obj[self._taskid] = self._submit(node, updatehash)
        return int(self._taskid)

    def _submit(self, node: Node, updatehash: bool) -> tuple[ProcessPoolExecutor, Future[Ended]]:
        while self._idle:
            worker = self._idle.pop()
            with suppress(BrokenProcessPool):
                return worker, worker.submit(_run, node, updatehash)
        worker = ProcessPoolExecutor(
            1,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_start,
            initargs=(_formatters(),),
        )
        return worker, worker.submit(_run, node, updatehash)

    def _get_result(self, taskid: int) -> dict[str, Lines | None] | None:
        """Return the traceback of a node that ended, or None while it runs."""
        worker, future = self._task_obj[taskid]
        if not future.done():
            return None
        if self._fresh:
            worker.shutdown()
        else:
            self._idle.append(worker)
        error = future.exception()
        if error:
            return {"result": None, "traceback": format_exception(error)}
        traceback, usage = future.result()
        node = self._nodes[taskid]
        visit = self._names.get(workflow_of(node.fullname), "")
        self.usages.append(replace(usage, visit=visit, step=node.name))
        return {"result": None, "traceback": traceback}

    def _task_finished_cb(self, jobid: int, cached: bool = False) -> None:
        visit = self._names.get(workflow_of(self.procs[jobid].fullname), "")
        now = time.monotonic()
        self.seconds[visit] = now - self._began.setdefault(visit, now)
        super()._task_finished_cb(jobid, cached)

    def _postrun_check(self) -> None:
        for worker in self._idle:
            worker.shutdown()
        super()._postrun_check()


def _formatters() -> list[logging.Formatter]:
    """Return how the main process writes its messages; of other types, none can be sent."""
    found = [handler.formatter for handler in logging.getLogger().handlers]
    return [formatter for formatter in found if type(formatter) is logging.Formatter]


def _start(formatters: list[logging.Formatter]) -> None:
    """Let a worker write its messages as the main process does, and end with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    for handler in logging.getLogger("nipype").handlers:
        for formatter in formatters:
            handler.setFormatter(formatter)


def _end_with_parent() -> None:
    """End this process as soon as its parent is gone, however that ended.

    It must not write to the output folder once the parent's locks on it are gone.
    """
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _run(node: Node, updatehash: bool) -> Ended:
    """Run a node with the settings of the main process."""
    nipype_config.update_config(node.config)
    nipype_logging.update_logging(nipype_config)
    meter, traceback = Meter(), None
    try:
        node.run(updatehash=updatehash)
    except BaseException as error:
        traceback = format_exception(error)
    return traceback, meter.read("", node.name)
