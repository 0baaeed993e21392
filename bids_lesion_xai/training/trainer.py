# SPDX-License-Identifier: Apache-2.0
"""The training loop: seeded, resumable, on CPU or GPU."""

from __future__ import annotations

import csv
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.losses import DiceCELoss
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Subset

from bids_lesion_xai.models.network import PUBLISHED_UNET, build
from bids_lesion_xai.training.patches import Patches
from bids_lesion_xai.training.scans import LabelledScan

log = logging.getLogger(__name__)


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
        Edge of a patch in voxels; a multiple of 16.
    learning_rate : float
        Peak of the one-cycle schedule (AdamW, weight decay 1e-4).
    seed : int
        Fixes initial weights and patches. Sums on several threads or a GPU still differ in the
        last digits from run to run.
    workers : int
        Processes that make patches; 0 makes them in the training process.
    checkpoint_every : int
        Steps between checkpoints.
    """

    steps: int = 3000
    batch_size: int = 2
    patch_size: int = 80
    learning_rate: float = 1e-3
    seed: int = 0
    workers: int = 1
    checkpoint_every: int = 200


def train(
    scans: Sequence[LabelledScan],
    masks: Sequence[NDArray[np.bool_]],
    options: TrainingOptions,
    *,
    device: torch.device,
    folder: Path,
) -> torch.nn.Module:
    """Train the published U-Net and return it in eval mode.

    A checkpoint in `folder` is resumed if there is one, with the patches that come next.

    Parameters
    ----------
    scans : list of LabelledScan
    masks : list of bool arrays, shape (X, Y, Z)
        Lesion masks to paint from.
    options : TrainingOptions
    device : torch device
        Bfloat16 autocast is used for the convolutions, float32 for the loss.
    folder : Path
        Receives `checkpoint.pt` and `loss.csv`.
    """
    torch.manual_seed(options.seed)
    network = build("UNet", PUBLISHED_UNET).to(device)
    optimiser = torch.optim.AdamW(network.parameters(), options.learning_rate, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, options.learning_rate, total_steps=options.steps, pct_start=0.1
    )
    loss_function = DiceCELoss(
        include_background=False, softmax=True, to_onehot_y=True, batch=True
    )
    done = _resume(folder / "checkpoint.pt", network, optimiser, schedule)
    started = time.monotonic()
    losses = _rows(folder / "loss.csv", done)
    with (folder / "loss.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerows(losses)
        for step, batch in enumerate(_batches(scans, masks, options, done), start=done + 1):
            with torch.autocast(device.type, torch.bfloat16):
                logits = network(batch["image"].to(device))
            loss = loss_function(logits.float(), batch["lesions"].to(device))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            writer.writerow([step, f"{loss.item():.5f}"])
            if step % options.checkpoint_every == 0 or step == options.steps:
                stream.flush()
                _save(folder / "checkpoint.pt", step, network, optimiser, schedule)
                rate = (time.monotonic() - started) / (step - done)
                left = rate * (options.steps - step) / 60
                log.info(
                    "step %d of %d, loss %.3f, %.2f s a step, about %.0f min left",
                    *(step, options.steps, loss.item(), rate, left),
                )
    return network.eval()


def _batches(
    scans: Sequence[LabelledScan],
    masks: Sequence[NDArray[np.bool_]],
    options: TrainingOptions,
    done: int,
) -> DataLoader[dict[str, torch.Tensor]]:
    patches = Patches(
        scans,
        masks,
        patch_size=options.patch_size,
        length=options.steps * options.batch_size,
        seed=options.seed,
    )
    remaining = range(done * options.batch_size, len(patches))
    return DataLoader(
        Subset(patches, remaining), batch_size=options.batch_size, num_workers=options.workers
    )


def _save(path: Path, step: int, *stateful: Any) -> None:
    partial = path.with_suffix(".partial")
    torch.save({"step": step, "states": [thing.state_dict() for thing in stateful]}, partial)
    partial.replace(path)


def _resume(path: Path, *stateful: Any) -> int:
    """Load a checkpoint if there is one, and return the number of steps that are done."""
    if not path.exists():
        return 0
    checkpoint = torch.load(path, weights_only=True)
    for thing, state in zip(stateful, checkpoint["states"], strict=True):
        thing.load_state_dict(state)
    log.info("resumed after step %d", checkpoint["step"])
    return int(checkpoint["step"])


def _rows(path: Path, count: int) -> list[list[str]]:
    """Return the first `count` rows of a CSV file; those of a run that was stopped end later."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.reader(stream))[:count]
