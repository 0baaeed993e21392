# SPDX-License-Identifier: Apache-2.0
"""The command line of the app."""

from __future__ import annotations

import argparse
import os
import re
import tempfile
from collections.abc import Callable
from math import inf
from pathlib import Path
from typing import Any, TypeVar

from bids_lesion_xai import __version__
from bids_lesion_xai.cli.plugin import read_plugin
from bids_lesion_xai.cli.resources import cores
from bids_lesion_xai.cli.resources import memory_gb as machine_memory_gb
from bids_lesion_xai.config import SCHEDULERS, Plugin, RunConfig
from bids_lesion_xai.conventions import DEFAULT_MIN_VOLUME_MM3, EXPERIMENTS, TTA
from bids_lesion_xai.errors import UsageError
from bids_lesion_xai.explain.catalogue import (
    AGGREGATIONS,
    BASELINES,
    ENGINES,
    INPUT_METHODS,
    METHODS,
    NOISE_RULES,
    PUBLISHED,
    TARGETS,
)
from bids_lesion_xai.models.bundle import DEFAULT_BUNDLE

_N = TypeVar("_N", int, float)

# In the order in which they run: the group level reads what the participant level writes.
_LEVELS = ("participant", "group")
# What the presets choose where the user does not.
_PRESETS: dict[str, dict[str, Any]] = {
    "default": {
        "method": "smoothgrad",
        "aggregation": "mean",
        "target": "logit",
        "n_samples": 50,
        "noise_rule": "robust",
    },
    "published": {**PUBLISHED, "noise_rule": "flair-range"},
}
# What a visit takes that is a job of a cluster, unless told otherwise.
_JOB_CORES = 4
_JOB_MEMORY_GB = 8.0
_MEMORY_PART = 0.9
_LEAST_MEMORY_GB = 0.5
_MOST_OMP_THREADS = 8
_DEVICE = re.compile(r"auto|cpu|cuda(:\d+)?")


class Formatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows defaults where there is something to show."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        empty = action.default is None or action.default is False or action.default == []
        return action.help if empty else super()._get_help_string(action)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="bids-lesion-xai",
        description="Segment multiple sclerosis lesions in FLAIR and T1w of a BIDS dataset and "
        "explain every single lesion by saliency maps. Research use only.",
        formatter_class=Formatter,
    )
    parser.add_argument("bids_dir", type=Path, help="root folder of a raw BIDS dataset")
    parser.add_argument("output_dir", type=Path, help="folder for the BIDS derivatives")
    parser.add_argument(
        "analysis_level",
        nargs="+",
        choices=_LEVELS,
        help="what to do: every participant, the group tables and report, or both",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    _add_selection(parser)
    _add_method(parser)
    _add_resources(parser)
    return parser


def _add_selection(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("which images")
    group.add_argument(
        *("--participant-label", "--participant_label"),
        nargs="+",
        default=[],
        metavar="LABEL",
        help="participants to process, with or without sub-; all if not given",
    )
    group.add_argument(
        *("--session-label", "--session_label"),
        nargs="+",
        default=[],
        metavar="LABEL",
        help="sessions to process, with or without ses-; all if not given",
    )
    group.add_argument(
        *("--reference-masks", "--reference_masks"),
        type=Path,
        metavar="DATASET",
        help="BIDS derivatives with masks label-lesion_mask or label-L_mask in the space of T1w "
        "or FLAIR: lesions are told right from wrong, and missed lesions and control regions are "
        "explained as well",
    )
    group.add_argument(
        *("--tissue-maps", "--tissue_maps"),
        type=Path,
        metavar="DATASET",
        help="BIDS derivatives with desc-aseg_dseg or desc-aparcaseg_dseg in the space of T1w, as "
        "fMRIPrep writes them: where each lesion lies, and normal-appearing white matter, come "
        "from these",
    )
    group.add_argument(
        "--group-by",
        nargs="+",
        default=[],
        metavar="COLUMN",
        help="for the level group: columns of participants.tsv that people are compared by; a "
        "column of numbers gives slopes, others levels that are compared in pairs",
    )
    group.add_argument(
        *("--follow-lesions", "--follow_lesions"),
        action="store_true",
        help="for the level group: find out which lesions of the sessions of one person are the "
        "same, so that changes over time are told",
    )
    group.add_argument(
        *("--skip-bids-validation", "--skip_bids_validation"),
        action="store_true",
        help="do not run the BIDS validator on the input",
    )


def _add_method(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("how to segment and explain")
    group.add_argument(
        "--skull-strip",
        choices=("auto", "force", "skip"),
        default="auto",
        help="find the brain always (force), never (skip: the images are stripped), or only if "
        "the T1w still has a skull (auto)",
    )
    group.add_argument(
        "--registration",
        choices=("auto", "force", "skip"),
        default="auto",
        help="register FLAIR to T1w always (force), never (skip: the headers are right), or "
        "unless both are stripped and on one grid already, and match (auto)",
    )
    group.add_argument(
        "--model", type=Path, default=DEFAULT_BUNDLE, metavar="FOLDER", help="MONAI bundle"
    )
    group.add_argument(
        "--threshold",
        type=fraction,
        metavar="P",
        help="lesion probability from which a voxel is lesion; the model's own if not given",
    )
    group.add_argument(
        "--min-lesion-volume",
        type=not_negative,
        default=DEFAULT_MIN_VOLUME_MM3,
        metavar="MM3",
        help="smaller lesions are dropped",
    )
    group.add_argument(
        "--preset",
        choices=tuple(_PRESETS),
        default="default",
        help="choices where none is made: default is "
        + "; published (Spagnolo et al. 2026) is ".join(map(_summary, _PRESETS.values())),
    )
    _add_choice(group, "--tta", TTA, "what lesions are found in, and explained: ", "none")
    texts = {name: METHODS[name].text for name in INPUT_METHODS}
    _add_choice(group, "--method", texts)
    _add_choice(group, "--aggregation", AGGREGATIONS, "the gradients are those ")
    _add_choice(group, "--target", TARGETS)
    group.add_argument(
        "--n-samples",
        type=positive,
        metavar="N",
        help="noise samples a lesion, or points on the way of integrated gradients",
    )
    group.add_argument(
        "--target-error",
        type=above_zero,
        metavar="F",
        help="stop a lesion before N samples when the standard error of its peak saliency is at "
        "most this fraction of the peak",
    )
    group.add_argument(
        "--noise-level",
        type=not_negative,
        default=0.05,
        metavar="F",
        help="standard deviation of the noise as a fraction of an intensity range",
    )
    _add_choice(group, "--noise-rule", NOISE_RULES, "the range is ")
    _add_choice(group, "--baseline", BASELINES, "integrated gradients begin at ", "zero")
    experiments = "; ".join(f"{name}: {text}" for name, text in EXPERIMENTS.items())
    group.add_argument(
        "--experiments",
        nargs="+",
        choices=(*EXPERIMENTS, "all"),
        default=[],
        metavar="NAME",
        help=f"experiments on every lesion, or all: {experiments}",
    )
    group.add_argument(
        "--random-seed",
        type=int,
        default=0,
        metavar="SEED",
        help="seed of the noise and of everything else that is random",
    )


def _summary(choices: dict[str, Any]) -> str:
    return ", ".join(f"{key.replace('_', '-')} {value}" for key, value in choices.items())


def _add_choice(
    group: argparse._ArgumentGroup,
    flag: str,
    known: dict[str, str],
    before: str = "",
    default: str | None = None,
) -> None:
    texts = "; ".join(f"{name}: {text}" for name, text in known.items())
    group.add_argument(flag, choices=tuple(known), default=default, help=before + texts)


def _add_resources(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("where and how fast")
    group.add_argument(
        *("-w", "--work-dir", "--work_dir"),
        type=Path,
        metavar="FOLDER",
        help="folder for intermediate files; an unchanged step is not run again; one in the "
        "temporary folder if not given",
    )
    group.add_argument(
        "--device",
        type=device,
        default="auto",
        help="auto, cpu, cuda or cuda:N; auto takes a GPU if there is one",
    )
    group.add_argument(
        "--allow-tf32",
        action="store_true",
        help="let a GPU round what it multiplies to 10 bits: faster, off by up to one in a "
        "thousand a product",
    )
    _add_choice(group, "--engine", ENGINES, "how gradients are computed, all exact: ", "auto")
    group.add_argument(
        "--explain-mem-gb",
        type=above_zero,
        default=1.5,
        metavar="GB",
        help="memory for the samples of one explanation that are computed side by side; one "
        "always runs",
    )
    group.add_argument(
        *("--use-plugin", "--nipype-plugin-file"),
        type=Path,
        metavar="FILE",
        help="file in YAML or JSON with plugin and plugin_args of nipype; with the plugin "
        f"{', '.join(SCHEDULERS)} of a cluster, every visit is a job of its own",
    )
    group.add_argument(
        *("--nprocs", "--nthreads", "--n_cpus", "--n-cpus"),
        type=positive,
        metavar="N",
        help="cores to use in all, all that there are if not given; for each job of a cluster "
        f"{_JOB_CORES} if not given",
    )
    memory = group.add_mutually_exclusive_group()
    memory.add_argument(
        *("--mem", "--mem-mb", "--mem_mb"),
        dest="mem_gb",
        type=_gigabytes,
        metavar="SIZE",
        help="memory to use in all, in MB or with a unit, such as 16G; 90 %% of what there is if "
        f"not given; for each job of a cluster {_JOB_MEMORY_GB:g}G if not given. Steps begin "
        "when there is enough for what they are expected to take; one always runs",
    )
    memory.add_argument(
        *("--mem-gb", "--mem_gb"), type=above_zero, metavar="GB", help="the same, in GB"
    )
    group.add_argument(
        *("--omp-nthreads", "--omp_nthreads"),
        type=positive,
        metavar="N",
        help="cores that one process uses for the network; --nprocs, at most 8, if not given",
    )
    group.add_argument(
        *("-v", "--verbose"),
        action="count",
        default=0,
        help="tell more; twice for everything",
    )


def parse(argv: list[str] | None = None) -> RunConfig:
    """Return the configuration that the command line `argv` asks for; exit 2 if it is wrong."""
    parser = build_parser()
    options = parser.parse_args(argv)
    chosen = _PRESETS[options.preset] | {
        name: given
        for name in _PRESETS["default"]
        if (given := getattr(options, name)) is not None
    }
    config = RunConfig(
        reference_masks=options.reference_masks and options.reference_masks.resolve(),
        tissue_maps=options.tissue_maps and options.tissue_maps.resolve(),
        levels=tuple(level for level in _LEVELS if level in options.analysis_level),
        model=options.model.resolve(),
        participants=_labels(options.participant_label, "sub-"),
        sessions=_labels(options.session_label, "ses-"),
        group_by=tuple(dict.fromkeys(options.group_by)),
        follow_lesions=options.follow_lesions,
        threshold=options.threshold,
        min_lesion_volume_mm3=options.min_lesion_volume,
        flip=options.tta == "flip",
        skull_strip=options.skull_strip,
        registration=options.registration,
        **chosen,
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
        memory_gb=options.explain_mem_gb,
        **_folders(parser, options),
        **_resources(parser, options),
        validate=not options.skip_bids_validation,
        verbosity=options.verbose,
    )
    if config.target_error is not None and not METHODS[config.method].has_noise:
        parser.error(f"--target-error: method {config.method} has no noise to average.")
    if config.group_by and "group" not in config.levels:
        parser.error("--group-by: nothing is compared without the level group.")
    if config.follow_lesions and "group" not in config.levels:
        parser.error("--follow-lesions: nothing is followed without the level group.")
    return config


def _folders(parser: argparse.ArgumentParser, options: argparse.Namespace) -> dict[str, Any]:
    """Return input, output and work folder; exit 2 if they get in each other's way."""
    bids_dir, output_dir = options.bids_dir.resolve(), options.output_dir.resolve()
    work_dir = options.work_dir
    if work_dir is None:
        work_dir = Path(tempfile.gettempdir()) / f"bids_lesion_xai_work_{os.getuid()}"
    work_dir = work_dir.resolve()
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


def _resources(parser: argparse.ArgumentParser, options: argparse.Namespace) -> dict[str, Any]:
    """Return who runs the visits, on how many cores, with how much memory."""
    try:
        plugin = read_plugin(options.use_plugin) if options.use_plugin else Plugin()
    except UsageError as error:
        parser.error(f"--use-plugin: {error}")
    if plugin.name in SCHEDULERS:
        if options.work_dir is None:
            parser.error(f"--use-plugin: {plugin.name} needs a --work-dir that every node sees.")
        n_procs, memory_gb = _JOB_CORES, _JOB_MEMORY_GB
    else:
        n_procs = int(plugin.args.get("n_procs", cores()))
        memory_gb = plugin.args.get("memory_gb", _MEMORY_PART * machine_memory_gb())
    n_procs, memory_gb = options.nprocs or n_procs, options.mem_gb or memory_gb
    if memory_gb < _LEAST_MEMORY_GB:
        parser.error(
            f"--mem: {memory_gb:g} GB is too little. A number without a unit is in MB; 8G is 8 GB."
        )
    return {
        "plugin": plugin,
        "n_procs": n_procs,
        "total_memory_gb": memory_gb,
        "omp_n_threads": min(options.omp_nthreads or _MOST_OMP_THREADS, n_procs),
    }


def _labels(given: list[str], prefix: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(label.removeprefix(prefix) for label in given))


def positive(text: str) -> int:
    """Return the whole number of at least 1 that `text` states; for argparse."""
    return _number(int, text, lambda number: number >= 1, "a whole number of at least 1")


def not_negative(text: str) -> float:
    """Return the number of at least 0 that `text` states; for argparse."""
    return _number(float, text, lambda number: 0 <= number < inf, "a number of at least 0")


def whole(text: str) -> int:
    """Return the whole number from 0 to 4294967295 that `text` states; for argparse."""
    expected = "a whole number from 0 to 4294967295"
    return _number(int, text, lambda number: 0 <= number < 2**32, expected)


def above_zero(text: str) -> float:
    """Return the number above 0 that `text` states; for argparse."""
    return _number(float, text, lambda number: 0 < number < inf, "a number above 0")


def fraction(text: str) -> float:
    """Return the number between 0 and 1 that `text` states; for argparse."""
    return _number(float, text, lambda number: 0 < number < 1, "a probability between 0 and 1")


def _gigabytes(text: str) -> float:
    """Return GB of a size in MB, or in a unit that follows it."""
    units = {"K": 1e-6, "M": 1e-3, "G": 1.0, "T": 1e3}
    found = re.fullmatch(r"(\d+(?:\.\d+)?) *(?:([KMGT])(?:i?B)?)?", text.strip(), re.IGNORECASE)
    size = float(found[1]) * units[(found[2] or "M").upper()] if found else 0.0
    if not size:
        message = f"{text}: a number of MB is expected, or one with a unit, such as 16G"
        raise argparse.ArgumentTypeError(message)
    return size


def _number(kind: type[_N], text: str, accept: Callable[[_N], bool], expected: str) -> _N:
    try:
        number = kind(text)
    except ValueError:
        number = None
    if number is None or not accept(number):
        message = f"{text}: {expected} is expected"
        raise argparse.ArgumentTypeError(message)
    return number


def device(text: str) -> str:
    """Return `text` if it may name a device; for argparse."""
    if not _DEVICE.fullmatch(text):
        message = f"{text}: auto, cpu, cuda or cuda:N is expected"
        raise argparse.ArgumentTypeError(message)
    return text
