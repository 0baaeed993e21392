# SPDX-License-Identifier: Apache-2.0
"""What a run has to do: the visits that changed, and that no other run works on."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial

from bids_lesion_xai.bids.dataset import VisitInputs
from bids_lesion_xai.bids.lock import FolderLock
from bids_lesion_xai.bids.store import Store
from bids_lesion_xai.bids.visit import Visit
from bids_lesion_xai.config import RunConfig
from bids_lesion_xai.models.bundle import Bundle
from bids_lesion_xai.workflows.names import work_folder
from bids_lesion_xai.workflows.provenance import reasons_to_process

log = logging.getLogger(__name__)

IN_USE = (
    "another run works on it, with this output folder or this work folder. Wait for that run, or "
    "stop it."
)
_SECONDS_BETWEEN_MESSAGES = 10
# More readers get no more out of a disk.
_MOST_THREADS = 8


class Claims:
    """The visits of this run, which no other run touches meanwhile.

    Parameters
    ----------
    output, work : FolderLock
    """

    def __init__(self, output: FolderLock, work: FolderLock) -> None:
        self.output = output
        self._locks = (output, work)

    @classmethod
    @contextmanager
    def enter(cls, config: RunConfig) -> Iterator[Claims]:
        """Enter the output and the work folder of a run."""
        folder = work_folder(config)
        folder.mkdir(parents=True, exist_ok=True)
        with Store(config.output_dir).shared() as output, FolderLock(folder) as work:
            yield cls(output, work)

    def take(self, visit: Visit) -> bool:
        """Take a visit to process it in this process; False if another run has it."""
        return all(lock.take(visit.name) for lock in self._locks)

    def take_jobs(self, visit: Visit) -> bool:
        """Take the right to say where a visit is processed; False if another run has it."""
        return all(lock.take(f"jobs of {visit.name}") for lock in self._locks)

    def release(self, visit: Visit) -> None:
        """Let a job, or another run, process a visit."""
        for lock in self._locks:
            lock.release(visit.name)


def find_reasons(
    store: Store, visits: Sequence[VisitInputs], config: RunConfig, bundle: Bundle
) -> dict[Visit, list[str]]:
    """Return why each visit has to be processed; nothing for one of which nothing has changed.

    Every input and every output is read; how far this is, is told now and then.

    Parameters
    ----------
    store : Store
    visits : list of VisitInputs
    config : RunConfig
    bundle : Bundle
        Read from ``config.model``.
    """
    find = partial(reasons_to_process, store, config=config, bundle=bundle)
    found: dict[Visit, list[str]] = {}
    told = time.monotonic()
    with ThreadPoolExecutor(min(config.n_procs, _MOST_THREADS)) as threads:
        for inputs, reasons in zip(visits, threads.map(find, visits), strict=True):
            found[inputs.visit] = reasons
            if time.monotonic() - told > _SECONDS_BETWEEN_MESSAGES:
                told = time.monotonic()
                log.info("looked for changes in visits: %d of %d", len(found), len(visits))
    return found
