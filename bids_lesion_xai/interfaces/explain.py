# SPDX-License-Identifier: Apache-2.0
"""Nipype interface of the explanation."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
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

from bids_lesion_xai.conventions import CHANNELS, INPUT_METHODS
from bids_lesion_xai.explain.catalogue import (
    AGGREGATIONS,
    BASELINES,
    ENGINES,
    NOISE_RULES,
    TARGETS,
)
from bids_lesion_xai.imaging import nifti
from bids_lesion_xai.imaging.grid import Grid
from bids_lesion_xai.imaging.intensity import robust_range
from bids_lesion_xai.lesions.table import lesion_name
from bids_lesion_xai.models.bundle import Bundle, read_bundle

if TYPE_CHECKING:
    from bids_lesion_xai.explain import Attribution, Progress

log = logging.getLogger("nipype.interface")

_SECONDS_BETWEEN_MESSAGES = 10
_BAR_WIDTH = 20


class ExplanationInput(BaseInterfaceInputSpec):
    """Inputs of every interface that explains lesions."""

    flair_file = File(exists=True, mandatory=True, desc="FLAIR as the network sees it")
    t1w_file = File(exists=True, mandatory=True, desc="T1w on the same grid")
    brain_mask_file = File(exists=True, mandatory=True, desc="mask on the same grid")
    model = Directory(exists=True, mandatory=True, desc="MONAI bundle")
    model_files = traits.Dict(desc="their SHA-256, for nipype does not look into folders")
    visit = traits.Str(mandatory=True, desc="name of the visit, part of the noise's key")
    method = traits.Enum(*INPUT_METHODS, mandatory=True, desc="see the catalogue")
    aggregation = traits.Enum(*AGGREGATIONS, mandatory=True, desc="over a lesion's voxels")
    target = traits.Enum(*TARGETS, mandatory=True, desc="what is explained")
    engine = traits.Enum(*ENGINES, mandatory=True, desc="how gradients are computed")
    baseline = traits.Enum(*BASELINES, mandatory=True, desc="where integrated gradients begin")
    n_samples = traits.Int(mandatory=True, desc="noise samples, at most")
    target_error = traits.Either(None, traits.Float, desc="of the peak, at which a lesion stops")
    seed = traits.Int(mandatory=True, desc="seed of the noise")
    flip = traits.Bool(mandatory=True, desc="average the logits with those of the mirror image")
    device = traits.Str(mandatory=True, desc="auto, cpu, cuda or cuda:N")
    use_gpu = traits.Bool(mandatory=True, desc="tells nipype to schedule the node on a GPU")
    allow_tf32 = traits.Bool(mandatory=True, desc="let a GPU round products to 10 bits")
    memory_gb = traits.Float(mandatory=True, desc="for samples computed side by side")
    n_threads = traits.Int(mandatory=True, desc="threads of the network on CPU")


class _ExplainInput(ExplanationInput):
    labels_file = File(exists=True, mandatory=True, desc="predicted lesions with their numbers")
    explained_file = File(exists=True, mandatory=True, desc="these, and more regions to explain")
    noise_level = traits.Float(mandatory=True, desc="noise as a fraction of the intensity range")
    noise_rule = traits.Enum(*NOISE_RULES, mandatory=True, desc="whose intensity range")
    columns = traits.List(traits.Str, mandatory=True, desc="columns of the table, in order")
    profile_columns = traits.List(traits.Str, mandatory=True, desc="columns of the profile")


class _ExplainOutput(TraitedSpec):
    table_file = File(exists=True, desc="one row a lesion")
    profile_file = File(exists=True, desc="one row a lesion, image and step of distance")
    flair_file = File(exists=True, desc="saliency of all lesions with respect to FLAIR")
    t1w_file = File(exists=True, desc="saliency of all lesions with respect to T1w")
    lesion_folder = Directory(exists=True, desc="NAME_flair.nii.gz and NAME_t1w.nii.gz a lesion")
    facts_file = File(exists=True, desc="JSON with sigma, device and engine")


class Explain(SimpleInterface):
    """Explain every lesion, and the other regions, with respect to both images."""

    input_spec = _ExplainInput
    output_spec = _ExplainOutput

    def _run_interface(self, runtime: Any) -> Any:
        import torch

        from bids_lesion_xai.explain import explain_lesions
        from bids_lesion_xai.models.network import choose_device, load_network

        flair, grid = nifti.load(Path(self.inputs.flair_file))
        t1w, _ = nifti.load(Path(self.inputs.t1w_file))
        brain, _ = nifti.load(Path(self.inputs.brain_mask_file), np.bool_)
        labels, _ = nifti.load(Path(self.inputs.labels_file), np.int32)
        regions, _ = nifti.load(Path(self.inputs.explained_file), np.int32)
        device = choose_device(self.inputs.device)
        bundle = read_bundle(Path(self.inputs.model))
        network = load_network(bundle, device)
        sigma = [self.inputs.noise_level * one for one in self._ranges(flair, t1w, brain)]
        progress = ProgressLog(self.inputs.visit, "explained")
        attributions = explain_lesions(
            network,
            torch.from_numpy(np.stack([flair, t1w])).to(device),
            torch.from_numpy(regions).to(device),
            seed=self.inputs.seed,
            visit=self.inputs.visit,
            progress=progress.tell,
            **explanation(self.inputs, bundle, sigma, device.type),
        )
        files = _LesionFiles(labels, regions, grid, Path(runtime.cwd))
        files.add_all(attributions)
        self._results.update(files.finish(self.inputs.columns, self.inputs.profile_columns))
        progress.finish(int(regions.max()))
        engine = ", ".join(sorted(files.engines)) or None
        facts = {"sigma": sigma, "device": str(device), "engine": engine}
        facts_file = Path(runtime.cwd, "facts.json")
        facts_file.write_text(json.dumps(facts))
        self._results["facts_file"] = str(facts_file)
        return runtime

    def _ranges(
        self, flair: NDArray[np.float32], t1w: NDArray[np.float32], brain: NDArray[np.bool_]
    ) -> list[float]:
        """Return the intensity ranges of both images that the noise is a fraction of."""
        if self.inputs.noise_rule == "flair-range":
            return [float(flair.max() - flair.min())] * 2
        return [robust_range(values, brain) for values in (flair, t1w)]


def explanation(
    inputs: Any, bundle: Bundle, sigma: Sequence[float], device_type: str
) -> dict[str, Any]:
    """Return the arguments of `explain_lesions` that `ExplanationInput` and a bundle choose."""
    names = (
        *("method", "aggregation", "target", "n_samples", "engine", "flip", "baseline"),
        *("target_error", "allow_tf32", "memory_gb"),
    )
    return {
        **{name: getattr(inputs, name) for name in names},
        "sigma": list(sigma),
        "multiple": bundle.multiple,
        "window": bundle.window,
        "overlap": bundle.overlap,
        "n_threads": 1 if device_type == "cuda" else inputs.n_threads,
    }


class _LesionFiles:
    """Writes maps and numbers of lesions, then the table and the maps of all lesions.

    Parameters
    ----------
    labels : int32 array, shape (X, Y, Z)
        Predicted lesions: the maps of all lesions show these.
    regions : int32 array, shape (X, Y, Z)
        What is explained.
    grid : Grid
    folder : Path
    """

    def __init__(
        self, labels: NDArray[np.int32], regions: NDArray[np.int32], grid: Grid, folder: Path
    ) -> None:
        from bids_lesion_xai.explain.summary import nearest_lesion

        self._regions, self._grid, self._folder = regions, grid, folder
        self._lesion_folder = folder / "lesions"
        self._lesion_folder.mkdir(exist_ok=True)
        self._owner = nearest_lesion(labels, grid.spacing_mm) if labels.any() else labels
        self._whole = np.zeros((len(CHANNELS), *grid.shape), np.float32)
        self._rows: list[dict[str, Any]] = []
        self._profile: list[dict[str, Any]] = []
        self.engines: set[str] = set()

    def add_all(self, attributions: Iterable[Attribution]) -> None:
        """Write each lesion while the next one is computed."""
        with ThreadPoolExecutor(1) as writer:
            writing: Future[None] | None = None
            for attribution in attributions:
                if writing:
                    writing.result()
                writing = writer.submit(self._add, attribution)
            if writing:
                writing.result()

    def _add(self, attribution: Attribution) -> None:
        from bids_lesion_xai.explain.summary import lesion_map, lesion_numbers, radial_profile

        name = lesion_name(attribution.lesion)
        values = attribution.values.numpy(force=True)
        here = attribution.box.slices((0, 0, 0))
        self._whole[(slice(None), *here)] += values * (self._owner[here] == attribution.lesion)
        for channel, part in zip(CHANNELS, values, strict=True):
            path = self._lesion_folder / f"{name}_{channel}.nii.gz"
            nifti.save(path, part, self._grid.crop(attribution.offset, part.shape))
        identity = {"index": attribution.lesion, "name": name}
        of_lesion = lesion_map(attribution, self._regions, self._grid.spacing_mm)
        self._rows.append({**identity, **lesion_numbers(attribution, of_lesion)})
        self._profile += [{**identity, **row} for row in radial_profile(of_lesion)]
        self.engines.add(attribution.engine)

    def finish(self, columns: list[str], profile_columns: list[str]) -> dict[str, str]:
        """Write the tables and the maps of all lesions, and return their paths."""
        tables = {
            "table_file": (self._rows, columns),
            "profile_file": (self._profile, profile_columns),
        }
        for key, (rows, names) in tables.items():
            path = self._folder / f"{key}.tsv"
            pd.DataFrame(rows, columns=names).to_csv(path, sep="\t", index=False, na_rep="n/a")
        maps = {
            f"{channel}_file": nifti.save(
                self._folder / f"saliency_{channel}.nii.gz", values, self._grid
            )
            for channel, values in zip(CHANNELS, self._whole, strict=True)
        }
        written = {key: self._folder / f"{key}.tsv" for key in tables}
        found = {**written, "lesion_folder": self._lesion_folder, **maps}
        return {key: str(path) for key, path in found.items()}


class ProgressLog:
    """Logs how far the work on the lesions of a visit is, every ten seconds, with the time left.

    Parameters
    ----------
    visit : str
    done : str
        What has been done to a lesion, such as ``explained``.
    """

    def __init__(self, visit: str, done: str) -> None:
        self._visit, self._done = visit, done
        self._started = self._told = time.monotonic()

    def tell(self, progress: Progress) -> None:
        """Take note of a sample that is done."""
        now = time.monotonic()
        if now - self._told < _SECONDS_BETWEEN_MESSAGES:
            return
        self._told = now
        minutes_left = (now - self._started) / 60 * (1 / progress.share - 1)
        filled = round(_BAR_WIDTH * progress.share)
        log.info(
            "%s: [%s] %.0f %%, %d of %d lesions %s, sample %d of %d of lesion %d, "
            "about %.1f min left",
            self._visit,
            "#" * filled + "." * (_BAR_WIDTH - filled),
            100 * progress.share,
            progress.n_done,
            progress.n_lesions,
            self._done,
            progress.sample,
            progress.n_samples,
            progress.lesion,
            minutes_left,
        )

    def finish(self, n_lesions: int) -> None:
        """Say how long it took."""
        minutes = (time.monotonic() - self._started) / 60
        log.info("%s: %d lesions %s in %.1f min", self._visit, n_lesions, self._done, minutes)
