# SPDX-License-Identifier: Apache-2.0
"""About how much time, memory and disk a visit takes.

Measured with ``--resource-monitor`` (processor time, for the machine had other work) on both
visits of sub-01 of openms, with the shipped network, on two cores (Xeon with AVX-512, torch
2.13): 61 and 64 s of processor time a visit with 10 and 11 lesions, 5 samples and the experiment
``channel``; this table says 62 and 63. `max` is from ``python -m benchmarks.explain``. The other
experiments are from the log of a run over openms (31 lesions of sub-07) that shared its cores with
other work, and are within a factor of two or three only. Times of the network are divided by the
cores that it may use; the steps of preprocessing run in one thread. The number of lesions, on
which most depends, is known after the segmentation only, and a machine with other work takes
longer. On a GPU nothing was measured: it takes less.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bids_lesion_xai.config import RunConfig

# Of a visit, where nothing is known of it.
ASSUMED_LESIONS = 30

PREPROCESS_SECONDS = 36.0
# Of one core: the whole volume once.
SEGMENT_CORE_SECONDS = 5.0
# Of one core, a lesion and noise sample, by aggregation; `max` and `rms` for 100 voxels.
SAMPLE_CORE_SECONDS: Mapping[str, float] = {"mean": 0.15, "sum": 0.15, "max": 3.6, "rms": 3.6}
# Of one core and a lesion; `synthetic` takes some 80 s a visit, whatever lesions there are.
EXPERIMENT_CORE_SECONDS: Mapping[str, float] = {
    "perilesional": 3.0,
    "synthetic": 2.7,
    "faithfulness": 8.0,
    "randomisation": 9.0,
    "channel": 0.2,
}
# Tables and report.
WRITE_SECONDS = 6.0
WRITE_LESION_SECONDS = 0.5

# Largest memory of the steps, in GB: of the network over the whole volume, and of an explanation
# beside its samples.
SEGMENT_MEMORY_GB = 2.0
EXPLAIN_MEMORY_GB = 1.0

WORK_DISK_GB = 0.08
OUTPUT_DISK_GB = 0.03
# Of one lesion: its maps, and its figures, which stand in the report too.
LESION_MAPS_GB = 0.004
LESION_FIGURES_GB = 0.0004


@dataclass(frozen=True)
class Estimate:
    """What a visit takes.

    Parameters
    ----------
    minutes : float
    memory_gb : float
        The largest of any step.
    work_disk_gb, output_disk_gb : float
    """

    minutes: float
    memory_gb: float
    work_disk_gb: float
    output_disk_gb: float


def estimate(config: RunConfig, n_lesions: int = ASSUMED_LESIONS) -> Estimate:
    """Return what a visit with `n_lesions` lesions takes."""
    gradient = SAMPLE_CORE_SECONDS[config.aggregation]
    n_samples = 1 if config.method == "gradient" else config.n_samples
    of_a_lesion = n_samples * gradient
    of_a_lesion += sum(EXPERIMENT_CORE_SECONDS[name] for name in config.experiments)
    # The mirror image is another pass.
    n_passes = 2 if config.flip else 1
    core_seconds = n_passes * (SEGMENT_CORE_SECONDS + n_lesions * of_a_lesion)
    writing = WRITE_SECONDS + n_lesions * WRITE_LESION_SECONDS
    seconds = PREPROCESS_SECONDS + core_seconds / config.omp_n_threads + writing
    maps_gb = LESION_MAPS_GB if config.saliency_output == "maps" else 0.0
    return Estimate(
        minutes=seconds / 60,
        memory_gb=max(SEGMENT_MEMORY_GB, EXPLAIN_MEMORY_GB + config.memory_gb),
        work_disk_gb=WORK_DISK_GB + n_lesions * LESION_MAPS_GB,
        output_disk_gb=OUTPUT_DISK_GB + n_lesions * (maps_gb + LESION_FIGURES_GB),
    )


def side_by_side(config: RunConfig, one: Estimate) -> int:
    """Return how many visits run at one time: their steps share cores and memory."""
    if config.low_memory:
        return 1
    by_cores = config.n_procs // config.omp_n_threads
    by_memory = int(config.total_memory_gb // one.memory_gb)
    return max(1, min(by_cores, by_memory))
