# SPDX-License-Identifier: Apache-2.0
"""Options: how lesions are explained."""

from __future__ import annotations

import argparse
from typing import Any

from bids_lesion_xai.cli.arguments import above_zero, add_choice, not_negative, positive
from bids_lesion_xai.conventions import EXPERIMENTS, INPUT_METHODS
from bids_lesion_xai.explain.catalogue import (
    AGGREGATIONS,
    BASELINES,
    METHODS,
    NOISE_RULES,
    PUBLISHED,
    TARGETS,
)

# What the presets choose where the user does not.
PRESETS: dict[str, dict[str, Any]] = {
    "default": {
        "method": "smoothgrad",
        "aggregation": "mean",
        "target": "logit",
        "n_samples": 50,
        "noise_rule": "robust",
        "tta": "flip",
    },
    "published": {**PUBLISHED, "noise_rule": "flair-range", "tta": "none"},
}
# What --sloppy chooses.
SLOPPY = {"n_samples": 2, "tta": "none"}


def add_explanation(parser: argparse.ArgumentParser) -> None:
    """Add what chooses how lesions are explained."""
    group = parser.add_argument_group("how to explain")
    group.add_argument(
        "--preset",
        choices=tuple(PRESETS),
        default="default",
        help="choices where none is made: default is "
        + "; published (Spagnolo et al. 2026) is ".join(map(_summary, PRESETS.values())),
    )
    texts = {name: METHODS[name].text for name in INPUT_METHODS}
    add_choice(group, "--method", texts)
    add_choice(group, "--aggregation", AGGREGATIONS, "the gradients are those ")
    add_choice(group, "--target", TARGETS)
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
    add_choice(group, "--noise-rule", NOISE_RULES, "the range is ")
    add_choice(group, "--baseline", BASELINES, "integrated gradients begin at ", "zero")
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
