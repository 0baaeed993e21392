# SPDX-License-Identifier: Apache-2.0
"""Options: where the work is done, and how fast."""

from __future__ import annotations

import argparse

from bids_lesion_xai.cli.arguments import (
    above_zero,
    add_choice,
    device,
    file_or_folder,
    gigabytes,
    positive,
)
from bids_lesion_xai.config import SCHEDULERS
from bids_lesion_xai.explain.catalogue import ENGINES

# What a visit takes that is a job of a cluster, unless told otherwise.
JOB_CORES = 4
JOB_MEMORY_GB = 8.0
# For noise samples side by side, unless told otherwise.
EXPLAIN_MEMORY_GB = 1.5


def add_resources(parser: argparse.ArgumentParser) -> None:
    """Add what chooses folders, device, cores and memory."""
    group = parser.add_argument_group("where and how fast")
    group.add_argument(
        *("-w", "--work-dir"),
        type=file_or_folder,
        metavar="FOLDER",
        help="folder for intermediate files; an unchanged step is not run again; one in the "
        "temporary folder if not given",
    )
    group.add_argument(
        "--force",
        action="store_true",
        help="process visits again even if nothing has changed since, from the start; without it, "
        "these are left as they are",
    )
    where = group.add_mutually_exclusive_group()
    where.add_argument(
        "--device",
        type=device,
        default="auto",
        help="auto, cpu, cuda or cuda:N; auto takes a GPU if there is one",
    )
    where.add_argument(
        "--gpu",
        dest="device",
        action="store_const",
        const="cuda",
        default="auto",
        help="the same as --device cuda",
    )
    group.add_argument(
        "--allow-tf32",
        action="store_true",
        help="let a GPU round what it multiplies to 10 bits: faster, off by up to one in a "
        "thousand a product",
    )
    add_choice(group, "--engine", ENGINES, "how gradients are computed, all exact: ", "auto")
    group.add_argument(
        "--explain-mem-gb",
        type=above_zero,
        metavar="GB",
        help="memory for the samples of one explanation that are computed side by side; one "
        f"always runs; {EXPLAIN_MEMORY_GB} if not given",
    )
    group.add_argument(
        *("--use-plugin", "--nipype-plugin-file"),
        type=file_or_folder,
        metavar="FILE",
        help="file in YAML or JSON with plugin and plugin_args of nipype; with the plugin "
        f"{', '.join(SCHEDULERS)} of a cluster, every visit is a job of its own",
    )
    group.add_argument(
        *("--nprocs", "--n-procs", "--nthreads", "--ncpus", "--n-cpus"),
        type=positive,
        metavar="N",
        help="cores to use in all, all that there are if not given; for each job of a cluster "
        f"{JOB_CORES} if not given",
    )
    memory = group.add_mutually_exclusive_group()
    memory.add_argument(
        *("--mem", "--mem-mb"),
        dest="mem_gb",
        type=gigabytes,
        metavar="SIZE",
        help="memory to use in all, in MB or with a unit, such as 16G; 90 %% of what there is if "
        f"not given; for each job of a cluster {JOB_MEMORY_GB:g}G if not given. Steps begin "
        "when there is enough for what they are expected to take; one always runs",
    )
    memory.add_argument("--mem-gb", type=above_zero, metavar="GB", help="the same, in GB")
    group.add_argument(
        *("--omp-nthreads", "--ants-nthreads"),
        type=positive,
        metavar="N",
        help="cores that one process uses for the network; --nprocs, at most 8, if not given",
    )
    group.add_argument(
        "--low-mem",
        action="store_true",
        help="take as little memory as possible, in more time: one step of one visit at a time, "
        "each in a process of its own, and one noise sample at a time",
    )
