# SPDX-License-Identifier: Apache-2.0
"""Nipype interfaces that put the results of one visit into the output folder."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    Directory,
    File,
    SimpleInterface,
    TraitedSpec,
    Undefined,
    isdefined,
    traits,
)

from bids_lesion_xai.bids.derivatives import (
    DERIVATIVES,
    EXPERIMENTS_ON_MAPS,
    EXPLANATION_FACTS,
    Level,
    method_label,
)
from bids_lesion_xai.bids.provenance import complete, libraries
from bids_lesion_xai.bids.sidecar import generator
from bids_lesion_xai.bids.store import Store
from bids_lesion_xai.bids.visit import Visit
from bids_lesion_xai.checksum import sha256
from bids_lesion_xai.conventions import CHANNELS, EXPERIMENTS
from bids_lesion_xai.errors import DataError


class _PublishInput(BaseInterfaceInputSpec):
    output_dir = Directory(mandatory=True, desc="output folder")
    participant = traits.Str(mandatory=True, desc="label without sub-")
    session = traits.Str(mandatory=True, desc="label without ses-, or empty")
    flair_uri = traits.Str(mandatory=True, desc="BIDS URI of the native FLAIR")
    t1w_uri = traits.Str(mandatory=True, desc="BIDS URI of the native T1w")
    method = traits.Str(mandatory=True, desc="of explanation")
    seed = traits.Int(mandatory=True, desc="of all that is random")
    settings = traits.Dict(mandatory=True, desc="sidecar keys that hold for the whole run")
    preprocess_facts_file = File(exists=True, mandatory=True, desc="from the preprocessing")
    explain_facts_file = File(exists=True, mandatory=True, desc="from the explanation")
    lesion_folder = Directory(exists=True, mandatory=True, desc="maps of the single lesions")
    preproc_t1w = File(exists=True, mandatory=True, desc="T1w as the network sees it")
    preproc_flair = File(exists=True, mandatory=True, desc="FLAIR as the network sees it")
    brain_mask = File(exists=True, mandatory=True, desc="brain mask")
    flair_to_t1w = File(exists=True, mandatory=True, desc="rigid transform")
    lesion_probability = File(exists=True, mandatory=True, desc="lesion probability")
    lesion_mask = File(exists=True, mandatory=True, desc="lesions")
    lesion_mask_native = File(exists=True, desc="lesions on the native FLAIR")
    lesion_labels = File(exists=True, mandatory=True, desc="lesions with their numbers")
    lesion_table = File(exists=True, mandatory=True, desc="one row a lesion")
    saliency_flair = File(exists=True, mandatory=True, desc="saliency with respect to FLAIR")
    saliency_t1w = File(exists=True, mandatory=True, desc="saliency with respect to T1w")
    saliency_table = File(exists=True, mandatory=True, desc="one row a lesion")
    keeps_maps = traits.Bool(mandatory=True, desc="whether maps of single lesions are written")
    region_labels = File(exists=True, desc="predicted, missed and control regions")
    region_table = File(exists=True, desc="one row a region")
    normal_mask = File(exists=True, desc="normal-appearing white matter")
    experiment_numbers = File(exists=True, desc="one row a lesion")
    experiment_folder = Directory(exists=True, desc="tables of the single experiments")
    reference_uri = traits.Str(desc="BIDS URI of the reference mask")
    tissue_uri = traits.Str(desc="BIDS URI of the tissue map")
    brain_uri = traits.Str(desc="BIDS URI of a brain mask that was taken as it is")
    lesions_uri = traits.Str(desc="BIDS URI of lesions that were taken as they are")
    lesions_are_manual = traits.Enum(
        *(None, True, False), usedefault=True, desc="whether these were drawn by hand, if known"
    )
    saliency_profile = File(exists=True, mandatory=True, desc="saliency by distance")


class _PublishOutput(TraitedSpec):
    visit = traits.Str(desc="name of the visit whose outputs are written")


class Publish(SimpleInterface):
    """Write the outputs of one visit, with sidecars: all of them or, if that fails, none."""

    input_spec = _PublishInput
    output_spec = _PublishOutput

    def _run_interface(self, runtime: Any) -> Any:
        visit = Visit(self.inputs.participant, self.inputs.session)
        store = Store(Path(self.inputs.output_dir), method_label(self.inputs.method))
        facts = self._facts(store, visit)
        store.clear(visit)
        try:
            self._publish(store, visit, facts)
        except BaseException:
            store.clear(visit)
            raise
        self._results["visit"] = visit.name
        return runtime

    def _publish(self, store: Store, visit: Visit, facts: dict[str, dict[str, Any]]) -> None:
        maps = Path(self.inputs.lesion_folder).glob("*.nii.gz") if self.inputs.keeps_maps else ()
        for path in sorted(maps):
            lesion, _, channel = path.name.removesuffix(".nii.gz").partition("_")
            store.publish(f"lesion_saliency_{channel}", path, visit=visit, lesion=lesion)
        for key, path in self._paths().items():
            store.publish(key, path, facts.get(key), visit=visit)

    def _paths(self) -> dict[str, Path]:
        """Return the file of every output of the visit that there is."""
        keys = [row.key for row in DERIVATIVES.values() if row.level is Level.VISIT]
        given = {key: getattr(self.inputs, key, Undefined) for key in keys}
        paths = {key: Path(path) for key, path in given.items() if isdefined(path)}
        if isdefined(self.inputs.experiment_folder):
            for path in Path(self.inputs.experiment_folder).glob("*.tsv"):
                paths[f"experiment_{path.stem}"] = path
        return paths

    def _facts(self, store: Store, visit: Visit) -> dict[str, dict[str, Any]]:
        """Return the sidecar facts of every output that has a sidecar."""
        found = json.loads(Path(self.inputs.preprocess_facts_file).read_text(encoding="utf-8"))
        drawn = json.loads(Path(self.inputs.explain_facts_file).read_text(encoding="utf-8"))
        settings = self.inputs.settings
        native = [self.inputs.flair_uri, self.inputs.t1w_uri]
        images = [store.uri("preproc_flair", visit), store.uri("preproc_t1w", visit)]
        space = {"SpatialReference": store.uri("preproc_t1w", visit)}
        bias = {"BiasCorrection": settings["BiasCorrection"]}
        similarity = {
            "RegistrationMethod": found["registration_method"],
            "RegistrationSimilarity": found["registration_similarity"],
        }
        model = {"Model": settings["Model"]}
        segmentation = {
            key: settings[key]
            for key in ("Threshold", "PeakThreshold", "MinimumVolume_mm3", "Connectivity")
        } | model
        manual: bool | None = False
        found_in = [store.uri("lesion_probability", visit)]
        if isdefined(self.inputs.lesions_uri):
            # Lesions of somebody else were not found by a probability.
            segmentation |= {"Threshold": None, "PeakThreshold": None}
            found_in = [self.inputs.lesions_uri, store.uri("flair_to_t1w", visit)]
            manual = self.inputs.lesions_are_manual
        lesion = {"Type": "Lesion", "Manual": manual, **segmentation}
        compared = isdefined(self.inputs.region_labels)
        references = [self.inputs.reference_uri] if compared else []
        explained = "region_labels" if compared else "lesion_labels"
        tissues = [self.inputs.tissue_uri] if isdefined(self.inputs.tissue_uri) else []
        brains = [self.inputs.brain_uri] if isdefined(self.inputs.brain_uri) else []
        saliency = {
            "Sources": [*images, store.uri(explained, visit)],
            **space,
            **{key: settings[key] for key in _SALIENCY_SETTINGS},
            # Without noise, there is none.
            "NoiseStandardDeviation": None
            if settings["NoiseLevel"] is None
            else dict(zip(CHANNELS.values(), drawn["sigma"], strict=True)),
            "Engine": drawn["engine"],
            "Device": drawn["device"],
            **model,
        }
        experiment = {
            "Sources": [*saliency["Sources"], store.uri("normal_mask", visit)],
            **model,
            "PeakThreshold": settings["PeakThreshold"],
            "RandomSeed": self.inputs.seed,
        }
        explanation = {key: settings[key] for key in EXPLANATION_FACTS}
        return {
            "preproc_t1w": {"Sources": native[1:], **_image(found, "t1w"), **bias},
            "preproc_flair": {
                "Sources": native,
                **space,
                **_image(found, "flair"),
                **bias,
                **similarity,
            },
            "brain_mask": {
                "Sources": [*images[1:], *brains],
                **space,
                "Type": "Brain",
                "Manual": False,
                "SkullStripMethod": found["skull_strip_method"],
                "BrainVolume_mm3": found["brain_volume_mm3"],
            },
            "flair_to_t1w": {"Sources": native, **similarity},
            "lesion_probability": {"Sources": images, **space, **model},
            "lesion_mask": {
                "Sources": found_in,
                **space,
                **lesion,
            },
            "lesion_mask_native": {
                "Sources": [store.uri("lesion_mask", visit), store.uri("flair_to_t1w", visit)],
                "SpatialReference": self.inputs.flair_uri,
                **lesion,
            },
            "lesion_labels": {
                "Sources": [store.uri("lesion_mask", visit), *tissues],
                **space,
                "Manual": manual,
                **segmentation,
            },
            "region_labels": {
                "Sources": [
                    store.uri("lesion_labels", visit),
                    *references,
                    *tissues,
                    store.uri("normal_mask", visit),
                ],
                **space,
                "Manual": manual,
                **segmentation,
                "RandomSeed": self.inputs.seed,
            },
            "normal_mask": {
                "Sources": [
                    *images,
                    store.uri("lesion_probability", visit),
                    store.uri("lesion_labels", visit),
                    *references,
                    *tissues,
                ],
                **space,
                "Type": "ROI",
                "Manual": False,
            },
            **{
                f"saliency_{channel}": saliency | {"InputChannel": name}
                for channel, name in CHANNELS.items()
            },
            "saliency_table": saliency,
            **{f"experiment_{name}": experiment for name in EXPERIMENTS},
            **{
                f"experiment_{name}": experiment | explanation
                for name in ("numbers", *EXPERIMENTS_ON_MAPS)
            },
            "saliency_profile": {key: saliency[key] for key in ("Sources", "Method", "Units")},
        }


_SALIENCY_SETTINGS = (
    "Method",
    "Aggregation",
    "Target",
    "Units",
    "NumberOfSamples",
    "TargetError",
    "NoiseLevel",
    "NoiseRule",
    "Baseline",
    "RandomSeed",
)


def _image(found: dict[str, float], channel: str) -> dict[str, Any]:
    return {
        "SkullStripped": True,
        "IntensityMean": found[f"{channel}_mean"],
        "IntensityStandardDeviation": found[f"{channel}_standard_deviation"],
    }


class _CompleteInput(BaseInterfaceInputSpec):
    output_dir = Directory(mandatory=True, desc="output folder")
    visit = traits.Str(mandatory=True, desc="name of the visit")
    report_file = File(exists=True, mandatory=True, desc="what is written before")
    made_from = traits.Dict(mandatory=True, desc="all that the outputs depend on")
    input_files = traits.Dict(mandatory=True, desc="paths of the inputs, as they are called there")
    device = traits.Str(mandatory=True, desc="that the network ran on")


class _CompleteOutput(TraitedSpec):
    visit = traits.Str(desc="name of the visit that is complete")


class Complete(SimpleInterface):
    """Write how a visit came about, which marks it as complete."""

    input_spec = _CompleteInput
    output_spec = _CompleteOutput

    def _run_interface(self, runtime: Any) -> Any:
        store, visit = Store(Path(self.inputs.output_dir)), Visit.parse(self.inputs.visit)
        made_from = self.inputs.made_from
        for name, path in self.inputs.input_files.items():
            if sha256(Path(path)) != made_from["Inputs"][name]["SHA256"]:
                message = f"{Path(path).name} was changed while it was processed. Run this again."
                raise DataError(message)
        facts = {
            "GeneratedBy": [generator()],
            "Completed": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            **made_from,
            "Device": self.inputs.device,
            "Libraries": libraries(),
        }
        complete(store, visit, facts)
        self._results["visit"] = visit.name
        return runtime
