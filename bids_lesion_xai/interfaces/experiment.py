# SPDX-License-Identifier: Apache-2.0
"""Nipype interface of the experiments on single lesions."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from nipype import logging
from nipype.interfaces.base import Directory, File, SimpleInterface, TraitedSpec, traits

from bids_lesion_xai.conventions import CHANNELS, EXPERIMENTS
from bids_lesion_xai.imaging import nifti
from bids_lesion_xai.imaging.grid import Grid
from bids_lesion_xai.interfaces.explain import ExplanationInput, ProgressLog, explanation
from bids_lesion_xai.lesions.table import lesion_name
from bids_lesion_xai.models.bundle import read_bundle

if TYPE_CHECKING:
    from bids_lesion_xai.explain import Attribution, Progress
    from bids_lesion_xai.explain.experiments import Finding

log = logging.getLogger("nipype.interface")


class _ExperimentInput(ExplanationInput):
    names = traits.List(traits.Enum(*EXPERIMENTS), mandatory=True, desc="see the catalogue")
    studied_file = File(exists=True, mandatory=True, desc="lesions with their numbers")
    normal_file = File(exists=True, mandatory=True, desc="normal-appearing white matter")
    lesion_folder = Directory(exists=True, mandatory=True, desc="of Explain")
    explain_facts_file = File(exists=True, mandatory=True, desc="of Explain, with sigma")
    peak_threshold = traits.Float(mandatory=True, desc="probability that a lesion reaches")
    columns = traits.Dict(mandatory=True, desc="of the table of each experiment, in order")
    number_columns = traits.List(traits.Str, mandatory=True, desc="of the table of lesions")


class _ExperimentOutput(TraitedSpec):
    numbers_file = File(exists=True, desc="one row a lesion")
    folder = Directory(exists=True, desc="NAME.tsv of each experiment")


class Experiment(SimpleInterface):
    """Make experiments on every lesion."""

    input_spec = _ExperimentInput
    output_spec = _ExperimentOutput

    def _run_interface(self, runtime: Any) -> Any:
        labels, grid = nifti.load(Path(self.inputs.studied_file), np.int32)
        normal, _ = nifti.load(Path(self.inputs.normal_file), np.bool_)
        findings: list[Finding] = []
        if normal.any():
            findings = list(self._findings(labels, normal, grid))
        else:
            log.warning(
                "%s: no experiment, for there is no normal-appearing white matter",
                self.inputs.visit,
            )
        folder = Path(runtime.cwd, "experiments")
        folder.mkdir(exist_ok=True)
        for name in self.inputs.names:
            rows = [row for one in findings if one.experiment == name for row in one.rows]
            table = pd.DataFrame(map(_named, rows), columns=self.inputs.columns[name])
            table.to_csv(folder / f"{name}.tsv", sep="\t", index=False, na_rep="n/a")
        numbers: dict[int, dict[str, Any]] = {
            label: {"index": label, "name": lesion_name(label)}
            for label in range(1, int(labels.max(initial=0)) + 1)
        }
        for one in findings:
            if one.lesion is not None:
                numbers[one.lesion] |= one.numbers
        numbers_file = Path(runtime.cwd, "numbers.tsv")
        table = pd.DataFrame(numbers.values(), columns=self.inputs.number_columns)
        table.to_csv(numbers_file, sep="\t", index=False, na_rep="n/a")
        self._results["numbers_file"], self._results["folder"] = str(numbers_file), str(folder)
        return runtime

    def _findings(self, labels: Any, normal: Any, grid: Grid) -> Iterable[Finding]:
        import torch

        from bids_lesion_xai.explain.experiments import Scan, run_experiments
        from bids_lesion_xai.models.network import choose_device, load_network

        flair, _ = nifti.load(Path(self.inputs.flair_file))
        t1w, _ = nifti.load(Path(self.inputs.t1w_file))
        brain, _ = nifti.load(Path(self.inputs.brain_mask_file), np.bool_)
        device = choose_device(self.inputs.device)
        bundle = read_bundle(Path(self.inputs.model))
        facts = json.loads(Path(self.inputs.explain_facts_file).read_text(encoding="utf-8"))
        logs: dict[str, ProgressLog] = {}

        def tell(name: str, progress: Progress) -> None:
            if name not in logs:
                logs[name] = ProgressLog(f"{self.inputs.visit}, experiment {name}", "done")
            logs[name].tell(progress)

        return run_experiments(
            self.inputs.names,
            load_network(bundle, device),
            Scan(
                image=torch.from_numpy(np.stack([flair, t1w])).to(device),
                labels=torch.from_numpy(labels).to(device),
                brain=torch.from_numpy(brain).to(device),
                normal=torch.from_numpy(normal).to(device),
                spacing_mm=grid.spacing_mm,
                peak_threshold=self.inputs.peak_threshold,
                visit=self.inputs.visit,
                seed=self.inputs.seed,
            ),
            explanation=explanation(self.inputs, bundle, facts["sigma"], device.type),
            attributions=lambda label: self._attribution(label, grid),
            progress=tell,
        )

    def _attribution(self, label: int, grid: Grid) -> Attribution:
        """Return the saliency of a lesion as it is on disk; its errors are not."""
        import torch

        from bids_lesion_xai.explain import Attribution

        folder, name = Path(self.inputs.lesion_folder), lesion_name(label)
        maps = [nifti.load(folder / f"{name}_{channel}.nii.gz") for channel in CHANNELS]
        values = torch.from_numpy(np.stack([values for values, _ in maps]))
        unknown = torch.full((len(CHANNELS),), torch.nan, dtype=torch.float64)
        return Attribution(
            lesion=label,
            values=values,
            offset=maps[0][1].offset_in(grid),
            standard_error=torch.full_like(values, torch.nan),
            inside_error=unknown,
            share_error=unknown,
            n_samples=self.inputs.n_samples,
            engine=self.inputs.engine,
        )


def _named(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row with the name of its lesion, where it has one."""
    index = row.get("index")
    return row if index is None else {**row, "name": lesion_name(index)}
