# SPDX-License-Identifier: Apache-2.0
"""The command line of the app."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from bids_lesion_xai import __version__
from bids_lesion_xai.bids.filters import read_filters
from bids_lesion_xai.cli.arguments import Formatter, file_or_folder
from bids_lesion_xai.cli.combinations import contradiction, ineffective
from bids_lesion_xai.cli.options.explanation import PRESETS, SLOPPY, add_explanation
from bids_lesion_xai.cli.options.group import add_group
from bids_lesion_xai.cli.options.ignored import add_ignored
from bids_lesion_xai.cli.options.images import add_images
from bids_lesion_xai.cli.options.outputs import SPACES, add_outputs
from bids_lesion_xai.cli.options.resources import (
    EXPLAIN_MEMORY_GB,
    JOB_CORES,
    JOB_MEMORY_GB,
    add_resources,
)
from bids_lesion_xai.cli.options.running import add_running
from bids_lesion_xai.cli.options.segmentation import add_segmentation
from bids_lesion_xai.cli.plugin import read_plugin
from bids_lesion_xai.cli.replay import read_arguments, to_toml
from bids_lesion_xai.cli.resources import cores
from bids_lesion_xai.cli.resources import memory_gb as machine_memory_gb
from bids_lesion_xai.cli.user import WORK_FOLDER
from bids_lesion_xai.config import LEAST_EXPLAIN_MEMORY_GB, SCHEDULERS, Plugin, RunConfig
from bids_lesion_xai.conventions import EXPERIMENTS
from bids_lesion_xai.errors import UsageError

# In the order in which they run: the group level reads what the participant level writes.
_LEVELS = ("participant", "group")
_PATHS = (
    *("reference_masks", "tissue_maps", "existing_lesion_mask", "model", "bids_filter_file"),
    *("bids_database_dir", "dry_run_table"),
)
_MEMORY_PART = 0.9
_LEAST_MEMORY_GB = 0.5
_MOST_OMP_THREADS = 8


class _Parser(argparse.ArgumentParser):
    """A parser that takes underscores for dashes, and can say where the arguments came from.

    Parameters
    ----------
    source : str
        What stands in front of messages.
    """

    source = ""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse arguments as argparse does, however options are spelled."""
        words = sys.argv[1:] if args is None else args
        return super().parse_known_args([_with_dashes(word) for word in words], namespace)

    def error(self, message: str) -> NoReturn:
        super().error(self.source + message)

    def resolved(self, path: Path) -> Path:
        """Return a path without symbolic links; exit 2 if it has none."""
        try:
            return path.resolve()
        except FileNotFoundError:
            self.error("the current folder is not there any more; go to another.")
        except RuntimeError as error:
            # Before Python 3.13, a symbolic link that leads to itself.
            self.error(f"{error}.")


def _with_dashes(word: str) -> str:
    """Return an option with dashes for underscores; its value, and other words, as they are.

    >>> _with_dashes("--participant_label=a_b"), _with_dashes("a_b")
    ('--participant-label=a_b', 'a_b')
    """
    option, equals, value = word.partition("=")
    return option.replace("_", "-") + equals + value if word.startswith("--") else word


def build_parser() -> _Parser:
    """Return the parser of the command line."""
    parser = _Parser(
        prog="bids-lesion-xai",
        usage="%(prog)s bids_dir output_dir {participant,group} [{participant,group}] [options]",
        description="Segment multiple sclerosis lesions in FLAIR and T1w of a BIDS dataset and "
        "explain every single lesion by saliency maps. Research use only.",
        epilog="Dashes within options may be underscores. Messages go to the standard output; "
        "what the exit code means is in README.md.",
        formatter_class=Formatter,
    )
    parser.add_argument("bids_dir", type=file_or_folder, help="root folder of a raw BIDS dataset")
    parser.add_argument("output_dir", type=file_or_folder, help="folder for the BIDS derivatives")
    parser.add_argument(
        "analysis_level",
        nargs="+",
        choices=_LEVELS,
        help="what to do: every participant, the group tables and report, or both",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    for add in (
        add_images,
        add_segmentation,
        add_explanation,
        add_outputs,
        add_group,
        add_running,
        add_resources,
        add_ignored,
    ):
        add(parser)
    return parser


def parse(argv: list[str] | None = None) -> RunConfig:
    """Return the configuration that the command line `argv` asks for; exit 2 if it is wrong."""
    parser = build_parser()
    # What is not given is None, which no option takes as a value.
    unset = argparse.Namespace(**{action.dest: None for action in parser._actions})
    given = vars(parser.parse_args(argv, unset))
    filed = _filed(parser, given) if given["config_file"] else {}
    options = argparse.Namespace(**_merged(parser, given, filed))
    named: dict[str, Any] = {name: getattr(options, name) for name in _PATHS}
    paths: dict[str, Any] = {name: path and parser.resolved(path) for name, path in named.items()}
    config = RunConfig(
        derivatives=tuple((name, parser.resolved(path)) for name, path in options.derivatives),
        **paths,
        levels=tuple(level for level in _LEVELS if level in options.analysis_level),
        participants=_labels(options.participant_label),
        sessions=_labels(options.session_label),
        bids_database_wipe=options.bids_database_wipe,
        group_by=tuple(dict.fromkeys(options.group_by)),
        follow_lesions=options.follow_lesions,
        threshold=options.threshold,
        peak_threshold=options.peak_threshold,
        min_lesion_volume_mm3=options.min_lesion_volume,
        flip=options.tta == "flip",
        skull_strip=options.skull_strip,
        registration=options.registration,
        method=options.method,
        aggregation=options.aggregation,
        target=options.target,
        n_samples=options.n_samples,
        noise_rule=options.noise_rule,
        engine=options.engine,
        baseline=options.baseline,
        target_error=options.target_error,
        noise_level=options.noise_level,
        experiments=tuple(
            name for name in EXPERIMENTS if {name, "all"} & set(options.experiments)
        ),
        random_seed=options.random_seed,
        device=options.device,
        allow_tf32=options.allow_tf32,
        **_folders(parser, options),
        **_resources(parser, options),
        force=options.force,
        validate=not options.skip_bids_validation,
        verbosity=2 if options.debug else options.verbose,
        sloppy=options.sloppy,
        output_spaces=tuple(space for space in SPACES if space in options.output_spaces),
        saliency_output=options.saliency_output,
        report_viewer=options.report_viewer == "on",
        write_graph=options.write_graph,
        resource_monitor=options.resource_monitor,
        stop_on_first_crash=options.stop_on_first_crash,
        clean_work_dir=options.clean_workdir,
        dry_run=options.dry_run or options.dry_run_table is not None,
        reports_only=options.reports_only,
        boilerplate_only=options.boilerplate_only,
        replay=to_toml(parser, vars(options)),
    )
    problem = contradiction(config)
    if problem:
        parser.error(problem)
    _check_filters(parser, config)
    warnings = list(ineffective(config, given))
    if given["config_file"] and not filed:
        warnings.append("--config-file has no effect: the file sets no option")
    return replace(config, warnings=tuple(warnings))


def _check_filters(parser: _Parser, config: RunConfig) -> None:
    if config.bids_filter_file:
        try:
            filters = read_filters(config.bids_filter_file)
            filters.require_no_conflict(config.participants, config.sessions)
        except UsageError as error:
            parser.error(f"--bids-filter-file: {error}")


def _merged(parser: _Parser, given: dict[str, Any], filed: dict[str, Any]) -> dict[str, Any]:
    """Return all options: of the command line, else the file, else the preset, else defaults."""
    said = {dest: value for dest, value in given.items() if value is not None}
    overruled = set(PRESETS["default"]) if given["preset"] else set()
    if given["sloppy"]:
        overruled |= set(SLOPPY)
    filed = {dest: value for dest, value in filed.items() if dest not in overruled}
    options = {action.dest: action.default for action in parser._actions} | filed | said
    chosen = PRESETS[options["preset"]] | (SLOPPY if options["sloppy"] else {})
    return {
        dest: chosen[dest] if dest in chosen and value is None else value
        for dest, value in options.items()
    }


def _filed(parser: _Parser, given: dict[str, Any]) -> dict[str, Any]:
    """Return what the file of `--config-file` says; exit 2 if it is wrong."""
    path = given["config_file"]
    parser.source = f"--config-file {path}: "
    try:
        words = read_arguments(path, parser, given)
    except ValueError as error:
        parser.error(str(error))
    unset = argparse.Namespace(**dict.fromkeys(given))
    found = parser.parse_args(["bids_dir", "output_dir", "group", *words], unset)
    parser.source = ""
    places = ("bids_dir", "output_dir", "analysis_level")
    return {
        dest: value
        for dest, value in vars(found).items()
        if value is not None and dest not in places
    }


def _folders(parser: _Parser, options: argparse.Namespace) -> dict[str, Any]:
    """Return input, output and work folder; exit 2 if they get in each other's way."""
    bids_dir, output_dir = (parser.resolved(one) for one in (options.bids_dir, options.output_dir))
    work_dir = parser.resolved(options.work_dir or _temporary_folder(parser) / WORK_FOLDER)
    if set("[]") & set(str(work_dir)):
        parser.error(f"--work-dir {work_dir}: ANTs takes no path with brackets; name another.")
    if output_dir == bids_dir:
        parser.error("OUTPUT_DIR is BIDS_DIR; the input is never written to.")
    if bids_dir in output_dir.parents and bids_dir / "derivatives" not in output_dir.parents:
        parser.error(
            f"OUTPUT_DIR {output_dir} lies inside BIDS_DIR; the input is never written to. Choose "
            "another folder, or one in BIDS_DIR/derivatives."
        )
    if bids_dir in (work_dir, *work_dir.parents):
        parser.error(f"--work-dir {work_dir} lies inside BIDS_DIR; the input is never written to.")
    if output_dir in (work_dir, *work_dir.parents):
        parser.error(f"--work-dir {work_dir} lies inside OUTPUT_DIR; choose another folder.")
    return {"bids_dir": bids_dir, "output_dir": output_dir, "work_dir": work_dir}


def _temporary_folder(parser: _Parser) -> Path:
    try:
        return Path(tempfile.gettempdir())
    except FileNotFoundError:
        parser.error("no folder of temporary files can be written to; name a --work-dir.")


def _resources(parser: argparse.ArgumentParser, options: argparse.Namespace) -> dict[str, Any]:
    """Return who runs the visits, on how many cores, with how much memory."""
    try:
        plugin = read_plugin(options.use_plugin) if options.use_plugin else Plugin()
    except UsageError as error:
        parser.error(f"--use-plugin: {error}")
    if plugin.name in SCHEDULERS:
        if options.work_dir is None:
            parser.error(f"--use-plugin: {plugin.name} needs a --work-dir that every node sees.")
        n_procs, memory_gb = JOB_CORES, JOB_MEMORY_GB
    else:
        n_procs = int(plugin.args.get("n_procs", cores()))
        memory_gb = plugin.args.get("memory_gb", _MEMORY_PART * machine_memory_gb())
    n_procs, memory_gb = options.nprocs or n_procs, options.mem_gb or memory_gb
    samples_gb = LEAST_EXPLAIN_MEMORY_GB if options.low_mem else EXPLAIN_MEMORY_GB
    if memory_gb < _LEAST_MEMORY_GB:
        parser.error(
            f"--mem: {memory_gb:g} GB is too little. A number without a unit is in MB; 8G is 8 GB."
        )
    return {
        "plugin": plugin,
        "n_procs": n_procs,
        "total_memory_gb": memory_gb,
        "memory_gb": options.explain_mem_gb or samples_gb,
        "low_memory": options.low_mem,
        "omp_n_threads": min(options.omp_nthreads or _MOST_OMP_THREADS, n_procs),
    }


def _labels(given: Sequence[Sequence[str]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(label for some in given for label in some))
