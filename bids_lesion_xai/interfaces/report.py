# SPDX-License-Identifier: Apache-2.0
"""Nipype interface of the report of one visit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    Directory,
    File,
    SimpleInterface,
    TraitedSpec,
    traits,
)

from bids_lesion_xai.bids.store import Store
from bids_lesion_xai.bids.visit import Visit


class _ReportInput(BaseInterfaceInputSpec):
    output_dir = Directory(mandatory=True, desc="output folder")
    visit = traits.Str(mandatory=True, desc="name of the visit; the visit is complete")
    with_viewer = traits.Bool(True, usedefault=True, desc="whether the page has a viewer")


class _ReportOutput(TraitedSpec):
    report_file = File(exists=True, desc="HTML page")


class Report(SimpleInterface):
    """Write the report of a visit and its figures from what is in the output folder."""

    input_spec = _ReportInput
    output_spec = _ReportOutput

    def _run_interface(self, runtime: Any) -> Any:
        from bids_lesion_xai.reports.participant import write_report

        store, visit = Store(Path(self.inputs.output_dir)), Visit.parse(self.inputs.visit)
        path = write_report(store, visit, with_viewer=self.inputs.with_viewer)
        self._results["report_file"] = str(path)
        return runtime
