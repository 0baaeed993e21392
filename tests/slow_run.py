# SPDX-License-Identifier: Apache-2.0
"""The app without images: a visit is published at once, but slowly, so that it can be disturbed.

``python -m tests.slow_run ARGUMENTS`` takes the arguments of the app; the environment variable
``SECONDS_A_FILE`` says how slowly.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from nipype.interfaces.base import File, SimpleInterface, TraitedSpec, traits
from nipype.pipeline.engine import Node, Workflow

from bids_lesion_xai.bids.dataset import VisitInputs
from bids_lesion_xai.bids.derivatives import DERIVATIVES, Level
from bids_lesion_xai.bids.store import LAST_KEY, Store
from bids_lesion_xai.bids.visit import Visit
from bids_lesion_xai.cli.run import main
from bids_lesion_xai.config import RunConfig
from bids_lesion_xai.interfaces.publish import Publish, _PublishInput
from bids_lesion_xai.models.bundle import Bundle
from bids_lesion_xai.workflows import participant
from bids_lesion_xai.workflows.names import workflow_name

SECONDS_A_FILE = float(os.environ.get("SECONDS_A_FILE", "0"))
_FOUND = {
    "skull_strip_method": "given",
    "brain_volume_mm3": 1234567.5,
    "registration_method": "rigid",
    "registration_similarity": 0.5,
    **{
        f"{channel}_{key}": 1.0
        for channel in ("flair", "t1w")
        for key in ("mean", "standard_deviation")
    },
}
_EXPLAINED = {"sigma": [0.25, 0.75], "device": "cpu", "engine": "pruned"}


def copy_slowly(source: Path, target: Path) -> None:
    """Copy a file in two halves."""
    content = Path(source).read_bytes()
    with Path(target).open("wb") as file:
        file.write(content[: len(content) // 2])
        file.flush()
        time.sleep(SECONDS_A_FILE)
        file.write(content[len(content) // 2 :])


class SlowPublish(Publish):
    """Publishes files whose content is their key, option and visit."""

    input_spec = _PublishInput

    def _run_interface(self, runtime: Any) -> Any:
        shutil.copyfile = copy_slowly
        return super()._run_interface(runtime)


class _ReportInput(TraitedSpec):
    output_dir = traits.Str(mandatory=True)
    visit = traits.Str(mandatory=True)


class _ReportOutput(TraitedSpec):
    report_file = File(exists=True)


class TextReport(SimpleInterface):
    """Publishes a page of words."""

    input_spec = _ReportInput
    output_spec = _ReportOutput

    def _run_interface(self, runtime: Any) -> Any:
        visit = Visit.parse(self.inputs.visit)
        page = Path(runtime.cwd, "page.html")
        page.write_text(f"<!doctype html>{visit.name} " * 100)
        store = Store(Path(self.inputs.output_dir))
        self._results["report_file"] = str(store.publish("report", page, visit=visit))
        return runtime


_init_visit_wf = participant.init_visit_wf


def init_slow_wf(inputs: VisitInputs, config: RunConfig, bundle: Bundle) -> Workflow:
    """Build the graph of a visit from the end of the real one."""
    real = _init_visit_wf(inputs, config, bundle)
    folder = config.work_dir / "prepared" / inputs.visit.name
    (folder / "lesions").mkdir(parents=True, exist_ok=True)
    given = real.get_node("publish").interface.inputs.get_traitsfree()
    keys = [
        row.key
        for row in DERIVATIVES.values()
        if row.level is Level.VISIT and not row.optional and row.key != LAST_KEY
    ]
    text = f" {inputs.visit.name} {config.n_samples}\n" * 50
    files = {key: _write(folder / key, key + text) for key in keys}
    for channel in ("flair", "t1w"):
        _write(folder / "lesions" / f"L001_{channel}.nii.gz", channel + text)
    publish = SlowPublish(**given, **files, lesion_folder=str(folder / "lesions"))
    publish.inputs.preprocess_facts_file = _write(folder / "found.json", json.dumps(_FOUND))
    publish.inputs.explain_facts_file = _write(folder / "drawn.json", json.dumps(_EXPLAINED))
    end = real.get_node("complete").interface
    workflow = Workflow(name=workflow_name(inputs.visit.name))
    report = TextReport(output_dir=str(config.output_dir))
    first, second, last = (
        Node(interface, name=name, overwrite=True, mem_gb=0.1)
        for interface, name in ((publish, "publish"), (report, "report"), (end, "complete"))
    )
    workflow.connect(
        [
            (first, second, [("visit", "visit")]),
            (first, last, [("visit", "visit")]),
            (second, last, [("report_file", "report_file")]),
        ]
    )
    return workflow


def _write(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


if __name__ == "__main__":
    participant.init_visit_wf = init_slow_wf
    sys.exit(main(sys.argv[1:]))
