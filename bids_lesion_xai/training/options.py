# SPDX-License-Identifier: Apache-2.0
"""What a training run can be asked for; imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass

NETWORKS = ("unet", "dynunet", "swinunetr")
LOSS_NAMES = ("dice-ce", "ndice-focal")


@dataclass(frozen=True)
class TrainingOptions:
    """What a training run is made of, beside its data.

    Parameters
    ----------
    steps : int
        Optimiser steps.
    batch_size : int
        Patches per step.
    patch_size : int
        Edge of a patch in voxels; a multiple of that of the network.
    learning_rate : float
        Peak of the one-cycle schedule (AdamW, weight decay 1e-4).
    network : str
        One of `NETWORKS`; see `architectures`.
    loss : str
        One of `LOSS_NAMES`; see `losses`.
    synthetic_heads : int
        Synthetic heads that are made before the training, where there are label maps.
    synthetic_share : float
        How often a patch is cut from a synthetic head, where there are any.
    tissue_weight : float
        Weight of the loss of tissues, which are learnt beside lesions; see `tissues`. 0 learns
        none.
    statistics_noise : float
        How far statistics of feature maps are drawn from their own; see `styles`. 0 draws nothing.
    seed : int
        Fixes initial weights and patches. Sums on several threads or a GPU still differ in the
        last digits from run to run.
    workers : int
        Processes that make patches; 0 makes them in the training process.
    checkpoint_every : int
        Steps between checkpoints.
    """

    steps: int = 3000
    batch_size: int = 4
    patch_size: int = 64
    learning_rate: float = 2e-3
    network: str = "unet"
    loss: str = "dice-ce"
    synthetic_heads: int = 80
    synthetic_share: float = 0.25
    tissue_weight: float = 0.0
    statistics_noise: float = 0.0
    seed: int = 0
    workers: int = 1
    checkpoint_every: int = 200
