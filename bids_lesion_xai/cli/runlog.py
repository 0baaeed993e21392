# SPDX-License-Identifier: Apache-2.0
"""What came of a run, in `logs/` of the output folder; it names no folder of the machine."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from bids_lesion_xai.bids.dataset import SkippedVisit, VisitInputs
from bids_lesion_xai.bids.provenance import libraries
from bids_lesion_xai.bids.sidecar import generator, to_json
from bids_lesion_xai.bids.store import Store
from bids_lesion_xai.bids.visit import Visit
from bids_lesion_xai.config import RunConfig
from bids_lesion_xai.models.bundle import Bundle
from bids_lesion_xai.workflows.execute import Failure

_PACKAGE = Path(__file__).parents[2]


class RunLog:
    """The log of one run of the participant level.

    It is written when the run begins, with the status ``running``, and when it ends; that of a run
    that was killed stays as it is.

    Parameters
    ----------
    store : Store
    config : RunConfig
    bundle : Bundle
    visits : list of VisitInputs
    skipped : list of SkippedVisit
    """

    def __init__(
        self,
        store: Store,
        config: RunConfig,
        bundle: Bundle,
        visits: Sequence[VisitInputs],
        skipped: Sequence[SkippedVisit],
    ) -> None:
        self.name = config.run
        # Of each visit in seconds, by its name.
        self.seconds: dict[str, float] = {}
        self._store = store
        self._places = _places(config)
        self._began = time.monotonic()
        self._visits = visits
        self._outcomes = {inputs.visit: ("waiting", "") for inputs in visits}
        self._why: Mapping[Visit, Sequence[str]] = {}
        self._facts = {
            "GeneratedBy": [generator()],
            "Started": _now(),
            "Model": {"Name": bundle.name, "Version": bundle.version, "SHA256": bundle.sha256},
            "RandomSeed": config.random_seed,
            "Device": config.device,
            "Libraries": libraries(),
        }
        self._skipped = [
            {"Visit": skip.visit.name, "Reason": self._shared(skip.reason)} for skip in skipped
        ]

    def plan(self, reasons: Mapping[Visit, Sequence[str]]) -> None:
        """Take down why each visit is processed; no reason means that nothing has changed."""
        self._why = reasons
        for visit, why in reasons.items():
            self._outcomes[visit] = ("running", "") if why else ("unchanged", "")
        self._write("running")

    def end(self, failures: Sequence[Failure]) -> None:
        """Take down what came of the visits, and keep the crash logs."""
        for visit, (status, _) in self._outcomes.items():
            self._outcomes[visit] = ("done" if status == "running" else status, "")
        for failure in failures:
            self._outcomes[failure.visit] = ("failed", self._shared(failure.reason))
            if failure.log:
                place = f"logs/{self.name}_{failure.visit.name}_crash.txt"
                self._store.write_text(place, self._shared(failure.log))
        self._write("done")

    def interrupt(self, visits: Sequence[Visit]) -> None:
        """Take down that the run was interrupted, and which visits are not done."""
        for visit, (status, _) in self._outcomes.items():
            self._outcomes[visit] = ("done" if status == "running" else status, "")
        for visit in visits:
            self._outcomes[visit] = ("interrupted", "")
        self._write("interrupted")

    def _write(self, status: str) -> None:
        is_over = status != "running"
        content = {
            **self._facts,
            "Status": status,
            "Ended": _now() if is_over else None,
            "WallSeconds": round(time.monotonic() - self._began, 1) if is_over else None,
            "Visits": [self._entry(inputs) for inputs in self._visits],
            "Skipped": self._skipped,
        }
        self._store.write_text(f"logs/{self.name}.json", to_json(content))

    def _entry(self, inputs: VisitInputs) -> dict[str, Any]:
        visit = inputs.visit
        status, reason = self._outcomes[visit]
        seconds = self.seconds.get(visit.name)
        return {
            "Visit": visit.name,
            "FLAIR": inputs.uri(inputs.flair),
            "T1w": inputs.uri(inputs.t1w),
            **{name: one.uri for name, one in inputs.companions.items()},
            "NotTaken": list(map(str, inputs.rejected)),
            "Notes": list(inputs.notes),
            "Processed": list(self._why.get(visit, [])),
            "Status": status,
            "Reason": reason,
            "WallSeconds": None if seconds is None else round(seconds, 1),
        }

    def _shared(self, text: str) -> str:
        """Return a text as it may be shared: folders of this machine have other names."""
        for path, name in self._places:
            text = text.replace(path, name)
        return text


def _places(config: RunConfig) -> list[tuple[str, str]]:
    """Return what stands for each folder of this machine, inner folders first."""
    # An unknown user has none, and no entry to ask for it.
    home = os.environ.get("HOME")
    folders: dict[str, Path | None] = {
        "BIDS_DIR": config.bids_dir,
        "OUTPUT_DIR": config.output_dir,
        "WORK_DIR": config.work_dir,
        "MODEL": config.model,
        **{name.replace("-", "_").upper(): path for name, path in config.links.items()},
        "PYTHON": Path(sys.prefix),
        "PACKAGE": _PACKAGE,
        "HOME": Path(home) if home else None,
    }
    found = [(str(path), f"<{name}>") for name, path in folders.items() if path]
    return sorted((one for one in found if len(one[0]) > 1), key=lambda one: -len(one[0]))


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
