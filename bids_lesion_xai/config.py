# SPDX-License-Identifier: Apache-2.0
"""What a run was asked to do, resolved once and passed down."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class RunConfig:
    """All options of a run; see ``run.py --help`` for their meaning.

    Parameters
    ----------
    bids_dir, output_dir, work_dir, model : Path
    levels : tuple of str
        ``participant`` and ``group``, one or both.
    participants, sessions : tuple of str
        Labels without ``sub-`` and ``ses-``; empty means all.
    threshold : float or None
        Lesion probability; None takes the model's own.
    min_lesion_volume_mm3 : float
    skull_strip : str
        ``auto``, ``force`` or ``skip``.
    aggregation : str
        ``mean``, ``sum`` or ``max``.
    n_samples : int
    noise_level : float
        Standard deviation of the noise as a fraction of the intensity range of each image.
    random_seed : int
    device : str
    n_procs, omp_n_threads : int
    validate : bool
        Whether the BIDS validator looks at the input first.
    verbosity : int
    """

    bids_dir: Path
    output_dir: Path
    levels: tuple[str, ...]
    work_dir: Path
    model: Path
    participants: tuple[str, ...]
    sessions: tuple[str, ...]
    threshold: float | None
    min_lesion_volume_mm3: float
    skull_strip: str
    aggregation: str
    n_samples: int
    noise_level: float
    random_seed: int
    device: str
    n_procs: int
    omp_n_threads: int
    validate: bool
    verbosity: int
