# SPDX-License-Identifier: Apache-2.0
"""Everything that happens to one visit, as a graph, and all visits of a run in one graph."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from nipype.pipeline.engine import Node, Workflow

from bids_lesion_xai.bids.companions import Companion, is_manual
from bids_lesion_xai.bids.dataset import VisitInputs
from bids_lesion_xai.bids.derivatives import DERIVATIVES, EXPERIMENT_COLUMNS
from bids_lesion_xai.config import RunConfig
from bids_lesion_xai.conventions import COARSE_BIAS_CORRECTION, FULL_BIAS_CORRECTION
from bids_lesion_xai.explain.catalogue import METHODS, saliency_units
from bids_lesion_xai.interfaces.describe import Describe
from bids_lesion_xai.interfaces.experiment import Experiment
from bids_lesion_xai.interfaces.explain import Explain
from bids_lesion_xai.interfaces.masks import TakeLesions
from bids_lesion_xai.interfaces.preprocess import ResampleMask
from bids_lesion_xai.interfaces.publish import Complete, Publish
from bids_lesion_xai.interfaces.report import Report
from bids_lesion_xai.interfaces.segment import Segment
from bids_lesion_xai.models.bundle import Bundle
from bids_lesion_xai.workflows.names import RUN_NAME, work_folder, workflow_name
from bids_lesion_xai.workflows.preprocess import init_preprocess_wf
from bids_lesion_xai.workflows.provenance import describe_visit, input_files


def init_run_wf(graphs: Iterable[Workflow], config: RunConfig) -> Workflow:
    """Build the graph of a run: those of its visits, independent of each other.

    Parameters
    ----------
    graphs : iterable of Workflow
        From `init_visit_wf`.
    config : RunConfig
    """
    workflow = Workflow(name=RUN_NAME, base_dir=str(work_folder(config)))
    workflow.add_nodes(list(graphs))
    return workflow


def init_visit_wf(inputs: VisitInputs, config: RunConfig, bundle: Bundle) -> Workflow:
    """Build the graph of one visit, from native images to the files in the output folder.

    Parameters
    ----------
    inputs : VisitInputs
    config : RunConfig
    bundle : Bundle
        Read from ``config.model``.

    Raises
    ------
    OSError
        A file of the visit cannot be read.
    """
    made_from = describe_visit(inputs, config, bundle)
    preprocess = init_preprocess_wf(
        skull_strip=config.skull_strip,
        registration=config.registration,
        brain_mask_file=inputs.brain.path if inputs.brain else None,
        sloppy=config.sloppy,
    )
    preprocess.inputs.inputnode.flair_file = str(inputs.flair)
    preprocess.inputs.inputnode.t1w_file = str(inputs.t1w)
    preprocess.inputs.inputnode.visit = inputs.visit.name
    network = {
        "model": str(config.model),
        "model_files": made_from["Model"]["Files"],
        "device": config.device,
        "use_gpu": config.device.startswith("cuda"),
        "allow_tf32": config.allow_tf32,
        "flip": config.flip,
        "n_threads": config.omp_n_threads,
    }
    threshold, peak_threshold = bundle.thresholds(config.threshold, config.peak_threshold)
    segment = Node(
        Segment(
            threshold=threshold,
            peak_threshold=peak_threshold,
            min_volume_mm3=config.min_lesion_volume_mm3,
            **network,
        ),
        name="segment",
        n_procs=config.omp_n_threads,
        mem_gb=3,
    )
    describe = _describe_node(inputs, config, threshold)
    explanation = {
        "visit": inputs.visit.name,
        "method": config.method,
        "aggregation": config.aggregation,
        "target": config.target,
        "engine": config.engine,
        "baseline": config.baseline,
        "n_samples": config.n_samples,
        "target_error": config.target_error,
        "memory_gb": config.memory_gb,
        "seed": config.random_seed,
        **network,
    }
    explain = Node(
        Explain(
            noise_level=config.noise_level,
            noise_rule=config.noise_rule,
            columns=list(DERIVATIVES["saliency_table"].columns),
            profile_columns=list(DERIVATIVES["saliency_profile"].columns),
            **explanation,
        ),
        name="explain",
        n_procs=config.omp_n_threads,
        # Images, network and the reduction of a large lesion, beside the samples.
        mem_gb=1.5 + config.memory_gb,
    )
    publish = Node(
        Publish(
            output_dir=str(config.output_dir),
            participant=inputs.visit.participant,
            session=inputs.visit.session,
            flair_uri=inputs.uri(inputs.flair),
            t1w_uri=inputs.uri(inputs.t1w),
            method=config.method,
            seed=config.random_seed,
            settings=_settings(config, bundle),
            keeps_maps=config.saliency_output == "maps",
        ),
        name="publish",
    )
    report = Node(
        Report(output_dir=str(config.output_dir), with_viewer=config.report_viewer),
        name="report",
        mem_gb=2,
    )
    complete = Node(
        Complete(
            output_dir=str(config.output_dir),
            made_from=made_from,
            input_files={name: str(path) for name, (_, path) in input_files(inputs).items()},
            device=config.device,
        ),
        name="complete",
    )
    # What is in the output folder may have been changed since: it is always written.
    publish.overwrite = report.overwrite = complete.overwrite = True
    workflow = Workflow(name=workflow_name(inputs.visit.name))
    if inputs.tissues:
        publish.inputs.tissue_uri = inputs.tissues.uri
    if inputs.brain:
        publish.inputs.brain_uri = inputs.brain.uri
    lesions = segment
    if inputs.lesions:
        publish.inputs.lesions_uri = inputs.lesions.uri
        publish.inputs.lesions_are_manual = is_manual(inputs.lesions.path)
        lesions = _take_node(inputs, inputs.lesions, config)
        workflow.connect(
            [
                (preprocess, lesions, [("outputnode.brain_mask_file", "brain_mask_file")]),
                (preprocess, lesions, [("outputnode.flair_to_t1w_file", "transform_file")]),
            ]
        )
    if inputs.reference:
        publish.inputs.reference_uri = inputs.reference.uri
        workflow.connect(describe, "region_labels_file", publish, "region_labels")
        workflow.connect(describe, "region_table_file", publish, "region_table")
    if inputs.reference or config.experiments:
        workflow.connect(describe, "normal_file", publish, "normal_mask")
    out = "outputnode."
    images = [(f"{out}{key}", key) for key in ("flair_file", "t1w_file", "brain_mask_file")]
    workflow.connect(
        [
            *((preprocess, node, list(images)) for node in (segment, describe, explain)),
            (preprocess, describe, [(f"{out}flair_to_t1w_file", "transform_file")]),
            (lesions, describe, [("labels_file", "labels_file")]),
            (segment, describe, [("probability_file", "probability_file")]),
            (lesions, explain, [("labels_file", "labels_file")]),
            (describe, explain, [("explained_file", "explained_file")]),
            (
                preprocess,
                publish,
                [
                    (f"{out}t1w_file", "preproc_t1w"),
                    (f"{out}flair_file", "preproc_flair"),
                    (f"{out}brain_mask_file", "brain_mask"),
                    (f"{out}flair_to_t1w_file", "flair_to_t1w"),
                    (f"{out}facts_file", "preprocess_facts_file"),
                ],
            ),
            (segment, publish, [("probability_file", "lesion_probability")]),
            (
                lesions,
                publish,
                [("mask_file", "lesion_mask"), ("labels_file", "lesion_labels")],
            ),
            (describe, publish, [("table_file", "lesion_table")]),
            (
                explain,
                publish,
                [
                    ("flair_file", "saliency_flair"),
                    ("t1w_file", "saliency_t1w"),
                    ("table_file", "saliency_table"),
                    ("profile_file", "saliency_profile"),
                    ("lesion_folder", "lesion_folder"),
                    ("facts_file", "explain_facts_file"),
                ],
            ),
            (publish, report, [("visit", "visit")]),
            (publish, complete, [("visit", "visit")]),
            (report, complete, [("report_file", "report_file")]),
        ]
    )
    if "FLAIR" in config.output_spaces:
        native = Node(ResampleMask(reference_file=str(inputs.flair)), name="native_mask", mem_gb=1)
        workflow.connect(
            [
                (lesions, native, [("mask_file", "mask_file")]),
                (preprocess, native, [(f"{out}flair_to_t1w_file", "transform_file")]),
                (native, publish, [("out_file", "lesion_mask_native")]),
            ]
        )
    if config.experiments:
        experiment = _experiment_node(config, peak_threshold, explanation)
        workflow.connect(
            [
                (preprocess, experiment, list(images)),
                (describe, experiment, [("studied_file", "studied_file")]),
                (describe, experiment, [("normal_file", "normal_file")]),
                (explain, experiment, [("lesion_folder", "lesion_folder")]),
                (explain, experiment, [("facts_file", "explain_facts_file")]),
                (experiment, publish, [("numbers_file", "experiment_numbers")]),
                (experiment, publish, [("folder", "experiment_folder")]),
            ]
        )
    return workflow


def _take_node(inputs: VisitInputs, lesions: Companion, config: RunConfig) -> Node:
    own = config.existing_lesion_mask
    return Node(
        TakeLesions(
            lesions_file=str(lesions.path),
            space=lesions.space,
            flag="--existing-lesion-mask" if own else "--derivatives",
            native_flair_file=str(inputs.flair),
            native_t1w_file=str(inputs.t1w),
            min_volume_mm3=config.min_lesion_volume_mm3,
            visit=inputs.visit.name,
        ),
        name="take_lesions",
        mem_gb=1,
    )


def _describe_node(inputs: VisitInputs, config: RunConfig, threshold: float) -> Node:
    describe = Node(
        Describe(
            native_flair_file=str(inputs.flair),
            native_t1w_file=str(inputs.t1w),
            visit=inputs.visit.name,
            seed=config.random_seed,
            threshold=threshold,
            min_volume_mm3=config.min_lesion_volume_mm3,
            columns=list(DERIVATIVES["lesion_table"].columns),
            needs_normal=bool(config.experiments),
        ),
        name="describe",
        mem_gb=2,
    )
    if inputs.reference:
        describe.inputs.reference_file = str(inputs.reference.path)
        describe.inputs.reference_space = inputs.reference.space
    if inputs.tissues:
        describe.inputs.tissue_file = str(inputs.tissues.path)
    return describe


def _experiment_node(
    config: RunConfig, peak_threshold: float, explanation: dict[str, Any]
) -> Node:
    return Node(
        Experiment(
            names=list(config.experiments),
            peak_threshold=peak_threshold,
            columns={name: list(EXPERIMENT_COLUMNS[name]) for name in config.experiments},
            number_columns=list(DERIVATIVES["experiment_numbers"].columns),
            **explanation,
        ),
        name="experiment",
        n_procs=config.omp_n_threads,
        mem_gb=1.5 + config.memory_gb,
    )


def _settings(config: RunConfig, bundle: Bundle) -> dict[str, Any]:
    """Return the sidecar keys that hold for every visit of the run."""
    threshold, peak_threshold = bundle.thresholds(config.threshold, config.peak_threshold)
    has_noise = METHODS[config.method].has_noise
    return {
        "BiasCorrection": COARSE_BIAS_CORRECTION if config.sloppy else FULL_BIAS_CORRECTION,
        "Model": {
            "Name": bundle.name,
            "Version": bundle.version,
            "SHA256": bundle.sha256,
            "TestTimeAugmentation": "flip" if config.flip else "none",
        },
        "Threshold": threshold,
        "PeakThreshold": peak_threshold,
        "MinimumVolume_mm3": config.min_lesion_volume_mm3,
        "Connectivity": 18,
        "Method": config.method,
        "Aggregation": config.aggregation,
        "Target": config.target,
        "Units": saliency_units(config.method, config.target),
        "NumberOfSamples": 1 if config.method == "gradient" else config.n_samples,
        "TargetError": config.target_error,
        "NoiseLevel": config.noise_level if has_noise else None,
        "NoiseRule": config.noise_rule if has_noise else None,
        "Baseline": config.baseline if config.method == "integrated-gradients" else None,
        "RandomSeed": config.random_seed if has_noise else None,
    }
