# SPDX-License-Identifier: Apache-2.0
"""Reports made anew from the output folder alone."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from bids_lesion_xai.bids import provenance
from bids_lesion_xai.bids.store import Store
from bids_lesion_xai.bids.visit import Visit
from bids_lesion_xai.config import RunConfig
from bids_lesion_xai.errors import SOME_VISITS_FAILED, DataError, NotFoundError
from bids_lesion_xai.reports.participant import write_report

log = logging.getLogger(__name__)


def rebuild_reports(config: RunConfig) -> int:
    """Write the reports of the visits that were asked for, and return the exit code.

    Raises
    ------
    NotFoundError
        A participant or session that was named has no complete visit.
    DataError
        There is no complete visit at all.
    """
    store = Store(config.output_dir)
    visits = _chosen(store, config)
    problems = []
    with store.shared() as lock:
        for visit in visits:
            if not lock.take(visit.name):
                problems.append(f"{visit.name}: another run works on it")
                continue
            try:
                path = write_report(store, visit, with_viewer=config.report_viewer)
            except DataError as error:
                problems.append(f"{visit.name}: {error}")
            else:
                figures = (path for path in store.outputs(visit) if path.parent.name == "figures")
                provenance.renew(store, visit, [path, *figures])
                log.info("wrote %s", path)
            finally:
                lock.release(visit.name)
    for problem in problems:
        log.error("no report: %s", problem)
    log.info("%d of %d reports made anew", len(visits) - len(problems), len(visits))
    return SOME_VISITS_FAILED if problems else 0


def _chosen(store: Store, config: RunConfig) -> list[Visit]:
    complete = store.visits()
    if not complete:
        message = (
            f"{store.root} holds no complete visit. Run the participant level first, with the "
            "same output folder."
        )
        raise DataError(message)
    participants = [visit.participant for visit in complete]
    sessions = [visit.session for visit in complete]
    _require("participant", "sub", config.participants, participants)
    _require("session", "ses", config.sessions, sessions)
    return [
        visit
        for visit in complete
        if (not config.participants or visit.participant in config.participants)
        and (not config.sessions or visit.session in config.sessions)
    ]


def _require(what: str, prefix: str, labels: Sequence[str], known: Sequence[str]) -> None:
    missing = [f"{prefix}-{label}" for label in labels if label not in known]
    if missing:
        message = f"--{what}-label {' '.join(missing)}: no complete visit in OUTPUT_DIR."
        raise NotFoundError(message)
