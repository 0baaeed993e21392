# SPDX-License-Identifier: Apache-2.0
"""Running the graphs of all visits, each on its own account."""

from __future__ import annotations

import logging
import os
import re
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bids_lesion_xai.bids.dataset import VisitInputs
from bids_lesion_xai.bids.store import Store
from bids_lesion_xai.bids.visit import Visit
from bids_lesion_xai.config import RunConfig
from bids_lesion_xai.models.bundle import Bundle

log = logging.getLogger(__name__)

_NO_RESULT = "stopped without a message; out of memory is a common reason"
# The last line of a traceback that names an exception of this package, or any other.
_OWN_ERROR = re.compile(r"^\s*bids_lesion_xai\.errors\.\w+: (.+)$", re.MULTILINE)
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
    """

    visit: Visit
    reason: str
    log: str


def run_visits(visits: Sequence[VisitInputs], config: RunConfig, bundle: Bundle) -> list[Failure]:
    """Process every visit, and return the failures; the others are in the output folder.

    Parameters
    ----------
    visits : list of VisitInputs
    config : RunConfig
        With ``device`` resolved.
    bundle : Bundle
        Read from ``config.model``.
    """
    # nipype asks a server for its newest version at import, unless told not to.
    os.environ["NO_ET"] = "1"
    from nipype import config as nipype_config

    from bids_lesion_xai.workflows.participant import init_run_wf

    crash_dir = config.work_dir / f"crash-{uuid.uuid4().hex}"
    crash_dir.mkdir(parents=True)
    nipype_config.update_config(
        {
            "execution": {
                "crashdump_dir": str(crash_dir),
                "crashfile_format": "txt",
                "stop_on_first_crash": "false",
                "remove_unnecessary_outputs": "false",
                "hash_method": "content",
                "check_version": "false",
                "poll_sleep_duration": "0.5",
            },
            "logging": {
                "log_to_file": "false",
                "workflow_level": "INFO" if config.verbosity else "WARNING",
                "interface_level": "DEBUG" if config.verbosity > 1 else "INFO",
                "utils_level": "WARNING",
            },
        }
    )
    from nipype import logging as nipype_logging

    nipype_logging.update_logging(nipype_config)
    try:
        init_run_wf(visits, config, bundle).run(**_plugin(config))
    except Exception as error:
        log.debug("nipype: %s", error)
    crashes = _read_crashes(crash_dir)
    store = Store(config.output_dir)
    complete = set(store.visits())
    return [
        Failure(inputs.visit, *crashes.get(inputs.visit.name, (_NO_RESULT, "")))
        for inputs in visits
        if inputs.visit.name in crashes or inputs.visit not in complete
    ]


def _plugin(config: RunConfig) -> dict[str, Any]:
    if config.n_procs == 1:
        return {"plugin": "Linear"}
    return {
        "plugin": "MultiProc",
        "plugin_args": {"n_procs": config.n_procs, "raise_insufficient": False},
    }


def _read_crashes(crash_dir: Path) -> dict[str, tuple[str, str]]:
    """Return reason and log of each visit that crashed, by the name of the visit."""
    crashes = {}
    for path in sorted(crash_dir.glob("crash*.txt")):
        text = path.read_text(encoding="utf-8", errors="replace")
        own, others = _OWN_ERROR.findall(text), _ANY_ERROR.findall(text)
        reason = (own or others or [_NO_RESULT])[-1]
        crashes[_visit_of(text)] = (reason, text)
    return crashes


def _visit_of(crash: str) -> str:
    """Return the name of the visit from the first line, ``Node: RUN_wf.sub_01_ses_02_wf.NODE``."""
    workflow = crash.partition("\n")[0].split(".")[1].removesuffix("_wf")
    return re.sub(r"(sub|ses)_", r"\1-", workflow)
