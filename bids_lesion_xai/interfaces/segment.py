# SPDX-License-Identifier: Apache-2.0
"""Nipype interface of the segmentation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    Directory,
    File,
    SimpleInterface,
    TraitedSpec,
    traits,
)

from bids_lesion_xai.imaging import nifti
from bids_lesion_xai.lesions.label import label_lesions, reaching
from bids_lesion_xai.models.bundle import read_bundle


class _SegmentInput(BaseInterfaceInputSpec):
    flair_file = File(exists=True, mandatory=True, desc="FLAIR as the network sees it")
    t1w_file = File(exists=True, mandatory=True, desc="T1w on the same grid")
    brain_mask_file = File(exists=True, mandatory=True, desc="mask on the same grid")
    model = Directory(exists=True, mandatory=True, desc="MONAI bundle")
    model_files = traits.Dict(desc="their SHA-256, for nipype does not look into folders")
    threshold = traits.Float(mandatory=True, desc="lesion probability of a voxel of a lesion")
    peak_threshold = traits.Float(mandatory=True, desc="lesion probability that a lesion reaches")
    min_volume_mm3 = traits.Float(mandatory=True, desc="smaller lesions are dropped")
    flip = traits.Bool(mandatory=True, desc="average the logits with those of the mirror image")
    device = traits.Str(mandatory=True, desc="auto, cpu, cuda or cuda:N")
    use_gpu = traits.Bool(mandatory=True, desc="tells nipype to schedule the node on a GPU")
    allow_tf32 = traits.Bool(mandatory=True, desc="let a GPU round products to 10 bits")
    n_threads = traits.Int(mandatory=True, desc="threads of the network on CPU")


class _SegmentOutput(TraitedSpec):
    probability_file = File(exists=True, desc="float32, lesion probability")
    mask_file = File(exists=True, desc="uint8, lesions that are large enough")
    labels_file = File(exists=True, desc="int32, lesions with their numbers")


class Segment(SimpleInterface):
    """Segment lesions and number them, the largest first."""

    input_spec = _SegmentInput
    output_spec = _SegmentOutput

    def _run_interface(self, runtime: Any) -> Any:
        import torch

        from bids_lesion_xai.models.inference import (
            lesion_probability,
            load_predictor,
            require_finite,
        )
        from bids_lesion_xai.models.network import allow_tf32, choose_device

        torch.set_num_threads(self.inputs.n_threads)
        allow_tf32(allowed=self.inputs.allow_tf32)
        flair, grid = nifti.load(Path(self.inputs.flair_file))
        t1w, _ = nifti.load(Path(self.inputs.t1w_file))
        brain, _ = nifti.load(Path(self.inputs.brain_mask_file), np.bool_)
        device = choose_device(self.inputs.device)
        predictor = load_predictor(
            read_bundle(Path(self.inputs.model)), device, flip=self.inputs.flip
        )
        with torch.inference_mode():
            logits = predictor(torch.from_numpy(np.stack([flair, t1w])))
            require_finite(logits, brain, predictor.name)
            probability = lesion_probability(logits).cpu().numpy()
        # Outside the brain the network sees nothing, and what it says there means nothing.
        probability *= brain
        above = probability >= self.inputs.threshold
        labels = label_lesions(
            reaching(above, probability, self.inputs.peak_threshold),
            grid.voxel_volume_mm3,
            self.inputs.min_volume_mm3,
        )
        folder = Path(runtime.cwd)
        self._results["probability_file"] = str(
            nifti.save(folder / "probability.nii.gz", probability, grid)
        )
        self._results["mask_file"] = str(nifti.save(folder / "mask.nii.gz", labels > 0, grid))
        self._results["labels_file"] = str(nifti.save(folder / "labels.nii.gz", labels, grid))
        return runtime
