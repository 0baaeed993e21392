# SPDX-License-Identifier: Apache-2.0
"""``bids-lesion-xai-flag``: tell false lesions by their saliency, if that is possible."""

from __future__ import annotations

import argparse
import logging

from bids_lesion_xai.cli.arguments import Formatter, file_or_folder, whole
from bids_lesion_xai.cli.labelled import run_command
from bids_lesion_xai.errors import UsageError

log = logging.getLogger(__name__)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="bids-lesion-xai-flag",
        description="Train a classifier that tells from volume, probability and saliency how "
        "likely a lesion is false, on runs with reference masks, and compare it on people left "
        "out with one that knows volume and probability alone. It is kept if it beats that one. "
        "With --apply, state the probabilities of a classifier that was kept.",
        formatter_class=Formatter,
    )
    parser.add_argument(
        "folders",
        nargs="+",
        type=file_or_folder,
        metavar="OUTPUT_DIR",
        help="output folder of bids-lesion-xai with group tables; to train, of runs with "
        "--reference-masks",
    )
    parser.add_argument(
        "--output", type=file_or_folder, required=True, help="folder of tables, figure and report"
    )
    parser.add_argument(
        "--apply",
        type=file_or_folder,
        metavar="FLAG_JSON",
        help="do not train, but apply this classifier to all lesions; no reference is needed",
    )
    parser.add_argument(
        "--keep-anyway",
        action="store_true",
        help="keep the classifier even if it does not beat volume and probability alone",
    )
    parser.add_argument("--seed", type=whole, default=0, help="seed of the resampling of people")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command line `argv` and return the exit code."""
    return run_command(build_parser(), _run, argv)


def _run(options: argparse.Namespace) -> None:
    output = options.output.resolve()
    if output in [folder.resolve() for folder in options.folders]:
        message = f"--output {options.output} is an OUTPUT_DIR; choose another folder."
        raise UsageError(message)
    if options.apply is None:
        _train(options)
    elif options.keep_anyway:
        message = "--keep-anyway is for training; --apply trains nothing."
        raise UsageError(message)
    else:
        _apply(options)
    log.info("wrote %s", options.output)


def _train(options: argparse.Namespace) -> None:
    from bids_lesion_xai.flag.results import evaluate, final_flag, write_evaluation
    from bids_lesion_xai.flag.runs import read_lesions, read_settings
    from bids_lesion_xai.flag.train import cohort_of

    cohort = cohort_of(read_lesions(options.folders))
    settings = read_settings(options.folders)
    for name, values in settings.items():
        if len(values) > 1:
            log.warning("the runs differ in %s: %s", name, ", ".join(values))
    n_lesions, n_people = len(cohort.table), len(cohort.people)
    log.info("%d lesions of %d people, %d false", n_lesions, n_people, cohort.false.sum())
    evaluation = evaluate(cohort, options.seed)
    flag = final_flag(cohort, evaluation, settings, options.seed)
    keep = evaluation.verdict.beats or options.keep_anyway
    write_evaluation(options.output, evaluation, flag, keep=keep)
    log.info("%s", evaluation.verdict.text)
    if not keep:
        log.info("the classifier is not kept; --keep-anyway keeps it")


def _apply(options: argparse.Namespace) -> None:
    from bids_lesion_xai.flag.classifier import load_flag
    from bids_lesion_xai.flag.results import write_flags
    from bids_lesion_xai.flag.runs import differences, read_lesions, read_settings

    flag = load_flag(options.apply)
    if not flag.facts.get("beats_baseline"):
        log.warning("this classifier did not beat volume and probability alone when it was made")
    for difference in differences(flag.facts.get("settings", {}), read_settings(options.folders)):
        log.warning("the classifier was trained on runs of other settings: %s", difference)
    lesions = read_lesions(options.folders)
    table = write_flags(options.output, lesions, flag)
    known = sorted(set(flag.facts.get("trained_on", [])) & set(table["person"]))
    if known:
        log.warning(
            "the classifier knows %s from its training: it is too good there", ", ".join(known)
        )
    log.info("%d of %d lesions are flagged", table["flagged"].sum(), len(table))
