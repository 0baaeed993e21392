# SPDX-License-Identifier: Apache-2.0
"""What a run was asked to do, resolved once and passed down."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# For noise samples side by side, where memory is short: one at a time.
LEAST_EXPLAIN_MEMORY_GB = 0.1
# Names of nipype's plugins.
LOCAL = "MultiProc"
SCHEDULERS = ("SLURM", "SGE", "PBS", "LSF", "OAR", "Condor")


# Names of datasets in BIDS URIs: the raw one, and those of options that are called so.
RESERVED_LINKS = ("raw", "reference-masks", "tissue-maps", "existing-lesion-mask")


@dataclass(frozen=True)
class Plugin:
    """Who runs the visits: this machine, or the scheduler of a cluster.

    Parameters
    ----------
    name : str
        `LOCAL`, or one of `SCHEDULERS`: then every visit is a job of its own.
    args : dict
        What nipype hands to the plugin.
    """

    name: str = LOCAL
    args: Mapping[str, Any] = field(default_factory=dict)


# Options because of which a visit is not processed again, since they change no number of it: where
# things lie (what is read counts by its content), which visits, who computes, what else is done.
WITHOUT_EFFECT = frozenset(
    (
        *("bids_dir", "output_dir", "work_dir", "model", "reference_masks", "tissue_maps"),
        *("derivatives", "existing_lesion_mask"),
        *("bids_filter_file", "bids_database_dir", "bids_database_wipe"),
        *("levels", "participants", "sessions", "group_by", "follow_lesions", "validate"),
        *("device", "memory_gb", "plugin", "n_procs", "total_memory_gb", "omp_n_threads"),
        *("verbosity", "force", "low_memory", "write_graph", "resource_monitor", "clean_work_dir"),
        *(
            "report_viewer",
            "stop_on_first_crash",
            "dry_run",
            "dry_run_table",
            "reports_only",
            "boilerplate_only",
        ),
        *("run", "replay", "warnings"),
    )
)


@dataclass(frozen=True)
class RunConfig:
    """All options of a run; see ``run.py --help`` for their meaning.

    Parameters
    ----------
    bids_dir, output_dir, work_dir, model : Path
    reference_masks, tissue_maps : Path or None
        Derivative datasets with lesion masks, and with FreeSurfer's numbers in T1w space.
    derivatives : tuple of (str, Path)
        Name and folder of datasets whose brain and lesion masks are taken where they have some.
    existing_lesion_mask : Path or None
        Derivative dataset whose lesions are explained instead of those that the model finds.
    levels : tuple of str
        ``participant`` and ``group``, one or both.
    participants, sessions : tuple of str
        Labels without ``sub-`` and ``ses-``; empty means all.
    bids_filter_file : Path or None
        What the images of a visit must be, see `bids_lesion_xai.bids.filters`.
    bids_database_dir : Path or None
        Folder of an index of the dataset.
    bids_database_wipe : bool
        Whether the index is made anew.
    group_by : tuple of str
        Columns of `participants.tsv` that the group level compares people by.
    follow_lesions : bool
        Whether the group level matches the lesions of the sessions of a person.
    threshold, peak_threshold : float or None
        Lesion probability of a voxel of a lesion, and of at least one of them; None takes the
        model's own.
    min_lesion_volume_mm3 : float
    flip : bool
        Whether logits are averaged with those of the mirror image.
    skull_strip : str
        ``auto``, ``force`` or ``skip``.
    registration : str
        The same, of FLAIR to T1w.
    method, aggregation, target, engine, noise_rule, baseline : str
        Names of `bids_lesion_xai.explain.catalogue`.
    n_samples : int
    target_error : float or None
        Stop a lesion at this standard error of its peak, as a fraction of the peak.
    noise_level : float
        Standard deviation of the noise as a fraction of the intensity range of `noise_rule`.
    experiments : tuple of str
        Names of the catalogue.
    random_seed : int
    device : str
    allow_tf32 : bool
    memory_gb : float
        For the samples of one explanation that are computed side by side.
    plugin : Plugin
    n_procs : int
        Cores to use in all, or in each job of a scheduler.
    total_memory_gb : float
        The same of memory.
    omp_n_threads : int
        Cores that one process uses for the network.
    force : bool
        Whether visits are processed that have not changed since.
    validate : bool
        Whether the BIDS validator looks at the input first.
    verbosity : int
    low_memory : bool
        Whether one step runs at a time, whatever it takes.
    sloppy : bool
        Whether preprocessing is coarse, for tests.
    output_spaces : tuple of str
        ``T1w``, and ``FLAIR`` if the lesion mask is also written on its native grid.
    saliency_output : str
        ``maps``, or ``summary`` if those of single lesions are not kept.
    report_viewer : bool
        Whether reports of visits have an interactive viewer.
    write_graph, resource_monitor, stop_on_first_crash, clean_work_dir : bool
    dry_run, reports_only, boilerplate_only : bool
        The part of the work that is done instead of all of it; one at most.
    dry_run_table : Path or None
    run : str
        What the logs of the run are called.
    replay : str
        The options as TOML, for ``--config-file``.
    warnings : tuple of str
        Options that were given and have no effect, and why.
    """

    bids_dir: Path
    output_dir: Path
    reference_masks: Path | None
    tissue_maps: Path | None
    derivatives: tuple[tuple[str, Path], ...]
    existing_lesion_mask: Path | None
    levels: tuple[str, ...]
    work_dir: Path
    model: Path
    participants: tuple[str, ...]
    sessions: tuple[str, ...]
    bids_filter_file: Path | None
    bids_database_dir: Path | None
    bids_database_wipe: bool
    group_by: tuple[str, ...]
    follow_lesions: bool
    threshold: float | None
    peak_threshold: float | None
    min_lesion_volume_mm3: float
    flip: bool
    skull_strip: str
    registration: str
    method: str
    aggregation: str
    target: str
    engine: str
    noise_rule: str
    baseline: str
    n_samples: int
    target_error: float | None
    noise_level: float
    experiments: tuple[str, ...]
    random_seed: int
    device: str
    allow_tf32: bool
    memory_gb: float
    plugin: Plugin
    n_procs: int
    total_memory_gb: float
    omp_n_threads: int
    force: bool
    validate: bool
    verbosity: int
    low_memory: bool
    sloppy: bool
    output_spaces: tuple[str, ...]
    saliency_output: str
    report_viewer: bool
    write_graph: bool
    resource_monitor: bool
    stop_on_first_crash: bool
    clean_work_dir: bool
    dry_run: bool
    reports_only: bool
    boilerplate_only: bool
    dry_run_table: Path | None
    run: str = field(default_factory=lambda: f"run-{uuid.uuid4().hex}", compare=False)
    replay: str = field(default="", compare=False)
    warnings: tuple[str, ...] = field(default=(), compare=False)

    @property
    def links(self) -> dict[str, Path]:
        """The datasets beside the raw one, by their names in BIDS URIs."""
        named = {
            "reference-masks": self.reference_masks,
            "tissue-maps": self.tissue_maps,
            "existing-lesion-mask": self.existing_lesion_mask,
        }
        return {name: path for name, path in named.items() if path} | dict(self.derivatives)
