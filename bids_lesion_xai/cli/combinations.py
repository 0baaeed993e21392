# SPDX-License-Identifier: Apache-2.0
"""Options that contradict each other, and options that have no effect beside others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from bids_lesion_xai.config import RESERVED_LINKS, SCHEDULERS, RunConfig
from bids_lesion_xai.explain.catalogue import METHODS

# By `dest`: what the participant level alone looks at.
_OF_PARTICIPANTS = (
    *("reference_masks", "tissue_maps", "skip_bids_validation", "skull_strip", "registration"),
    *("model", "threshold", "peak_threshold", "min_lesion_volume", "tta", "preset"),
    *("method", "aggregation", "target"),
    *("n_samples", "target_error", "noise_level", "noise_rule", "baseline"),
    *("experiments", "random_seed", "output_spaces", "saliency_output", "write_graph"),
    *("resource_monitor", "stop_on_first_crash", "clean_workdir", "sloppy", "device"),
    *("allow_tf32", "engine", "explain_mem_gb", "use_plugin", "low_mem", "force"),
    *("bids_filter_file", "bids_database_dir", "derivatives", "existing_lesion_mask"),
    *("report_viewer", "dry_run_table"),
)
# The same, of the parts of the work that can be asked for alone: what they still look at.
_PARTS: dict[str, tuple[str, ...]] = {
    "reports_only": ("report_viewer",),
    "boilerplate_only": ("method", "model", "preset", "derivatives", "existing_lesion_mask"),
}
_SELECTION = ("participant_label", "session_label")


def contradiction(config: RunConfig) -> str | None:
    """Return why the options cannot be meant, or None."""
    if config.target_error is not None and not METHODS[config.method].has_noise:
        return f"--target-error: method {config.method} has no noise to average."
    if config.bids_database_wipe and not config.bids_database_dir:
        return "--bids-database-wipe: there is no index without --bids-database-dir."
    if config.dry_run_table and (config.reports_only or config.boilerplate_only):
        return "--dry-run-table: it tells what visits are processed, and none would be."
    if config.dry_run_table and config.bids_dir in config.dry_run_table.parents:
        return f"--dry-run-table: {config.dry_run_table} lies inside BIDS_DIR; name another place."
    if config.group_by and "group" not in config.levels:
        return "--group-by: nothing is compared without the level group."
    if config.follow_lesions and "group" not in config.levels:
        return "--follow-lesions: nothing is followed without the level group."
    return _clash_of_datasets(config)


def _clash_of_datasets(config: RunConfig) -> str | None:
    """Return why the datasets beside the raw one cannot be told apart, or be read, or None."""
    names = [name for name, _ in config.derivatives]
    for name in names:
        if names.count(name) > 1 or name in RESERVED_LINKS:
            return f"--derivatives: two datasets are called {name}; name one otherwise, NAME=PATH."
    for name, path in config.links.items():
        if path == config.output_dir:
            flag = "derivatives" if name in names else name
            return f"--{flag}: {path} is OUTPUT_DIR, where what is read would be written over."
    return None


def ineffective(config: RunConfig, given: Mapping[str, Any]) -> Iterator[str]:
    """Yield a sentence for every option that was given and has no effect, with the reason.

    Parameters
    ----------
    config : RunConfig
    given : mapping
        What the command line itself says, by `dest`; None for what it does not say.
    """
    for dest, reason in _reasons(config, given).items():
        if given.get(dest) is not None:
            yield f"--{dest.replace('_', '-')} has no effect: {reason}"


def _reasons(config: RunConfig, given: Mapping[str, Any]) -> dict[str, str]:
    """Return why options have no effect; the one that weighs most comes last."""
    reasons = _of_method(config.method) | _of_places(config)
    if (config.peak_threshold or 0) < (config.threshold or 0):
        reasons["peak_threshold"] = f"every voxel of a lesion has --threshold {config.threshold:g}"
    if given.get("output_spaces") and "T1w" not in config.output_spaces:
        reasons["output_spaces"] = "T1w is always written, for everything is computed there"
    if config.levels == ("group",):
        reasons |= dict.fromkeys(_OF_PARTICIPANTS, "it is one of the level participant")
        reasons |= dict.fromkeys(_SELECTION, "the level group takes every visit of OUTPUT_DIR")
    for flag, needed in _PARTS.items():
        if getattr(config, flag):
            why = f"--{flag.replace('_', '-')} does not need it"
            reasons |= {dest: why for dest in _OF_PARTICIPANTS if dest not in needed}
    return reasons


def _of_method(method: str) -> dict[str, str]:
    reasons: dict[str, str] = {}
    if not METHODS[method].has_noise:
        why = f"method {method} has no noise"
        reasons |= dict.fromkeys(("noise_level", "noise_rule"), why)
    if method == "gradient":
        reasons["n_samples"] = "method gradient looks at the image itself alone"
    if method != "integrated-gradients":
        reasons["baseline"] = f"method {method} has no baseline"
    return reasons


def _of_places(config: RunConfig) -> dict[str, str]:
    reasons = {"allow_tf32": "a CPU does not round"} if config.device == "cpu" else {}
    if config.plugin.name in SCHEDULERS:
        reasons["resource_monitor"] = f"jobs are measured by {config.plugin.name}"
    return reasons
