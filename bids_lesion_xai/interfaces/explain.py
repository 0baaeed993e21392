# SPDX-License-Identifier: Apache-2.0
"""Nipype interface of the explanation."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from nipype import logging
from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    Directory,
    File,
    SimpleInterface,
    TraitedSpec,
    traits,
)
from numpy.typing import NDArray

from bids_lesion_xai.conventions import CHANNELS
from bids_lesion_xai.imaging import nifti
from bids_lesion_xai.imaging.grid import Grid
from bids_lesion_xai.imaging.intensity import robust_range
from bids_lesion_xai.lesions.table import lesion_name
from bids_lesion_xai.models.bundle import read_bundle

if TYPE_CHECKING:
    from bids_lesion_xai.explain.smoothgrad import Attribution

log = logging.getLogger("nipype.interface")

_SECONDS_BETWEEN_MESSAGES = 10


class _ExplainInput(BaseInterfaceInputSpec):
    flair_file = File(exists=True, mandatory=True, desc="FLAIR as the network sees it")
    t1w_file = File(exists=True, mandatory=True, desc="T1w on the same grid")
    brain_mask_file = File(exists=True, mandatory=True, desc="mask on the same grid")
    labels_file = File(exists=True, mandatory=True, desc="lesions with their numbers")
    model = Directory(exists=True, mandatory=True, desc="MONAI bundle")
    visit = traits.Str(mandatory=True, desc="name of the visit, part of the noise's key")
    aggregation = traits.Enum("mean", "sum", "max", mandatory=True, desc="over a lesion's voxels")
    n_samples = traits.Int(mandatory=True, desc="noise samples")
    noise_level = traits.Float(mandatory=True, desc="noise as a fraction of the intensity range")
    seed = traits.Int(mandatory=True, desc="seed of the noise")
    device = traits.Str(mandatory=True, desc="auto, cpu, cuda or cuda:N")
    use_gpu = traits.Bool(mandatory=True, desc="tells nipype to schedule the node on a GPU")
    n_threads = traits.Int(mandatory=True, desc="threads of the network on CPU")
    columns = traits.List(traits.Str, mandatory=True, desc="columns of the table, in order")


class _ExplainOutput(TraitedSpec):
    table_file = File(exists=True, desc="one row a lesion")
    flair_file = File(exists=True, desc="saliency of all lesions with respect to FLAIR")
    t1w_file = File(exists=True, desc="saliency of all lesions with respect to T1w")
    lesion_folder = Directory(exists=True, desc="NAME_flair.nii.gz and NAME_t1w.nii.gz a lesion")
    facts_file = File(exists=True, desc="JSON with sigma and device")


class Explain(SimpleInterface):
    """Explain every lesion by SmoothGrad with respect to both images."""

    input_spec = _ExplainInput
    output_spec = _ExplainOutput

    def _run_interface(self, runtime: Any) -> Any:
        import torch

        from bids_lesion_xai.explain.smoothgrad import explain_lesions
        from bids_lesion_xai.models.network import choose_device, load_network

        flair, grid = nifti.load(Path(self.inputs.flair_file))
        t1w, _ = nifti.load(Path(self.inputs.t1w_file))
        brain, _ = nifti.load(Path(self.inputs.brain_mask_file), np.bool_)
        labels, _ = nifti.load(Path(self.inputs.labels_file), np.int32)
        device = choose_device(self.inputs.device)
        bundle = read_bundle(Path(self.inputs.model))
        sigma = [self.inputs.noise_level * robust_range(values, brain) for values in (flair, t1w)]
        attributions = explain_lesions(
            load_network(bundle, device),
            torch.from_numpy(np.stack([flair, t1w])).to(device),
            torch.from_numpy(labels).to(device),
            aggregation=self.inputs.aggregation,
            n_samples=self.inputs.n_samples,
            sigma=sigma,
            seed=self.inputs.seed,
            visit=self.inputs.visit,
            multiple=bundle.multiple,
            n_threads=1 if device.type == "cuda" else self.inputs.n_threads,
        )
        self._write(attributions, labels, grid, Path(runtime.cwd))
        facts_file = Path(runtime.cwd, "facts.json")
        facts_file.write_text(json.dumps({"sigma": sigma, "device": str(device)}))
        self._results["facts_file"] = str(facts_file)
        return runtime

    def _write(
        self,
        attributions: Iterable[Attribution],
        labels: NDArray[np.int32],
        grid: Grid,
        folder: Path,
    ) -> None:
        """Write maps and numbers of every lesion as it comes, then the table and whole maps."""
        from bids_lesion_xai.explain.summary import lesion_numbers, nearest_lesion

        lesion_folder = folder / "lesions"
        lesion_folder.mkdir(exist_ok=True)
        owner = nearest_lesion(labels, grid.spacing_mm) if labels.any() else labels
        whole = np.zeros((len(CHANNELS), *grid.shape), np.float32)
        rows = []
        progress = _Progress(self.inputs.visit, int(labels.max()))
        for attribution in attributions:
            name = lesion_name(attribution.lesion)
            values = attribution.values.numpy(force=True)
            here = attribution.box.slices((0, 0, 0))
            whole[(slice(None), *here)] += values * (owner[here] == attribution.lesion)
            for channel, part in zip(CHANNELS, values, strict=True):
                path = lesion_folder / f"{name}_{channel}.nii.gz"
                nifti.save(path, part, grid.crop(attribution.offset, part.shape))
            numbers = lesion_numbers(attribution, labels, grid.spacing_mm)
            rows.append({"index": attribution.lesion, "name": name, **numbers})
            progress.tell(len(rows))
        table = pd.DataFrame(rows, columns=self.inputs.columns)
        table.to_csv(folder / "saliency.tsv", sep="\t", index=False, na_rep="n/a")
        for channel, values in zip(CHANNELS, whole, strict=True):
            path = nifti.save(folder / f"saliency_{channel}.nii.gz", values, grid)
            self._results[f"{channel}_file"] = str(path)
        self._results["table_file"] = str(folder / "saliency.tsv")
        self._results["lesion_folder"] = str(lesion_folder)


class _Progress:
    """Logs how many lesions of a visit are explained, every ten seconds, with the time left."""

    def __init__(self, visit: str, total: int) -> None:
        self._visit, self._total = visit, total
        self._started = self._told = time.monotonic()

    def tell(self, done: int) -> None:
        now = time.monotonic()
        minutes = (now - self._started) / 60
        if done == self._total:
            log.info("%s: %d lesions explained in %.1f min", self._visit, done, minutes)
        elif now - self._told >= _SECONDS_BETWEEN_MESSAGES:
            self._told = now
            left = minutes / done * (self._total - done)
            log.info(
                "%s: %d of %d lesions explained, about %.1f min left",
                *(self._visit, done, self._total, left),
            )
